"""A delivery becomes an attempt, an attempt an outcome; the outcome is told, confirmed, and then acknowledged.

intake.py   understands deliveries     park.py     what nobody can understand
ready.py    what waits for its turn    fences.py   what must not run       control.py  hears the coordinator
threads.py  loop.py  where it runs     runner.py   its steps               attempt.py  around.py  one attempt
outcomes.py how it ended               report.py   the event of it         acknowledge.py   the one that acknowledges
watch.py    timeouts, long runs        heartbeat.py vitals.py  it lives    tap.py prefetch.py  how much comes in
worker.py   all of it, wired           observer.py  what may be counted    pulse.py    ten looks a second
"""
