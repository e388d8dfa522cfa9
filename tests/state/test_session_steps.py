"""However the broker's bytes are cut, the session's state at each event is that of the event's time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyamqp.protocol.events import ChannelEnded, ChannelReleased, ConfirmsReceived, ContentsReceived, Event
from anyamqp.protocol.lifecycle import LinkState
from anyamqp.wire import methods
from anyamqp.wire.frames import build
from support.amqp import Dialogue, all_events, any_method, content, opened

CHANNELS = (1, 2)
LIMIT = 100
"""The largest body accepted."""

Told: TypeAlias = tuple[object, ...]
"""One thing that was told, and the session as it was then."""

deliver = build(methods.Basic.Deliver, consumer_tag="c", delivery_tag=1, exchange="", routing_key="features.live")

said: st.SearchStrategy[bytes] = st.one_of(
    st.builds(content, st.sampled_from(CHANNELS), st.just(deliver), st.sampled_from([b"", b"x", bytes(LIMIT + 1)])),
    st.builds(
        any_method,
        st.sampled_from(CHANNELS),
        st.sampled_from(
            [
                build(methods.Basic.Ack, 1),
                build(methods.Basic.Cancel, consumer_tag="c"),
                methods.Channel.Flow(active=False),
                methods.Channel.Close(406, "PRECONDITION_FAILED - an operator's doing", 0, 0),
                methods.Channel.CloseOk(),
            ]
        ),
    ),
    st.builds(
        any_method,
        st.just(0),
        st.sampled_from(
            [
                methods.Connection.Blocked("low on memory"),
                methods.Connection.Unblocked(),
                methods.Connection.Close(320, "CONNECTION_FORCED - shutdown", 0, 0),
            ]
        ),
    ),
)


def with_two_channels() -> Dialogue:
    dialogue = opened(max_message_size=LIMIT)
    assert tuple(dialogue.open_channel() for _ in CHANNELS) == CHANNELS
    all_events(dialogue.session)
    return dialogue


def told_by(dialogue: Dialogue, chunks: Iterable[bytes]) -> list[Told]:
    told: list[Told] = []
    session = dialogue.session
    for chunk in chunks:
        session.receive(chunk, dialogue.now)
        while (event := session.next_event()) is not None:
            told += (
                (*one, session.state, session.block and session.block.reason, session.channel_count)
                for one in parts(event)
            )
    return told


def parts(event: Event) -> list[Told]:
    """What an event tells, message by message."""
    if isinstance(event, ContentsReceived):
        return [("content", event.channel, message.body) for _, message in event.contents]
    if isinstance(event, ConfirmsReceived):
        return [("confirm", event.channel) for _ in event.confirms]
    if isinstance(event, ChannelEnded | ChannelReleased):
        return [(type(event).__name__, event.channel)]
    return [(type(event).__name__,)]


@given(frames=st.lists(said, max_size=8), data=st.data())
def test_how_the_bytes_are_cut_changes_nothing_that_is_told(frames: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(frames)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=4)))
    chunks = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert told_by(with_two_channels(), chunks) == told_by(with_two_channels(), frames)


@pytest.mark.parametrize("multiple", [False, True])
def test_deliveries_before_a_too_large_message_can_be_settled(*, multiple: bool) -> None:
    """The channel is closed for the message, and nothing more goes out on it; the broker gives back what is open."""
    dialogue = with_two_channels()
    session = dialogue.session
    session.receive(content(1, deliver, b"x") + content(1, deliver, bytes(LIMIT + 1)), dialogue.now)
    contents, closed = session.next_event(), session.next_event()
    assert isinstance(contents, ContentsReceived)
    session.ack(1, 1, multiple=multiple)
    session.nack(1, methods.Basic.Nack(1, multiple, requeue=True))
    assert isinstance(closed, ChannelEnded)
    assert [method.name for method in dialogue.sent_methods()] == ["Channel.Close"]
    assert session.state is LinkState.OPEN
