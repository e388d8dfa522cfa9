"""Scenes of an RPC client: each state is reached, and then everything happens that can happen in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from anyamqp import Message, RpcClient
from anyamqp.wire import methods
from support.scenes.stage import Scene, Stage, Stay, product, quiet


class Cast(NamedTuple):
    """An RPC client and its block."""

    stage: Stage
    client: RpcClient
    stay: Stay

    @property
    def number(self) -> int:
        """The number of its channel."""
        return self.stage.number(methods.Basic.Consume)


# --- states -----------------------------------------------------------------------------------------------------------


async def entering(stage: Stage) -> Cast:
    stage.hold(methods.Basic.Consume)
    return await open_(stage)


async def open_(stage: Stage) -> Cast:
    await stage.connect()
    client = stage.connection.rpc_client()
    cast = Cast(stage, client, await stage.enter(client))
    await stage.begin(lambda: client.call(Message(b""), routing_key="q", timeout=30))
    return cast


async def away(stage: Stage) -> Cast:
    cast = await open_(stage)
    stage.hold(methods.Basic.Consume)
    await stage.lose()
    return cast


# --- events -----------------------------------------------------------------------------------------------------------


async def answer(cast: Cast) -> None:
    await cast.stage.answer()


async def lose(cast: Cast) -> None:
    await cast.stage.lose()


async def close_channel(cast: Cast) -> None:
    await cast.stage.refuse(cast.number, 404, methods.Basic.Publish)


async def close_again_and_again(cast: Cast) -> None:
    """Close each channel soon after it was opened."""
    for _ in range(12):
        opened = len(cast.stage.link.sent(methods.Basic.Consume))
        await cast.stage.refuse(cast.number, 406)
        await cast.stage.come(methods.Basic.Consume, opened)


async def leave(cast: Cast) -> None:
    cast.stay.leave()
    await quiet()


async def close_connection(cast: Cast) -> None:
    await cast.stage.close()
    await leave(cast)


SCENES: Final = {
    entering: (close_channel,),
    open_: (close_channel, close_again_and_again),
    away: (close_connection,),
}


def scenes() -> Iterator[tuple[str, Scene]]:
    """All scenes by name."""
    yield from product("RPC client", SCENES.items())
