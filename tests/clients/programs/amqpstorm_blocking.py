"""The common exercise with AMQPStorm."""

import sys

import amqpstorm
from amqpstorm import Message, UriConnection

HEADERS = {"number": 1, "text": "ü", "flag": True, "list": [1, "2"], "table": {"inner": -5}, "big": 2**40}
BIG = bytes(range(256)) * 4096


def exercise(url: str) -> None:
    with UriConnection(url) as connection, connection.channel() as channel:
        channel.exchange.declare("market", "topic")
        channel.queue.declare("orders", durable=True, arguments={"x-max-length": 100})
        channel.queue.bind("orders", "market", "trade.*")

        channel.confirm_deliveries()
        properties = {"headers": HEADERS, "content_type": "text/plain", "delivery_mode": 2, "correlation_id": "c"}
        assert Message.create(channel, "first", properties).publish("trade.btc", "market")
        assert Message.create(channel, BIG).publish("trade.btc", "market")
        try:
            Message.create(channel, "unroutable").publish("book.btc", "market", mandatory=True)
        except amqpstorm.AMQPMessageError as error:
            assert error.error_code == 312, error
        else:
            raise AssertionError("not returned")

        received = []

        def take(message) -> None:
            received.append(message)
            message.ack()
            if len(received) == 2:
                channel.stop_consuming()

        channel.basic.qos(1)
        channel.basic.consume(take, "orders")
        channel.start_consuming()
        assert received[0].body == "first"
        assert received[0].properties["headers"] == HEADERS, received[0].properties
        assert received[0].correlation_id == "c"
        assert received[1]._body == BIG

        assert channel.basic.get("orders") is None
        Message.create(channel, "again").publish("orders")
        channel.basic.get("orders").nack(requeue=True)
        message = channel.basic.get("orders")
        assert message.method["redelivered"]
        message.ack()

        other = connection.channel()
        try:
            other.queue.declare("missing", passive=True)
        except amqpstorm.AMQPChannelError as error:
            assert error.error_code == 404, error
        else:
            raise AssertionError("not refused")
        channel.queue.unbind("orders", "market", "trade.*")
        channel.queue.delete("orders")
        channel.exchange.delete("market")


exercise(sys.argv[1])
