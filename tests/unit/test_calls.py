"""The calls of an RPC client, without an event loop."""

from __future__ import annotations

import math

import pytest

from anyamqp.delivery import Delivery
from anyamqp.errors import (
    AnyamqpError,
    ChannelClosed,
    ConnectionClosed,
    ConnectionLost,
    InvalidArgument,
    InvalidTransition,
    NotFound,
    PreconditionFailed,
    ReplyTimeout,
    TransportError,
    Unroutable,
)
from anyamqp.message import Properties
from anyamqp.protocol.calls import Call, Calls
from anyamqp.protocol.publishing import OpenChannel
from anyamqp.wire import methods
from anyamqp.wire.basic import Received, Route, encode_properties
from support.outboxes import TOO_LARGE, PlainChannel

NO_EXCHANGE = NotFound("NOT_FOUND - no exchange 'gone' in vhost '/'", method="basic.publish")
OTHER = PreconditionFailed("PRECONDITION_FAILED - something else")


class Bell:
    """Counts how often its task was woken."""

    def __init__(self) -> None:
        self.rings = 0

    def set(self) -> None:
        self.rings += 1


class Client:
    """An RPC client's calls, its current channel, and the time."""

    def __init__(self, *, resend: bool = False, is_open: bool = True) -> None:
        self.channel = PlainChannel()
        self.calls = Calls(self.channel, resend=resend)
        self.effects: list[OpenChannel] = []
        self.now = 0.0
        self.calls.enter()
        if is_open:
            self.open()

    def open(self) -> None:
        self.calls.channel_opened(self.now)
        self.channel.can_publish = True
        self.calls.channel_ready()

    def call(self, name: str, *, exchange: str = "", body: bytes = b"", deadline: float = math.inf) -> Call:
        """Begin a call with its name as id and body."""
        call = Call(
            name,
            Route(exchange, "key", mandatory=True),
            b"",
            body or name.encode(),
            waker=Bell(),
            seconds=deadline,
            deadline=deadline,
        )
        self.calls.add(call)
        self.calls.send_waiting()
        return call

    def reply(self, name: str, body: bytes = b"reply") -> None:
        properties = encode_properties(Properties(correlation_id=name))
        self.calls.received((methods.Basic.Deliver("tag", 1), Received(body, properties)))

    def send_back(self, name: str) -> None:
        """The broker returns a request."""
        properties = encode_properties(Properties(correlation_id=name, message_id="id"))
        self.calls.received((methods.Basic.Return(312, "NO_ROUTE", "", "key"), Received(b"", properties)))

    def lose(self, error: AnyamqpError | None = None) -> None:
        self.channel.can_publish = False
        self.calls.link_lost(error)

    def fail(self, error: AnyamqpError) -> None:
        """The channel is closed; another one replaces it if the calls ask for one."""
        self.channel.can_publish = False
        self.calls.channel_failed(error, self.now)
        effects = self.calls.take_effects()
        self.effects += effects
        if effects:
            self.channel = self.calls.channel = PlainChannel()


def outcomes(*calls: Call) -> list[type | None]:
    return [None if call.outcome is None else type(call.outcome) for call in calls]


def test_reply_settles_its_call_and_no_other() -> None:
    client = Client()
    one, two = client.call("one"), client.call("two")
    client.reply("two")
    assert outcomes(one, two) == [None, Delivery]
    assert isinstance(two.waker, Bell)
    assert two.waker.rings == 1


def test_two_calls_of_one_id_are_refused_while_the_first_is_under_way() -> None:
    client = Client()
    first = client.call("one")
    with pytest.raises(InvalidArgument, match="'one' is under way"):
        client.call("one")
    client.calls.remove(first)
    client.call("one")
    assert client.channel.bodies == [b"one", b"one"]


def test_second_reply_changes_nothing() -> None:
    client = Client()
    call = client.call("one")
    client.reply("one", b"first")
    client.reply("one", b"second")
    assert isinstance(call.outcome, Delivery)
    assert call.outcome.body == b"first"


def test_reply_that_nobody_waits_for_is_dropped() -> None:
    client = Client()
    call = client.call("one")
    client.calls.remove(call)
    client.reply("one")
    assert (len(client.calls), call.outcome) == (0, None)


def test_reply_that_cannot_be_read_is_dropped() -> None:
    client = Client()
    call = client.call("one")
    client.calls.received((methods.Basic.Deliver("tag", 1), Received(b"", b"\xff\xff")))
    assert call.outcome is None


def test_reply_is_found_by_its_correlation_id_alone() -> None:
    client = Client()
    call = client.call("one")
    properties = Properties(
        content_type="text/plain",
        content_encoding="utf-8",
        headers={"a": [1, {"b": "c"}]},
        priority=3,
        correlation_id="one",
        reply_to="behind",
    )
    message = Received(b"", encode_properties(properties))
    client.calls.received((methods.Basic.Deliver("tag", 1), message))
    assert outcomes(call) == [Delivery]


def test_reply_without_a_correlation_id_is_dropped() -> None:
    client = Client()
    call = client.call("one")
    client.calls.received((methods.Basic.Deliver("tag", 1), Received(b"", encode_properties(Properties()))))
    assert call.outcome is None


