"""Planted bugs, each a small change of a real object. The simulation must find every one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from random import Random
from typing import Any, Final, NamedTuple
from unittest.mock import patch

from anyamqp.core.link_channel import LinkChannel
from anyamqp.net.link import Link
from anyamqp.protocol.confirms import Ledger
from anyamqp.protocol.heartbeat import Heartbeat, Verdict
from anyamqp.protocol.pending import PendingPublish
from anyamqp.protocol.places import Places
from anyamqp.settings import ReconnectPolicy


class Bug(NamedTuple):
    """A planted bug.

    Attributes:
        name: its name.
        plant: plants it for as long as the context lasts.
        breaks: the numbers of the invariants that it may break first.
    """

    name: str
    plant: Callable[[], AbstractContextManager[object]]
    breaks: tuple[int, ...]


def _ack_crosses_links() -> AbstractContextManager[object]:
    """A stale delivery is acknowledged on the newest link of its connection."""
    newest: dict[tuple[object, int], LinkChannel] = {}
    begin, ack = LinkChannel.__init__, LinkChannel.ack

    def begin_and_note(self: LinkChannel, link: Link, number: int, on_stale: Any, later: Any) -> None:
        begin(self, link, number, on_stale, later)
        newest[on_stale.__self__, number] = self

    def ack_on_the_newest(self: LinkChannel, delivery_tag: int, *, multiple: bool) -> None:
        for current in [one for (_, number), one in newest.items() if number == self.number and self.is_stale]:
            if not current.is_stale:
                current.link.session.ack(current.number, delivery_tag, multiple=multiple)
                current.link.flush()
        ack(self, delivery_tag, multiple=multiple)

    return patch.multiple(LinkChannel, __init__=begin_and_note, ack=ack_on_the_newest)


def _confirm_counts_twice() -> AbstractContextManager[object]:
    """A confirm of one publish settles the next one as well."""
    settle = Ledger[object].settle

    def settle_two(self: Ledger[object], tag: int, *, multiple: bool) -> list[object]:
        settled = settle(self, tag, multiple=multiple)
        return settled if multiple else settled + settle(self, tag + 1, multiple=False)

    return patch.object(Ledger, "settle", settle_two)


def _publish_dropped_on_reconnect() -> AbstractContextManager[object]:
    """The last of the unconfirmed publishes is not sent again after a loss."""
    send_again = Places.send_again

    def send_all_but_one(self: Places, publishes: list[PendingPublish]) -> None:
        send_again(self, publishes[:-1])

    return patch.object(Places, "send_again", send_all_but_one)


def _sent_again_in_reverse() -> AbstractContextManager[object]:
    """Unconfirmed publishes are sent again in the reverse order."""
    send_again = Places.send_again

    def send_reversed(self: Places, publishes: list[PendingPublish]) -> None:
        send_again(self, publishes[::-1])

    return patch.object(Places, "send_again", send_reversed)


def _no_heartbeats() -> AbstractContextManager[object]:
    """The client sends no heartbeats."""
    poll = Heartbeat.poll

    def poll_silently(self: Heartbeat, now: float) -> Verdict:
        return replace(poll(self, now), send=False)

    return patch.object(Heartbeat, "poll", poll_silently)


def _dead_peer_kept() -> AbstractContextManager[object]:
    """A silent peer never counts as dead."""
    poll = Heartbeat.poll

    def poll_patiently(self: Heartbeat, now: float) -> Verdict:
        self.read(now)
        return poll(self, now)

    return patch.object(Heartbeat, "poll", poll_patiently)


def _transport_left_open() -> AbstractContextManager[object]:
    """A link that has ended leaves its transport open."""

    async def tear_down(self: Link) -> None:
        del self

    return patch.object(Link, "tear_down", tear_down)


def _hot_dialing() -> AbstractContextManager[object]:
    """No wait follows a failed attempt."""

    def no_delay(self: ReconnectPolicy, attempt: int, random: Random) -> float:
        del self, attempt, random
        return 0.01

    return patch.object(ReconnectPolicy, "delay", no_delay)


BUGS: Final = (
    Bug("an ack crosses links", _ack_crosses_links, (8,)),
    Bug("a confirm counts twice", _confirm_counts_twice, (3, 4)),
    Bug("a publish is dropped on reconnect", _publish_dropped_on_reconnect, (3, 13)),
    Bug("publishes are sent again in reverse", _sent_again_in_reverse, (5,)),
    Bug("no heartbeats", _no_heartbeats, (9,)),
    Bug("a dead peer is kept", _dead_peer_kept, (9, 14)),
    Bug("a transport is left open", _transport_left_open, (1,)),
    Bug("no waits between dials", _hot_dialing, (10,)),
)
