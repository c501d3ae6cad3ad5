"""Runs the command line as `python -m broker_jobs.cli`, where the script broker-jobs is not on the path."""

from broker_jobs.cli import main

if __name__ == "__main__":
    main()
