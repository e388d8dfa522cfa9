"""The session's connection class: handshake, tuning, heartbeats, and its ends."""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from anyamqp.errors import (
    AccessRefused,
    AnyamqpError,
    Blame,
    ConnectionForced,
    CredentialsUnavailable,
    FrameError,
    HeartbeatTimeout,
    InvalidArgument,
    InvalidTransition,
    InvalidUse,
    LoginRefused,
    NotAllowed,
    NotFound,
    ReplyError,
    Side,
    TransportError,
)
from anyamqp.protocol.events import Blocked, BlockNotice, Ended, Opened, Replied, Stalled, Tuning, Unblocked
from anyamqp.protocol.handshake import CAPABILITIES
from anyamqp.protocol.lifecycle import LinkEvent, LinkState
from anyamqp.protocol.sasl import External, Mechanism, Plain
from anyamqp.wire import methods
from anyamqp.wire.basic import Route
from anyamqp.wire.frames import HEARTBEAT_FRAME, PROTOCOL_HEADER, Frame, HeartbeatFrame, ProtocolHeader, build
from anyamqp.wire.methods import Method
from support.amqp import (
    PASSWORD,
    PROPOSAL,
    USERNAME,
    Dialogue,
    Whole,
    any_method,
    body,
    content,
    expect,
    frame,
    header,
    method_frame,
    opened,
    whole,
)

CLOSE_OK = methods.Connection.CloseOk()
FORCED = methods.Connection.Close(320, "CONNECTION_FORCED - shutdown", 0, 0)


def at_start() -> Dialogue:
    return Dialogue()


def at_tune() -> Dialogue:
    dialogue = Dialogue()
    dialogue.start()
    return dialogue


def at_open_ok() -> Dialogue:
    dialogue = at_tune()
    dialogue.tune()
    return dialogue


def closing() -> Dialogue:
    dialogue = opened()
    dialogue.session.close(dialogue.now)
    return dialogue


AT: dict[LinkState, Callable[[], Dialogue]] = {
    LinkState.AWAITING_START: at_start,
    LinkState.AWAITING_TUNE: at_tune,
    LinkState.AWAITING_OPEN_OK: at_open_ok,
    LinkState.OPEN: opened,
    LinkState.CLOSING: closing,
}
HANDSHAKE = (LinkState.AWAITING_START, LinkState.AWAITING_TUNE, LinkState.AWAITING_OPEN_OK)


def at(state: LinkState) -> Dialogue:
    """A session in that state, whose output so far is taken."""
    dialogue = AT[state]()
    dialogue.sent()
    dialogue.news()
    assert dialogue.session.state is state
    return dialogue


# --- handshake ------------------------------------------------------------------------------------------------------


def test_the_protocol_header_goes_first_and_nothing_else() -> None:
    dialogue = Dialogue()
    assert dialogue.sent() == [Frame(0, ProtocolHeader(PROTOCOL_HEADER))]
    assert dialogue.session.state is LinkState.AWAITING_START


def test_start_is_answered_with_start_ok() -> None:
    dialogue = Dialogue(client_properties={"connection_name": "feed", "product": "anyamqp"})
    dialogue.sent()
    assert dialogue.start() == []
    (answer,) = dialogue.sent_methods()
    start_ok = expect(answer, methods.Connection.StartOk)
    assert start_ok.mechanism == "PLAIN"
    assert start_ok.response == f"\0{USERNAME}\0{PASSWORD}"
    assert start_ok.locale == "en_US"
    assert start_ok.client_properties == {
        "connection_name": "feed",
        "product": "anyamqp",
        "capabilities": dict(CAPABILITIES),
    }
    assert dialogue.session.state is LinkState.AWAITING_TUNE


@pytest.mark.parametrize(
    "capability",
    [
        "authentication_failure_close",
        "basic.nack",
        "connection.blocked",
        "consumer_cancel_notify",
        "exchange_exchange_bindings",
        "publisher_confirms",
    ],
)
def test_the_broker_is_told_of_each_capability(capability: str) -> None:
    dialogue = at_start()
    dialogue.sent()
    dialogue.start()
    properties: Any = expect(dialogue.sent_methods()[0], methods.Connection.StartOk).client_properties
    assert properties["capabilities"][capability] is True


def test_tune_is_answered_with_tune_ok_and_open() -> None:
    dialogue = Dialogue(virtual_host="prices")
    dialogue.start()
    dialogue.sent()
    assert dialogue.tune(Tuning(100, 8192, 30)) == []
    first, second = dialogue.sent_methods()
    tune_ok = expect(first, methods.Connection.TuneOk)
    assert (tune_ok.channel_max, tune_ok.frame_max, tune_ok.heartbeat) == (100, 8192, 30)
    assert expect(second, methods.Connection.Open).virtual_host == "prices"
    assert dialogue.session.state is LinkState.AWAITING_OPEN_OK


def test_open_ok_opens_the_session() -> None:
    dialogue = Dialogue()
    dialogue.start(server_properties={"product": "RabbitMQ", "version": "4.1.0"})
    dialogue.tune(Tuning(100, 8192, 30))
    dialogue.sent()
    assert dialogue.tell(methods.Connection.OpenOk()) == [
        Opened(Tuning(100, 8192, 30), {"product": "RabbitMQ", "version": "4.1.0"})
    ]
    assert dialogue.sent() == []
    assert dialogue.session.state is LinkState.OPEN


