"""The session's channels: numbers, replies, content, closing."""

from __future__ import annotations

import tracemalloc

import pytest

from anyamqp.errors import (
    Blame,
    ChannelError,
    ChannelLimitReached,
    ContentTooLarge,
    InvalidArgument,
    NotFound,
    PreconditionFailed,
    ReplyError,
    Side,
)
from anyamqp.message import Message, Properties
from anyamqp.protocol.events import (
    ChannelEnded,
    ChannelReleased,
    ConfirmsReceived,
    ContentsReceived,
    Ended,
    MethodReceived,
    Replied,
    Tuning,
)
from anyamqp.protocol.lifecycle import LinkState
from anyamqp.wire import methods
from anyamqp.wire.basic import Route, encode_properties
from anyamqp.wire.frames import HEARTBEAT_FRAME
from anyamqp.wire.methods import Method
from anyamqp.wire.receiving import Header
from support.amqp import Dialogue, any_method, body, content, contents, expect, header, opened, whole

OPEN_OK = methods.Channel.OpenOk()
CLOSE_OK = methods.Channel.CloseOk()
NOT_FOUND = methods.Channel.Close(404, "NOT_FOUND - no exchange 'x'", 60, 40)
DELIVER = methods.Basic.Deliver("c", 1, redelivered=False, exchange="x", routing_key="r")
RETURN = methods.Basic.Return(312, "NO_ROUTE", "x", "r")
GET_OK = methods.Basic.GetOk(1, redelivered=False, exchange="x", routing_key="r", message_count=4)


def ended_with(dialogue: Dialogue) -> ReplyError:
    """The protocol error that ended the session; it must be ours."""
    error = expect(dialogue.ended().error, ReplyError)
    assert error.found_by is Side.CLIENT
    return error


def reply_of(event: object) -> Method:
    """The reply that an event tells of."""
    reply = expect(event, Replied).request.reply
    assert reply is not None
    return reply


# --- numbers --------------------------------------------------------------------------------------------------------


def test_a_channel_is_opened_on_the_lowest_number() -> None:
    dialogue = opened()
    assert dialogue.session.open_channel() == 1
    (sent,) = dialogue.sent()
    assert sent.channel == 1
    expect(sent.payload, methods.Channel.Open)
    (told,) = dialogue.tell(OPEN_OK, 1)
    expect(told, Replied)


def test_channels_have_numbers_of_their_own() -> None:
    dialogue = opened()
    assert [dialogue.session.open_channel() for _ in range(5)] == [1, 2, 3, 4, 5]
    assert dialogue.session.channel_count == 5


def test_a_number_is_not_reused_before_close_ok() -> None:
    dialogue = opened()
    for _ in range(3):
        dialogue.open_channel()
    dialogue.session.close_channel(2)
    assert dialogue.session.open_channel() == 4
    assert dialogue.session.channel_count == 4


def test_the_lowest_free_number_is_reused_after_close_ok() -> None:
    dialogue = opened()
    for _ in range(4):
        dialogue.open_channel()
    for number in (3, 2):
        dialogue.session.close_channel(number)
    assert dialogue.tell(CLOSE_OK, 3) == [ChannelReleased(3)]
    assert dialogue.tell(CLOSE_OK, 2) == [ChannelReleased(2)]
    assert dialogue.session.channel_count == 2
    assert [dialogue.session.open_channel() for _ in range(3)] == [2, 3, 5]


def test_a_number_that_the_broker_closed_is_free_at_once_where_there_is_no_other() -> None:
    dialogue = opened(tuning=Tuning(1, 8192, 60))
    dialogue.open_channel()
    dialogue.tell(NOT_FOUND, 1)
    dialogue.sent()
    assert dialogue.session.open_channel() == 1
    (sent,) = dialogue.sent()
    expect(sent.payload, methods.Channel.Open)


