"""What the bytes of a connection show to the relay before a RabbitMQ."""

from __future__ import annotations

import pytest

from anyamqp.errors import InvalidUse
from anyamqp.message import Message
from anyamqp.testing.embedded.record import Record
from anyamqp.testing.remote import RemoteBroker
from anyamqp.testing.watched import Declared, Watched
from anyamqp.wire import methods
from anyamqp.wire.frames import PROTOCOL_HEADER, build, encode_content, encode_method, field_table


class Wire:
    """A watched connection, whose two ends the test plays."""

    def __init__(self) -> None:
        self.record = Record()
        self.declared = Declared()
        self.watched = Watched(self.record, self.declared)

    def client(self, number: int, *sent: methods.Method) -> None:
        self.watched.sent(b"".join(encode_method(number, method) for method in sent))

    def broker(self, number: int, *sent: methods.Method) -> None:
        self.watched.received(b"".join(encode_method(number, method) for method in sent))


@pytest.fixture
def wire() -> Wire:
    """A connection that is open, with channel 1."""
    wire = Wire()
    wire.watched.sent(PROTOCOL_HEADER)
    properties = field_table({"connection_name": "billing"})
    wire.client(0, methods.Connection.StartOk(properties, "PLAIN", "", "en_US"))
    assert wire.watched.view.state == "opening"
    wire.client(0, build(methods.Connection.Open, virtual_host="shop"))
    wire.broker(0, methods.Connection.OpenOk())
    wire.broker(1, methods.Channel.OpenOk())
    return wire


def test_open_connection_is_shown(wire: Wire) -> None:
    view = wire.watched.view
    assert (view.name, view.state, view.channels, view.virtual_host) == ("billing", "open", (1,), "shop")


def test_state_follows_blocked_and_unblocked(wire: Wire) -> None:
    states: list[str] = []
    for notice in (methods.Connection.Blocked("memory"), methods.Connection.Unblocked()):
        wire.broker(0, notice)
        states.append(wire.watched.view.state)
    assert states == ["blocked", "open"]


@pytest.mark.parametrize("end", ["client", "broker"])
def test_connection_that_either_end_closes_is_closing(wire: Wire, end: str) -> None:
    getattr(wire, end)(0, methods.Connection.Close(320, "", 0, 0))
    assert wire.watched.view.state == "closing"


def test_closed_channel_is_gone(wire: Wire) -> None:
    wire.broker(1, methods.Channel.CloseOk())
    assert wire.watched.view.channels == ()


def test_message_in_several_frames_is_recorded_once_it_is_complete(wire: Wire) -> None:
    publish = build(methods.Basic.Publish, exchange="market", routing_key="trade")
    *first, last = encode_content(1, publish, Message(b"12345" * 10, type="t"), 32)
    wire.watched.sent(b"".join(first))
    assert not list(wire.record)
    wire.watched.sent(last)
    (published,) = wire.record
    assert (published.exchange, published.routing_key, published.body) == ("market", "trade", b"12345" * 10)
    assert published.properties.type == "t"


def test_refused_publish_leaves_no_trace(wire: Wire) -> None:
    publish = build(methods.Basic.Publish, exchange="market", routing_key="trade")
    method, header, body = encode_content(1, publish, Message(b"1"), 4096)
    wire.watched.sent(method)
    wire.broker(1, methods.Channel.Close(404, "NOT_FOUND", 60, 40))
    wire.watched.sent(header + body)
    assert not list(wire.record)


def test_declared_entities_are_collected_once_the_broker_agrees(wire: Wire) -> None:
    queue, exchange = methods.Queue, methods.Exchange
    wire.client(
        1, build(queue.Declare, queue="orders"), build(queue.Declare), build(exchange.Declare, exchange="market")
    )
    wire.client(1, build(queue.Declare, queue="refused"))
    assert (wire.declared.queues, wire.declared.exchanges) == (set(), set())
    wire.broker(1, queue.DeclareOk("orders", 0, 0), queue.DeclareOk("amq.gen-1", 0, 0), exchange.DeclareOk())
    wire.broker(1, methods.Channel.Close(406, "PRECONDITION_FAILED", 50, 10))
    assert (wire.declared.queues, wire.declared.exchanges) == ({"orders", "amq.gen-1"}, {"market"})


def test_declaration_without_an_answer_is_collected_at_once(wire: Wire) -> None:
    wire.client(1, build(methods.Queue.Declare, queue="orders", nowait=True))
    wire.client(1, build(methods.Exchange.Declare, exchange="market", nowait=True))
    assert (wire.declared.queues, wire.declared.exchanges) == ({"orders"}, {"market"})


def test_answer_after_a_refusal_belongs_to_the_next_request(wire: Wire) -> None:
    wire.client(1, build(methods.Queue.Declare, queue="refused"))
    wire.broker(1, methods.Channel.Close(406, "PRECONDITION_FAILED", 50, 10), methods.Channel.OpenOk())
    wire.client(1, build(methods.Queue.Declare, queue="own", exclusive=True))
    wire.broker(1, methods.Queue.DeclareOk("own", 0, 0))
    assert wire.declared.queues == set()


@pytest.mark.parametrize(
    ("declare", "answer"),
    [
        (build(methods.Queue.Declare, queue="q", passive=True), methods.Queue.DeclareOk("q", 0, 0)),
        (build(methods.Queue.Declare, queue="q", exclusive=True), methods.Queue.DeclareOk("q", 0, 0)),
        (build(methods.Exchange.Declare, exchange="e", passive=True), methods.Exchange.DeclareOk()),
        (build(methods.Exchange.Declare, exchange="amq.topic"), methods.Exchange.DeclareOk()),
    ],
    ids=["passive queue", "exclusive queue", "passive exchange", "predeclared exchange"],
)
def test_entities_that_are_not_the_tests_to_delete_are_left_out(
    wire: Wire, declare: methods.Method, answer: methods.Method
) -> None:
    wire.client(1, declare)
    wire.broker(1, answer)
    assert (wire.declared.queues, wire.declared.exchanges) == (set(), set())


def test_bytes_that_are_not_amqp_end_the_watch_without_an_error(wire: Wire) -> None:
    wire.watched.sent(b"\x09garbage")
    wire.client(1, build(methods.Queue.Declare, queue="orders", nowait=True))
    assert wire.declared.queues == set()
    wire.broker(0, methods.Connection.Blocked("memory"))
    assert wire.watched.view.state == "blocked"


def test_remote_broker_works_inside_its_block_only() -> None:
    with pytest.raises(InvalidUse, match="works inside its block"):
        _ = RemoteBroker("amqp://guest:guest@localhost/").url