def test_the_whole_handshake_works_when_it_comes_byte_by_byte() -> None:
    dialogue = Dialogue()
    stream = b"".join(
        any_method(0, method)
        for method in (
            methods.Connection.Start(mechanisms="PLAIN"),
            methods.Connection.Tune(*PROPOSAL),
            methods.Connection.OpenOk(),
        )
    )
    for position in range(len(stream)):
        dialogue.say(stream[position : position + 1])
    assert dialogue.session.state is LinkState.OPEN
    assert [type(sent.payload) for sent in dialogue.sent()] == [
        ProtocolHeader,
        methods.Connection.StartOk,
        methods.Connection.TuneOk,
        methods.Connection.Open,
    ]


class Riddle:
    """A mechanism that answers challenges."""

    name = "RIDDLE"

    def start(self) -> bytes:
        return b"hello"

    def answer(self, challenge: bytes) -> bytes:
        return challenge[::-1]


def test_each_challenge_is_answered_by_the_chosen_mechanism() -> None:
    dialogue = Dialogue(mechanisms=[Plain("alice", "secret"), Riddle()])
    dialogue.sent()
    dialogue.start(mechanisms="RIDDLE")
    dialogue.tell(methods.Connection.Secure("abc"))
    dialogue.tell(methods.Connection.Secure("de"))
    start_ok, first, second = dialogue.sent_methods()
    assert expect(start_ok, methods.Connection.StartOk).response == "hello"
    assert expect(first, methods.Connection.SecureOk).response == "cba"
    assert expect(second, methods.Connection.SecureOk).response == "ed"
    assert dialogue.session.state is LinkState.AWAITING_TUNE


class Scrambled(Riddle):
    """A mechanism whose messages are no text."""

    def start(self) -> bytes:
        return b"\xff\x00\xfe"


def test_what_a_mechanism_says_crosses_the_wire_byte_by_byte() -> None:
    dialogue = Dialogue(mechanisms=[Scrambled()])
    dialogue.sent()
    dialogue.start(mechanisms="RIDDLE")
    assert b"\x00\x00\x00\x03\xff\x00\xfe" in dialogue.output()
    dialogue.say(method_frame(0, 10, 20, struct.pack(">I", 3) + b"\x80\x00\xff"))
    assert dialogue.output() == method_frame(0, 10, 21, struct.pack(">I", 3) + b"\xff\x00\x80")


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ("PLAIN AMQPLAIN", "PLAIN"),
        ("PLAIN EXTERNAL", "EXTERNAL"),
        ("EXTERNAL", "EXTERNAL"),
        ("AMQPLAIN PLAIN RIDDLE", "RIDDLE"),
    ],
)
def test_the_first_mechanism_that_the_broker_offers_is_taken(offered: str, chosen: str) -> None:
    dialogue = Dialogue(mechanisms=[Riddle(), External(), Plain(USERNAME, PASSWORD)])
    dialogue.sent()
    dialogue.start(mechanisms=offered)
    start_ok = expect(dialogue.sent_methods()[0], methods.Connection.StartOk)
    assert start_ok.mechanism == chosen


def test_external_leaves_the_response_empty() -> None:
    dialogue = Dialogue(mechanisms=[External()])
    dialogue.sent()
    dialogue.start(mechanisms="EXTERNAL")
    start_ok = expect(dialogue.sent_methods()[0], methods.Connection.StartOk)
    assert (start_ok.mechanism, start_ok.response) == ("EXTERNAL", "")


class Broken:
    """A mechanism that fails at one point."""

    name = "RIDDLE"

    def __init__(self, at: str, failure: Callable[[], Any]) -> None:
        self._at = at
        self._failure = failure

    def start(self) -> bytes:
        return b"" if self._at != "start" else self._fail()

    def answer(self, challenge: bytes) -> bytes:  # noqa: ARG002
        return b"" if self._at != "answer" else self._fail()

    def _fail(self) -> bytes:
        result: bytes = self._failure()
        return result


def leak() -> bytes:
    raise LookupError(PASSWORD)


@pytest.mark.parametrize("at", ["start", "answer"])
@pytest.mark.parametrize(
    ("failure", "told", "cause"),
    [(leak, "raised LookupError", LookupError), (lambda: PASSWORD, "answered with str instead of bytes", type(None))],
)
def test_a_mechanism_that_fails_ends_the_session(
    at: str, failure: Callable[[], Any], told: str, cause: type[object]
) -> None:
    dialogue = Dialogue(mechanisms=[Broken(at, failure)])
    dialogue.start(mechanisms="RIDDLE")
    assert (dialogue.session.state is LinkState.CLOSED) == (at == "start")
    dialogue.tell(SECURE)
    error = expect(dialogue.ended().error, CredentialsUnavailable)
    assert str(error) == f"the mechanism RIDDLE {told}"
    assert isinstance(error.__cause__, cause)
    assert PASSWORD not in repr(dialogue.events)


@pytest.mark.parametrize("offered", ["", "AMQPLAIN EXTERNAL", "PLAINER"])
def test_a_mechanism_that_is_not_offered_ends_the_session(offered: str) -> None:
    dialogue = at(LinkState.AWAITING_START)
    dialogue.start(mechanisms=offered)
    error = expect(dialogue.ended().error, LoginRefused)
    assert error.text == f"the broker offers {offered or 'nothing'}, not PLAIN"
    assert error.method == "connection.start"
    assert error.found_by is Side.CLIENT
    assert dialogue.sent() == []
    assert dialogue.session.state is LinkState.CLOSED


def test_all_mechanisms_that_are_not_offered_are_named() -> None:
    mechanisms: list[Mechanism] = [External(), Plain(USERNAME, PASSWORD)]
    dialogue = Dialogue(mechanisms=mechanisms)
    dialogue.start(mechanisms="RABBIT-CR-DEMO ANONYMOUS")
    error = expect(dialogue.ended().error, LoginRefused)
    assert error.text == "the broker offers RABBIT-CR-DEMO ANONYMOUS, not EXTERNAL or PLAIN"