def test_numbers_that_the_broker_closed_are_the_last_to_be_taken_again_the_oldest_first() -> None:
    """RabbitMQ may go on sending on them (rabbitmq-server, issue 13384)."""
    dialogue = opened(tuning=Tuning(5, 8192, 60))
    for _ in range(4):
        dialogue.open_channel()
    dialogue.tell(NOT_FOUND, 3)
    dialogue.tell(NOT_FOUND, 1)
    dialogue.session.close_channel(2)
    dialogue.tell(CLOSE_OK, 2)
    assert [dialogue.session.open_channel() for _ in range(4)] == [2, 5, 3, 1]


def test_input_on_a_channel_closed_by_the_broker_is_discarded() -> None:
    """RabbitMQ, 3.10 to 4.3, sends what its channel's process had at hand when it closed the channel."""
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.tell(NOT_FOUND, number)
    dialogue.sent()
    late = [content(number, DELIVER, b"late"), any_method(number, methods.Basic.Ack(1)), header(number, 2)]
    assert dialogue.say(*late) == []
    assert dialogue.sent() == []
    assert dialogue.session.state is LinkState.OPEN


@pytest.mark.parametrize("closes_at_once", [False, True])
def test_input_before_open_ok_belongs_to_the_earlier_channel(*, closes_at_once: bool) -> None:
    dialogue = opened(tuning=Tuning(1, 8192, 60))
    number = dialogue.open_channel()
    dialogue.session.close_channel(number)
    dialogue.tell(NOT_FOUND, number)
    assert dialogue.session.open_channel() == number
    if closes_at_once:
        dialogue.session.close_channel(number)
    assert dialogue.say(content(number, DELIVER, b"late"), any_method(number, CLOSE_OK)) == []
    told = dialogue.tell(OPEN_OK, number)
    if closes_at_once:
        assert told == []
        assert dialogue.tell(CLOSE_OK, number) == [ChannelReleased(number)]
    else:
        expect(told[0], Replied)


def test_a_reused_number_knows_nothing_of_its_earlier_channel() -> None:
    dialogue = opened(tuning=Tuning(1, 8192, 60))
    dialogue.open_channel()
    dialogue.session.request(1, methods.Queue.Declare(queue="q"))
    dialogue.tell(DELIVER, 1)
    dialogue.say(header(1, 10), body(1, b"half"))
    dialogue.tell(NOT_FOUND, 1)
    assert dialogue.session.open_channel() == 1
    (told,) = dialogue.tell(OPEN_OK, 1)
    expect(told, Replied)
    (got,) = dialogue.say(content(1, DELIVER, b"whole"))
    assert whole(got).message.body == b"whole"


def test_no_more_channels_are_opened_than_were_agreed() -> None:
    dialogue = opened(tuning=Tuning(2, 8192, 60))
    dialogue.open_channel()
    dialogue.open_channel()
    with pytest.raises(ChannelLimitReached, match="all 2 channels"):
        dialogue.session.open_channel()
    assert dialogue.session.output_size == 0
    dialogue.session.close_channel(1)
    dialogue.tell(CLOSE_OK, 1)
    assert dialogue.session.open_channel() == 1


def test_without_a_limit_every_number_of_amqp_can_be_used() -> None:
    without = Tuning(0, 8192, 60)
    dialogue = opened(proposal=without, tuning=without)
    numbers = [dialogue.session.open_channel() for _ in range(65535)]
    assert numbers == list(range(1, 65536))
    with pytest.raises(ChannelLimitReached, match="all 65535 channels"):
        dialogue.session.open_channel()


# --- requests and replies -------------------------------------------------------------------------------------------


def test_replies_are_matched_to_requests_in_their_order() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.session.request(number, methods.Queue.Declare(queue="q"))
    dialogue.session.request(number, methods.Basic.Consume(queue="q"))
    dialogue.session.request(number, methods.Queue.Declare(queue="p"))
    replies: list[Method] = [
        methods.Queue.DeclareOk("q", 0, 0),
        methods.Basic.ConsumeOk("c"),
        methods.Queue.DeclareOk("p", 0, 0),
    ]
    told = dialogue.say(*(any_method(number, reply) for reply in replies))
    assert [reply_of(event).name for event in told] == [reply.name for reply in replies]


