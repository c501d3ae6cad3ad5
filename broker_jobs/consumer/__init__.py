"""Runs jobs: a delivery becomes an attempt and an outcome, which is confirmed before the delivery is acknowledged.

worker.py            wires the parts below          observer.py         what metrics may count
receiver.py          decodes deliveries             dead_letter.py      publishes what cannot be decoded
received_delivery.py local_queue.py                 deliveries that have not started
revocations.py       what must not run              control.py          receives control messages of the coordinator
runner.py            the steps of one delivery      attempt.py hooks.py finish.py   one attempt
thread_pool.py       runs sync jobs                 event_loop.py       runs async jobs
running.py           attempts that run now          monitor.py          timeouts, long runs, progress
outcome.py           how an attempt ended           reporter.py event_sender.py     reports it
acknowledger.py      acknowledges deliveries        flow_control.py prefetch.py     how many deliveries come in
heartbeat.py process_stats.py   liveness            maintenance.py      the thread that calls them
"""
