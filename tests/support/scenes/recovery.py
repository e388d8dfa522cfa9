"""Scenes of a recovery and its entities: each state is reached, and then everything happens that can happen in it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final, NamedTuple

import anyio

from anyamqp import Channel
from anyamqp.wire import methods
from anyamqp.wire.methods import Method
from support.scenes.stage import Scene, Stage, Stay, product, quiet

PATIENCE: Final = 0.6
"""Virtual seconds after which a recovery no longer waits for an answer."""


class Cast(NamedTuple):
    """A channel that declared entities, and its block."""

    stage: Stage
    channel: Channel
    stay: Stay


async def declared(stage: Stage) -> Cast:
    """A connection with an exchange, a queue with a name, one without, and a binding; and a publisher."""
    await stage.connect()
    channel = stage.connection.channel()
    stay = await stage.enter(channel)
    await stage.begin(lambda: channel.declare_exchange("e"))
    for name in ("q", "r", "s"):
        await stage.begin(partial(channel.declare_queue, name))
        await stage.begin(partial(channel.bind_queue, name, "e"))
    await stage.enter(stage.connection.publisher())
    return Cast(stage, channel, stay)


# --- states -----------------------------------------------------------------------------------------------------------


async def declaring_queues(stage: Stage) -> Cast:
    return await _recovering(stage, methods.Queue.Declare)


async def declaring_bindings(stage: Stage) -> Cast:
    return await _recovering(stage, methods.Queue.Bind)


async def closing_lanes(stage: Stage) -> Cast:
    return await _recovering(stage, methods.Channel.Close)


async def reopening(stage: Stage) -> Cast:
    return await _recovering(stage, methods.Confirm.Select)


async def _recovering(stage: Stage, held: type[Method]) -> Cast:
    cast = await declared(stage)
    stage.hold(held)
    await stage.lose()
    return cast


async def declaring_queues_with_care(stage: Stage) -> Cast:
    return await _careful(await declaring_queues(stage))


async def closing_lanes_with_care(stage: Stage) -> Cast:
    cast = await declaring_queues_with_care(stage)
    stage.hold(methods.Channel.Close)
    await stage.let(methods.Queue.Declare)
    return cast


async def reopening_with_care(stage: Stage) -> Cast:
    return await _careful(await reopening(stage))


async def _careful(cast: Cast) -> Cast:
    await close_without_a_reason(cast)
    return cast


async def latecomers(stage: Stage) -> Cast:
    cast = await reopening(stage)
    await anyio.sleep(PATIENCE)
    return cast


async def late_queue(stage: Stage) -> Cast:
    cast = await declaring_queues(stage)
    await anyio.sleep(2 * PATIENCE)
    return cast


async def locked_queue(stage: Stage) -> Cast:
    cast = await declaring_queues(stage)
    await lock(cast)
    return cast


# --- events -----------------------------------------------------------------------------------------------------------


async def answer(cast: Cast) -> None:
    await cast.stage.answer()


async def take_time(_: Cast) -> None:
    await anyio.sleep(100)


async def lose(cast: Cast) -> None:
    await cast.stage.lose()


async def close_without_a_reason(cast: Cast) -> None:
    await cast.stage.end_and_return(541)


async def close_for_the_queue(cast: Cast) -> None:
    await cast.stage.end(540, methods.Queue.Declare)


async def _refuse(cast: Cast, code: int) -> None:
    for kind in (methods.Queue.Bind, methods.Queue.Declare, methods.Exchange.Declare):
        if cast.stage.link.sent(kind):
            await cast.stage.refuse(cast.stage.number(kind), code, kind)
            return


async def lock(cast: Cast) -> None:
    await _refuse(cast, 405)


async def refuse(cast: Cast) -> None:
    await _refuse(cast, 406)


async def miss_and_answer(cast: Cast) -> None:
    await _refuse(cast, 404)
    await cast.stage.answer()
    await anyio.sleep(5)


async def consume_from_the_missing_queue(cast: Cast) -> None:
    stage = cast.stage
    stage.hold(methods.Basic.Consume)
    await stage.enter(stage.connection.consumer("q"))
    if stage.link.sent(methods.Basic.Consume):
        await stage.refuse(stage.number(methods.Basic.Consume), 404, methods.Basic.Consume)
    await stage.answer()


async def lock_and_delete(cast: Cast) -> None:
    declares = [(number, one) for number, one in cast.stage.link.methods if isinstance(one, methods.Queue.Declare)]
    for number, declare in declares:
        if declare.queue == "q":
            await cast.stage.refuse(number, 405, methods.Queue.Declare)
    await cast.stage.begin(lambda: cast.channel.delete_queue("q"))
    await anyio.sleep(5)


async def leave_and_refuse(cast: Cast) -> None:
    cast.stage.hold(methods.Channel.Close)
    cast.stay.leave()
    await quiet()
    await refuse(cast)


async def no_number(stage: Stage) -> None:
    """A lane that the broker does not answer on has the number that a channel needs."""
    stage.make(channel_max=2)
    await declaring_queues(stage)
    await take_time(Cast(stage, stage.connection.channel(), stage.stay))


SCENES: Final = {
    declaring_bindings: (miss_and_answer,),
    closing_lanes: (take_time,),
    closing_lanes_with_care: (take_time, close_for_the_queue),
    reopening_with_care: (close_without_a_reason,),
    latecomers: (close_without_a_reason,),
    late_queue: (refuse, consume_from_the_missing_queue, lock_and_delete, leave_and_refuse),
    locked_queue: (lock_and_delete,),
}


def scenes() -> Iterator[tuple[str, Scene]]:
    """All scenes by name."""
    yield from product("recovery", SCENES.items())
    yield "recovery: no_number", no_number
