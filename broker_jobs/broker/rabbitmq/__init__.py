"""RabbitMQ as an exchange, on pika, which is imported nowhere else.

exchange.py     RabbitExchange: what other threads call
loop.py         the one I/O thread, and how other threads reach it
connection.py   one connection kept up for ever, and errors explained
publisher.py    confirms matched by tag, deadlines, back-pressure
subscriber.py   consumers, acknowledgements, and coming back after a loss
declare.py      exchanges, queues and bindings; depth and purge
"""

from broker_jobs.broker.rabbitmq.broker import RabbitBroker

__all__ = ["RabbitBroker"]
