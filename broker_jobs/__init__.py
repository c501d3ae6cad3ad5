"""Background jobs on RabbitMQ: a call becomes a message, a worker runs it, a coordinator keeps the truth.

The way of one job, station by station:

    function/     what can be run: signature, options, registry
    producer/     a call becomes an envelope              job/       what travels (pure values)
    exchange/     the broker holds it, moves and times it
    consumer/     a delivery becomes an attempt, an attempt an outcome
    outcome/      what is told to the coordinator (events and commands)
    coordinator/  records become truth, and what waits is released
    store/        the truth as rows, written by the coordinator alone, read by all
    beat/         time as a producer of recurring jobs
    processes/    worker, coordinator, beat, or all in one: wired, top to bottom
    app.py        BrokerJobs, the object a program holds
    testing/      for the tests of users, and ours;   metrics.py counts;   cli.py, settings.py, clock.py, errors.py
"""
