"""The demo's brokers and their faults.

The embedded broker makes its own faults. A running RabbitMQ is not touched: a proxy in front of it breaks the network.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

import anyio

from anyamqp import Address, ReconnectPolicy, Settings, connect
from anyamqp.testing import Broker, FaultProxy

HEARTBEAT: Final = 1
"""Heartbeat interval in seconds; short, so that a frozen broker is found while the audience watches."""

SILENCE: Final = 2 * HEARTBEAT + 1.0
"""Seconds of silence after which every client must have given up its link."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that ends by itself.

    Attributes:
        name: the name to show.
        happen: makes the fault; returns when it is over.
    """

    name: str
    happen: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Stage:
    """A broker with its faults.

    Attributes:
        name: the name to show.
        settings: how to reach the broker.
        faults: the faults that it can have.
        channel_count: counts the broker's open channels; None if the broker cannot be asked.
        unexpected_closes: counts the clients that left without a close handshake; None if the broker cannot be asked.
    """

    name: str
    settings: Settings
    faults: tuple[Fault, ...]
    channel_count: Callable[[], int] | None = None
    unexpected_closes: Callable[[], int] | None = None


@dataclass(slots=True)
class Schedule:
    """A random schedule of faults. Each round has all faults, in random order and at random distances.

    Attributes:
        happened: how often each fault has happened, by name.
        present: the name of the fault that is happening now.
    """

    faults: tuple[Fault, ...]
    random: Random
    happened: dict[str, int] = field(default_factory=dict[str, int])
    present: str | None = None

    async def play(self, seconds: float) -> None:
        """Make faults for ``seconds``."""
        until = anyio.current_time() + seconds
        round_: list[Fault] = []
        while True:
            await anyio.sleep(self.random.uniform(0.5, 1.2))
            if anyio.current_time() >= until:
                return
            if not round_:
                round_ = list(self.faults)
                self.random.shuffle(round_)
            fault = round_.pop()
            self.present = fault.name
            self.happened[fault.name] = self.happened.get(fault.name, 0) + 1
            await fault.happen()
            self.present = None


@asynccontextmanager
async def embedded() -> AsyncGenerator[Stage, None]:
    """The embedded broker, over loopback TCP."""
    async with Broker(heartbeat=HEARTBEAT) as broker:
        url = await broker.listen()

        async def reset() -> None:
            broker.reset_connections()

        async def freeze() -> None:
            broker.freeze()
            await anyio.sleep(SILENCE)
            broker.thaw()

        async def restart() -> None:
            broker.stop()
            await anyio.sleep(1.0)
            await broker.start()

        async def block() -> None:
            broker.block("low on memory")
            await anyio.sleep(1.5)
            broker.unblock()

        async def close() -> None:
            broker.close_connections(320, "CONNECTION_FORCED - closed by an operator")

        yield Stage(
            name=f"embedded broker on port {broker.port}",
            settings=_quick(Settings.from_urls(url)),
            faults=(
                Fault("reset all connections", reset),
                Fault("freeze", freeze),
                Fault("restart", restart),
                Fault("block publishers", block),
                Fault("close all connections", close),
                Fault("reset all connections", reset),
            ),
            channel_count=lambda: broker.channel_count,
            unexpected_closes=lambda: len(broker.unexpected_closes),
        )


@asynccontextmanager
async def running(settings: Settings) -> AsyncGenerator[Stage, None]:
    """A running RabbitMQ, behind a proxy that breaks the network.

    Args:
        settings: how to reach the broker.

    Raises:
        AnyamqpError: the broker cannot be reached, or refuses the login.
    """
    async with connect(settings, name="demo", ready_timeout=5.0):
        pass  # the broker is there and accepts the login, so every later fault is the demo's
    address = settings.addresses[0]
    with FaultProxy(address.host, address.port) as proxy:

        async def reset() -> None:
            proxy.reset()

        async def black_hole() -> None:
            proxy.black_hole()
            await anyio.sleep(SILENCE)
            proxy.heal()

        async def refuse() -> None:
            proxy.refuse()
            proxy.reset()
            await anyio.sleep(1.5)
            proxy.accept()

        async def strand() -> None:
            proxy.strand()
            await anyio.sleep(SILENCE)

        async def mute() -> None:
            proxy.mute()
            proxy.reset()
            await anyio.sleep(1.5)
            proxy.unmute()
            proxy.reset()

        yield Stage(
            name=f"RabbitMQ at {address}, behind a proxy (which cannot block publishers)",
            settings=_quick(replace(settings, addresses=(Address(proxy.host, proxy.port),))),
            faults=(
                Fault("reset all connections", reset),
                Fault("black hole", black_hole),
                Fault("refuse connections", refuse),
                Fault("strand connections", strand),
                Fault("no handshake", mute),
                Fault("reset all connections", reset),
            ),
        )


def _quick(settings: Settings) -> Settings:
    return replace(
        settings,
        heartbeat=HEARTBEAT,
        connect_timeout=2.0,
        request_timeout=None,
        reconnect=ReconnectPolicy(maximum=1.0),
    )
