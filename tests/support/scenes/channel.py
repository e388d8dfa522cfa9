"""Scenes of a channel, a pool and a transaction: each state is reached, and then everything happens that can happen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import anyio

from anyamqp import Channel
from anyamqp.wire import methods
from support.scenes.stage import Scene, Stage, Stay, product, quiet


class Cast(NamedTuple):
    """A channel, its block, and its number."""

    stage: Stage
    stay: Stay
    number: int = 1


async def entered(stage: Stage) -> Cast:
    return Cast(stage, await stage.enter(stage.connection.channel()))


# --- states of a channel ----------------------------------------------------------------------------------------------


async def opened(stage: Stage) -> Cast:
    await stage.connect()
    return await entered(stage)


async def opening(stage: Stage) -> Cast:
    await stage.connect()
    stage.hold(methods.Channel.Open)
    return await entered(stage)


async def held(stage: Stage) -> Cast:
    """The connection still recovers: it waits for another channel."""
    cast = await opened(stage)
    await entered(stage)
    stage.broker.habits.silent_on = {2}
    await stage.lose()
    return cast


async def held_and_stopped(stage: Stage) -> Cast:
    cast = await held(stage)
    await stop_flow(cast)
    return cast


async def stopped(stage: Stage) -> Cast:
    cast = await opened(stage)
    await stop_flow(cast)
    return cast


async def blocked(stage: Stage) -> Cast:
    cast = await opened(stage)
    await block(cast)
    return cast


async def blocked_twice(stage: Stage) -> Cast:
    cast = await stopped(stage)
    await block(cast)
    return cast


async def closing_before_it_is_open(stage: Stage) -> Cast:
    cast = await opening(stage)
    stage.hold(methods.Channel.Close)
    await give_up(cast)
    return cast


# --- events of a channel ----------------------------------------------------------------------------------------------


async def answer(cast: Cast) -> None:
    await cast.stage.answer()
    await anyio.sleep(5)


async def stop_flow(cast: Cast) -> None:
    await cast.stage.tell(cast.number, methods.Channel.Flow(active=False))


async def start_flow(cast: Cast) -> None:
    await cast.stage.tell(cast.number, methods.Channel.Flow(active=True))


async def block(cast: Cast) -> None:
    await cast.stage.tell(0, methods.Connection.Blocked("memory"))


async def block_and_answer(cast: Cast) -> None:
    await block(cast)
    await cast.stage.answer()


async def unblock(cast: Cast) -> None:
    await cast.stage.tell(0, methods.Connection.Unblocked())


async def lose(cast: Cast) -> None:
    await cast.stage.lose()


async def lose_for_the_open(cast: Cast) -> None:
    await cast.stage.end(504, methods.Channel.Open)


async def refuse(cast: Cast) -> None:
    await cast.stage.refuse(cast.number, 406)


async def leave(cast: Cast) -> None:
    cast.stay.leave()
    await quiet()


async def give_up(cast: Cast) -> None:
    cast.stay.cancel()
    await quiet()


# --- a pool -----------------------------------------------------------------------------------------------------------


async def lend(stage: Stage) -> None:
    """A channel is lent, given back, and the pool ends."""
    await stage.connect()
    pool = stage.connection.channel_pool(2)
    inside = await stage.enter(pool)
    borrowed = await stage.enter(pool.channel())
    borrowed.leave()
    await quiet()
    inside.leave()
    await quiet()


# --- a transaction ----------------------------------------------------------------------------------------------------


async def _transaction(stage: Stage) -> Stay:
    await stage.connect()
    channel: Channel = stage.connection.channel()
    await stage.enter(channel)
    return await stage.enter(channel.transaction())


async def beginning(stage: Stage) -> Cast:
    stage.hold(methods.Tx.Select)
    return Cast(stage, await _transaction(stage))


async def begun(stage: Stage) -> Cast:
    return Cast(stage, await _transaction(stage))


async def lost(stage: Stage) -> Cast:
    cast = Cast(stage, await _transaction(stage))
    await stage.lose()
    return cast


async def committing(stage: Stage) -> Cast:
    cast = Cast(stage, await _transaction(stage))
    stage.hold(methods.Tx.Commit)
    await leave(cast)
    return cast


async def fail(cast: Cast) -> None:
    cast.stay.leave(fail=True)
    await quiet()


SCENES: Final = {
    opening: (block_and_answer,),
    held: (stop_flow,),
    held_and_stopped: (start_flow,),
    stopped: (start_flow,),
    blocked: (stop_flow,),
    blocked_twice: (start_flow, unblock),
    closing_before_it_is_open: (lose_for_the_open,),
}


TRANSACTIONS: Final = {
    beginning: (give_up,),
    begun: (lose, give_up),
    lost: (give_up,),
    committing: (answer, lose),
}


def scenes() -> Iterator[tuple[str, Scene]]:
    """All scenes by name."""
    yield from product("channel", SCENES.items())
    yield from product("transaction", TRANSACTIONS.items())
    yield "pool: lend", lend
