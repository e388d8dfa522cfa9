"""The command ``anyamqp``: ``check`` a broker, ``watch`` a connection, print a ``diagram``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import anyio

from anyamqp.connection import connect
from anyamqp.diagrams import DIAGRAMS, mermaid, svg
from anyamqp.errors import AnyamqpError, SettingsError
from anyamqp.protocol.lifecycle import State
from anyamqp.settings import VERSION, Settings

OK, FAILED, WRONG_USAGE = 0, 1, 2


async def check(settings: Settings, timeout: float) -> int:
    """Connect once, open a channel, say what the broker is and how long it took."""
    began = anyio.current_time()
    async with connect(settings, name="anyamqp check", ready_timeout=timeout) as connection:
        ready = anyio.current_time()
        async with connection.channel():
            answered = anyio.current_time()
        broker, tuning = connection.server_properties, connection.tuning
        print(f"broker     {broker.get('product', 'unknown')} {broker.get('version', '')}".rstrip())
        print(f"address    {', '.join(map(str, settings.addresses))}, virtual host {settings.virtual_host!r}")
        if tuning is not None:
            limits = f"channel_max {tuning.channel_max}, frame_max {tuning.frame_max} bytes"
            print(f"agreed     heartbeat {tuning.heartbeat} s, {limits}")
        print(f"connected  in {(ready - began) * 1000:.1f} ms; a channel opened in {(answered - ready) * 1000:.1f} ms")
    return OK


async def watch(settings: Settings) -> int:
    """Keep a connection, and print every transition until interrupted."""
    async with connect(settings, name="anyamqp watch", ready_timeout=0, fail_fast=False) as connection:
        began = anyio.current_time()
        async for transition in connection.transitions():
            print(f"{transition.at - began:9.3f} s  {transition}", flush=True)
            if connection.state is State.OPEN and transition.machine == "connection":
                stats = connection.stats
                print(
                    f"             link {stats.link_number}, {stats.dials} dials, {stats.reconnects} reconnects",
                    flush=True,
                )
    return FAILED


def diagram(name: str, form: str) -> int:
    """Print the diagram of a machine, drawn from its table."""
    print(mermaid(name) if form == "mermaid" else svg(name), end="")
    return OK


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 fine, 1 no connection, 2 wrong usage or settings."""
    parsed = _parser().parse_args(arguments)
    if parsed.command == "diagram":
        return diagram(parsed.name, parsed.format)
    try:
        settings = Settings.from_urls(parsed.url) if parsed.url else Settings.from_environment()
    except SettingsError as error:
        print(f"anyamqp: {error}", file=sys.stderr)
        return WRONG_USAGE
    work: Callable[[], Awaitable[int]] = (
        partial(check, settings, parsed.timeout) if parsed.command == "check" else partial(watch, settings)
    )
    try:
        return anyio.run(work, backend=parsed.backend)
    except AnyamqpError as error:
        print(f"anyamqp: {type(error).__name__}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="anyamqp", description=__doc__)
    parser.add_argument("--version", action="version", version=f"anyamqp {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True)
    connecting = argparse.ArgumentParser(add_help=False)
    connecting.add_argument("url", nargs="?", help="AMQP URL; without it the RABBITMQ_* variables are read")
    connecting.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    checking = commands.add_parser("check", parents=[connecting], help="connect once and say what is there")
    checking.add_argument("--timeout", type=float, default=10.0, help="seconds to wait for the broker (10)")
    commands.add_parser("watch", parents=[connecting], help="keep a connection and print its transitions")
    drawing = commands.add_parser("diagram", help="print the diagram of a state machine")
    drawing.add_argument("name", choices=tuple(DIAGRAMS))
    drawing.add_argument("--format", choices=("mermaid", "svg"), default="mermaid")
    return parser


if __name__ == "__main__":
    sys.exit(main())
