"""What ``import anyamqp`` drags in, and how long it takes: nothing that the user did not ask for."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import pytest

LONGEST = 5.0
"""Seconds, on any machine and under any load: only an import that does work of its own takes so long. What it takes
is measured by ``python -m benchmarks.startup``."""

UNWANTED = (
    "asyncio",
    "ssl",
    "uuid",
    "anyamqp.net.tls",
    "trio",
    "uvloop",
    "concurrent.futures",
    "multiprocessing",
    "subprocess",
    "http",
    "json",
    "unittest",
    "argparse",
    "importlib.metadata",
    "rich",
    "hypercorn",
    "opentelemetry",
    "prometheus_client",
    "aio_pika",
    "aiormq",
    "pika",
    "matplotlib",
    "pytest",
    "transitions.extensions",
    "graphviz",
    "anyamqp.cli",
    "anyamqp.mermaid",
    "anyamqp.extras",
    "anyamqp.testing",
    "feature_service",
)
"""An event loop is anyio's to import when it runs, and OpenSSL is loaded with the first TLS. The others belong to
extras, tests and tools."""

SCRIPT = """
import sys, time
already = set(sys.modules)
began = time.perf_counter()
import anyamqp
print(time.perf_counter() - began, *sorted(set(sys.modules) - already))
"""


@cache
def imported() -> tuple[float, frozenset[str]]:
    """Seconds that the import took in a fresh process, and the modules that it brought."""
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)  # noqa: S603 - our own interpreter
    seconds, *modules = run.stdout.split()
    return float(seconds), frozenset(modules)


@pytest.mark.parametrize("module", UNWANTED)
def test_import_does_not_bring(module: str) -> None:
    assert [name for name in imported()[1] if name == module or name.startswith(f"{module}.")] == []


def test_import_brings_no_distribution_but_those_it_depends_on() -> None:
    """anyio brings idna, sniffio and typing_extensions where the Python is old enough, transitions brings six."""
    wanted = {"anyamqp", "anyio", "pamqp", "transitions", "idna", "sniffio", "six", "typing_extensions"}
    roots = {name.partition(".")[0] for name in imported()[1]}
    assert roots - sys.stdlib_module_names <= wanted


def test_import_is_done_within_a_wide_bound() -> None:
    assert imported()[0] < LONGEST
