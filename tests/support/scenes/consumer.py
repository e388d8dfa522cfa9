"""Scenes of a consumer: each state is reached, and then everything happens that can happen in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Final, NamedTuple, TypeAlias

import anyio

from anyamqp import Consumer, OnCancel
from anyamqp.protocol.lifecycle.channel import ChannelEvent
from anyamqp.wire import methods
from anyamqp.wire.methods import Method
from support.scenes.stage import Scene, Stage, Stay, closing, quiet

QUEUE: Final = "q"
_MANY: Final = 20
"""Tries until a race of two tasks has had both ends."""


class Cast(NamedTuple):
    """A consumer and its block."""

    stage: Stage
    consumer: Consumer
    stay: Stay

    @property
    def number(self) -> int:
        """The number of its channel."""
        return self.stage.number(methods.Basic.Consume)


Reach: TypeAlias = Callable[[Stage, OnCancel], Awaitable[Cast]]
Act: TypeAlias = Callable[[Cast], Awaitable[None]]


async def consuming(stage: Stage, on_cancel: OnCancel) -> Cast:
    await stage.connect()
    consumer = stage.connection.consumer(QUEUE, on_cancel=on_cancel, exclusive=True)
    return Cast(stage, consumer, await stage.enter(consumer))


async def subscribing(stage: Stage, on_cancel: OnCancel) -> Cast:
    stage.hold(methods.Basic.Consume)
    return await consuming(stage, on_cancel)


async def asking(stage: Stage, on_cancel: OnCancel) -> Cast:
    cast = await consuming(stage, on_cancel)
    stage.hold(methods.Queue.Declare)
    await cancel(cast)
    return cast


async def resubscribing(stage: Stage, on_cancel: OnCancel) -> Cast:
    cast = await consuming(stage, on_cancel)
    stage.hold(methods.Basic.Consume)
    await stage.lose()
    return cast


async def paused_at_first(stage: Stage, _: OnCancel) -> Cast:
    cast = await subscribing(stage, "resubscribe")
    await missing(cast)
    return cast


async def paused_again(stage: Stage, _: OnCancel) -> Cast:
    cast = await consuming(stage, "resubscribe")
    await cancel(cast)
    return cast


async def stopping(stage: Stage, on_cancel: OnCancel) -> Cast:
    cast = await consuming(stage, on_cancel)
    stage.hold(methods.Basic.Cancel)
    await stop(cast)
    return cast


async def ended(stage: Stage, on_cancel: OnCancel) -> Cast:
    cast = await consuming(stage, on_cancel)
    await stop(cast)
    return cast


async def cancel(cast: Cast) -> None:
    await cast.stage.tell(cast.number, methods.Basic.Cancel(cast.consumer.consumer_tag, nowait=True))


async def stop(cast: Cast) -> None:
    await cast.stage.begin(cast.consumer.stop)


async def missing(cast: Cast) -> None:
    await cast.stage.refuse(cast.number, 404, methods.Basic.Consume)


async def locked(cast: Cast) -> None:
    await cast.stage.refuse(cast.number, 405, methods.Basic.Consume)


async def locked_by_our_last_link(cast: Cast) -> None:
    await cast.stage.lose()
    await locked(cast)


async def tag_unknown(cast: Cast) -> None:
    await cast.stage.refuse(cast.number, 406, methods.Basic.Ack)


async def tag_unknown_after_a_while(cast: Cast) -> None:
    await anyio.sleep(2)
    await tag_unknown(cast)


async def cancelled_again_and_again(cast: Cast) -> None:
    for _ in range(4):
        await cancel(cast)


async def lost_and_locked_after_stop(cast: Cast) -> None:
    cast.stage.hold(methods.Basic.Cancel)
    await cast.stage.lose()
    await stop(cast)
    await locked(cast)


async def leave(cast: Cast) -> None:
    cast.stay.leave()
    await quiet()


async def give_up(cast: Cast) -> None:
    cast.stay.cancel()
    await quiet()


async def close(cast: Cast) -> None:
    await cast.stage.close()


# --- the moment of entering -------------------------------------------------------------------------------------------


async def given_up_as_it_consumes(stage: Stage) -> None:
    cast = await subscribing(stage, "raise")
    stage.taken.at(ChannelEvent.OPENED, cast.stay.cancel)
    await stage.answer()


async def given_up_as_its_queue_is_missing(stage: Stage) -> None:
    cast = await subscribing(stage, "resubscribe")
    stage.taken.at(ChannelEvent.ENDED, cast.stay.cancel)
    await missing(cast)


async def given_up_as_it_is_cancelled(stage: Stage) -> None:
    cast = await subscribing(stage, "resubscribe")
    await _given_up_with(cast, methods.Basic.Cancel(cast.consumer.consumer_tag, nowait=True))


async def given_up_as_it_ends(stage: Stage) -> None:
    cast = await subscribing(stage, "raise")
    await _given_up_with(cast, closing(403, methods.Basic.Consume))


async def _given_up_with(cast: Cast, last: Method) -> None:
    """Cancel the task as consume-ok comes, with another method right behind."""
    cast.stage.taken.at(ChannelEvent.OPENED, cast.stay.cancel)
    await cast.stage.tell(cast.number, methods.Basic.ConsumeOk(cast.consumer.consumer_tag), last)


async def given_up_as_it_is_stopped(stage: Stage) -> None:
    """Whether the stop comes first is for the event loop to decide, so several consumers try it."""
    await stage.connect()
    for _ in range(_MANY):
        stage.hold(methods.Basic.Consume)
        consumer = stage.connection.consumer(QUEUE)
        stay = await stage.enter(consumer)
        is_open = anyio.Event()
        await stage.begin(partial(_stop_when, is_open, consumer))
        stage.taken.at(ChannelEvent.OPENED, is_open.set)
        stage.taken.at(ChannelEvent.OPENED, stay.cancel)
        await stage.answer()


async def _stop_when(is_open: anyio.Event, consumer: Consumer) -> None:
    await is_open.wait()
    await consumer.stop()


# --- while the connection recovers ------------------------------------------------------------------------------------


async def missing_in_recovery_after_stop(stage: Stage) -> None:
    cast = await _in_recovery(stage)
    await stage.let(methods.Basic.Consume)
    await stop(cast)
    await missing(cast)


async def missing_in_recovery_while_it_stops(stage: Stage) -> None:
    cast = await _in_recovery(stage)
    await stage.let(methods.Basic.Consume)
    stage.hold(methods.Basic.Cancel)
    await stop(cast)
    await missing(cast)


async def missing_in_a_careful_recovery(stage: Stage) -> None:
    cast = await _in_recovery(stage)
    await stage.end_and_return(541)
    await missing(cast)


async def _in_recovery(stage: Stage) -> Cast:
    """A consumer whose queue the recovery has declared. The connection waits for it, and for a publisher."""
    await stage.connect()
    channel = stage.connection.channel()
    await stage.enter(channel)
    await stage.begin(lambda: channel.declare_queue(QUEUE))
    consumer = stage.connection.consumer(QUEUE)
    cast = Cast(stage, consumer, await stage.enter(consumer))
    await stage.enter(stage.connection.publisher())
    stage.hold(methods.Basic.Consume, methods.Confirm.Select)
    await stage.lose()
    return cast


# --- others -----------------------------------------------------------------------------------------------------------


async def without_a_number_at_first(stage: Stage) -> None:
    stage.make(channel_max=1)
    await _without_a_number(await paused_at_first(stage, "resubscribe"))


async def without_a_number_again(stage: Stage) -> None:
    stage.make(channel_max=1)
    await _without_a_number(await paused_again(stage, "resubscribe"))


async def _without_a_number(cast: Cast) -> None:
    await cast.stage.enter(cast.stage.connection.channel())
    await anyio.sleep(20)


async def too_late_in_a_stream(stage: Stage) -> None:
    """Read from its end, a stream is read from then on after a loss; consume-ok takes longer than was allowed for."""
    await stage.connect()
    await stage.enter(stage.connection.consumer(QUEUE, stream_offset="next"))
    stage.hold(methods.Basic.Consume)
    await stage.lose()
    await anyio.sleep(20)
    await stage.answer()


OTHERS: Final = (
    given_up_as_it_consumes,
    given_up_as_its_queue_is_missing,
    given_up_as_it_is_cancelled,
    given_up_as_it_ends,
    given_up_as_it_is_stopped,
    missing_in_recovery_after_stop,
    missing_in_recovery_while_it_stops,
    missing_in_a_careful_recovery,
    without_a_number_at_first,
    without_a_number_again,
    too_late_in_a_stream,
)


async def _play(reach: Reach, act: Act, on_cancel: OnCancel, stage: Stage) -> None:
    cast = await reach(stage, on_cancel)
    await act(cast)


SCENES: Final[tuple[tuple[Reach, Act, OnCancel], ...]] = (
    (consuming, missing, "end"),
    (consuming, missing, "raise"),
    (consuming, missing, "resubscribe"),
    (consuming, locked_by_our_last_link, "end"),
    (consuming, cancelled_again_and_again, "raise"),
    (consuming, lost_and_locked_after_stop, "end"),
    (consuming, close, "resubscribe"),
    (subscribing, cancel, "end"),
    (subscribing, stop, "raise"),
    (subscribing, missing, "end"),
    (subscribing, missing, "raise"),
    (subscribing, locked_by_our_last_link, "end"),
    (subscribing, cancelled_again_and_again, "resubscribe"),
    (subscribing, give_up, "resubscribe"),
    (asking, missing, "end"),
    (asking, missing, "raise"),
    (asking, leave, "end"),
    (asking, close, "resubscribe"),
    (resubscribing, cancel, "raise"),
    (resubscribing, cancel, "resubscribe"),
    (resubscribing, missing, "raise"),
    (resubscribing, tag_unknown, "raise"),
    (paused_at_first, tag_unknown_after_a_while, "raise"),
    (paused_at_first, close, "end"),
    (paused_again, tag_unknown_after_a_while, "resubscribe"),
    (stopping, missing, "end"),
    (stopping, missing, "raise"),
    (stopping, missing, "resubscribe"),
    (stopping, locked, "resubscribe"),
    (stopping, tag_unknown, "raise"),
    (ended, missing, "end"),
    (ended, missing, "raise"),
    (ended, missing, "resubscribe"),
    (ended, tag_unknown, "raise"),
    (ended, lost_and_locked_after_stop, "resubscribe"),
    (ended, close, "resubscribe"),
)


def scenes() -> Iterator[tuple[str, Scene]]:
    """All scenes by name."""
    for reach, act, on_cancel in SCENES:
        yield f"consumer: {reach.__name__}, {act.__name__}, {on_cancel}", partial(_play, reach, act, on_cancel)
    for scene in OTHERS:
        yield f"consumer: {scene.__name__}", scene
