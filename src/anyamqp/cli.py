"""The command ``anyamqp``: ``check`` a broker, ``watch`` a connection, print a ``diagram``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from importlib.util import find_spec

import anyio

from anyamqp.checks import check_seconds
from anyamqp.connecting import connect
from anyamqp.errors import AnyamqpError, RequestTimeout, SettingsError, printable
from anyamqp.mermaid import DIAGRAMS, mermaid
from anyamqp.protocol.lifecycle import State
from anyamqp.settings import VERSION, Settings, with_password_from

OK, FAILED, WRONG_USAGE = 0, 1, 2


async def check(settings: Settings, timeout: float) -> int:
    """Connect once, open a channel, and print the broker's name and the time that each took.

    Args:
        settings: the broker's addresses and the credentials.
        timeout: seconds for all of this together.

    Raises:
        SettingsError: ``timeout`` is not a positive number.
        AnyamqpError: the broker refuses, or does not answer in time.
    """
    check_seconds("--timeout", timeout, positive=True, error=SettingsError)
    began = anyio.current_time()
    async with connect(settings, name="anyamqp check", ready_timeout=timeout) as connection:
        ready = anyio.current_time()
        answered = None
        with anyio.CancelScope(deadline=began + timeout):
            async with connection.channel():
                answered = anyio.current_time()
        if answered is None:
            raise RequestTimeout(f"connected, but no channel opened within {timeout} s")
        broker, tuning = connection.server_properties, connection.tuning
        print(f"broker     {_shown(broker.get('product', 'unknown'))} {_shown(broker.get('version', ''))}".rstrip())
        print(f"address    {', '.join(map(str, settings.addresses))}, virtual host {settings.virtual_host!r}")
        if tuning is not None:
            limits = f"channel_max {tuning.channel_max}, frame_max {tuning.frame_max} bytes"
            print(f"agreed     heartbeat {tuning.heartbeat} s, {limits}")
        print(f"connected  in {(ready - began) * 1000:.1f} ms; a channel opened in {(answered - ready) * 1000:.1f} ms")
    return OK


async def watch(settings: Settings) -> int:
    """Keep a connection open, and print every transition until interrupted."""
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


def diagram(name: str) -> int:
    """Print the table of a machine as a Mermaid diagram."""
    print(mermaid(DIAGRAMS[name]), end="")
    return OK


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 fine, 1 no connection, 2 wrong usage or settings."""
    if (reconfigure := getattr(sys.stdout, "reconfigure", None)) is not None:
        reconfigure(errors="backslashreplace")  # the terminal may not be able to show a broker's text
    parsed = _parser().parse_args(arguments)
    try:
        code = _run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output has ended, such as "head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # because Python flushes it on exit
        return OK
    return code


def _run(parsed: argparse.Namespace) -> int:
    if parsed.command == "diagram":
        return diagram(parsed.name)
    if parsed.backend == "trio" and find_spec("trio") is None:
        print("anyamqp: --backend trio needs trio: pip install 'anyamqp[trio]'", file=sys.stderr)
        return WRONG_USAGE
    try:
        settings = _settings(parsed.url)
        work: Callable[[], Awaitable[int]] = (
            partial(check, settings, parsed.timeout) if parsed.command == "check" else partial(watch, settings)
        )
        return anyio.run(work, backend=parsed.backend)
    except SettingsError as error:
        print(f"anyamqp: {error}", file=sys.stderr)
        return WRONG_USAGE
    except AnyamqpError as error:
        print(f"anyamqp: {type(error).__name__}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return OK


def _settings(url: str | None) -> Settings:
    return with_password_from(os.environ, Settings.from_urls(url)) if url else Settings.from_environment()


_ENVIRONMENT = """
The process list shows a password in a URL on the command line. Without a URL, RABBITMQ_URL is read, or RABBITMQ_HOST,
RABBITMQ_PORT, RABBITMQ_USER, RABBITMQ_PASSWORD and RABBITMQ_VHOST. RABBITMQ_PASSWORD is the password of a URL that
names a user and no password, such as amqp://user@host.
"""


def _shown(value: object) -> str:
    """The text for a value from the broker, which may have any type."""
    return printable(value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="anyamqp", description=__doc__)
    parser.add_argument("--version", action="version", version=f"anyamqp {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True)
    connecting = argparse.ArgumentParser(add_help=False)
    connecting.add_argument("url", nargs="?", help="AMQP URL; without it the environment says where the broker is")
    connecting.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    checking = commands.add_parser(
        "check", parents=[connecting], help="connect once, and describe the broker", epilog=_ENVIRONMENT
    )
    checking.add_argument(
        "--timeout", type=float, default=10.0, help="seconds to wait for the broker, more than 0 (10)"
    )
    commands.add_parser(
        "watch", parents=[connecting], help="keep a connection and print its transitions", epilog=_ENVIRONMENT
    )
    drawing = commands.add_parser("diagram", help="print a state machine as a Mermaid diagram")
    drawing.add_argument("name", choices=tuple(DIAGRAMS))
    return parser


if __name__ == "__main__":
    sys.exit(main())
