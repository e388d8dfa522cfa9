"""The log: frequent lines of one kind are only counted; all other lines are written. In virtual time."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from itertools import cycle, islice

import anyio
import pytest
import trio.testing

from anyamqp.core.journal import Journal
from anyamqp.errors import NotFound, TransportError
from anyamqp.net.timers import Timers
from anyamqp.protocol.lifecycle import ChannelEvent, ConnectionEvent, LinkEvent, LinkState, State, Transition

pytestmark = pytest.mark.anyio

MANY = 5000
MOST = 20
"""Lines of one kind in ten seconds."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Virtual time: only trio has a clock that jumps."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@asynccontextmanager
async def writing(caplog: pytest.LogCaptureFixture) -> AsyncGenerator[Journal, None]:
    """A journal whose timers run, and which logs everything."""
    caplog.set_level(logging.DEBUG, "anyamqp")
    timers = Timers()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(timers.run)
        yield Journal("mine", timers.later)
        tasks.cancel_scope.cancel()


def connection_change(event: ConnectionEvent, target: State, reason: str | None = None) -> Transition:
    return Transition("connection", State.OPEN, event, target, 0.0, reason, 1)


KINDS: dict[str, Callable[[Journal], None]] = {
    "unknown confirms": lambda journal: journal.unknown_confirm(77),
    "failing handlers": lambda journal: journal.handler_failed("q", ValueError("wrong")),
    "stalls": lambda journal: journal.stalled(1.5),
    "refused entities": lambda journal: journal.entity_failed("queue 'q'", NotFound("no queue 'q'")),
    "retries": lambda journal: journal.retrying(TransportError("refused"), "rabbit:5672", 0.0),
    "renewals": lambda journal: journal.not_renewed(ValueError("wrong"), 1.0, 0.0),
    "rejections": lambda journal: journal.delivery_rejected("q", "id", 2, ValueError("wrong")),
    "cancelled consumers": lambda journal: journal.consumer_cancelled("q"),
    "unexpected failures": lambda journal: journal.unexpected(ValueError("wrong")),
    "failed channels": lambda journal: journal.record(
        Transition("channel 1", State.OPEN, ChannelEvent.FAILED, State.CLOSED, 0.0, "404 no exchange 'x'", 1)
    ),
    "hooks": lambda journal: journal.hook_failed("topology_recovery.wanted", ValueError("wrong")),
}


@pytest.mark.parametrize("write", KINDS.values(), ids=KINDS)
async def test_lines_of_one_kind_are_limited_and_counted(
    write: Callable[[Journal], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Invariant 11."""
    async with writing(caplog) as journal:
        for _ in range(MANY):
            write(journal)
        assert len(caplog.messages) == MOST
        await anyio.sleep(11)
        assert len(caplog.messages) == MOST + 1
        assert caplog.messages[-1] == (
            f"mine: ... and {MANY - MOST} more like it within 10 s; the latest: "
            + caplog.messages[0].removeprefix("mine: ")
        )
        assert caplog.records[-1].levelno == caplog.records[0].levelno


async def test_after_the_ten_seconds_lines_are_written_again(caplog: pytest.LogCaptureFixture) -> None:
    async with writing(caplog) as journal:
        for _ in range(MOST + 3):
            journal.unknown_confirm(1)
        await anyio.sleep(11)
        caplog.clear()
        for _ in range(MOST):
            journal.unknown_confirm(2)
        await anyio.sleep(20)
        assert caplog.messages == ["mine: the broker confirmed tag 2, which nothing waits for"] * MOST


async def test_lines_of_another_kind_are_not_held_back(caplog: pytest.LogCaptureFixture) -> None:
    async with writing(caplog) as journal:
        for _ in range(MANY):
            journal.handler_failed("busy", ValueError("wrong"))
        caplog.clear()
        journal.unknown_confirm(1)
        journal.handler_failed("idle", ValueError("wrong"))
        assert len(caplog.messages) == 2


async def test_what_was_counted_is_told_when_the_connection_ends(caplog: pytest.LogCaptureFixture) -> None:
    async with writing(caplog) as journal:
        for _ in range(MOST + 5):
            journal.unknown_confirm(1)
        journal.end()
        assert "... and 5 more like it" in caplog.messages[-1]
        caplog.clear()
        await anyio.sleep(20)
        assert caplog.messages == []


async def test_a_connection_that_flaps_tells_its_last_state(caplog: pytest.LogCaptureFixture) -> None:
    async with writing(caplog) as journal:
        blocked = connection_change(ConnectionEvent.BLOCKED, State.BLOCKED, "low on memory")
        unblocked = connection_change(ConnectionEvent.UNBLOCKED, State.OPEN)
        for transition in islice(cycle([blocked, unblocked]), MANY + 1):
            journal.record(transition)
        await anyio.sleep(11)
        assert len(caplog.messages) == MOST + 1
        assert f"and {MANY + 1 - MOST} more like it" in caplog.messages[-1]
        assert "OPEN -> BLOCKED (blocked: low on memory)" in caplog.messages[-1]
        assert caplog.records[-1].levelno == logging.WARNING


async def test_transitions_that_no_broker_can_flood_with_are_all_written(caplog: pytest.LogCaptureFixture) -> None:
    async with writing(caplog) as journal:
        for number in range(1000):
            journal.record(
                Transition(f"channel {number}", State.OPEN, ChannelEvent.LOST, State.RECONNECTING, 0.0, None, 1)
            )
        assert len(caplog.messages) == 1000


async def test_failures_of_channels_are_not_hidden_by_a_broker_that_flaps(caplog: pytest.LogCaptureFixture) -> None:
    async with writing(caplog) as journal:
        for _ in range(MANY):
            journal.record(Transition("channel 1", State.OPEN, ChannelEvent.BLOCKED, State.BLOCKED, 0.0, None, 1))
        caplog.clear()
        journal.record(Transition("channel 1", State.BLOCKED, ChannelEvent.FAILED, State.CLOSED, 0.0, None, 1))
        assert len(caplog.messages) == 1


async def test_rejection_shows_what_is_not_printable_escaped(caplog: pytest.LogCaptureFixture) -> None:
    async with writing(caplog) as journal:
        journal.delivery_rejected("q", "id", 1, ValueError("no\n\x1b[2J\u202e"))
        assert caplog.messages[0].endswith("after 1 failures; the last: ValueError: no\\n\\x1b[2J\\u202e")


async def test_challenges_in_a_handshake_are_limited(caplog: pytest.LogCaptureFixture) -> None:
    state = LinkState.AWAITING_TUNE
    async with writing(caplog) as journal:
        for _ in range(MANY):
            journal.record(Transition("link 1", state, LinkEvent.SECURED, state, 0.0, None, 1))
        assert len(caplog.messages) == MOST


async def test_every_transition_reaches_the_streams(caplog: pytest.LogCaptureFixture) -> None:
    async with writing(caplog) as journal:
        stream = journal.stream()
        for _ in range(100):
            journal.record(connection_change(ConnectionEvent.BLOCKED, State.BLOCKED))
        journal.end()
        assert len([transition async for transition in stream]) == 100


async def test_queues_without_number_leave_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    """Invariant 11."""
    async with writing(caplog) as journal:
        for number in range(MANY):
            journal.handler_failed(f"queue-{number}", ValueError("wrong"))
            await anyio.sleep(1)
        kinds = journal._log._kinds  # pyright: ignore[reportPrivateUsage] - memory cannot be seen from outside
        assert len(kinds) < 200
