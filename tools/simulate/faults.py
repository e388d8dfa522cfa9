"""The faults of a world, by name. Each begins, lasts where it can last, and ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import anyio

import anyamqp
from tools.simulate.messages import SIMULATED
from tools.simulate.plan import VOLATILE, Fault

if TYPE_CHECKING:
    from tools.simulate.world import World

_SILENT: Final = frozenset({"darken", "freeze"})
"""The faults that only heartbeats find."""


async def happen(world: World, fault: Fault) -> None:
    """Wait until a fault is due, and let it happen."""
    await anyio.sleep(fault.at)
    if fault.connection not in world.networks and fault.kind in _OF_ONE:
        return
    world.log("faults", str(fault))
    world.count(f"fault {fault.kind}")
    with world.invariants.trouble(is_silent=fault.kind in _SILENT):
        await _ALL[fault.kind](world, fault)
    world.log("faults", f"{fault.kind} is over")


async def end_all(world: World) -> None:
    """End the faults that last."""
    for network in world.networks.values():
        network.is_refusing = False
    if world.broker.is_frozen:
        world.broker.thaw()
    world.broker.accept()
    world.broker.unblock()
    await world.broker.start()
    await _declare_again(world)


async def _reset(world: World, fault: Fault) -> None:
    if (wire := world.networks[fault.connection].wire) is not None:
        wire.reset()
    await anyio.lowlevel.checkpoint()


async def _finish(world: World, fault: Fault) -> None:
    if (wire := world.networks[fault.connection].wire) is not None:
        wire.finish()
    # It shows with the next bytes, at the latest with a heartbeat.
    await anyio.sleep(world.plan.heartbeat)


async def _cut(world: World, fault: Fault) -> None:
    if (wire := world.networks[fault.connection].wire) is not None:
        wire.cut(fault.number)
    await anyio.sleep(world.plan.heartbeat)


async def _darken(world: World, fault: Fault) -> None:
    if (wire := world.networks[fault.connection].wire) is not None:
        wire.darken()
    await anyio.lowlevel.checkpoint()


async def _refuse(world: World, fault: Fault) -> None:
    network = world.networks[fault.connection]
    network.is_refusing = True
    if network.wire is not None:
        network.wire.reset()
    await anyio.sleep(fault.lasts)
    network.is_refusing = False


async def _reset_all(world: World, _: Fault) -> None:
    world.broker.reset_connections()
    await anyio.lowlevel.checkpoint()


async def _freeze(world: World, fault: Fault) -> None:
    world.broker.freeze()
    await anyio.sleep(fault.lasts)
    world.broker.thaw()


async def _kill_node(world: World, fault: Fault) -> None:
    world.broker.stop()
    await anyio.sleep(fault.lasts)
    await world.broker.start()


async def _refuse_all(world: World, fault: Fault) -> None:
    world.broker.refuse()
    world.broker.reset_connections()
    await anyio.sleep(fault.lasts)
    world.broker.accept()


async def _block(world: World, fault: Fault) -> None:
    world.broker.block()
    await anyio.sleep(fault.lasts)
    world.broker.unblock()


async def _close_connections(world: World, _: Fault) -> None:
    world.broker.close_connections(320, f"CONNECTION_FORCED - {SIMULATED}")
    await anyio.lowlevel.checkpoint()


async def _close_channels(world: World, fault: Fault) -> None:
    world.broker.close_channels(fault.number, SIMULATED, number=1 + fault.connection)
    await anyio.lowlevel.checkpoint()


async def _delete_queue(world: World, fault: Fault) -> None:
    queue = world.broker.model.queues.get(VOLATILE)
    if queue is not None:
        world.broker.model.delete_queue(queue)
    await anyio.sleep(fault.lasts)
    await _declare_again(world)


async def _declare_again(world: World) -> None:
    async with (
        anyamqp.connect("amqp://guest:guest@broker/", dial=world.broker.dial, name="setup", ready_timeout=None) as one,
        one.channel() as channel,
    ):
        await channel.declare_queue(VOLATILE)


_ALL: Final[dict[str, Callable[[World, Fault], Awaitable[None]]]] = {
    "reset": _reset,
    "finish": _finish,
    "cut": _cut,
    "darken": _darken,
    "refuse": _refuse,
    "reset all": _reset_all,
    "freeze": _freeze,
    "kill node": _kill_node,
    "refuse all": _refuse_all,
    "block": _block,
    "close connections": _close_connections,
    "close channels": _close_channels,
    "delete queue": _delete_queue,
}
_OF_ONE: Final = frozenset({"reset", "finish", "cut", "darken", "refuse"})
