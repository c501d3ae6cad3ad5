"""Measures broker_jobs beside bare pika, Celery, Dramatiq and taskiq, in one run on one machine: `make bench`.

    rows/        what is measured: one file per row of the table, each a function that returns figures
    sides/       who is measured: the same two jobs and the same sender on each library
    bare.py      pika and nothing else: the limit, and what fills queues before a round
    subject.py   runs a piece of a row in a process of its own and prints what came of it
    stage.py     the private broker, processes started and ended, queues watched
    meter.py     processor time and memory of processes
    figure.py    medians, percentiles, ratios (pure);   table.py shows them;   machine.py says where

Ratios in one run are what counts: the absolute figures move with the machine and with what else it does.
"""
