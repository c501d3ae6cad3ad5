"""Starts a supervisor in a fresh interpreter: `python -m` this module, by the command line alone."""

from broker_jobs.processes.supervisor import main

if __name__ == "__main__":
    main()