def test_replies_are_matched_channel_by_channel() -> None:
    dialogue = opened()
    first, second = dialogue.open_channel(), dialogue.open_channel()
    dialogue.session.request(first, methods.Queue.Declare(queue="q"))
    dialogue.session.request(second, methods.Basic.Qos(prefetch_count=1))
    dialogue.tell(methods.Basic.QosOk(), second)
    dialogue.tell(methods.Queue.DeclareOk("q", 0, 0), first)
    assert dialogue.session.state is LinkState.OPEN


def test_a_reply_that_nobody_asked_for_is_an_invalid_command() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.tell(methods.Queue.DeclareOk("q", 0, 0), number)
    error = ended_with(dialogue)
    assert error.code == 503
    assert "queue.declare-ok on channel 1" in error.text


def test_a_reply_in_the_wrong_order_is_an_invalid_command() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.session.request(number, methods.Queue.Declare(queue="q"))
    dialogue.session.request(number, methods.Basic.Qos())
    dialogue.tell(methods.Basic.QosOk(), number)
    assert ended_with(dialogue).code == 503


def test_a_second_reply_is_an_invalid_command() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.tell(OPEN_OK, number)
    assert ended_with(dialogue).code == 503


def test_a_get_may_be_answered_by_get_empty() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.session.request(number, methods.Basic.Get(queue="q"))
    (told,) = dialogue.tell(methods.Basic.GetEmpty(), number)
    expect(told, Replied)


def test_a_get_may_be_answered_by_content() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.session.request(number, methods.Basic.Get(queue="q"))
    (told,) = dialogue.say(content(number, GET_OK, b"abc"))
    request = expect(told, Replied).request
    assert request.content is not None
    assert request.content.body == b"abc"
    dialogue.tell(methods.Basic.GetEmpty(), number)
    assert ended_with(dialogue).code == 503


def test_a_get_ok_that_nobody_asked_for_is_an_invalid_command() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.say(content(number, GET_OK, b"abc"))
    assert ended_with(dialogue).code == 503


@pytest.mark.parametrize(
    "method",
    [methods.Basic.Ack(1, multiple=True), methods.Basic.Nack(1), methods.Basic.Cancel("c")],
    ids=lambda method: method.name,
)
def test_what_comes_unasked_leaves_the_requests_alone(method: Method) -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.session.request(number, methods.Queue.Declare(queue="q"))
    (told,) = dialogue.tell(method, number)
    assert not isinstance(told, Replied)
    (told,) = dialogue.tell(methods.Queue.DeclareOk("q", 0, 0), number)
    expect(told, Replied)
    assert dialogue.sent_methods()[1:] == []


def test_a_cancel_of_the_broker_is_told_as_no_reply() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    (told,) = dialogue.tell(methods.Basic.Cancel("c"), number)
    cancel = expect(told, MethodReceived)
    assert (cancel.channel, cancel.method.name) == (number, "Basic.Cancel")


def test_confirms_are_told_together_until_something_else_comes() -> None:
    dialogue = opened()
    one, other = dialogue.open_channel(), dialogue.open_channel()
    confirms: list[tuple[int, Method]] = [
        (one, methods.Basic.Ack(1)),
        (one, methods.Basic.Nack(2)),
        (other, methods.Basic.Ack(1)),
    ]
    confirms.append((one, methods.Basic.Ack(5, multiple=True)))
    told = dialogue.say(b"".join(any_method(number, method) for number, method in confirms))
    together = [expect(event, ConfirmsReceived) for event in told]
    assert [(event.channel, [confirm.delivery_tag for confirm in event.confirms]) for event in together] == [
        (one, [1, 2]),
        (other, [1]),
        (one, [5]),
    ]


@pytest.mark.parametrize("active", [True, False])
def test_flow_is_answered_with_flow_ok(*, active: bool) -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    (told,) = dialogue.tell(methods.Channel.Flow(active), number)
    assert expect(expect(told, MethodReceived).method, methods.Channel.Flow).active is active
    (sent,) = dialogue.sent()
    assert sent.channel == number
    assert expect(sent.payload, methods.Channel.FlowOk).active is active


