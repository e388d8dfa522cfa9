"""The outcomes of publishes on a scripted broker that answers at random: a thousand scripts on each event loop.

A script is a few publishes, and steps of the broker and the user drawn from a seed: confirms of one and of several,
twice and too late, nacks, returns, closes of the channel, resets, blocks, refused dials, pauses, cancellations. The
broker's own record tells which outcomes each publish may have (invariants 3, 4, 5 and 11).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, Final, TypeAlias

import anyio
import anyio.abc
import pytest

from anyamqp import (
    AnyamqpError,
    Connection,
    ConnectionBlocked,
    ConnectionClosed,
    Message,
    Nacked,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    Publisher,
    PublishTimeout,
    Receipt,
    Unroutable,
)
from anyamqp.wire import methods
from support.handbroker import HandBroker, Sent, ServedLink, connected
from tools.simulate import clock

pytestmark = pytest.mark.no_cover  # long, and it covers nothing that others do not

SEEDS: Final = 1000
_SETTLING: Final = 0.3
"""Virtual seconds in which everything that was sent is handled."""
_PATIENCE: Final = 100
"""How often the broker answers all publishes before a script counts as stuck."""

_WIDE: Final = 100
"""A window that no script fills."""

Outcome: TypeAlias = Receipt | AnyamqpError | None
"""The outcome of a publish; None for a cancelled call."""
_KINDS: Final = {
    Receipt,
    Nacked,
    Unroutable,
    OutcomeUnknown,
    PublishTimeout,
    ConnectionBlocked,
    ConnectionClosed,
    NotFound,
    PreconditionFailed,
    type(None),
}
"""The kinds of outcomes that occur."""
Place: TypeAlias = tuple[ServedLink, int, int]
"""Where the broker received a publish: link, channel, tag."""


@dataclass
class Fate:
    """What befell one publish.

    Attributes:
        sends: how often the broker received it.
        is_acked, is_nacked, is_returned: what the broker answered, once at least.
        is_lost: whether a channel or link ended before the answer.
        closes: the codes with which the broker closed its channel before the answer.
        outcomes: all outcomes that its caller got.
    """

    sends: int = 0
    is_acked: bool = False
    is_nacked: bool = False
    is_returned: bool = False
    is_lost: bool = False
    closes: set[int] = field(default_factory=set[int])
    outcomes: list[Outcome] = field(default_factory=list[Outcome])


class Script:
    """The script of one seed.

    Attributes:
        closes_connection: whether the user closes the connection in the end.
    """

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self.closes_connection: bool = self._random.random() < 0.04
        self._options: dict[str, Any] = {
            "window": self._random.choice((1, 3, _WIDE, _WIDE)),
            "resend": self._random.random() < 0.7,
            "retry_nacked": self._random.random() < 0.3,
            "blocked_timeout": self._random.choice((None, None, 0, 1.5)),
            "timeout": self._random.choice((None, 3.0, 20.0)),
        }
        self._fates: list[Fate] = []
        self._was_blocked = False
        self._live: dict[Place, Sent] = {}
        """The publishes without an answer."""
        self._answered: list[Place] = []
        """The answered publishes on live channels."""
        self._gone: set[ServedLink] = set()
        """The links that were reset."""
        self._looked_at: dict[ServedLink, int] = {}

    async def play(self, broker: HandBroker, connection: Connection) -> set[type]:
        """Play the script, and check each outcome. Returns the kinds of outcomes."""
        self._looked_at = {link: len(link.published) for link in broker.links}
        before = {link: len(link.published) for link in broker.links}
        async with anyio.create_task_group() as tasks, connection.publisher(**self._options) as publisher:
            for _ in range(self._random.randint(1, 7)):
                await self._step(broker, publisher, tasks)
                assert publisher.unconfirmed <= self._options["window"]
            if self.closes_connection:
                await connection.close()
            await self._answer_all(broker)
        for number, fate in enumerate(self._fates):
            assert len(fate.outcomes) == 1, (number, fate)
            assert self._may_end_with(fate, fate.outcomes[0]), (number, fate)
        # Publishes of different tasks that wait for the window may overtake each other, and so may nacked ones.
        if self._options["window"] == _WIDE and not self._options["retry_nacked"]:
            for link in broker.links:
                new = link.published[before.get(link, 0) :]
                for channel in {sent.channel for sent in new}:
                    bodies = [sent.message.body for sent in new if sent.channel == channel]
                    assert bodies == sorted(set(bodies))
        return {type(fate.outcomes[0]) for fate in self._fates}

    def _may_end_with(self, fate: Fate, outcome: Outcome) -> bool:
        match outcome:
            case Receipt():
                return fate.is_acked and outcome.attempts >= fate.sends >= 1
            case Nacked():
                return fate.is_nacked and not self._options["retry_nacked"]
            case Unroutable():
                return fate.is_returned
            case OutcomeUnknown():
                return fate.is_lost and not self._options["resend"]
            case PublishTimeout():
                return self._options["timeout"] is not None and (outcome.sent or not fate.sends)
            case ConnectionBlocked():
                return self._was_blocked and self._options["blocked_timeout"] is not None and not fate.sends
            case ConnectionClosed():
                return self.closes_connection
            case NotFound() | PreconditionFailed():
                return outcome.code in fate.closes
            case _:
                return outcome is None

    async def _step(self, broker: HandBroker, publisher: Publisher, tasks: anyio.abc.TaskGroup) -> None:
        chance = self._random.random()
        if chance < 0.45:
            self._publish(publisher, tasks)
        elif chance < 0.75:
            await self._answer_some(broker.link)
        elif chance < 0.92:
            await self._disturb(broker)
        else:
            await anyio.sleep(self._random.choice((0.5, 2.0, 5.0)))
        await anyio.sleep(_SETTLING)
        self._look(broker)

    # --- the user -----------------------------------------------------------------------------------------------------

    def _publish(self, publisher: Publisher, tasks: anyio.abc.TaskGroup) -> None:
        for _ in range(self._random.choice((1, 1, 3))):
            if self._random.random() < 0.5:
                tasks.start_soon(self._submit, publisher)
            else:
                patience = self._random.choice((1e6, 1e6, 1e6, 0.0, 1.0))
                tasks.start_soon(self._publish_once, publisher, patience)

    def _new_message(self) -> tuple[Fate, Message]:
        self._fates.append(Fate())
        return self._fates[-1], Message(b"%03d" % (len(self._fates) - 1))

    async def _submit(self, publisher: Publisher) -> None:
        fate, message = self._new_message()
        try:
            publication = await publisher.submit(message, routing_key="q")
            receipt = await publication
            assert await publication == receipt
            fate.outcomes.append(receipt)
        except AnyamqpError as error:
            fate.outcomes.append(error)

    async def _publish_once(self, publisher: Publisher, patience: float) -> None:
        fate, message = self._new_message()
        with anyio.move_on_after(patience) as scope:
            try:
                fate.outcomes.append(await publisher.publish(message, routing_key="q"))
            except AnyamqpError as error:
                fate.outcomes.append(error)
        if scope.cancelled_caught:
            fate.outcomes.append(None)

    # --- the broker ---------------------------------------------------------------------------------------------------

    def _look(self, broker: HandBroker) -> None:
        """Take note of the publishes that have come."""
        for link in broker.links:
            for sent in link.published[self._looked_at.get(link, 0) :]:
                self._fate_of(sent).sends += 1
                self._live[link, sent.channel, sent.tag] = sent
            self._looked_at[link] = len(link.published)

    def _fate_of(self, sent: Sent) -> Fate:
        return self._fates[int(sent.message.body)]

    async def _answer_some(self, link: ServedLink) -> None:
        """Answer a publish, or all up to it, or one that was answered before."""
        again = [place for place in self._answered if place[0] is link]
        if again and self._random.random() < 0.2:
            _, channel, tag = self._random.choice(again)
            await link.tell(channel, methods.Basic.Ack(tag))
            return
        waiting = [place for place in self._live if place[0] is link]
        if not waiting:
            return
        _, channel, tag = self._random.choice(waiting)
        multiple = self._random.random() < 0.3
        places = [one for one in waiting if one[1] == channel and (one[2] == tag or (multiple and one[2] < tag))]
        if self._random.random() < 0.3:
            await link.nack(tag, multiple=multiple, channel=channel)
            for place in places:
                self._fate_of(self._live[place]).is_nacked = True
        else:
            if self._random.random() < 0.3:
                await link.give_back(self._live[places[0]])
                self._fate_of(self._live[places[0]]).is_returned = True
            await self._ack(link, channel, tag, places, multiple=multiple)
        self._forget(places)
        self._answered += places

    async def _ack(self, link: ServedLink, channel: int, tag: int, places: list[Place], *, multiple: bool) -> None:
        for place in places:
            self._fate_of(self._live[place]).is_acked = True
        await link.ack(tag, multiple=multiple, channel=channel)

    async def _answer_all(self, broker: HandBroker) -> None:
        """End what disturbs, and confirm everything until each publish has its outcome."""
        broker.is_refusing = False
        for _ in range(_PATIENCE):
            self._look(broker)
            if self._was_blocked and not self.closes_connection and broker.link not in self._gone:
                await broker.link.unblock()
            if all(fate.outcomes for fate in self._fates):
                return
            for link, channel, tag in list(self._live):
                if link is broker.link and not self.closes_connection:
                    await self._ack(link, channel, tag, [(link, channel, tag)], multiple=False)
                    self._forget([(link, channel, tag)])
            await anyio.sleep(1)
        raise AssertionError([fate for fate in self._fates if not fate.outcomes])

    async def _disturb(self, broker: HandBroker) -> None:
        kind = self._random.choice(("close", "close", "reset", "block", "unblock", "refuse"))
        link = broker.link
        if link in self._gone:
            broker.is_refusing = False
        elif kind == "close":
            await self._close_channel(link)
        elif kind == "block":
            self._was_blocked = True
            await link.block()
        elif kind == "unblock":
            await link.unblock()
        else:
            broker.is_refusing = kind == "refuse"
            self._gone.add(link)
            await link.reset()
            self._look(broker)
            self._lose([place for place in self._live if place[0] is link])
            self._answered = [place for place in self._answered if place[0] is not link]

    async def _close_channel(self, link: ServedLink) -> None:
        """Close the channel of a publish, as RabbitMQ does because of one, or without a reason."""
        channels = sorted({channel for one, channel, _ in self._live if one is link})
        if not channels:
            return
        channel = self._random.choice(channels)
        code = self._random.choice((404, 406))
        index = self._random.choice((methods.Basic.Publish.index, 0))
        places = [place for place in self._live if place[:2] == (link, channel)]
        for place in places:
            self._fate_of(self._live[place]).closes.add(code)
        self._lose(places)
        self._answered = [place for place in self._answered if place[:2] != (link, channel)]
        await link.close_channel(methods.Channel.Close(code, "simulated", index >> 16, index & 0xFFFF), channel)

    def _lose(self, places: list[Place]) -> None:
        for place in places:
            self._fate_of(self._live[place]).is_lost = True
        self._forget(places)

    def _forget(self, places: list[Place]) -> None:
        for place in places:
            del self._live[place]


async def play_all(seeds: Iterator[int], kinds: set[type]) -> None:
    """Play scripts on one connection after the other, as long as each lasts; note the kinds of outcomes."""
    for seed in seeds:
        async with connected() as (broker, connection):
            script = Script(seed)
            kinds |= await _play_noted(script, seed, broker, connection)
            while not script.closes_connection and (following := next(seeds, None)) is not None:
                script = Script(following)
                kinds |= await _play_noted(script, following, broker, connection)


async def _play_noted(script: Script, seed: int, broker: HandBroker, connection: Connection) -> set[type]:
    try:
        return await script.play(broker, connection)
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


@pytest.mark.parametrize("backend", clock.BACKENDS)
def test_each_publish_has_one_outcome_which_the_broker_caused(backend: str) -> None:
    kinds: set[type] = set()
    clock.run(partial(play_all, iter(range(SEEDS)), kinds), backend=backend, seed=0, on_step=_nothing)
    assert kinds == _KINDS


def _nothing() -> None:
    """There is nothing to check after each step."""
