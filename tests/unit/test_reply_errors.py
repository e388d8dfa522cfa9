"""Every AMQP reply code, in a connection's close and in a channel's: the error, and its facts.

Source of the table: AMQP 0-9-1 specification, section 1.4 "Constants"; whose fault each is and whether trying again
helps is what anyamqp makes of RabbitMQ's use of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from anyamqp import errors
from anyamqp.errors import Blame, CloseFacts, CloseFrame, Cure, ReplyError, Side
from anyamqp.protocol.contents import unroutable_of
from anyamqp.protocol.events import Blocked, ChannelEnded, Ended
from anyamqp.wire import methods
from anyamqp.wire.frames import build
from support.amqp import Dialogue, content, frame, method_frame, opened


@dataclass(frozen=True)
class Row:
    code: int
    error: type[ReplyError]
    closes: str
    blame: Blame
    cure: Cure


ROWS = (
    Row(311, errors.ContentTooLarge, "channel", Blame.CALLER, Cure.CHANGE),
    Row(312, errors.NoRoute, "channel", Blame.CALLER, Cure.CHANGE),
    Row(313, errors.NoConsumers, "channel", Blame.BROKER, Cure.RETRY),
    Row(320, errors.ConnectionForced, "connection", Blame.BROKER, Cure.RETRY),
    Row(402, errors.InvalidPath, "connection", Blame.CALLER, Cure.CHANGE),
    Row(403, errors.AccessRefused, "channel", Blame.CALLER, Cure.CHANGE),
    Row(404, errors.NotFound, "channel", Blame.CALLER, Cure.CHANGE),
    Row(405, errors.ResourceLocked, "channel", Blame.CALLER, Cure.RETRY),
    Row(406, errors.PreconditionFailed, "channel", Blame.CALLER, Cure.CHANGE),
    Row(501, errors.FrameError, "connection", Blame.LIBRARY, Cure.CHANGE),
    Row(502, errors.CommandSyntaxError, "connection", Blame.LIBRARY, Cure.CHANGE),
    Row(503, errors.CommandInvalid, "connection", Blame.LIBRARY, Cure.CHANGE),
    Row(504, errors.ChannelError, "connection", Blame.LIBRARY, Cure.CHANGE),
    Row(505, errors.UnexpectedFrame, "connection", Blame.LIBRARY, Cure.CHANGE),
    Row(506, errors.ResourceError, "connection", Blame.BROKER, Cure.RETRY),
    Row(530, errors.NotAllowed, "connection", Blame.CALLER, Cure.CHANGE),
    Row(540, errors.NotImplementedByBroker, "connection", Blame.CALLER, Cure.CHANGE),
    Row(541, errors.InternalError, "connection", Blame.BROKER, Cure.RETRY),
)
EVERY = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.code}")
DECLARE = (50, 10)


def test_the_table_has_every_class_and_no_other() -> None:
    assert {row.code: row.error for row in ROWS} == errors.REPLY_ERRORS


@EVERY
def test_each_class_says_who_what_and_whether_a_retry_helps(row: Row) -> None:
    assert (row.error.code, row.error.hard) == (row.code, row.closes == "connection")
    assert (row.error.blame, row.error.cure) == (row.blame, row.cure)
    assert row.error.__doc__ not in (None, ReplyError.__doc__)


@EVERY
def test_a_close_of_the_connection_carries_its_facts(row: Row) -> None:
    dialogue = opened()
    (ended,) = dialogue.tell(methods.Connection.Close(row.code, "SOME_NAME - some text", *DECLARE))
    assert isinstance(ended, Ended)
    assert type(ended.error) is row.error
    assert isinstance(ended.error, ReplyError)
    received = CloseFrame(row.code, "SOME_NAME - some text", "queue.declare")
    assert ended.error.close == CloseFacts(received, None, Side.BROKER)
    assert str(ended.error) == "some text (queue.declare)"


@EVERY
def test_a_close_of_a_channel_carries_its_facts(row: Row) -> None:
    dialogue = opened()
    number = dialogue.session.open_channel()
    dialogue.tell(methods.Channel.OpenOk(), number)
    (closed,) = dialogue.tell(methods.Channel.Close(row.code, "SOME_NAME - some text", *DECLARE), number)
    assert isinstance(closed, ChannelEnded)
    assert type(closed.error) is row.error
    received = CloseFrame(row.code, "SOME_NAME - some text", "queue.declare")
    assert closed.error.close == CloseFacts(received, None, Side.BROKER)
    assert str(closed.error) == "some text (queue.declare)"


@EVERY
def test_a_log_shows_the_number_that_the_class_stands_for(row: Row) -> None:
    assert errors.reason_of(row.error("NAME - text")) == f"{row.code} text"


@EVERY
def test_a_copy_for_another_caller_is_the_same_error(row: Row) -> None:
    close = CloseFacts(CloseFrame(row.code, "text", None), None, Side.BROKER)
    error = row.error("text", method="basic.publish", close=close)
    error.__cause__ = OSError("why")
    copy = errors.copy_of(error)
    assert copy is not error
    assert type(copy) is type(error)
    assert isinstance(copy, ReplyError)
    assert (str(copy), copy.close, copy.__cause__) == (str(error), close, error.__cause__)


def test_a_fault_that_we_find_tells_what_we_sent() -> None:
    dialogue = opened()
    (ended,) = dialogue.say(frame(9, 0, b""))
    assert isinstance(ended, Ended)
    assert isinstance(ended.error, errors.FrameError)
    assert ended.error.close == CloseFacts(None, CloseFrame(501, "unknown frame type 9", None), Side.CLIENT)
    assert str(ended.error.close) == "we closed: 501 unknown frame type 9"


def test_closes_that_cross_are_both_told_and_ours_was_first() -> None:
    dialogue = opened()
    dialogue.session.close(dialogue.now)
    dialogue.tell(methods.Connection.Close(320, "CONNECTION_FORCED - shutdown", 0, 0))
    facts = dialogue.session.close_facts
    assert facts == CloseFacts(
        CloseFrame(320, "CONNECTION_FORCED - shutdown", None), CloseFrame(200, "bye", None), Side.CLIENT
    )
    assert str(facts) == "we closed: 200 bye; then the broker closed: 320 CONNECTION_FORCED - shutdown"


def test_a_too_large_body_reports_our_close_of_the_channel() -> None:
    dialogue = opened(max_message_size=10)
    number = dialogue.open_channel()
    (closed,) = dialogue.say(content(number, methods.Basic.Deliver("tag", 1, False, "", "q"), b"x" * 11))
    assert isinstance(closed, ChannelEnded)
    assert isinstance(closed.error, errors.ContentTooLarge)
    text = "a message of 11 bytes, but max_message_size is 10"
    assert closed.error.close == CloseFacts(None, CloseFrame(311, text, None), Side.CLIENT)
    assert closed.error.blame is Blame.BROKER


def test_a_text_without_a_name_in_front_is_shown_whole() -> None:
    assert str(errors.NotFound("no queue 'x' - sorry")) == "no queue 'x' - sorry"


# --- texts that a log must not see as they are ------------------------------------------------------------------------

RAW = b"low\n\x1b[2Jon\xe2\x80\xaememory\xff, d\xc3\xa9j\xc3\xa0 vu"
"""A line feed, a terminal's command, a change of direction, a byte that is not UTF-8; and letters, which may stay."""
SHOWN = "low\\n\\x1b[2Jon\\u202ememory\\xff, d\u00e9j\u00e0 vu"