def test_a_method_of_the_connection_on_a_channel_is_an_invalid_command() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.tell(methods.Connection.Blocked("memory"), number)
    assert ended_with(dialogue).code == 503


def test_a_request_that_amqp_cannot_carry_sends_nothing_and_expects_nothing() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    with pytest.raises(InvalidArgument):
        dialogue.session.request(number, methods.Basic.Qos(prefetch_count=2**16))
    assert dialogue.session.output_size == 0
    dialogue.tell(methods.Basic.QosOk(), number)
    assert ended_with(dialogue).code == 503


def test_a_publish_that_does_not_fit_sends_nothing() -> None:
    dialogue = opened(tuning=Tuning(10, 8192, 60))
    number = dialogue.open_channel()
    properties = encode_properties(Properties(headers={"k": "x" * 8192}))
    with pytest.raises(InvalidArgument):
        dialogue.session.publish(number, Route("", "", mandatory=False), properties, b"abc")
    assert dialogue.session.output_size == 0


def test_a_publish_is_a_method_a_header_and_a_body() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    route = Route("x", "r", mandatory=True)
    dialogue.session.publish(number, route, encode_properties(Properties(message_id="m")), b"abc")
    first, second, third = dialogue.sent()
    assert {first.channel, second.channel, third.channel} == {number}
    assert expect(first.payload, methods.Basic.Publish).mandatory is True
    assert expect(second.payload, Header).properties.message_id == "m"
    assert third.payload == b"abc"


def test_a_method_without_answer_is_sent() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.session.send(number, methods.Basic.Ack(3, multiple=True))
    (sent,) = dialogue.sent()
    assert sent.channel == number
    assert expect(sent.payload, methods.Basic.Ack).delivery_tag == 3


# --- closing --------------------------------------------------------------------------------------------------------


def test_a_close_of_ours_is_complete_with_close_ok() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.session.close_channel(number, "done")
    (sent,) = dialogue.sent()
    assert sent.channel == number
    close = expect(sent.payload, methods.Channel.Close)
    assert (close.reply_code, close.reply_text) == (200, "done")
    assert dialogue.session.channel_count == 1
    assert dialogue.tell(CLOSE_OK, number) == [ChannelReleased(number)]
    assert dialogue.session.channel_count == 0


def test_a_close_of_the_brokers_is_answered_and_named() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    (told,) = dialogue.tell(NOT_FOUND, number)
    closed = expect(told, ChannelEnded)
    error = expect(closed.error, NotFound)
    assert closed.channel == number
    assert (error.text, error.method) == ("NOT_FOUND - no exchange 'x'", "basic.publish")
    assert error.found_by is Side.BROKER
    (sent,) = dialogue.sent()
    assert sent.channel == number
    expect(sent.payload, methods.Channel.CloseOk)
    assert dialogue.session.state is LinkState.OPEN


def test_a_refused_open_closes_that_channel_alone() -> None:
    dialogue = opened()
    first, second = dialogue.open_channel(), dialogue.session.open_channel()
    dialogue.tell(methods.Channel.Close(406, "PRECONDITION_FAILED", 20, 10), second)
    dialogue.session.request(first, methods.Basic.Qos())
    (told,) = dialogue.tell(methods.Basic.QosOk(), first)
    assert expect(told, Replied).channel == first


def test_closes_that_cross_are_a_close_of_ours_that_is_complete() -> None:
    """RabbitMQ, 3.10 to 4.3, may lose its close-ok: our own may end the process that was about to send it."""
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.session.close_channel(number)
    dialogue.sent()
    assert dialogue.tell(NOT_FOUND, number) == [ChannelReleased(number)]
    (answer,) = dialogue.sent_methods()
    expect(answer, methods.Channel.CloseOk)
    assert dialogue.session.channel_count == 0


