"""Minimal reproductions of the bugs that reviews and fuzzing have found in ``protocol/``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest

from anyamqp.errors import AnyamqpError, FrameError, InvalidArgument, ReplyError, UnexpectedFrame
from anyamqp.protocol.confirms import Ledger
from anyamqp.protocol.events import Ended, Tuning
from anyamqp.protocol.heartbeat import Heartbeat
from anyamqp.protocol.lifecycle import LinkState
from anyamqp.wire import methods
from anyamqp.wire.basic import Route
from anyamqp.wire.decoder import Decoder
from anyamqp.wire.frames import HEARTBEAT_FRAME, PROTOCOL_HEADER, build
from support.amqp import (
    Dialogue,
    body,
    decode,
    expect,
    frame,
    header,
    opened,
)

DELIVER = methods.Basic.Deliver("c", 1, exchange="x", routing_key="r")


def test_a_close_that_names_a_method_pamqp_warns_about_ends_the_session() -> None:
    dialogue = opened()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dialogue.tell(methods.Connection.Close(540, "NOT_IMPLEMENTED", 60, 100))
    assert expect(dialogue.ended().error, ReplyError).method == "basic.recover-async"


def test_a_virtual_host_of_128_characters_is_opened() -> None:
    # AMQP's shortstr holds 255 bytes, RabbitMQ takes them, and Settings lets them pass; pamqp stops at 127 characters.
    dialogue = Dialogue(virtual_host="v" * 128)
    dialogue.start()
    dialogue.tune()
    assert dialogue.session.state is LinkState.AWAITING_OPEN_OK


def test_a_dead_decoder_buffers_nothing_more() -> None:
    decoder = Decoder(4096)
    decoder.feed(frame(9, 1, b""))
    with pytest.raises(FrameError):
        list(decoder.frames())
    for _ in range(100):
        decoder.feed(bytes(1000))
    assert sum(map(len, vars(decoder)["_chunks"])) == 0


def test_a_protocol_header_in_the_middle_of_a_stream_is_unexpected() -> None:
    # The docstring of wire.py promises 505; the decoder says 501, unknown frame type 65.
    with pytest.raises(UnexpectedFrame):
        decode(HEARTBEAT_FRAME + PROTOCOL_HEADER)


def test_no_limit_on_both_sides_is_no_limit() -> None:
    without = Tuning(0, 0, 0)
    dialogue = opened(proposal=without, tuning=without)
    number = dialogue.session.open_channel()
    dialogue.tell(methods.Channel.OpenOk(), number)
    assert dialogue.session.state is LinkState.OPEN


def test_a_method_that_is_larger_than_frame_max_is_refused() -> None:
    dialogue = opened(tuning=Tuning(10, 8192, 60))
    number = dialogue.open_channel()
    with pytest.raises(InvalidArgument):
        dialogue.session.request(number, methods.Queue.Declare(queue="q", arguments={"k": "x" * 10_000}))
    assert dialogue.session.output_size == 0


def test_building_a_method_does_not_lose_what_has_no_name() -> None:
    assert build(methods.Basic.Ack, 5).delivery_tag == 5


@pytest.mark.parametrize("data", [header(0, 5), body(0, b"abc")], ids=["header", "body"])
def test_content_on_channel_0_after_our_close_is_discarded(data: bytes) -> None:
    dialogue = opened()
    dialogue.session.close(dialogue.now)
    assert dialogue.say(data) == []
    assert dialogue.tell(methods.Connection.CloseOk()) == [Ended(None)]


@pytest.mark.parametrize("closed", [False, True], ids=["never opened", "closing"])
def test_nothing_is_sent_on_a_channel_that_is_not_open(*, closed: bool) -> None:
    dialogue = opened()
    number = dialogue.open_channel() if closed else 5
    if closed:
        dialogue.session.close_channel(number)
        dialogue.sent()
    session = dialogue.session
    calls: list[Callable[[], object]] = [
        lambda: session.request(number, methods.Basic.Qos()),
        lambda: session.send(number, methods.Basic.Ack(1)),
        lambda: session.publish(number, Route("", "q", mandatory=False), b"\x00\x00", b""),
    ]
    if closed:
        session.close_channel(number)  # closing twice is closing once
    else:
        calls.append(lambda: session.close_channel(number))
    for call in calls:
        with pytest.raises(AnyamqpError):
            call()
    assert dialogue.session.output_size == 0


def test_taking_no_output_does_not_count_as_a_heartbeat() -> None:
    dialogue = opened(tuning=Tuning(10, 8192, 10))
    wake_at = dialogue.session.poll(dialogue.now)
    dialogue.now += 4
    assert dialogue.output() == b""
    dialogue.now = wake_at
    dialogue.session.poll(dialogue.now)
    assert dialogue.sent() != []


def test_a_dead_peer_is_found_by_a_loop_that_is_late_every_time() -> None:
    beat = Heartbeat(1.0, 0.0)
    wake_at = beat.poll(0.0).wake_at
    for _ in range(100):
        now = wake_at + 0.3
        verdict = beat.poll(now)
        if verdict.dead:
            break
        wake_at = verdict.wake_at
    else:
        pytest.fail("silent for a hundred polls, and not given up")
    assert now <= 2 + 2 * (0.3 + 0.25)


def test_one_publish_without_confirm_keeps_no_trace_of_those_after_it() -> None:
    # A quorum queue without a majority never confirms; other queues of the channel go on.
    ledger: Ledger[int] = Ledger()
    ledger.add(0)
    for item in range(1, 100_000):
        ledger.settle(ledger.add(item), multiple=False)
    kept: Any = ledger
    assert len(ledger) == 1
    assert len(kept._places) < 1000
