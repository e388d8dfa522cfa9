"""Where it was measured, and with which versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks.wire import Wire

_DISTRIBUTIONS: Final = ("anyamqp", "anyio", "trio", "uvloop", "pamqp", "aio-pika", "aiormq", "pika", "amqp")


def machine(url: str) -> dict[str, str]:
    """What the figures depend on, in the order in which it is told."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    facts = {
        "processor": f"{_processor()}, {os.cpu_count()} cores, shared by the broker and the client",
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "broker": _broker(url),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    return facts | {name: version(name) for name in _DISTRIBUTIONS}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _broker(url: str) -> str:
    with Wire(url) as wire:
        said = {name: _text(wire.server.get(name, "")) for name in ("product", "version", "platform")}
    return f"{said['product']} {said['version']} on {said['platform']}"


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