@pytest.mark.parametrize("state", [LinkState.AWAITING_START, LinkState.AWAITING_TUNE])
def test_a_refused_login_is_named(state: LinkState) -> None:
    dialogue = at(state)
    dialogue.tell(methods.Connection.Close(403, "ACCESS_REFUSED - Login was refused", 0, 0))
    error = expect(dialogue.ended().error, LoginRefused)
    assert error.text == "ACCESS_REFUSED - Login was refused"
    assert error.found_by is Side.BROKER
    assert error.blame is Blame.CALLER
    assert [type(method) for method in dialogue.sent_methods()] == [methods.Connection.CloseOk]


def test_no_access_to_the_virtual_host_is_not_a_refused_login() -> None:
    dialogue = at(LinkState.AWAITING_OPEN_OK)
    dialogue.tell(methods.Connection.Close(403, "ACCESS_REFUSED", 10, 40))
    assert type(dialogue.ended().error) is AccessRefused


def test_an_unknown_virtual_host_is_named() -> None:
    dialogue = at(LinkState.AWAITING_OPEN_OK)
    dialogue.tell(methods.Connection.Close(530, "NOT_ALLOWED - vhost nowhere not found", 10, 40))
    error = expect(dialogue.ended().error, NotAllowed)
    assert error.text == "NOT_ALLOWED - vhost nowhere not found"
    assert error.method == "connection.open"


def test_a_broker_of_another_protocol_is_named() -> None:
    dialogue = at(LinkState.AWAITING_START)
    dialogue.say(b"AMQP\x00\x01\x00\x00")
    assert "offers protocol 0-1-0-0" in expect(dialogue.ended().error, FrameError).text


# --- tuning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"),
    [
        (0, 0, 0),
        (0, 5, 5),
        (5, 0, 5),
        (5, 5, 5),
        (4, 5, 4),
        (5, 4, 4),
        (1, 65535, 1),
    ],
)
def test_the_smaller_limit_holds_and_zero_is_none(ours: int, theirs: int, agreed: int) -> None:
    assert Tuning(ours, ours, ours).agree(Tuning(theirs, theirs, theirs)) == Tuning(agreed, agreed, agreed)


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"),
    [
        (Tuning(2047, 131072, 60), Tuning(100, 8192, 30), Tuning(100, 8192, 30)),
        (Tuning(100, 8192, 30), Tuning(2047, 131072, 60), Tuning(100, 8192, 30)),
        (Tuning(0, 8192, 0), Tuning(2047, 0, 60), Tuning(2047, 8192, 60)),
        (Tuning(10, 8192, 60), Tuning(0, 0, 0), Tuning(10, 8192, 60)),
        (Tuning(0, 131072, 0), Tuning(0, 8192, 0), Tuning(0, 8192, 0)),
    ],
)
def test_each_limit_is_agreed_for_itself(ours: Tuning, theirs: Tuning, agreed: Tuning) -> None:
    dialogue = Dialogue(proposal=ours)
    dialogue.start()
    dialogue.sent()
    dialogue.tune(theirs)
    tune_ok = expect(dialogue.sent_methods()[0], methods.Connection.TuneOk)
    assert Tuning(tune_ok.channel_max, tune_ok.frame_max, tune_ok.heartbeat) == agreed
    assert dialogue.session.tuning == agreed


@pytest.mark.parametrize("frame_max", [1, 100, 4095])
def test_a_frame_max_that_amqp_does_not_allow_ends_the_session(frame_max: int) -> None:
    dialogue = at(LinkState.AWAITING_TUNE)
    dialogue.tune(Tuning(10, frame_max, 60))
    error = expect(dialogue.ended().error, ReplyError)
    assert error.code == 503
    assert f"frame_max {frame_max}" in error.text


def test_the_least_frame_max_of_amqp_is_agreed_to() -> None:
    assert opened(tuning=Tuning(10, 4096, 60)).session.tuning.frame_max == 4096


def test_a_frame_above_the_agreed_limit_ends_the_session() -> None:
    dialogue = opened(tuning=Tuning(10, 8192, 60))
    number = dialogue.open_channel()
    dialogue.say(body(number, bytes(8192 - 7)))
    assert "8193" in expect(dialogue.ended().error, FrameError).text


def test_what_is_published_is_split_at_the_agreed_limit() -> None:
    dialogue = opened(tuning=Tuning(10, 8192, 60))
    number = dialogue.open_channel()
    dialogue.session.publish(number, Route("", "q", mandatory=False), b"\x00\x00", bytes(8192 - 7))
    pieces = [sent.payload for sent in dialogue.sent()][2:]
    assert pieces == [bytes(8192 - 8), b"\x00"]


# --- out of turn ----------------------------------------------------------------------------------------------------

START = methods.Connection.Start()
SECURE = methods.Connection.Secure("?")
TUNE = methods.Connection.Tune(*PROPOSAL)
OPEN_OK = methods.Connection.OpenOk()
BLOCKED = methods.Connection.Blocked("memory")
UNBLOCKED = methods.Connection.Unblocked()
SECRET_OK = methods.Connection.UpdateSecretOk()
CLIENTS: tuple[Method, ...] = (
    methods.Connection.StartOk(),
    methods.Connection.TuneOk(),
    methods.Connection.Open(),
    methods.Channel.Open(),
    methods.Basic.Ack(1),
)

