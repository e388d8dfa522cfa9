"""How long a session takes for the input and output of one turn of the event loop, from recorded bytes."""

from __future__ import annotations

from anyamqp.message import Properties
from anyamqp.protocol.events import ConfirmsReceived, ContentsReceived, Event
from anyamqp.wire import methods
from anyamqp.wire.basic import Route, encode_properties
from anyamqp.wire.frames import build, encode_method
from support.amqp import all_events, content, opened
from support.benchmark import Benchmark

BODY = bytes(1024)
MESSAGES = 100


def test_publish_a_hundred_messages(benchmark: Benchmark) -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    session = dialogue.session
    route = Route("", "features.live", mandatory=True)
    properties = encode_properties(Properties(persistent=True, message_id="0" * 32))

    def publish() -> int:
        for _ in range(MESSAGES):
            session.publish(number, route, properties, BODY)
        return len(dialogue.output())

    assert benchmark(publish) > MESSAGES * len(BODY)


def test_receive_a_hundred_deliveries(benchmark: Benchmark) -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    session = dialogue.session
    deliver = build(methods.Basic.Deliver, "anyamqp-0", 1, exchange="", routing_key="features.live")
    data = content(number, deliver, BODY, message_id="0" * 32) * MESSAGES
    all_events(session)

    def receive() -> list[Event]:
        session.receive(data, dialogue.now)
        return all_events(session)

    events = benchmark(receive)
    assert sum(len(event.contents) for event in events if isinstance(event, ContentsReceived)) == MESSAGES


def test_receive_a_hundred_confirms(benchmark: Benchmark) -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    session = dialogue.session
    data = b"".join(encode_method(number, build(methods.Basic.Ack, tag)) for tag in range(1, MESSAGES + 1))
    all_events(session)

    def receive() -> list[Event]:
        session.receive(data, dialogue.now)
        return all_events(session)

    events = benchmark(receive)
    assert sum(len(event.confirms) for event in events if isinstance(event, ConfirmsReceived)) == MESSAGES


def test_acknowledge_a_hundred_deliveries(benchmark: Benchmark) -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    session = dialogue.session

    def acknowledge() -> bytes:
        for tag in range(1, MESSAGES + 1):
            session.ack(number, tag, multiple=False)
        return dialogue.output()

    data = benchmark(acknowledge)
    assert data
