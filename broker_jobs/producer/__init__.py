"""A call becomes an envelope: app, job, arguments, receipt."""