OUT_OF_TURN: list[tuple[LinkState, Method]] = [
    (state, method)
    for state, methods in {
        LinkState.AWAITING_START: (SECURE, TUNE, OPEN_OK, BLOCKED, UNBLOCKED, CLOSE_OK, SECRET_OK, *CLIENTS),
        LinkState.AWAITING_TUNE: (START, OPEN_OK, BLOCKED, UNBLOCKED, CLOSE_OK, SECRET_OK, *CLIENTS),
        LinkState.AWAITING_OPEN_OK: (START, SECURE, TUNE, BLOCKED, UNBLOCKED, CLOSE_OK, SECRET_OK, *CLIENTS),
        LinkState.OPEN: (START, SECURE, TUNE, OPEN_OK, CLOSE_OK, SECRET_OK, *CLIENTS),
    }.items()
    for method in methods
]


@pytest.mark.parametrize(
    ("state", "method"), OUT_OF_TURN, ids=[f"{state.value}-{method.name}" for state, method in OUT_OF_TURN]
)
def test_a_method_out_of_turn_is_an_invalid_command(state: LinkState, method: Method) -> None:
    dialogue = at(state)
    dialogue.tell(method)
    error = expect(dialogue.ended().error, ReplyError)
    assert error.code == 503
    assert error.found_by is Side.CLIENT
    assert state.name in error.text
    assert dialogue.session.state is LinkState.CLOSED


@pytest.mark.parametrize("state", HANDSHAKE)
def test_a_channel_before_open_ok_is_a_channel_error(state: LinkState) -> None:
    dialogue = at(state)
    dialogue.tell(methods.Channel.OpenOk(), 1)
    assert expect(dialogue.ended().error, ReplyError).code == 504


@pytest.mark.parametrize("state", [*HANDSHAKE, LinkState.OPEN])
@pytest.mark.parametrize("data", [header(0, 5), body(0, b"abc")], ids=["header", "body"])
def test_content_on_channel_0_is_a_channel_error(state: LinkState, data: bytes) -> None:
    dialogue = at(state)
    dialogue.say(data)
    assert expect(dialogue.ended().error, ReplyError).code == 504


FAULTS: list[Any] = [
    pytest.param(frame(9, 0, b""), 501, id="frame error"),
    pytest.param(method_frame(0, 10, 50, b"\x00"), 502, id="syntax error"),
    pytest.param(any_method(0, START), 503, id="out of turn"),
    pytest.param(method_frame(0, 99, 1), 503, id="unknown method"),
    pytest.param(body(7, b"abc"), 504, id="channel error"),
    pytest.param(frame(8, 3, b""), 503, id="heartbeat on a channel"),
    pytest.param(header(0, 1), 504, id="content on channel 0"),
]


@pytest.mark.parametrize(("data", "code"), FAULTS)
def test_an_open_session_says_why_it_leaves(data: bytes, code: int) -> None:
    dialogue = opened()
    dialogue.say(data)
    error = expect(dialogue.ended().error, ReplyError)
    assert error.code == code
    (close,) = dialogue.sent_methods()
    close = expect(close, methods.Connection.Close)
    assert close.reply_code == code
    assert close.reply_text == error.text


@pytest.mark.parametrize("state", HANDSHAKE)
def test_a_session_that_is_not_open_yet_leaves_without_a_word(state: LinkState) -> None:
    dialogue = at(state)
    dialogue.say(frame(9, 0, b""))
    assert expect(dialogue.ended().error, ReplyError).code == 501
    assert dialogue.sent() == []


def test_what_precedes_a_fault_in_the_same_chunk_is_heard() -> None:
    dialogue = opened()
    news = dialogue.say(any_method(0, BLOCKED), frame(9, 0, b""))
    assert news[0] == Blocked("memory")
    assert isinstance(news[1], Ended)


# --- endings --------------------------------------------------------------------------------------------------------


def test_a_close_of_ours_ends_without_an_error() -> None:
    dialogue = opened()
    dialogue.session.close(dialogue.now, "done")
    (close,) = dialogue.sent_methods()
    close = expect(close, methods.Connection.Close)
    assert (close.reply_code, close.reply_text) == (200, "done")
    assert dialogue.tell(CLOSE_OK) == [Ended(None)]
    assert dialogue.session.state is LinkState.CLOSED


@pytest.mark.parametrize("state", [*HANDSHAKE, LinkState.CLOSING])
def test_only_an_open_session_can_be_closed(state: LinkState) -> None:
    dialogue = at(state)
    with pytest.raises(InvalidTransition):
        dialogue.session.close(dialogue.now)
    assert dialogue.session.state is state
    assert dialogue.sent() == []


@pytest.mark.parametrize("state", [*HANDSHAKE, LinkState.OPEN])
def test_a_close_of_the_brokers_is_answered(state: LinkState) -> None:
    dialogue = at(state)
    dialogue.tell(FORCED)
    error = expect(dialogue.ended().error, ConnectionForced)
    assert error.text == "CONNECTION_FORCED - shutdown"
    assert error.method is None
    assert error.found_by is Side.BROKER
    assert [type(method) for method in dialogue.sent_methods()] == [methods.Connection.CloseOk]
    assert dialogue.session.state is LinkState.CLOSED


def test_a_close_of_the_brokers_names_the_method_that_caused_it() -> None:
    dialogue = opened()
    dialogue.tell(methods.Connection.Close(404, "NOT_FOUND", 60, 40))
    error = expect(dialogue.ended().error, NotFound)
    assert error.method == "basic.publish"
    assert "basic.publish" in str(error)


def test_a_close_for_a_method_that_nobody_knows_gives_its_numbers() -> None:
    dialogue = opened()
    dialogue.tell(methods.Connection.Close(540, "NOT_IMPLEMENTED", 99, 7))
    assert expect(dialogue.ended().error, ReplyError).method == "method 99.7"


