"""The common exercise with py-amqp."""

import sys
from urllib.parse import unquote, urlsplit

import amqp
from amqp.exceptions import NotFound

HEADERS = {"number": 1, "text": "ü", "flag": True, "list": [1, "2"], "table": {"inner": -5}, "big": 2**40}
BIG = bytes(range(256)) * 4096


def exercise(url: str) -> None:
    parts = urlsplit(url)
    with amqp.Connection(
        f"{parts.hostname}:{parts.port}",
        userid=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        virtual_host=unquote(parts.path[1:]) or "/",
        confirm_publish=True,
    ) as connection:
        returned = []
        channel = connection.channel()
        channel.events["basic_return"].add(lambda *values: returned.append(values))
        channel.exchange_declare("market", "topic", auto_delete=False)
        channel.queue_declare("orders", durable=True, auto_delete=False, arguments={"x-max-length": 100})
        channel.queue_bind("orders", "market", "trade.*")

        first = amqp.Message(b"first", content_type="text/plain", application_headers=HEADERS, delivery_mode=2)
        channel.basic_publish(first, "market", "trade.btc")
        channel.basic_publish(amqp.Message(BIG), "market", "trade.btc")
        channel.basic_publish(amqp.Message(b"unroutable"), "market", "book.btc", mandatory=True)
        assert returned[0][0].reply_code == 312, returned

        received = []
        channel.basic_qos(0, 1, False)
        tag = channel.basic_consume("orders", callback=received.append)
        while len(received) < 2:
            connection.drain_events(timeout=10)
            channel.basic_ack(received[-1].delivery_tag)
        channel.basic_cancel(tag)
        assert (received[0].body, received[0].headers) == (b"first", HEADERS), received[0].headers
        assert received[0].properties["delivery_mode"] == 2
        assert received[1].body == BIG

        assert channel.basic_get("orders") is None
        channel.basic_publish(amqp.Message(b"again"), "", "orders")
        message = channel.basic_get("orders")
        channel.basic_reject(message.delivery_tag, requeue=True)
        message = channel.basic_get("orders")
        assert message.delivery_info["redelivered"]
        channel.basic_ack(message.delivery_tag)

        channel.basic_publish(amqp.Message(b"recovered"), "", "orders")
        channel.basic_get("orders")
        channel.basic_recover(requeue=True)
        assert channel.basic_get("orders", no_ack=True).delivery_info["redelivered"]

        other = connection.channel()
        try:
            other.queue_declare("missing", passive=True)
        except NotFound as error:
            assert error.reply_code == 404, error
        else:
            raise AssertionError("not refused")
        channel.queue_unbind("orders", "market", "trade.*")
        channel.queue_delete("orders")
        channel.exchange_delete("market")
        transaction = connection.channel()
        transaction.close()
        channel.close()


exercise(sys.argv[1])
