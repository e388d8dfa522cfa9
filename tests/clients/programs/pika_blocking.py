"""The common exercise with pika's BlockingConnection."""

import sys

import pika
from pika.exceptions import ChannelClosedByBroker, UnroutableError

HEADERS = {"number": 1, "text": "ü", "flag": True, "list": [1, "2"], "table": {"inner": -5}, "big": 2**40}
BIG = bytes(range(256)) * 4096


def exercise(url: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.exchange_declare("market", "topic")
        channel.queue_declare("orders", durable=True, arguments={"x-max-length": 100})
        channel.queue_bind("orders", "market", "trade.*")

        channel.confirm_delivery()
        properties = pika.BasicProperties(
            "text/plain", headers=HEADERS, delivery_mode=2, correlation_id="c", priority=3
        )
        channel.basic_publish("market", "trade.btc", b"first", properties)
        channel.basic_publish("market", "trade.btc", BIG)
        try:
            channel.basic_publish("market", "book.btc", b"unroutable", mandatory=True)
        except UnroutableError as error:
            (returned,) = error.messages
            assert (returned.method.reply_code, returned.method.reply_text) == (312, "NO_ROUTE")
            assert returned.body == b"unroutable"
        else:
            raise AssertionError("not returned")

        channel.basic_qos(prefetch_count=1)
        for method, received, body in channel.consume("orders"):
            channel.basic_ack(method.delivery_tag)
            if body == b"first":
                assert received.headers == HEADERS, received.headers
                assert (received.content_type, received.delivery_mode) == ("text/plain", 2)
                assert (received.correlation_id, received.priority) == ("c", 3)
                assert (method.exchange, method.routing_key, method.redelivered) == ("market", "trade.btc", False)
            else:
                assert body == BIG
                assert received.headers is None
                break
        assert channel.cancel() == 0

        assert channel.basic_get("orders") == (None, None, None)
        channel.basic_publish("", "orders", b"again")
        method, _, body = channel.basic_get("orders")
        assert (method.redelivered, method.message_count, body) == (False, 0, b"again")
        channel.basic_nack(method.delivery_tag, requeue=True)
        method, _, body = channel.basic_get("orders")
        assert (method.redelivered, body) == (True, b"again")
        channel.basic_reject(method.delivery_tag, requeue=False)

        channel.basic_publish("", "orders", b"purged")
        assert channel.queue_purge("orders").method.message_count == 1
        other = connection.channel()
        try:
            other.queue_declare("missing", passive=True)
        except ChannelClosedByBroker as error:
            assert error.reply_code == 404, error
        assert other.is_closed
        channel.queue_unbind("orders", "market", "trade.*")
        channel.queue_delete("orders")
        channel.exchange_delete("market")
        channel.close()


exercise(sys.argv[1])