def test_a_close_with_an_unknown_code_keeps_the_code() -> None:
    dialogue = opened()
    dialogue.tell(methods.Connection.Close(999, "odd", 0, 0))
    assert "999" in str(dialogue.ended().error)


def test_closes_that_cross_are_a_close_of_ours() -> None:
    dialogue = at(LinkState.CLOSING)
    assert dialogue.tell(FORCED) == [Ended(None)]
    assert [type(method) for method in dialogue.sent_methods()] == [methods.Connection.CloseOk]
    assert dialogue.session.state is LinkState.CLOSED


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(any_method(0, BLOCKED), id="blocked"),
        pytest.param(any_method(0, UNBLOCKED), id="unblocked"),
        pytest.param(any_method(0, START), id="start"),
        pytest.param(any_method(0, SECURE), id="secure"),
        pytest.param(any_method(0, TUNE), id="tune"),
        pytest.param(any_method(0, OPEN_OK), id="open-ok"),
        pytest.param(any_method(0, methods.Connection.StartOk()), id="a client's method"),
        pytest.param(header(0, 5), id="content on channel 0"),
        pytest.param(HEARTBEAT_FRAME, id="heartbeat"),
        pytest.param(any_method(1, methods.Channel.Close(404, "NOT_FOUND", 0, 0)), id="channel.close"),
        pytest.param(any_method(1, methods.Channel.Flow(active=False)), id="channel.flow"),
        pytest.param(any_method(9, methods.Channel.OpenOk()), id="unknown channel"),
        pytest.param(content(1, methods.Basic.Deliver("c", 1, exchange="", routing_key="q"), b"abc"), id="content"),
        pytest.param(body(1, b"abc"), id="stray body"),
    ],
)
def test_whatever_comes_after_our_close_is_discarded(data: bytes) -> None:
    dialogue = opened()
    dialogue.open_channel()
    dialogue.session.close(dialogue.now)
    dialogue.sent()
    assert dialogue.say(data) == []
    assert dialogue.sent() == []
    assert dialogue.session.state is LinkState.CLOSING
    assert dialogue.session.block is None
    assert dialogue.tell(CLOSE_OK) == [Ended(None)]


def test_a_fault_after_our_close_ends_the_session_without_a_word() -> None:
    dialogue = at(LinkState.CLOSING)
    dialogue.say(frame(9, 0, b""))
    assert expect(dialogue.ended().error, ReplyError).code == 501
    assert dialogue.session.state is LinkState.CLOSED
    assert dialogue.sent() == []


def after_our_close() -> Dialogue:
    dialogue = closing()
    dialogue.tell(CLOSE_OK)
    return dialogue


def after_their_close() -> Dialogue:
    dialogue = opened()
    dialogue.tell(FORCED)
    return dialogue


def after_a_fault() -> Dialogue:
    dialogue = opened()
    dialogue.say(frame(9, 0, b""))
    return dialogue


def after_the_transport() -> Dialogue:
    dialogue = opened()
    dialogue.session.transport_ended(TransportError("reset"), dialogue.now)
    return dialogue


ENDS = [after_our_close, after_their_close, after_a_fault, after_the_transport]


@pytest.mark.parametrize("end", ENDS)
def test_after_the_end_nothing_is_heard_or_sent(end: Callable[[], Dialogue]) -> None:
    dialogue = end()
    dialogue.sent()
    dialogue.news()
    assert dialogue.tell(FORCED) == []
    assert dialogue.tell(methods.Channel.Flow(active=False), 1) == []
    assert dialogue.say(b"garbage!!") == []
    dialogue.session.transport_ended(TransportError("again"), dialogue.now)
    dialogue.session.close(dialogue.now)
    assert dialogue.news() == []
    assert dialogue.session.poll(dialogue.now + 1000) == math.inf
    assert dialogue.news() == []
    assert dialogue.output() == b""
    dialogue.ended()


@pytest.mark.parametrize("end", [closing, *ENDS])
def test_after_a_close_nothing_can_be_asked(end: Callable[[], Dialogue]) -> None:
    dialogue = end()
    dialogue.sent()
    session = dialogue.session
    for call in (
        session.open_channel,
        lambda: session.request(1, methods.Queue.Declare()),
        lambda: session.send(1, methods.Basic.Ack(1)),
        lambda: session.publish(1, Route("", "", mandatory=False), b"\x00\x00", b""),
    ):
        with pytest.raises(InvalidUse, match=session.state.name):
            call()
    assert session.output_size == 0


@pytest.mark.parametrize("end", [closing, *ENDS])
def test_the_end_of_a_link_ends_its_channels_without_another_method(end: Callable[[], Dialogue]) -> None:
    dialogue = end()
    dialogue.sent()
    dialogue.session.nack(1, methods.Basic.Nack(1))
    dialogue.session.close_channel(1)
    assert dialogue.sent() == []


@pytest.mark.parametrize("state", HANDSHAKE)
def test_before_open_ok_nothing_can_be_asked(state: LinkState) -> None:
    dialogue = at(state)
    with pytest.raises(InvalidUse, match=state.name):
        dialogue.session.open_channel()
    assert dialogue.session.output_size == 0


@pytest.mark.parametrize("state", list(AT))
def test_the_end_of_the_transport_ends_the_session(state: LinkState) -> None:
    dialogue = at(state)
    error = TransportError("reset by peer")
    dialogue.session.transport_ended(error, dialogue.now)
    assert dialogue.ended().error is error
    assert dialogue.session.state is LinkState.CLOSED
    assert dialogue.sent() == []


# --- transitions ----------------------------------------------------------------------------------------------------