def test_close_ok_after_closes_that_crossed_makes_the_number_as_good_as_any() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.session.close_channel(number)
    dialogue.tell(NOT_FOUND, number)
    assert dialogue.tell(CLOSE_OK, number) == []
    assert dialogue.session.open_channel() == number
    (told,) = dialogue.tell(OPEN_OK, number)
    expect(told, Replied)


def test_late_frames_on_a_closing_channel_are_discarded() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.session.request(number, methods.Queue.Declare(queue="q"))
    dialogue.session.close_channel(number)
    dialogue.sent()
    late = [
        any_method(number, methods.Queue.DeclareOk("q", 0, 0)),
        any_method(number, methods.Basic.Ack(1)),
        any_method(number, methods.Channel.Flow(active=False)),
        content(number, DELIVER, b"late"),
        body(number, b"later"),
        header(number, 5),
    ]
    assert dialogue.say(*late) == []
    assert dialogue.sent() == []
    assert dialogue.session.state is LinkState.OPEN


def test_content_that_our_close_cuts_is_discarded() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.tell(DELIVER, number)
    dialogue.say(header(number, 6), body(number, b"abc"))
    dialogue.session.close_channel(number)
    assert dialogue.say(body(number, b"def")) == []
    assert dialogue.tell(CLOSE_OK, number) == [ChannelReleased(number)]


def test_the_broker_may_close_a_channel_inside_content() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.tell(DELIVER, number)
    dialogue.say(header(number, 6), body(number, b"abc"))
    (told,) = dialogue.tell(methods.Channel.Close(406, "PRECONDITION_FAILED", 0, 0), number)
    error = expect(expect(told, ChannelEnded).error, PreconditionFailed)
    assert error.method is None


def test_a_close_ok_that_nobody_asked_for_is_an_invalid_command() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.tell(CLOSE_OK, number)
    assert ended_with(dialogue).code == 503


@pytest.mark.parametrize(
    "data",
    [any_method(5, OPEN_OK), any_method(5, CLOSE_OK), header(5, 1), body(5, b"x")],
    ids=["method", "close-ok", "header", "body"],
)
def test_a_frame_on_a_channel_that_was_never_opened_is_a_channel_error(data: bytes) -> None:
    dialogue = opened()
    dialogue.open_channel()
    dialogue.say(data)
    error = expect(ended_with(dialogue), ChannelError)
    assert "channel 5" in error.text


def test_a_frame_on_a_released_channel_is_a_channel_error() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.session.close_channel(number)
    dialogue.tell(CLOSE_OK, number)
    dialogue.tell(methods.Basic.Ack(1), number)
    assert ended_with(dialogue).code == 504


# --- content --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pieces",
    [[], [b"abc"], [b"a", b"b", b"c"], [b"", b"abc", b""], [b"\xce" * 1000] * 20],
    ids=["no body", "one frame", "many frames", "empty frames", "large frames"],
)
@pytest.mark.parametrize("method", [DELIVER, RETURN], ids=["deliver", "return"])
def test_content_is_put_together(method: Method, pieces: list[bytes]) -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    data = b"".join(pieces)
    sent = pieces[:-1] if pieces and not pieces[-1] else pieces
    said = dialogue.say(any_method(number, method), header(number, len(data)), *(body(number, piece) for piece in sent))
    (told,) = said
    got = whole(told)
    assert got.channel == number
    assert got.method.name == method.name
    assert got.message.body == data


def test_content_brings_its_method_and_properties() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    message = Message(b"abc", message_id="m", headers={"k": 1}, persistent=True)
    (told,) = dialogue.say(content(number, DELIVER, b"abc", message_id="m", headers={"k": 1}))
    got = whole(told)
    deliver = expect(got.method, methods.Basic.Deliver)
    assert (deliver.consumer_tag, deliver.delivery_tag, deliver.routing_key) == ("c", 1, "r")
    assert got.message == message


def test_contents_of_two_channels_are_events_of_their_own() -> None:
    dialogue = opened()
    numbers = [dialogue.open_channel() for _ in range(2)]
    dialogue.events.clear()
    deliver = methods.Basic.Deliver("c", 1, redelivered=False, exchange="", routing_key="q")
    dialogue.say(b"".join(content(number, deliver, b"x") for number in numbers))
    assert [event.channel for event in dialogue.events if isinstance(event, ContentsReceived)] == numbers


