"""The common exercise with kombu: producer, consumer, SimpleQueue, requeue."""

import socket
import sys

from amqp.exceptions import NotFound
from kombu import Connection, Consumer, Exchange, Queue

HEADERS = {"number": 1, "text": "ü", "flag": True, "list": [1, "2"], "table": {"inner": -5}, "big": 2**40}
BIG = "x" * 2**20


def exercise(url: str) -> None:
    exchange = Exchange("market", "topic", durable=False)
    queue = Queue("orders", exchange, "trade.*", max_length=100)
    returned = []
    with Connection(url, transport_options={"confirm_publish": True}) as connection:
        with connection.Producer(on_return=lambda *values: returned.append(values)) as producer:
            publish = {"exchange": exchange, "declare": [queue], "retry": True}
            producer.publish({"first": 1}, routing_key="trade.btc", headers=HEADERS, priority=3, **publish)
            producer.publish({"big": BIG}, routing_key="trade.btc", compression="zlib", **publish)
            producer.publish({}, exchange=exchange, routing_key="book.btc", mandatory=True)

        received = []

        def take(body, message) -> None:
            received.append((body, message.headers, message.delivery_info["redelivered"]))
            if len(received) == 1:
                message.requeue()
            else:
                message.ack()

        with Consumer(connection, [queue], callbacks=[take], prefetch_count=1):
            while len(received) < 3:
                connection.drain_events(timeout=10)
            try:
                connection.drain_events(timeout=0.05)
            except socket.timeout:
                pass
        assert [body for body, _, _ in received] == [{"first": 1}, {"first": 1}, {"big": BIG}], len(received)
        assert [redelivered for _, _, redelivered in received] == [False, True, False]
        assert {key: received[0][1][key] for key in HEADERS} == HEADERS

        simple = connection.SimpleQueue("simple")
        simple.put({"n": 1})
        message = simple.get(timeout=10)
        assert message.payload == {"n": 1}
        message.ack()
        assert simple.qsize() == 0
        simple.close()
        connection.default_channel.queue_delete("simple")
        connection.default_channel.exchange_delete("simple")

        channel = connection.channel()
        try:
            Queue("missing", channel=channel, passive=True).queue_declare(passive=True)
        except NotFound:
            pass
        else:
            raise AssertionError("not refused")
        bound = queue(connection.default_channel)
        assert bound.get() is None
        bound.purge()
        bound.delete()
        exchange(connection.default_channel).delete()


exercise(sys.argv[1])