def test_every_transition_is_told_once_with_its_facts() -> None:
    dialogue = Dialogue(number=7)
    dialogue.now = 1.0
    dialogue.start()
    dialogue.now = 2.0
    dialogue.tell(SECURE)
    dialogue.now = 3.0
    dialogue.tune()
    dialogue.now = 4.0
    dialogue.tell(OPEN_OK)
    dialogue.now = 5.0
    dialogue.session.close(dialogue.now)
    dialogue.now = 6.0
    dialogue.tell(CLOSE_OK)
    told = dialogue.transitions()
    assert [(change.source, change.event, change.target, change.at) for change in told] == [
        (LinkState.AWAITING_START, LinkEvent.STARTED, LinkState.AWAITING_TUNE, 1.0),
        (LinkState.AWAITING_TUNE, LinkEvent.SECURED, LinkState.AWAITING_TUNE, 2.0),
        (LinkState.AWAITING_TUNE, LinkEvent.TUNED, LinkState.AWAITING_OPEN_OK, 3.0),
        (LinkState.AWAITING_OPEN_OK, LinkEvent.OPENED, LinkState.OPEN, 4.0),
        (LinkState.OPEN, LinkEvent.CLOSE, LinkState.CLOSING, 5.0),
        (LinkState.CLOSING, LinkEvent.THEIR_CLOSE_OK, LinkState.CLOSED, 6.0),
    ]
    assert {(change.machine, change.link_number, change.reason) for change in told} == {("link 7", 7, None)}


@pytest.mark.parametrize(
    ("end", "event", "reason"),
    [
        (after_our_close, LinkEvent.THEIR_CLOSE_OK, None),
        (after_their_close, LinkEvent.THEIR_CLOSE, "320 shutdown"),
        (after_a_fault, LinkEvent.BROKEN, "501 unknown frame type 9"),
        (after_the_transport, LinkEvent.DIED, "reset"),
    ],
)
def test_the_last_transition_says_why(end: Callable[[], Dialogue], event: LinkEvent, reason: str | None) -> None:
    last = end().transitions()[-1]
    assert (last.event, last.target, last.reason) == (event, LinkState.CLOSED, reason)


def test_the_last_transition_comes_before_the_end_is_told() -> None:
    dialogue = after_their_close()
    assert dialogue.transitions()[-1] is dialogue.events[-2]
    assert isinstance(dialogue.events[-1], Ended)


# --- blocked --------------------------------------------------------------------------------------------------------


def test_a_blocked_connection_is_told_with_its_reason() -> None:
    dialogue = opened()
    assert dialogue.tell(methods.Connection.Blocked("low on disk")) == [Blocked("low on disk")]
    assert dialogue.session.block == BlockNotice("low on disk", dialogue.now)
    assert dialogue.session.state is LinkState.OPEN


def test_a_block_that_is_told_again_has_lasted_since_the_first_time() -> None:
    dialogue = opened()
    dialogue.tell(methods.Connection.Blocked("low on disk"))
    since = dialogue.now
    dialogue.now += 5.0
    dialogue.tell(methods.Connection.Blocked("low on memory"))
    assert dialogue.session.block == BlockNotice("low on memory", since)


def test_an_unblocked_connection_is_told() -> None:
    dialogue = opened()
    dialogue.tell(BLOCKED)
    assert dialogue.tell(UNBLOCKED) == [Unblocked()]
    assert dialogue.session.block is None


# --- secrets that are updated -----------------------------------------------------------------------------------------


def secret(text: str, reason: str = "") -> methods.Connection.UpdateSecret:
    return build(methods.Connection.UpdateSecret, text, reason)


def test_a_new_secret_is_sent_and_its_answer_is_told() -> None:
    dialogue = opened()
    request = dialogue.session.update_secret(secret("t0ken", "rotation"))
    (sent,) = dialogue.sent_methods()
    sent = expect(sent, methods.Connection.UpdateSecret)
    assert (sent.new_secret, sent.reason) == ("t0ken", "rotation")
    assert dialogue.tell(SECRET_OK) == [Replied(0, request)]
    assert dialogue.session.state is LinkState.OPEN


def test_each_new_secret_has_one_answer_and_no_more() -> None:
    dialogue = opened()
    first, second = (dialogue.session.update_secret(secret(text)) for text in ("one", "two"))
    told = dialogue.say(any_method(0, SECRET_OK), any_method(0, SECRET_OK))
    assert told == [Replied(0, first), Replied(0, second)]
    dialogue.tell(SECRET_OK)
    error = expect(dialogue.ended().error, ReplyError)
    assert (error.code, error.found_by) == (503, Side.CLIENT)


def test_a_secret_that_is_refused_ends_the_session_and_is_not_shown() -> None:
    dialogue = opened()
    dialogue.session.update_secret(secret(PASSWORD))
    dialogue.tell(methods.Connection.Close(530, "NOT_ALLOWED - New secret was refused", 10, 70))
    error = expect(dialogue.ended().error, NotAllowed)
    assert error.method == "connection.update-secret"
    assert PASSWORD not in f"{error!r} {error} {dialogue.events!r} {dialogue.session!r}"


def test_a_secret_that_fits_no_frame_is_refused_without_being_shown() -> None:
    dialogue = opened(tuning=Tuning(10, 8192, 60))
    with pytest.raises(InvalidArgument, match="do not fit a frame of 8192") as caught:
        dialogue.session.update_secret(secret(PASSWORD * 1000))
    assert PASSWORD not in str(caught.value)
    assert dialogue.sent() == []
    dialogue.tell(SECRET_OK)
    assert expect(dialogue.ended().error, ReplyError).code == 503


def test_a_secret_is_not_shown_by_the_method_that_carries_it() -> None:
    assert PASSWORD not in f"{secret(PASSWORD)!r} {secret(PASSWORD)}"