def shortstr(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def test_a_close_of_the_connection_is_told_with_its_text_escaped() -> None:
    dialogue = opened()
    (ended,) = dialogue.say(method_frame(0, 10, 50, b"\x01\x40" + shortstr(RAW) + bytes(4)))
    assert isinstance(ended, Ended)
    assert isinstance(ended.error, errors.ConnectionForced)
    assert str(ended.error) == SHOWN
    assert str(ended.error.close) == f"the broker closed: 320 {SHOWN}"
    assert str(dialogue.transitions()[-1]).endswith(f"OPEN -> CLOSED (their close: 320 {SHOWN})")


def test_a_close_of_a_channel_is_told_with_its_text_escaped() -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    (closed,) = dialogue.say(method_frame(number, 20, 40, b"\x01\x94" + shortstr(RAW) + bytes(4)))
    assert isinstance(closed, ChannelEnded)
    assert str(closed.error) == SHOWN


def test_a_refused_login_is_told_with_its_text_escaped() -> None:
    dialogue = Dialogue()
    dialogue.start()
    (ended,) = dialogue.say(method_frame(0, 10, 50, b"\x01\x93" + shortstr(RAW) + bytes(4)))
    assert isinstance(ended, Ended)
    assert isinstance(ended.error, errors.LoginRefused)
    assert SHOWN in str(ended.error)


def test_a_block_is_told_with_its_reason_escaped() -> None:
    dialogue = opened()
    assert dialogue.say(method_frame(0, 10, 60, shortstr(RAW))) == [Blocked(SHOWN)]
    assert dialogue.session.block is not None
    assert dialogue.session.block.reason == SHOWN


def test_the_mechanisms_that_a_broker_offers_are_told_escaped_and_cut() -> None:
    dialogue = Dialogue()
    dialogue.start(mechanisms="EVIL\x1b[2J\u202e " + 10_000 * "A")
    text = str(dialogue.ended().error)
    assert "EVIL\\x1b[2J\\u202e AAA" in text
    assert len(text) < 400


def test_a_return_is_told_with_its_text_escaped() -> None:
    method = build(methods.Basic.Return, 312, RAW.decode("utf-8", "surrogateescape"), "x\n", "key\x1b")
    text = str(unroutable_of(method, "id\n"))
    assert SHOWN in text
    assert text.isprintable()
