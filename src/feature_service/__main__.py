"""The command ``feature-service``: ``run`` the service, or ``demo`` how it survives faults."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec

import anyio

from anyamqp import AnyamqpError, Settings, SettingsError
from feature_service.health import serve
from feature_service.service import FeatureService
from feature_service.settings import BACKENDS, ServiceSettings

WRONG_SETTINGS = 2


async def run(settings: ServiceSettings) -> int:
    """Run the service until SIGTERM or SIGINT. Returns the exit code."""
    service = FeatureService(settings)
    finished = anyio.Event()

    async def stop_on_signal() -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                logging.getLogger("feature_service").info("%s: stopping", signal.Signals(number).name)
                service.stop()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop_on_signal)
        async with anyio.create_task_group() as working:
            if settings.health_port:
                working.start_soon(serve, service, finished)
            await service.run()
            finished.set()
        tasks.cancel_scope.cancel()
    return 0 if not len(service.outbox) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 0 if all went well, 1 if vectors were lost, 2 for wrong usage or settings."""
    parsed = _parser().parse_args(arguments)
    if parsed.command == "demo":
        if _lacks("rich", "demo", "the demo") or (
            parsed.backend == "trio" and _lacks("trio", "trio", "--backend trio")
        ):
            return WRONG_SETTINGS
        from feature_service.demo import demo
        from feature_service.demo_cast import DemoOptions

        try:
            options = DemoOptions(
                broker=_broker_of_demo(parsed.url),
                seed=parsed.seed,
                duration=parsed.duration,
                live=not parsed.plain,
                backend=parsed.backend,
            )
            return anyio.run(partial(demo, options), backend=parsed.backend)
        except SettingsError as error:
            print(f"feature-service: {error}", file=sys.stderr)  # noqa: T201 - for the user
            return WRONG_SETTINGS
        except AnyamqpError as error:
            print(f"feature-service: {type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201 - for the user
            return 1
    try:
        settings = ServiceSettings.from_environment()
    except SettingsError as error:
        print(f"feature-service: {error}", file=sys.stderr)  # noqa: T201 - for the user
        return WRONG_SETTINGS
    if (settings.health_port and _lacks("hypercorn", "health", "the health endpoint (HEALTH_PORT=0 for none)")) or (
        settings.backend == "trio" and _lacks("trio", "trio", "FEATURE_BACKEND=trio")
    ):
        return WRONG_SETTINGS
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("transitions").setLevel(logging.WARNING)
    code = WRONG_SETTINGS
    try:
        code = anyio.run(run, settings, backend=settings.backend)
    except* SettingsError as group:
        for wrong in _leaves(group):
            print(f"feature-service: {wrong}", file=sys.stderr)  # noqa: T201 - for the user
    return code


def _broker_of_demo(url: str | None) -> Settings | None:
    """The broker of ``--url``, or of the environment if the option has no value; None without the option."""
    if url is None:
        return None
    return Settings.from_urls(url) if url else Settings.from_environment()


def _lacks(package: str, extra: str, user: str) -> bool:
    """Whether a package is missing; if so, print which option needs it."""
    is_missing = find_spec(package) is None
    if is_missing:
        print(  # noqa: T201 - for the user
            f"feature-service: {user} needs {package}: pip install 'feature-service[{extra}]'", file=sys.stderr
        )
    return is_missing


def _leaves(group: BaseExceptionGroup[SettingsError]) -> list[SettingsError]:
    found: list[SettingsError] = []
    for inner in group.exceptions:
        found += _leaves(inner) if isinstance(inner, BaseExceptionGroup) else [inner]
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="feature-service", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="run the service; settings come from the environment")
    showing = commands.add_parser("demo", help="show the service while its broker is cut, frozen and restarted")
    showing.add_argument(
        "--url",
        nargs="?",
        const="",
        help="a running RabbitMQ instead of the embedded broker; a proxy makes the faults. The process list shows a "
        "password in this URL. Without a URL, RABBITMQ_URL is read, or RABBITMQ_HOST, RABBITMQ_PORT, RABBITMQ_USER, "
        "RABBITMQ_PASSWORD and RABBITMQ_VHOST",
    )
    showing.add_argument("--seed", type=int, help="repeat a run: the same faults, the same market")
    showing.add_argument("--backend", choices=BACKENDS, default="asyncio", help="the event loop (asyncio)")
    showing.add_argument("--duration", type=float, default=20.0, help="seconds of faults (20)")
    showing.add_argument("--plain", action="store_true", help="plain lines, also in a terminal")
    return parser


if __name__ == "__main__":
    sys.exit(main())
