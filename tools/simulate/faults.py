"""The faults of a world, by name. Each begins, lasts where it can last, and ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio

import anyamqp
from anyamqp.testing.embedded.points import Fault as BrokerFault
from anyamqp.testing.embedded.points import Line, Passing
from anyamqp.testing.faults import CloseChannel, CloseConnection, Finish, Reset
from tools.simulate.messages import SIMULATED
from tools.simulate.plan import POINTS, VOLATILE, Fault

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
    world.broker.faults.calm()
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
        wire.cut(fault.number % 40)
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
    world.broker.close_channels(_code(fault), SIMULATED, number=1 + fault.connection)
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


async def _at(world: World, fault: Fault) -> None:
    edge, method = POINTS[fault.number % len(POINTS)]
    name = f"connection {fault.connection}"
    armed = world.broker.faults.before if edge == "before" else world.broker.faults.after
    point = armed(method, connection=None if method == "connection.tune-ok" else name, skip=fault.number % 7)
    point.strike(_Noted(world, f"{fault.kind}, {edge} {method}", _of_point(fault)))
    await anyio.sleep(fault.lasts)


def _of_point(fault: Fault) -> BrokerFault:
    if fault.kind == "reset at":
        return Reset()
    if fault.kind == "finish at":
        return Finish()
    if fault.kind == "close connection at":
        return CloseConnection(320, f"CONNECTION_FORCED - {SIMULATED}")
    return CloseChannel(_code(fault), SIMULATED)


@dataclass(frozen=True, slots=True)
class _Noted:
    """A fault that is noted when it happens, which may be long after it was armed."""

    world: World
    text: str
    fault: BrokerFault

    def strike(self, line: Line, passing: Passing | None) -> None:
        self.world.log("faults", self.text)
        with self.world.invariants.trouble(is_silent=False):
            self.fault.strike(line, passing)


def _code(fault: Fault) -> int:
    return _CODES[fault.number % len(_CODES)]


_CODES: Final = (404, 406, 403, 405, 311)

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
    "reset at": _at,
    "finish at": _at,
    "close connection at": _at,
    "close channel at": _at,
}
_OF_ONE: Final = frozenset({"reset", "finish", "cut", "darken", "refuse"})