@pytest.mark.parametrize("state", [*HANDSHAKE, LinkState.CLOSING])
def test_only_an_open_session_updates_its_secret(state: LinkState) -> None:
    dialogue = at(state)
    with pytest.raises(InvalidUse, match=state.name):
        dialogue.session.update_secret(secret("t0ken"))
    assert dialogue.sent() == []


def test_an_answer_that_comes_after_our_close_is_discarded() -> None:
    dialogue = opened()
    dialogue.session.update_secret(secret("t0ken"))
    dialogue.session.close(dialogue.now)
    assert dialogue.tell(SECRET_OK) == []
    assert dialogue.session.state is LinkState.CLOSING


# --- counters -------------------------------------------------------------------------------------------------------


def test_bytes_and_frames_are_counted_both_ways() -> None:
    dialogue = Dialogue()
    session = dialogue.session
    came = [any_method(0, method) for method in (START, TUNE, OPEN_OK)]
    went = dialogue.output()
    for data in came:
        dialogue.say(data)
        went += dialogue.output()
    assert (session.bytes_received, session.frames_received) == (sum(map(len, came)), 3)
    assert (session.bytes_sent, session.frames_sent) == (len(went), 3)


def test_output_that_waits_is_measured() -> None:
    dialogue = opened()
    assert dialogue.session.output_size == 0
    dialogue.session.open_channel()
    waiting = dialogue.session.output_size
    assert waiting == len(dialogue.output()) > 0
    assert dialogue.session.output_size == 0


# --- output ---------------------------------------------------------------------------------------------------------


def test_what_is_small_leaves_in_one_piece() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    for _ in range(100):
        dialogue.session.publish(number, Route("", "features.live", mandatory=True), b"\0\0", bytes(1024))
    assert len(dialogue.session.output(dialogue.now)) == 1
    assert not dialogue.session.has_output


@pytest.mark.parametrize("size", [16 * 1024, 1024 * 1024])
def test_a_large_body_is_not_copied(size: int) -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    body = bytes(size)
    dialogue.session.publish(number, Route("", "features.live", mandatory=True), b"\0\0", body)
    copied = 0
    while pieces := dialogue.session.output(dialogue.now):
        copied += sum(len(piece) for piece in pieces if memoryview(piece).obj is not body)
    assert copied < 1024


# --- heartbeats -----------------------------------------------------------------------------------------------------


def test_no_heartbeat_is_due_before_tune() -> None:
    dialogue = at(LinkState.AWAITING_TUNE)
    assert dialogue.session.poll(dialogue.now + 10_000) == math.inf
    assert dialogue.sent() == []
    assert dialogue.news() == []


def test_a_heartbeat_goes_out_after_half_an_interval() -> None:
    dialogue = opened(tuning=Tuning(10, 8192, 10))
    start = dialogue.now
    assert dialogue.session.poll(start) == start + 5
    dialogue.now = start + 5
    assert dialogue.session.poll(dialogue.now) == start + 10
    assert dialogue.sent() == [Frame(0, HeartbeatFrame())]


def test_a_heartbeat_does_not_go_out_where_something_else_did() -> None:
    dialogue = opened(tuning=Tuning(10, 8192, 10))
    start = dialogue.now
    dialogue.session.poll(start)
    dialogue.now = start + 3
    dialogue.session.open_channel()
    dialogue.sent()
    assert dialogue.session.poll(start + 5) == start + 8
    assert dialogue.sent() == []


def test_a_broker_that_is_silent_for_two_intervals_is_given_up() -> None:
    dialogue = opened(tuning=Tuning(10, 8192, 10))
    wake_at = dialogue.session.poll(dialogue.now)
    silent_since = dialogue.now
    while dialogue.session.state is LinkState.OPEN:
        dialogue.now = wake_at
        wake_at = dialogue.session.poll(dialogue.now)
        dialogue.sent()
    assert dialogue.now == silent_since + 20
    error = expect(dialogue.ended().error, HeartbeatTimeout)
    assert "20 s" in str(error)
    assert dialogue.session.output_size == 0


def test_any_byte_of_the_brokers_counts_as_a_heartbeat() -> None:
    dialogue = opened(tuning=Tuning(10, 8192, 10))
    wake_at = dialogue.session.poll(dialogue.now)
    piece = iter(HEARTBEAT_FRAME * 20)
    for _ in range(40):
        dialogue.now = wake_at
        dialogue.say(bytes([next(piece)]))
        wake_at = dialogue.session.poll(dialogue.now)
    assert dialogue.session.state is LinkState.OPEN


def test_reading_that_is_paused_is_not_the_brokers_silence() -> None:
    dialogue = opened(tuning=Tuning(10, 8192, 10))
    wake_at = dialogue.session.poll(dialogue.now)
    for _ in range(10):
        dialogue.now = wake_at
        dialogue.session.reading_paused(dialogue.now)
        wake_at = dialogue.session.poll(dialogue.now)
    assert dialogue.session.state is LinkState.OPEN


def test_a_broker_that_is_silent_during_our_close_is_given_up() -> None:
    dialogue = opened(tuning=Tuning(10, 8192, 10))
    dialogue.session.close(dialogue.now)
    wake_at = dialogue.session.poll(dialogue.now)
    while dialogue.session.state is LinkState.CLOSING:
        dialogue.now = wake_at
        wake_at = dialogue.session.poll(dialogue.now)
    assert isinstance(dialogue.ended().error, HeartbeatTimeout)


def test_heartbeats_that_both_sides_switch_off_are_off() -> None:
    off = Tuning(10, 8192, 0)
    dialogue = opened(tuning=off, proposal=off)
    assert dialogue.session.poll(dialogue.now) == math.inf
    assert dialogue.session.poll(dialogue.now + 1e6) == math.inf
    assert dialogue.sent() == []
    assert dialogue.session.state is LinkState.OPEN


