"""Measures broker_jobs and bare pika, Celery, Dramatiq and taskiq in one run on one machine: `make bench`.

    rows/        what is measured: one file per one or two rows of the table, each a function that returns figures
    libraries/   what is compared: the same two jobs and the same enqueuer for each library
    bare.py      bare pika: the upper limit, and the means to fill queues before a round
    step.py      runs one step of a row in a process of its own and prints its result
    harness.py   the private broker, the processes, the queues
    meter.py     processor time and memory of processes
    figure.py    medians, percentiles, ratios (pure);   table.py prints them;   machine.py describes the machine

Compare the ratios of one run: the absolute figures depend on the machine and its load.
"""
