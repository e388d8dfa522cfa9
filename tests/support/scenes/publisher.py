"""Scenes of a publisher: each state is reached, and then everything happens that can happen in it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final, NamedTuple

import anyio

from anyamqp import Message, Publisher
from anyamqp.wire import methods
from support.scenes.stage import Scene, Stage, Stay, product, quiet

COUNT: Final = 3
SIZE: Final = 10
"""Bytes of a body."""
TIMEOUT: Final = 30.0
"""Seconds for a publish."""


class Cast(NamedTuple):
    """A publisher and its block."""

    stage: Stage
    publisher: Publisher
    stay: Stay

    @property
    def number(self) -> int:
        """The number of its channel."""
        return self.stage.number(methods.Confirm.Select)


async def entered(stage: Stage) -> Cast:
    await stage.connect()
    publisher = stage.connection.publisher(window_bytes=COUNT * SIZE, timeout=TIMEOUT, retry_nacked=True)
    return Cast(stage, publisher, await stage.enter(publisher))


# --- states -----------------------------------------------------------------------------------------------------------


async def starting(stage: Stage) -> Cast:
    stage.hold(methods.Confirm.Select)
    return await entered(stage)


async def flowing(stage: Stage) -> Cast:
    cast = await entered(stage)
    await submit(cast)
    return cast


async def probing(stage: Stage) -> Cast:
    cast = await flowing(stage)
    await close_for_a_publish(cast)
    return cast


async def held_with_suspects(stage: Stage) -> Cast:
    cast = await probing(stage)
    await stop_flow(cast)
    return cast


async def away_with_suspects(stage: Stage) -> Cast:
    cast = await flowing(stage)
    stage.hold(methods.Confirm.Select)
    await close_for_a_publish(cast)
    return cast


async def closing(stage: Stage) -> Cast:
    cast = await flowing(stage)
    stage.hold(methods.Channel.Close)
    await leave(cast)
    return cast


async def closed(stage: Stage) -> Cast:
    cast = await flowing(stage)
    await close_again_and_again(cast)
    return cast


# --- events -----------------------------------------------------------------------------------------------------------


async def submit(cast: Cast) -> None:
    for _ in range(COUNT):
        await cast.stage.begin(partial(_submit, cast, SIZE))


async def _submit(cast: Cast, size: int) -> None:
    await cast.publisher.submit(Message(bytes(size)), routing_key="q")


async def confirm(cast: Cast) -> None:
    for sent in list(cast.stage.link.published):
        await cast.stage.tell(cast.number, methods.Basic.Ack(sent.tag))
    await cast.stage.answer()
    await quiet()
    for sent in list(cast.stage.link.published):
        await cast.stage.tell(cast.number, methods.Basic.Ack(sent.tag))


async def time_out(cast: Cast) -> None:
    await anyio.sleep(TIMEOUT + 1)
    await submit(cast)


async def confirm_the_first_and_time_out(cast: Cast) -> None:
    """The publish that comes then needs the room of them all."""
    await cast.stage.tell(cast.number, methods.Basic.Ack(1))
    await anyio.sleep(TIMEOUT + 1)
    await cast.stage.begin(partial(_submit, cast, COUNT * SIZE))


async def stop_flow(cast: Cast) -> None:
    await cast.stage.tell(cast.number, methods.Channel.Flow(active=False))


async def start_flow(cast: Cast) -> None:
    await cast.stage.tell(cast.number, methods.Channel.Flow(active=True))


async def block(cast: Cast) -> None:
    await cast.stage.tell(0, methods.Connection.Blocked("memory"))
    await cast.stage.tell(0, methods.Connection.Unblocked())


async def close_for_a_publish(cast: Cast) -> None:
    await cast.stage.refuse(cast.number, 404, methods.Basic.Publish)


async def close_again_and_again(cast: Cast) -> None:
    """Close each channel soon after it was opened."""
    for _ in range(12):
        opened = len(cast.stage.link.sent(methods.Confirm.Select))
        await cast.stage.refuse(cast.number, 406)
        await cast.stage.come(methods.Confirm.Select, opened)


async def answer(cast: Cast) -> None:
    await cast.stage.answer()


async def lose(cast: Cast) -> None:
    await cast.stage.lose()


async def lose_for_a_publish(cast: Cast) -> None:
    await cast.stage.end(541, methods.Basic.Publish)


async def leave(cast: Cast) -> None:
    cast.stay.leave()
    await quiet()


SCENES: Final = {
    starting: (close_for_a_publish,),
    held_with_suspects: (confirm_the_first_and_time_out, lose, lose_for_a_publish),
    away_with_suspects: (confirm, time_out),
    closing: (block,),
    closed: (start_flow,),
}


def scenes() -> Iterator[tuple[str, Scene]]:
    """All scenes by name."""
    yield from product("publisher", SCENES.items())
