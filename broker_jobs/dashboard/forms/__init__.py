"""Forms of the pages: a job's arguments, a cron expression, a search, an instant."""
