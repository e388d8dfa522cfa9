"""The invariants of docs/architecture.md, checked by their numbers while a world runs and after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import anyio

from anyamqp import ConnectionEvent, Consumer, Publisher, ReadyTimeout, ReconnectPolicy, State
from anyamqp.protocol.lifecycle import Transition
from tools.simulate.network import Network, Wire
from tools.simulate.plan import DURABLE
from tools.simulate.violation import Violation

if TYPE_CHECKING:
    from tools.simulate.world import World

_CONNECT_TIMEOUT: Final = 10.0
"""anyamqp's own: a handshake that a silent fault hits takes that long."""
_MARGIN: Final = 2.0
"""Seconds of latency, and of pauses between ticks."""
_PATIENCE: Final = 20.0
"""Seconds without trouble after which everything that waits counts as forgotten."""
_POLICY: Final = ReconnectPolicy()
_EPSILON: Final = 1e-3


class Invariants:
    """Checks the invariants of a world.

    Args:
        world: the world.

    Attributes:
        publishers: the publishers in use, with their windows.
        consumers: the consumers in use, with the time when each last consumed.
    """

    def __init__(self, world: World) -> None:
        self.publishers: dict[Publisher, int] = {}
        self.consumers: dict[Consumer, float] = {}
        self._world = world
        self._troubles = 0
        self._calm_since = 0.0
        self._unequal_since: dict[int, float] = {}
        self._heartbeat = world.plan.heartbeat

    @contextmanager
    def trouble(self, *, is_silent: bool) -> Generator[None, None, None]:
        """A fault; a silent one shows when heartbeats or the handshake time out."""
        self._troubles += 1
        try:
            yield
        finally:
            self._troubles -= 1
            notice = max(2.25 * self._heartbeat, _CONNECT_TIMEOUT) if is_silent else 0.0
            self._calm_since = max(self._calm_since, self._world.now + notice)

    def calm(self, now: float) -> float:
        """For how many seconds no fault has had an effect of its own; negative in trouble."""
        return -1.0 if self._troubles else now - self._calm_since

    # --- at each step -----------------------------------------------------------------------------------------------

    def check_step(self, now: float) -> None:
        """Invariant 1: at most one dial under way and one live transport, and never both."""
        del now
        for number, network in self._world.networks.items():
            if network.dialing + network.live > 1:
                text = f"connection {number} has {network.live} live transports and {network.dialing} dials"
                self._world.broken(Violation(1, text))

    def check_silence(self, wire: Wire) -> None:
        """Invariant 9: the client is never silent for longer than the heartbeat interval."""
        silence = self._world.now - wire.sent_at
        if wire.has_opened and not wire.is_leaving and silence > self._heartbeat + _EPSILON:
            self._world.broken(Violation(9, f"transport {wire.number} was silent for {silence:.3f} s"))

    def on_transition(self, number: int, transition: Transition) -> None:
        """Invariant 9: a peer counts as dead only after two intervals of silence."""
        network = self._world.networks[number]
        if transition.event is ConnectionEvent.OPENED:
            network.dials.clear()
        wire = network.wire
        if wire is None or wire.number != transition.link_number or transition.event is not ConnectionEvent.LOST:
            return
        heard = transition.at - wire.received_at
        if "heartbeat" in (transition.reason or "") and heard < 2 * self._heartbeat - _EPSILON:
            self._world.broken(Violation(9, f"connection {number} gave a peer up after {heard:.3f} s of silence"))

    # --- at each tick -----------------------------------------------------------------------------------------------

    def check_tick(self, now: float) -> None:
        """Check all that takes a look at the broker, or at time that passes."""
        counts = {name: len(numbers) for name, numbers in self._world.broker.channels}
        for number, network in self._world.networks.items():
            self._check_wire(number, network, now)
            self._check_dials(number, network)
            self._check_channels(number, counts.get(f"connection {number}", 0), now)
            if self.calm(now) > _POLICY.maximum + _MARGIN and not self._world.is_open(number):
                detail = self._world.connections[number].stats.detail
                self._world.broken(Violation(14, f"connection {number} is not back: {detail}"))
        self._check_bounds()
        self.consumers.update(dict.fromkeys((one for one in self.consumers if one.is_consuming), now))
        if self.calm(now) > _PATIENCE:
            self._check_waiting(now)

    def _check_wire(self, number: int, network: Network, now: float) -> None:
        wire = network.wire
        if wire is None or not wire.is_open or not wire.has_opened or wire.is_leaving:
            return
        self.check_silence(wire)
        heard = now - wire.received_at
        if heard > 2.25 * self._heartbeat + _MARGIN:
            self._world.broken(Violation(9, f"connection {number} keeps a peer that was silent for {heard:.3f} s"))

    def _check_dials(self, number: int, network: Network) -> None:
        """Invariant 10: the waits grow as the policy says, of which jitter takes a half at most."""
        dials = network.dials
        for failed in range(1, len(dials)):
            wait = min(_POLICY.initial * _POLICY.factor ** (failed - 1), _POLICY.maximum) * (1 - _POLICY.jitter)
            if dials[failed] - dials[failed - 1] < wait - _EPSILON:
                text = f"connection {number} dialed {dials[failed] - dials[failed - 1]:.3f} s after failure {failed}"
                self._world.broken(Violation(10, text))

    def _check_channels(self, number: int, count: int, now: float) -> None:
        """Invariant 6; a channel that is being opened or closed may differ for a moment."""
        connection = self._world.connections[number]
        if connection.state is not State.OPEN or connection.stats.open_channels == count or self.calm(now) < _MARGIN:
            self._unequal_since.pop(number, None)
        elif now - self._unequal_since.setdefault(number, now) > _MARGIN:
            text = f"connection {number} has {connection.stats.open_channels} channels, the broker {count}"
            self._world.broken(Violation(6, text))

    def _check_bounds(self) -> None:
        """Invariant 11: publish windows and prefetches."""
        for publisher, window in self.publishers.items():
            if publisher.unconfirmed > window:
                self._world.broken(Violation(11, f"{publisher.unconfirmed} publishes in a window of {window}"))
        links = Counter(name for name, _ in self._world.broker.channels)
        copies = max(links.values(), default=1)
        for name, queue in self._world.broker.queues.items():
            most = copies * sum(
                actor.width for actor in self._world.plan.actors if actor.queue == name and actor.kind in _READERS
            )
            if name in DURABLE and queue.unacked > most:
                self._world.broken(Violation(11, f"queue {name} has {queue.unacked} unsettled messages, not {most}"))

    def _check_waiting(self, now: float) -> None:
        """Invariant 13: without trouble, nothing waits for long."""
        for publish in self._world.messages.waiting:
            if now - publish.began_at > _PATIENCE:
                self._world.broken(Violation(13, f"{publish.body!r} has waited since {publish.began_at:.3f} s"))
            break
        for consumer, consumed_at in self.consumers.items():
            if now - max(consumed_at, self._calm_since) > _PATIENCE:
                self._world.broken(Violation(13, f"the consumer of {consumer.queue} does not consume"))

    # --- at the end -------------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Wait until everything is back and delivered (invariants 14, 4 and 13)."""
        for number, connection in self._world.connections.items():
            try:
                await connection.wait_ready(_PATIENCE + 3 * self._heartbeat)
            except ReadyTimeout as error:
                raise Violation(14, f"connection {number} is not ready: {error}") from None
        missing, since = self._missing(), self._world.now
        while missing and self._world.now - since < 3 * _PATIENCE:
            await anyio.sleep(1)
            before, missing = len(missing), self._missing()
            if len(missing) < before:
                since = self._world.now
        if missing:
            waiting = {body for queue in self._world.broker.queues.values() for body in queue.bodies()}
            lost = [body for body in missing if body not in waiting]
            unacked = sum(queue.unacked for queue in self._world.broker.queues.values())
            number = 4 if lost and not unacked else 13
            raise Violation(number, f"{len(missing)} confirmed messages were not delivered, such as {missing[0]!r}")

    def _missing(self) -> list[bytes]:
        messages = self._world.messages
        read = {actor.queue for actor in self._world.plan.actors if actor.kind in _READERS}
        kept = {body for queue in self._world.broker.queues.values() for body in queue.bodies()}
        return [
            body
            for body, queue in messages.confirmed.items()
            if queue in DURABLE and body not in messages.delivered and (queue in read or body not in kept)
        ]

    async def leave(self) -> None:
        """Invariant 7: the broker has no connection left, once it has missed the heartbeats of those that went dark."""
        with anyio.move_on_after(3.5 * self._heartbeat + _MARGIN):
            while self._world.broker.connection_count:  # noqa: ASYNC110 - as above
                await anyio.sleep(0.25)
        if self._world.broker.connection_count:
            raise Violation(7, f"the broker still has {self._world.broker.connection_count} connections")

    def check_end(self, tasks: int) -> None:
        """Invariant 7: no task and no transport is left.

        Args:
            tasks: how many tasks run more than before.
        """
        live = sum(network.live + network.dialing for network in self._world.networks.values())
        if tasks > 0 or live:
            self._world.broken(Violation(7, f"{tasks} tasks and {live} transports are left"))


_READERS: Final = frozenset({"consumer"})
