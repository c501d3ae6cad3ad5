"""Builds the forms of the pages and reads what was submitted. Pure functions, except Form itself.

form.py           the submitted fields, and when a job runs;   typed_values.py  text to values
parameter_form.py the parameters of a function;   argument_form.py  the arguments of a job
cron_form.py      a recurring job's schedule;   job_query.py  the filters of a job list
"""
