"""The common exercise with pika's SelectConnection: callbacks on its own loop."""

import sys

import pika
from pika.exchange_type import ExchangeType

HEADERS = {"number": 1, "text": "ü", "flag": True, "list": [1, "2"], "table": {"inner": -5}, "big": 2**40}
BIG = bytes(range(256)) * 4096


class Exercise:
    """Each step is called when the one before it is answered."""

    def __init__(self, url: str) -> None:
        self.steps = self.run()
        self.seen: list[str] = []
        self.connection = pika.SelectConnection(
            pika.URLParameters(url),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self.opened),
            on_open_error_callback=self.failed,
            on_close_callback=self.closed,
        )

    def failed(self, _connection, error) -> None:
        raise error

    def closed(self, connection, reason) -> None:
        assert reason.reply_code == 200, reason
        connection.ioloop.stop()

    def opened(self, channel) -> None:
        self.channel = channel
        channel.add_on_return_callback(lambda _channel, method, _properties, body: self.returned(method, body))
        next(self.steps)

    def returned(self, method, body) -> None:
        assert (method.reply_code, body) == (312, b"unroutable")
        self.seen.append("returned")

    def then(self, *_answer) -> None:
        self.answer = _answer
        next(self.steps)

    def confirmed(self, frame) -> None:
        assert isinstance(frame.method, pika.spec.Basic.Ack)
        self.seen.append("confirmed")
        if frame.method.delivery_tag == 3:
            next(self.steps)

    def run(self):
        channel, then = self.channel, self.then
        channel.exchange_declare("market", ExchangeType.topic, callback=then)
        yield
        channel.queue_declare("orders", durable=True, callback=then)
        yield
        channel.queue_bind("orders", "market", "trade.*", callback=then)
        yield
        channel.confirm_delivery(self.confirmed, callback=then)
        yield
        channel.basic_publish("market", "trade.btc", b"first", pika.BasicProperties(headers=HEADERS))
        channel.basic_publish("market", "trade.btc", BIG)
        channel.basic_publish("market", "book.btc", b"unroutable", mandatory=True)
        yield
        assert "returned" in self.seen
        channel.basic_qos(prefetch_count=1, callback=then)
        yield
        tag = channel.basic_consume("orders", on_message_callback=then)
        yield
        _, method, properties, body = self.answer
        assert (properties.headers, body) == (HEADERS, b"first")
        channel.basic_ack(method.delivery_tag)
        yield
        _, method, properties, body = self.answer
        assert (properties.headers, body) == (None, BIG)
        channel.basic_nack(method.delivery_tag, requeue=True)
        yield
        _, method, _, body = self.answer
        assert (method.redelivered, body) == (True, BIG)
        channel.basic_ack(method.delivery_tag)
        channel.basic_cancel(tag, callback=then)
        yield
        channel.add_callback(then, [pika.spec.Basic.GetEmpty])
        channel.basic_get("orders", callback=then)
        yield
        channel.queue_delete("orders", callback=then)
        yield
        channel.exchange_delete("market", callback=then)
        yield
        self.connection.channel(on_open_callback=then)
        yield
        (other,) = self.answer
        other.add_on_close_callback(then)
        other.queue_declare("missing", passive=True)
        yield
        assert self.answer[1].reply_code == 404
        self.seen.append("done")
        self.connection.close()
        yield


exercise = Exercise(sys.argv[1])
exercise.connection.ioloop.start()
assert exercise.seen[-1] == "done", exercise.seen
