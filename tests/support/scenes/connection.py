"""Scenes of a connection and its links: each state is reached, and then everything happens that can happen in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import anyio

from anyamqp.wire import methods
from support.scenes.stage import Scene, Stage, product

# --- states -----------------------------------------------------------------------------------------------------------


async def new(stage: Stage) -> Stage:
    return stage


async def waiting(stage: Stage) -> Stage:
    stage.broker.is_refusing = True
    await stage.connect()
    return stage


async def dialing(stage: Stage) -> Stage:
    stage.broker.gate = anyio.Event()
    await stage.connect()
    return stage


async def awaiting_start(stage: Stage) -> Stage:
    stage.broker.habits.starts = False
    await stage.connect()
    return stage


async def awaiting_tune(stage: Stage) -> Stage:
    stage.hold(methods.Connection.StartOk)
    await stage.connect()
    return stage


async def awaiting_open_ok(stage: Stage) -> Stage:
    stage.hold(methods.Connection.Open)
    await stage.connect()
    return stage


async def recovering(stage: Stage) -> Stage:
    await awaiting_open_ok(stage)
    stage.hold(methods.Channel.Open)
    await stage.enter(stage.connection.channel())
    await stage.tell(0, methods.Connection.OpenOk())
    return stage


async def opened(stage: Stage) -> Stage:
    await stage.connect()
    return stage


async def blocked(stage: Stage) -> Stage:
    await stage.connect()
    await block(stage)
    return stage


async def waiting_again(stage: Stage) -> Stage:
    await stage.connect()
    stage.broker.is_refusing = True
    await stage.lose()
    return stage


async def recovering_again(stage: Stage) -> Stage:
    await stage.connect()
    await stage.enter(stage.connection.channel())
    stage.hold(methods.Channel.Open)
    await stage.lose()
    return stage


async def closing(stage: Stage) -> Stage:
    stage.hold(methods.Connection.Close)
    await stage.connect()
    await stage.close()
    return stage


# --- events -----------------------------------------------------------------------------------------------------------


async def answer(stage: Stage) -> None:
    await stage.answer()


async def take_time(_: Stage) -> None:
    await anyio.sleep(30)


async def lose(stage: Stage) -> None:
    await stage.lose()


async def end(stage: Stage) -> None:
    await stage.end(320)


async def challenge(stage: Stage) -> None:
    await stage.tell(0, methods.Connection.Secure("again"))


async def update_secret(stage: Stage) -> None:
    await stage.begin(lambda: stage.connection.update_secret("new"))
    await stage.tell(0, methods.Connection.UpdateSecretOk())


async def block(stage: Stage) -> None:
    await stage.tell(0, methods.Connection.Blocked("memory"))


async def block_and_answer(stage: Stage) -> None:
    await block(stage)
    await stage.answer()


async def close(stage: Stage) -> None:
    await stage.close()


async def close_and_answer(stage: Stage) -> None:
    await stage.close()
    await stage.answer()


async def cancel(stage: Stage) -> None:
    stage.stay.cancel()


SCENES: Final = {
    waiting: (close,),
    dialing: (close_and_answer,),
    awaiting_start: (end, block),
    awaiting_tune: (challenge,),
    recovering: (block_and_answer,),
    opened: (update_secret,),
    blocked: (challenge,),
    waiting_again: (cancel,),
    recovering_again: (take_time,),
    closing: (end,),
}


def scenes() -> Iterator[tuple[str, Scene]]:
    """All scenes by name."""
    yield from product("connection", SCENES.items())
