"""Invariant 12 for the session: whatever the broker says, and whenever, the session takes it or ends once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from anyamqp.errors import AnyamqpError, ReplyError, Side, TransportError
from anyamqp.protocol.events import Ended
from anyamqp.protocol.lifecycle import LINK, LinkState
from anyamqp.wire import methods
from support.amqp import PROPOSAL, Dialogue, any_method, body, content, header
from support.streams import any_methods, damaged, split, streams

DELIVER = methods.Basic.Deliver("c", 1, exchange="", routing_key="q")


def _channel_is_asked(dialogue: Dialogue) -> None:
    dialogue.open_channel()
    dialogue.session.request(1, methods.Queue.Declare(queue="q"))
    dialogue.session.request(1, methods.Basic.Get(queue="q"))


def _channel_is_inside_content(dialogue: Dialogue) -> None:
    dialogue.say(any_method(1, DELIVER), header(1, 10), body(1, b"half"))


def _channel_is_closing(dialogue: Dialogue) -> None:
    dialogue.session.close_channel(dialogue.open_channel())


def _session_is_closing(dialogue: Dialogue) -> None:
    dialogue.session.close(dialogue.now)


STEPS: tuple[Callable[[Dialogue], object], ...] = (
    Dialogue.start,
    Dialogue.tune,
    lambda dialogue: dialogue.tell(methods.Connection.OpenOk()),
    _channel_is_asked,
    _channel_is_inside_content,
    _channel_is_closing,
    _session_is_closing,
)
"""A sound dialogue, step by step."""

EDGES = {(source, row.event, row.target) for row in LINK.rows for source in row.sources}
"""Every transition that the table of the link has."""


def prefix(steps: int) -> Dialogue:
    """A session after so many steps of the sound dialogue."""
    dialogue = Dialogue()
    for step in STEPS[:steps]:
        step(dialogue)
    dialogue.news()
    return dialogue


def check(dialogue: Dialogue) -> None:
    """What holds after anything at all: one end if the session is CLOSED, none before, nothing sent after it."""
    dialogue.news()
    ends = [event for event in dialogue.events if isinstance(event, Ended)]
    assert len(ends) == (dialogue.session.state is LinkState.CLOSED)
    changes = dialogue.transitions()
    assert {(change.source, change.event, change.target) for change in changes} <= EDGES
    assert all(one.target is following.source for one, following in itertools.pairwise(changes))
    if not ends:
        return
    assert dialogue.events[-1] is ends[0]
    error = ends[0].error
    assert error is None or isinstance(error, AnyamqpError)
    if isinstance(error, ReplyError) and error.found_by is Side.CLIENT:
        assert error.code in {403, 501, 502, 503, 504, 505}
    dialogue.output()
    dialogue.tell(methods.Connection.Close(320, "bye", 0, 0))
    dialogue.tell(methods.Channel.Flow(active=False), 1)
    dialogue.session.transport_ended(TransportError("late"), dialogue.now)
    assert dialogue.session.poll(dialogue.now + 1e9) == math.inf
    assert dialogue.news() == []
    assert dialogue.session.output_size == 0


def hear(dialogue: Dialogue, chunks: list[bytes]) -> None:
    """Say all of it, and check after each chunk."""
    for chunk in chunks:
        dialogue.say(chunk)
        if dialogue.session.state is LinkState.CLOSED:
            break
    check(dialogue)


steps = st.integers(0, len(STEPS))


@given(steps, st.binary(max_size=200), st.data())
def test_any_bytes_are_taken_or_end_the_session_once(count: int, garbage: bytes, data: st.DataObject) -> None:
    hear(prefix(count), data.draw(split(garbage)))


@given(steps, streams, st.data())
def test_any_frames_are_taken_or_end_the_session_once(count: int, stream: bytes, data: st.DataObject) -> None:
    hear(prefix(count), data.draw(split(stream)))


@given(steps, damaged())
def test_any_damaged_frames_are_taken_or_end_the_session_once(count: int, stream: bytes) -> None:
    hear(prefix(count), [stream])


_PLAUSIBLE = (
    methods.Connection.Start,
    methods.Connection.Secure,
    methods.Connection.Tune,
    methods.Connection.OpenOk,
    methods.Connection.Close,
    methods.Connection.CloseOk,
    methods.Connection.Blocked,
    methods.Connection.Unblocked,
    methods.Channel.OpenOk,
    methods.Channel.Close,
    methods.Channel.CloseOk,
    methods.Channel.Flow,
    methods.Queue.DeclareOk,
    methods.Basic.Deliver,
    methods.Basic.GetOk,
    methods.Basic.GetEmpty,
    methods.Basic.Ack,
)
_channels = st.integers(0, 3)


@st.composite
def _plausible(draw: st.DrawFn) -> bytes:
    channel = draw(_channels)
    kind = draw(st.sampled_from(["method", "content", "header", "body"]))
    if kind == "method":
        return any_method(channel, draw(any_methods(_PLAUSIBLE)))
    if kind == "content":
        return content(channel, DELIVER, draw(st.binary(max_size=10)))
    if kind == "header":
        return header(channel, draw(st.integers(0, 10) | st.just(1 << 30)))
    return body(channel, draw(st.binary(max_size=6)))


@given(steps, st.lists(_plausible(), max_size=8))
def test_misplaced_methods_are_accepted_or_end_the_session_once(count: int, said: list[bytes]) -> None:
    hear(prefix(count), said)


@given(steps, st.lists(_plausible(), max_size=4), st.lists(_plausible(), max_size=4))
def test_the_end_of_the_transport_ends_the_session_wherever_it_is(
    count: int, before: list[bytes], after: list[bytes]
) -> None:
    dialogue = prefix(count)
    hear(dialogue, before)
    dialogue.session.transport_ended(TransportError("reset"), dialogue.now)
    check(dialogue)
    assert dialogue.session.state is LinkState.CLOSED
    hear(dialogue, after)


@given(
    steps,
    st.lists(_plausible() | st.floats(0, 200).map(lambda pause: round(pause, 3)), max_size=10),
)
def test_polls_between_what_is_heard_end_the_session_at_most_once(count: int, acts: list[bytes | float]) -> None:
    dialogue = prefix(count)
    for act in acts:
        if isinstance(act, bytes):
            dialogue.say(act)
        else:
            dialogue.now += act
            assert dialogue.session.poll(dialogue.now) >= dialogue.now or dialogue.session.state is LinkState.CLOSED
            dialogue.output()
    check(dialogue)


def test_the_sound_dialogue_reaches_every_state() -> None:
    seen = [prefix(count).session.state for count in range(len(STEPS) + 1)]
    assert set(seen) == set(LinkState) - {LinkState.CLOSED}
    assert prefix(len(STEPS)).session.tuning == PROPOSAL