def test_request_that_came_back_is_unroutable() -> None:
    client = Client()
    call = client.call("one")
    client.send_back("one")
    assert outcomes(call) == [Unroutable]


def test_requests_wait_until_the_channel_is_ready() -> None:
    client = Client(is_open=False)
    client.call("one")
    client.call("two")
    assert client.channel.bodies == []
    client.open()
    assert client.channel.bodies == [b"one", b"two"]


def test_cancelled_call_is_not_sent() -> None:
    client = Client(is_open=False)
    one, _ = client.call("one"), client.call("two")
    one.time_out()
    client.open()
    assert client.channel.bodies == [b"two"]


def test_only_a_call_that_is_alone_leaves_at_once() -> None:
    client = Client()
    client.channel.flushes.clear()
    client.call("one")
    client.call("two")
    assert client.channel.flushes == [True, False]


def test_request_that_does_not_fit_a_frame_fails_alone() -> None:
    client = Client()
    large, one = client.call("large", body=TOO_LARGE), client.call("one")
    assert outcomes(large, one) == [InvalidArgument, None]


@pytest.mark.parametrize("is_open", [True, False])
def test_call_times_out_and_says_whether_it_was_sent(*, is_open: bool) -> None:
    client = Client(is_open=is_open)
    late, other = client.call("late", deadline=2.0), client.call("other", deadline=3.0)
    assert client.calls.deadline == 2.0
    client.calls.due(1.9)
    assert late.outcome is None
    client.calls.due(2.0)
    assert outcomes(late, other) == [ReplyTimeout, None]
    assert str(late.outcome).endswith("the request was sent" if is_open else "the request was never sent")
    assert client.calls.deadline == 3.0


def test_loss_fails_what_was_sent_and_keeps_the_rest() -> None:
    client = Client()
    sent = client.call("sent")
    client.channel.can_publish = False
    unsent = client.call("unsent")
    error = TransportError("reset")
    client.lose(error)
    assert outcomes(sent, unsent) == [ConnectionLost, None]
    assert isinstance(sent.outcome, ConnectionLost)
    assert sent.outcome.__cause__ is error
    client.open()
    assert client.channel.bodies == [b"sent", b"unsent"]


def test_call_that_may_be_repeated_is_sent_three_times_at_most() -> None:
    client = Client(resend=True)
    call = client.call("one")
    for _ in range(2):
        client.lose()
        assert call.outcome is None
        client.open()
    client.lose()
    assert outcomes(call) == [ConnectionLost]
    assert client.channel.bodies == [b"one"] * 3


def test_loss_while_the_channel_is_being_opened_loses_nothing() -> None:
    client = Client(is_open=False)
    call = client.call("one")
    client.lose()
    client.open()
    assert client.channel.bodies == [b"one"]
    assert call.outcome is None


def test_missing_exchange_fails_the_calls_through_it() -> None:
    client = Client(resend=True)
    good, bad, through_other = client.call("good"), client.call("bad", exchange="gone"), client.call("x", exchange="x")
    client.fail(NO_EXCHANGE)
    assert outcomes(good, bad, through_other) == [None, NotFound, None]
    assert client.effects == [OpenChannel(0.0)]
    client.open()
    assert client.channel.bodies == [b"good", b"x"]


def test_channels_that_die_young_and_in_vain_come_after_growing_pauses_until_the_client_gives_up() -> None:
    client = Client()
    for _ in range(7):
        client.fail(OTHER)
        client.open()
    assert client.effects == [OpenChannel(delay) for delay in (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0)]
    call = client.call("one")
    client.fail(OTHER)
    assert outcomes(call) == [PreconditionFailed]
    with pytest.raises(PreconditionFailed):
        client.call("two")


def test_reply_makes_the_channels_that_died_young_forgotten() -> None:
    client = Client()
    for _ in range(20):
        client.fail(OTHER)
        client.open()
        call = client.call("one")
        client.reply("one")
        client.calls.remove(call)
    assert len(client.effects) == 20


def test_error_before_the_channel_is_open_closes_the_client() -> None:
    client = Client(is_open=False)
    call = client.call("one")
    client.fail(OTHER)
    assert outcomes(call) == [ChannelClosed]
    with pytest.raises(ChannelClosed):
        client.call("two")


def test_closed_connection_closes_the_client() -> None:
    client = Client()
    call = client.call("one")
    client.fail(ConnectionClosed("closed"))
    assert outcomes(call) == [ChannelClosed]
    client.calls.close()
    with pytest.raises(ChannelClosed, match="the channel is closed"):
        client.call("two")


def test_channel_that_cannot_be_had_closes_the_client() -> None:
    client = Client(resend=True)
    call = client.call("one")
    client.fail(OTHER)
    client.calls.channel_refused(ConnectionClosed("closed"))
    assert outcomes(call) == [ConnectionClosed]


def test_leaving_settles_every_call() -> None:
    client = Client()
    call = client.call("one", deadline=2.0)
    client.calls.close()
    assert outcomes(call) == [ChannelClosed]
    assert client.calls.deadline == math.inf


def test_events_that_cannot_be_are_refused() -> None:
    """Invariant 2."""
    client = Client()
    with pytest.raises(InvalidTransition):
        client.calls.enter()
    client.lose()
    with pytest.raises(InvalidTransition):
        client.calls.channel_ready()
