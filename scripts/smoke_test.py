"""Uses installed wheels as a user would: anyamqp on both event loops, every module of it, and both commands.

Run by ``scripts/check-distributions`` with warnings as errors.
"""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import anyio

import anyamqp
import anyamqp.testing
import feature_service

BACKENDS = ("asyncio", "trio")
NOT_INSTALLED = ("msgspec", "opentelemetry", "prometheus_client", "pydantic", "pytest")
"""The libraries of the extras, none of which is in this environment."""


async def publish_and_consume() -> bytes:
    """The body of a message that went through an embedded broker, by way of a lost link."""
    async with anyamqp.testing.Broker() as broker:
        await broker.listen()
        async with anyamqp.connect(broker.url) as connection:
            async with connection.channel() as channel:
                await channel.declare_queue("orders")
            broker.faults.reset()
            async with connection.publisher() as publisher:
                await publisher.publish(anyamqp.Message(b"tea"), routing_key="orders")
            async with connection.consumer("orders") as consumer:
                async for delivery in consumer:
                    async with delivery:
                        return delivery.body
    raise AssertionError("the consumer ended without a delivery")


def import_everything() -> list[str]:
    """Import each module of both packages; those that need the library of an extra say so by name."""
    names: list[str] = []
    for package in (anyamqp, feature_service):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.endswith("__main__"):
                continue
            try:
                import_module(module.name)
            except ModuleNotFoundError as error:
                if error.name is None or error.name.partition(".")[0] not in (*NOT_INSTALLED, "hypercorn", "rich"):
                    raise
            names.append(module.name)
    return names


def main() -> None:
    """Raises whatever does not work."""
    installed = [name for name in NOT_INSTALLED if find_spec(name) is not None]
    if installed:
        raise RuntimeError(f"this environment is not clean: it has {', '.join(installed)}")
    for backend in BACKENDS:
        if anyio.run(publish_and_consume, backend=backend) != b"tea":
            raise RuntimeError(f"another body arrived on {backend}")
    modules = import_everything()
    programs = Path(sys.executable).parent
    for command in ("anyamqp", "feature-service"):
        subprocess.run([programs / command, "--help"], check=True, capture_output=True)  # noqa: S603 - ours
    sys.stdout.write(f"anyamqp {anyamqp.__version__}: {len(modules)} modules, {', '.join(BACKENDS)}: works\n")


if __name__ == "__main__":
    main()