def test_contents_on_two_channels_may_interleave() -> None:
    dialogue = opened()
    first, second = dialogue.open_channel(), dialogue.open_channel()
    told = dialogue.say(
        any_method(first, DELIVER),
        any_method(second, DELIVER),
        header(first, 4),
        header(second, 2),
        body(first, b"ab"),
        HEARTBEAT_FRAME,
        body(second, b"xy"),
        any_method(0, methods.Connection.Unblocked()),
        body(first, b"cd"),
    )
    assert [(got.channel, got.message.body) for got in contents(told)] == [(second, b"xy"), (first, b"abcd")]


def test_contents_may_follow_each_other() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    told = dialogue.say(content(number, DELIVER, b"one"), content(number, DELIVER, b""), content(number, RETURN, b"3"))
    assert [got.message.body for got in contents(told)] == [b"one", b"", b"3"]


def test_empty_body_frames_without_end_take_no_memory() -> None:
    # Invariant 12: nothing that the broker sends grows memory without bound.
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.tell(DELIVER, number)
    dialogue.say(header(number, 1))
    flood = body(number, b"") * 1000
    dialogue.say(flood)
    tracemalloc.start()
    try:
        for _ in range(50):
            dialogue.say(flood)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000
    (told,) = dialogue.say(body(number, b"x"))
    assert whole(told).message.body == b"x"


@pytest.mark.parametrize("pieces", [[b"abcd"], [b"ab", b"cd"]])
def test_a_body_longer_than_announced_is_a_frame_error(pieces: list[bytes]) -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.tell(DELIVER, number)
    dialogue.say(header(number, 3), *(body(number, piece) for piece in pieces))
    error = ended_with(dialogue)
    assert error.code == 501
    assert "4 bytes of body" in error.text


def test_a_body_without_a_header_is_unexpected() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.tell(DELIVER, number)
    dialogue.say(body(number, b"abc"))
    assert ended_with(dialogue).code == 505


def test_a_body_after_the_last_one_is_unexpected() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.say(content(number, DELIVER, b"abc"), body(number, b""))
    assert ended_with(dialogue).code == 505


def test_a_header_without_a_method_is_unexpected() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.say(header(number, 3))
    assert ended_with(dialogue).code == 505


def test_a_second_header_is_unexpected() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.tell(DELIVER, number)
    dialogue.say(header(number, 3), header(number, 3))
    assert ended_with(dialogue).code == 505


@pytest.mark.parametrize("after", [[], [header(1, 3)], [header(1, 3), body(1, b"a")]], ids=["method", "header", "body"])
def test_a_method_inside_content_is_unexpected(after: list[bytes]) -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.tell(DELIVER, number)
    dialogue.say(*after)
    dialogue.tell(methods.Basic.Ack(1), number)
    error = ended_with(dialogue)
    assert error.code == 505
    assert "inside the content of basic.deliver" in error.text


# --- messages that are too large ------------------------------------------------------------------------------------


def test_a_message_of_the_largest_size_is_taken() -> None:
    dialogue = opened(max_message_size=1000)
    number = dialogue.open_channel()
    (told,) = dialogue.say(content(number, DELIVER, bytes(1000)))
    assert len(whole(told).message.body) == 1000


def test_a_message_that_is_too_large_closes_its_channel() -> None:
    dialogue = opened(max_message_size=1000)
    number = dialogue.open_channel()
    dialogue.tell(DELIVER, number)
    (told,) = dialogue.say(header(number, 1001))
    closed = expect(told, ChannelEnded)
    error = expect(closed.error, ContentTooLarge)
    assert closed.channel == number
    assert (error.code, error.method, error.found_by, error.blame) == (
        311,
        "basic.deliver",
        Side.CLIENT,
        Blame.BROKER,
    )
    assert "1001" in error.text
    assert "1000" in error.text
    (sent,) = dialogue.sent()
    assert sent.channel == number
    close = expect(sent.payload, methods.Channel.Close)
    assert (close.reply_code, close.reply_text) == (311, error.text)
    assert dialogue.session.state is LinkState.OPEN