def test_a_late_poll_is_told_with_its_lateness() -> None:
    dialogue = opened(tuning=Tuning(10, 8192, 10))
    wake_at = dialogue.session.poll(dialogue.now)
    dialogue.session.poll(wake_at + 4)
    assert dialogue.news() == [Stalled(4)]


# --- secrets --------------------------------------------------------------------------------------------------------


def test_the_password_is_sent_once_and_shown_nowhere() -> None:
    mechanism = Plain(USERNAME, PASSWORD)
    dialogue = Dialogue(mechanisms=[mechanism])
    dialogue.start()
    assert dialogue.output().count(PASSWORD.encode()) == 1
    dialogue.tell(methods.Connection.Close(403, "ACCESS_REFUSED", 10, 11))
    shown: list[object] = [mechanism, dialogue.session, *dialogue.events, dialogue.ended().error]
    for thing in shown:
        assert PASSWORD not in repr(thing)
        assert PASSWORD not in str(thing)


def test_the_password_is_not_shown_when_its_mechanism_is_not_offered() -> None:
    dialogue = Dialogue()
    dialogue.start(mechanisms="EXTERNAL")
    assert PASSWORD not in repr(dialogue.events)
    assert PASSWORD not in str(dialogue.ended().error)


# --- what other clients and other brokers may have written ------------------------------------------------------------

DELIVER = methods.Basic.Deliver("c", 1, exchange="x", routing_key="r")


def told_of(dialogue: Dialogue, properties: bytes) -> Whole:
    """What a session tells of an empty message with these property flags and values."""
    number = dialogue.open_channel()
    (told,) = dialogue.say(any_method(number, DELIVER), header(number, 0, properties=properties))
    return whole(told)


def test_mechanisms_that_are_not_utf_8_end_the_session() -> None:
    dialogue = Dialogue()
    mechanisms = b"\xff\xfe"
    arguments = b"\x00\x09" + bytes(4) + struct.pack(">I", len(mechanisms)) + mechanisms + bytes(4)
    dialogue.say(method_frame(0, 10, 10, arguments))
    assert isinstance(dialogue.ended().error, LoginRefused | ReplyError)


class Recorder:
    """A mechanism that keeps what it was asked."""

    name = "PLAIN"

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    def start(self) -> bytes:
        return b""

    def answer(self, challenge: bytes) -> bytes:
        self.asked.append(challenge)
        return b""


def test_a_challenge_reaches_the_mechanism_byte_by_byte() -> None:
    recorder = Recorder()
    dialogue = Dialogue(mechanisms=[recorder])
    dialogue.start()
    dialogue.say(method_frame(0, 10, 20, struct.pack(">I", 2) + b"\xff\xfe"))
    assert recorder.asked == [b"\xff\xfe"]


def test_a_method_that_pamqp_warns_about_is_a_protocol_error_like_any_other() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dialogue.say(method_frame(number, 60, 100, b"\x00"))
    assert expect(dialogue.ended().error, ReplyError).code == 503


def test_a_password_that_is_not_text_neither_raises_nor_shows() -> None:
    # os.environ gives bytes that are not UTF-8 as lone surrogates.
    dialogue = Dialogue(mechanisms=[Plain(USERNAME, "hunter2\udcff")])
    raised: list[BaseException | None] = []
    try:
        dialogue.start()
    except AnyamqpError as error:
        raised.append(error)
    dialogue.news()
    shown = [*raised, *(event.error for event in dialogue.events if isinstance(event, Ended))]
    while shown:
        last = shown.pop()
        assert "hunter2" not in repr(last)
        if last is not None:
            shown.append(last.__cause__)
    assert raised == []


@pytest.mark.parametrize("stamp", [1_763_892_000_000_000_000, 2**63 - 1, 2**64 - 1])
def test_a_timestamp_beyond_the_calendar_does_not_end_the_session(stamp: int) -> None:
    dialogue = opened()
    told = told_of(dialogue, b"\x00\x40" + struct.pack(">Q", stamp))
    assert told.message.timestamp is None
    assert dialogue.session.state is LinkState.OPEN


def test_a_timestamp_beyond_the_calendar_in_a_header_does_not_end_the_session() -> None:
    dialogue = opened()
    entry = b"\x01kT" + struct.pack(">Q", 2**63)
    told_of(dialogue, b"\x20\x00" + struct.pack(">I", len(entry)) + entry)
    assert dialogue.session.state is LinkState.OPEN


def test_a_correlation_id_that_is_not_utf_8_does_not_end_the_session() -> None:
    # AMQP's short strings are UTF-8, but RabbitMQ passes on whatever octets a publisher sent.
    dialogue = opened()
    told_of(dialogue, b"\x04\x00" + b"\x04\xff\xfe\x00\x01")
    assert dialogue.session.state is LinkState.OPEN


def test_a_header_name_that_is_not_utf_8_does_not_end_the_session() -> None:
    dialogue = opened()
    entry = b"\x02\xff\xfet\x01"
    told_of(dialogue, b"\x20\x00" + struct.pack(">I", len(entry)) + entry)
    assert dialogue.session.state is LinkState.OPEN


def test_a_routing_key_that_is_not_utf_8_does_not_end_the_session() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    arguments = b"\x01c" + struct.pack(">Q", 1) + b"\x00" + b"\x01x" + b"\x02\xff\xfe"
    dialogue.say(method_frame(number, 60, 60, arguments), header(number, 0))
    assert dialogue.session.state is LinkState.OPEN
