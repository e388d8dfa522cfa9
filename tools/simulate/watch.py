"""Watches the real objects of a world: life cycles, publishes, settlements, and the publishes that reach the broker."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Container, Generator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any, Final
from unittest.mock import patch

from anyamqp.delivery import Delivery
from anyamqp.errors import AnyamqpError, PublishTimeout
from anyamqp.protocol.lifecycle.table import Lifecycle, Row, Step, Table
from anyamqp.protocol.pending import Confirmed, Counters, PendingPublish
from anyamqp.testing.embedded.model import Model, Routed
from tools.simulate.violation import Violation

_LATE: Final = 0.05
"""Seconds after its deadline in which a publish must have an outcome."""


class Watch:
    """What happened in one world, of which only the objects inside know.

    Args:
        broken: called with each violation.
        given_up: the bodies of publishes that timed out or were cancelled. Their order does not count: the broker may
            read them from an old link long after the publishes on the new one.
    """

    def __init__(self, broken: Callable[[Violation], None], given_up: Container[bytes]) -> None:
        self._broken = broken
        self._given_up = given_up
        self._timed_out: set[bytes] = set()
        self._states: dict[Lifecycle[Any, Any, Any], object] = {}
        self._outcomes: dict[PendingPublish, Confirmed | AnyamqpError] = {}
        self._deadlines: list[tuple[float, int, PendingPublish]] = []
        self._order = count()
        self._came_on: dict[Delivery, tuple[object, int]] = {}
        """The transport and the channel of each delivery."""
        self._settled: dict[tuple[object, int], set[int]] = defaultdict(set)
        """The tags that the user has settled, by transport and channel."""
        self._settled_up_to: dict[tuple[object, int], int] = defaultdict(int)
        """The highest tag that the user has acknowledged with ``multiple``."""
        self._last_of: dict[bytes, int] = {}
        self._seen: set[bytes] = set()

    @contextmanager
    def watching(self) -> Generator[None, None, None]:
        """Watch all objects of the process for as long as the context lasts."""
        with ExitStack() as stack:
            for owner, name, around in (
                (Lifecycle, "fire", self._fire),
                (PendingPublish, "settle", self._settle),
                (Counters, "accept", self._accept),
                (Delivery, "__init__", self._arrive),
                (Delivery, "_take", self._take),
                (Delivery, "ack", self._ack),
                (Model, "deliver", self._deliver),
            ):
                stack.enter_context(patch.object(owner, name, _around(getattr(owner, name), around)))
            yield

    def check_deadlines(self, now: float) -> None:
        """Invariant 3: no publish waits beyond its deadline."""
        heap = self._deadlines
        while heap and heap[0][2].outcome is not None:
            heapq.heappop(heap)
        if heap and now > heap[0][0] + _LATE:
            pending = heapq.heappop(heap)[2]
            self._broken(Violation(3, f"publish {pending.body!r} has no outcome at its deadline"))

    def check_end(self) -> None:
        """Invariants 2 and 3: no state and no outcome has changed since it was set; every publish has an outcome."""
        for lifecycle, state in self._states.items():
            if lifecycle.state is not state:
                self._broken(Violation(2, f"{lifecycle.state} was set without an event; it was {state}"))
        for pending, outcome in self._outcomes.items():
            if pending.outcome is not outcome:
                self._broken(Violation(3, f"the outcome of {pending.message_id} changed"))
        for _, _, pending in self._deadlines:
            if pending.outcome is None:
                self._broken(Violation(3, f"publish {pending.body!r} has no outcome after all"))

    def check_ack(self, wire: object, channel: int, tag: int, *, multiple: bool) -> None:
        """Invariant 8: an ack that the client sends is for a delivery of that transport that the user has settled."""
        place = wire, channel
        settled, floor = self._settled[place], self._settled_up_to[place]
        tags = range(floor + 1, tag + 1) if multiple else (tag,)
        for one in tags:
            if one > floor and one not in settled:
                self._broken(Violation(8, f"tag {one} of channel {channel} was acknowledged, which nobody settled"))
                return
        if multiple:
            self._settled_up_to[place] = max(floor, tag)

    # --- what is watched --------------------------------------------------------------------------------------------

    def _fire(self, fire: Callable[..., Step[Any, Any]], lifecycle: Lifecycle[Any, Any, Any], event: Any) -> Any:
        source = lifecycle.state
        if self._states.setdefault(lifecycle, source) is not source:
            self._broken(Violation(2, f"{source} was set without an event; it was {self._states[lifecycle]}"))
        try:
            step = fire(lifecycle, event)
        except AnyamqpError as error:
            self._broken(Violation(2, str(error)))
            raise
        table: Table[Any, Any, Any] = vars_of(lifecycle, "_table")
        cell = table.cells[source, event]
        target = cell.target if isinstance(cell, Row) else source
        if step.target is not target or lifecycle.state is not target:
            self._broken(Violation(2, f"{table.kind}: {event} in {source} led to {lifecycle.state}"))
        self._states[lifecycle] = lifecycle.state
        return step

    def _accept(self, accept: Callable[..., None], counters: Counters, pending: PendingPublish) -> None:
        accept(counters, pending)
        heapq.heappush(self._deadlines, (pending.deadline, next(self._order), pending))

    def _settle(self, settle: Callable[..., None], pending: PendingPublish, outcome: Confirmed | AnyamqpError) -> None:
        if isinstance(outcome, PublishTimeout):
            self._timed_out.add(bytes(pending.body))  # now: its publisher may learn of it much later
        settle(pending, outcome)
        if pending.outcome is not self._outcomes.setdefault(pending, outcome):
            self._broken(Violation(3, f"the outcome of {pending.message_id} changed"))

    def _arrive(self, arrive: Callable[..., None], delivery: Delivery, *given: Any, **named: Any) -> None:
        arrive(delivery, *given, **named)
        channel = named.get("settler")
        if channel is not None:
            self._came_on[delivery] = vars_of(channel.link, "_stream"), channel.number

    def _take(self, take: Callable[..., object], delivery: Delivery) -> object:
        settler = take(delivery)
        if delivery in self._came_on:
            self._settled[self._came_on[delivery]].add(delivery.delivery_tag)
        return settler

    def _ack(self, ack: Callable[..., None], delivery: Delivery, *, multiple: bool = False) -> None:
        place = self._came_on.get(delivery)
        if multiple and place is not None:
            self._settled_up_to[place] = max(self._settled_up_to[place], delivery.delivery_tag)
        ack(delivery, multiple=multiple)

    def _is_given_up(self, body: bytes) -> bool:
        return body in self._timed_out or body in self._given_up

    def _deliver(self, deliver: Callable[[Model, Routed], object], model: Model, routed: Routed) -> object:
        body = bytes(routed.message.body)
        if body not in self._seen and body.count(b":") == _COLONS and not self._is_given_up(body):
            self._seen.add(body)
            sender, _, number = body.rpartition(b":")
            if int(number) < self._last_of.get(sender, 0):
                self._broken(Violation(5, f"{body!r} reached the broker after {sender!r}:{self._last_of[sender]}"))
            self._last_of[sender] = int(number)
        return deliver(model, routed)


_COLONS: Final = 2
"""In the body of a message whose order counts: actor, task, number."""


def vars_of(owner: object, name: str) -> Any:
    """A private attribute of a watched object."""
    return getattr(owner, name)


def _around(original: Callable[..., Any], around: Callable[..., Any]) -> Callable[..., Any]:
    def watched(*given: Any, **named: Any) -> Any:
        return around(original, *given, **named)

    return watched
