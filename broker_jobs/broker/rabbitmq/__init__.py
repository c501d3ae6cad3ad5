"""The broker on RabbitMQ. This folder is the only place that uses pika.

broker.py         RabbitBroker: the interface for other threads
io_loop.py        the I/O thread with pika's event loop
connection.py     one connection that reconnects, and explanations of its errors
publisher.py      publishing with confirms, deadlines and back-pressure
consumer.py       consuming, acknowledging and recovery after a loss
declarations.py   exchanges, queues and bindings; depth and purge
"""

from broker_jobs.broker.rabbitmq.broker import RabbitBroker

__all__ = ["RabbitBroker"]