def test_the_body_of_a_message_that_is_too_large_is_discarded() -> None:
    dialogue = opened(max_message_size=1000)
    number = dialogue.open_channel()
    dialogue.tell(DELIVER, number)
    dialogue.say(header(number, 2000))
    assert dialogue.say(body(number, bytes(1000)), body(number, bytes(1000)), content(number, DELIVER, b"next")) == []
    assert dialogue.tell(CLOSE_OK, number) == [ChannelReleased(number)]
    assert dialogue.session.open_channel() == number


def test_a_channel_may_be_closed_for_a_message_before_one_that_is_too_large() -> None:
    dialogue = opened(max_message_size=1000)
    number = dialogue.open_channel()
    session = dialogue.session
    session.receive(
        content(number, DELIVER, b"first") + any_method(number, DELIVER) + header(number, 2000), dialogue.now
    )
    expect(session.next_event(), ContentsReceived)
    session.close_channel(number)
    expect(session.next_event(), ChannelEnded)
    assert [expect(sent.payload, methods.Channel.Close).reply_code for sent in dialogue.sent()] == [311]


def test_other_channels_outlive_a_message_that_is_too_large() -> None:
    dialogue = opened(max_message_size=1000)
    first, second = dialogue.open_channel(), dialogue.open_channel()
    dialogue.tell(DELIVER, first)
    dialogue.say(header(first, 2**64 - 1))
    (told,) = dialogue.say(content(second, DELIVER, b"abc"))
    assert whole(told).channel == second


def test_no_channel_outlives_the_session() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.tell(DELIVER, number)
    told = dialogue.say(
        header(number, 5), any_method(0, methods.Connection.Close(320, "bye", 0, 0)), body(number, b"x")
    )
    assert len(told) == 1
    assert isinstance(told[0], Ended)


# --- answers that the broker does not take --------------------------------------------------------------------------


def test_a_close_that_is_said_again_and_again_is_answered_once() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.say(any_method(number, NOT_FOUND) * 1000)
    (answer,) = dialogue.sent_methods()
    expect(answer, methods.Channel.CloseOk)


def test_answers_that_are_not_taken_are_counted_until_they_leave() -> None:
    """Invariant 11: above a mark nothing more is to be read."""
    dialogue = opened()
    asked = any_method(dialogue.open_channel(), methods.Channel.Flow(active=True))
    rounds = 0
    while not dialogue.session.owes_too_much:
        dialogue.say(asked * 1000)
        rounds += 1
        assert rounds < 100
    assert rounds > 10
    while dialogue.session.has_output:
        assert dialogue.session.owes_too_much
        dialogue.output()
    assert not dialogue.session.owes_too_much


def test_acks_that_cannot_leave_are_counted_until_they_do() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    for tag in range(1, 65536):
        dialogue.session.ack(number, tag, multiple=False)
    assert not dialogue.session.owes_too_much  # one consumer's prefetch may be as large
    for tag in range(65536, 3 * 65536):
        dialogue.session.ack(number, tag, multiple=False)
    assert dialogue.session.owes_too_much
    dialogue.output()
    assert not dialogue.session.owes_too_much


def test_what_we_send_of_our_own_accord_is_no_answer() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    for _ in range(10_000):
        dialogue.session.publish(number, Route("", "q", mandatory=True), b"\0\0", bytes(100))
        dialogue.session.request(number, methods.Queue.Declare(queue="q"))
    assert not dialogue.session.owes_too_much


def test_while_we_close_everything_is_read() -> None:
    """What the broker still asks for is not answered, and its close-ok is awaited."""
    dialogue = opened()
    number = dialogue.open_channel()
    dialogue.say(any_method(number, methods.Channel.Flow(active=True)) * 50_000)
    assert dialogue.session.owes_too_much
    dialogue.session.close(dialogue.now)
    assert not dialogue.session.owes_too_much
