"""The floors of the house: a file imports only what stands below it, and ``protocol/`` stays pure.

The sources are read, not run, so that an import counts wherever it stands: in a function, or under ``TYPE_CHECKING``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "src"

FLOORS = (
    "anyamqp.errors",
    "anyamqp.checks",
    "anyamqp.misuse",
    "anyamqp.message",
    "anyamqp.delivery",
    "anyamqp.codecs",
    "anyamqp.options",
    "anyamqp.wire.methods",
    "anyamqp.entities",
    "anyamqp.wire.fields",
    "anyamqp.wire.basic",
    "anyamqp.wire.receiving",
    "anyamqp.wire.frames",
    "anyamqp.wire.decoder",
    "anyamqp.protocol.sasl",
    "anyamqp.endpoint",
    "anyamqp.urls",
    "anyamqp.settings",
    "anyamqp.protocol.lifecycle.table",
    "anyamqp.protocol.lifecycle.states",
    "anyamqp.protocol.lifecycle.link",
    "anyamqp.protocol.lifecycle.connection",
    "anyamqp.protocol.lifecycle.channel",
    "anyamqp.protocol.lifecycle",
    "anyamqp.protocol.coupling",
    "anyamqp.protocol.lifecycle.consumer",
    "anyamqp.protocol.heartbeat",
    "anyamqp.protocol.confirms",
    "anyamqp.protocol.waking",
    "anyamqp.protocol.requests",
    "anyamqp.protocol.events",
    "anyamqp.protocol.output",
    "anyamqp.protocol.acks",
    "anyamqp.protocol.closes",
    "anyamqp.protocol.channel_numbers",
    "anyamqp.protocol.assembly",
    "anyamqp.protocol.channels",
    "anyamqp.protocol.handshake",
    "anyamqp.protocol.channel_zero",
    "anyamqp.protocol.session",
    "anyamqp.protocol.contents",
    "anyamqp.protocol.addresses",
    "anyamqp.protocol.reconnect",
    "anyamqp.protocol.logins",
    "anyamqp.protocol.leaving",
    "anyamqp.protocol.topology",
    "anyamqp.protocol.ports",
    "anyamqp.protocol.dispatch",
    "anyamqp.protocol.pauses",
    "anyamqp.protocol.lifecycle.entity",
    "anyamqp.protocol.entity_lives",
    "anyamqp.protocol.lanes",
    "anyamqp.protocol.declaring",
    "anyamqp.protocol.reopening",
    "anyamqp.protocol.blame",
    "anyamqp.protocol.getting",
    "anyamqp.protocol.channel",
    "anyamqp.protocol.connection",
    "anyamqp.protocol.lifecycle.recovery",
    "anyamqp.protocol.recovering",
    "anyamqp.protocol.lifecycle.publisher",
    "anyamqp.protocol.lifecycle.publish",
    "anyamqp.protocol.lifecycle.caller",
    "anyamqp.protocol.lifecycle.transaction",
    "anyamqp.protocol.transactions",
    "anyamqp.protocol.lifecycle.pool",
    "anyamqp.protocol.lending",
    "anyamqp.protocol.schedule",
    "anyamqp.protocol.window",
    "anyamqp.protocol.pending",
    "anyamqp.protocol.returns",
    "anyamqp.protocol.publishing",
    "anyamqp.protocol.holdups",
    "anyamqp.protocol.places",
    "anyamqp.protocol.outbox",
    "anyamqp.protocol.calls",
    "anyamqp.protocol.settlements",
    "anyamqp.protocol.failures",
    "anyamqp.protocol.stream_position",
    "anyamqp.protocol.subscribing",
    "anyamqp.protocol.channel_ends",
    "anyamqp.protocol.subscription",
    "anyamqp.net.event_loop",
    "anyamqp.net.timers",
    "anyamqp.net.tcp",
    "anyamqp.net.tls",
    "anyamqp.net.dialer",
    "anyamqp.net.link",
    "anyamqp.core.waiting",
    "anyamqp.core.stats",
    "anyamqp.core.transition_stream",
    "anyamqp.core.limited_log",
    "anyamqp.hooks",
    "anyamqp.core.journal",
    "anyamqp.core.hooking",
    "anyamqp.core.link_channel",
    "anyamqp.core.credentials",
    "anyamqp.core.link_maker",
    "anyamqp.core.host",
    "anyamqp.core.channel",
    "anyamqp.core.receiver",
    "anyamqp.core.declaring",
    "anyamqp.core.recovery",
    "anyamqp.core.recovery_hooks",
    "anyamqp.core.supervisor",
    "anyamqp.core.publishing",
    "anyamqp.queue",
    "anyamqp.declarations",
    "anyamqp.channel_shell",
    "anyamqp.transaction",
    "anyamqp.channel",
    "anyamqp.pool",
    "anyamqp.on_error",
    "anyamqp.handlers",
    "anyamqp.consumer",
    "anyamqp.publication",
    "anyamqp.publisher",
    "anyamqp.rpc",
    "anyamqp.typed",
    "anyamqp.scope",
    "anyamqp.connection",
    "anyamqp.connecting",
    "anyamqp.mermaid",
    "anyamqp.cli",
    "anyamqp",
)
"""From the lowest to the highest."""

PROTOCOL = tuple(name for name in FLOORS if name.startswith(("anyamqp.protocol.", "anyamqp.wire.")))
BELOW_LINK = FLOORS[: FLOORS.index("anyamqp.net.link") + 1]
PACKAGES = ("anyamqp.wire", "anyamqp.protocol", "anyamqp.net", "anyamqp.core")
DOOR_TO_PAMQP = "anyamqp.wire.methods"
TESTING = "anyamqp.testing"
PLUGIN = "anyamqp.testing.plugin"
"""pytest's plugin uses the public names, as a user's test does; nothing imports it."""
LONG_BECAUSE = "The file is long because"

IMPURE = {
    "anyio",
    "asyncio",
    "concurrent",
    "logging",
    "multiprocessing",
    "sched",
    "select",
    "selectors",
    "signal",
    "sniffio",
    "socket",
    "socketserver",
    "ssl",
    "subprocess",
    "threading",
    "time",
    "trio",
}
"""What ``protocol/`` must not know: loops, sockets, threads, clocks, logs."""

CLOCKS = {"now", "utcnow", "today"}
AWAITS = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCES).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(SOURCES.rglob("*.py"))}
MODULES = frozenset(FILES) | set(FLOORS)


def imports(module: str, tree: ast.Module, *, is_package: bool = False) -> Iterator[str]:
    """The full names of what is imported: of a module where the name is one, else of the thing in its module."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def module_in(name: str) -> str:
    """The module that an imported name lies in, or is."""
    return name if name in MODULES or "." not in name else module_in(name.rpartition(".")[0])


def allowed(module: str) -> frozenset[str] | None:
    """The project's modules that a module may import; None if it stands on no floor."""
    if module in FLOORS:
        below = frozenset(FLOORS[: FLOORS.index(module)])
        return family("anyamqp") if module == "anyamqp" else below
    if module in PACKAGES:
        return frozenset()
    if in_package(module, "anyamqp.extras"):
        return frozenset(FLOORS[: FLOORS.index("anyamqp.cli")]) | family("anyamqp.extras")
    if module == PLUGIN:
        return frozenset({"anyamqp"}) | family(TESTING)
    if in_package(module, TESTING):
        return frozenset(BELOW_LINK) | family(TESTING) - {PLUGIN}
    if in_package(module, "feature_service"):
        return frozenset({"anyamqp", TESTING}) | family("feature_service")
    return None


def in_package(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def family(package: str) -> frozenset[str]:
    return frozenset(module for module in MODULES if in_package(module, package))


def faults(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """All that a module does against the order of the house."""
    below = allowed(module)
    if below is None:
        return [f"{module} has no floor; give it one in this test and in the design"]
    tree = ast.parse(source)
    found: list[str] = []
    for name in imports(module, tree, is_package=is_package):
        target = module_in(name)
        if target.split(".")[0] in ("anyamqp", "feature_service"):
            if target != module and target not in below:
                found.append(f"imports {name}, which is not below it")
        elif name.split(".")[0] == "pamqp" and module != DOOR_TO_PAMQP:
            found.append(f"imports {name}, but {DOOR_TO_PAMQP} is the one door to pamqp")
        elif module in PROTOCOL and target in IMPURE:
            found.append(f"imports {name}, but protocol/ is pure")
    if module in PROTOCOL:
        found += impurities(tree)
    if in_package(module, "feature_service"):
        found += detours(tree)
    return found


def impurities(tree: ast.Module) -> Iterator[str]:
    """Where a module waits or reads a clock."""
    for node in ast.walk(tree):
        if isinstance(node, AWAITS):
            yield f"waits in line {node.lineno}, but protocol/ is pure"
        if isinstance(node, ast.Attribute) and node.attr in CLOCKS:
            owner = ast.unparse(node.value).rpartition(".")[2]
            if owner in ("date", "datetime"):
                yield f"reads a clock in line {node.lineno}, but protocol/ is pure"


def detours(tree: ast.Module) -> Iterator[str]:
    """Where a module reaches through ``import anyamqp`` for more than the public names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "anyamqp":
            name = f"anyamqp.{node.attr}"
            if node.attr.startswith("_") or (name in MODULES and name != TESTING):
                yield f"uses {name}, which is not public"
        if isinstance(node, ast.ImportFrom) and node.module in ("anyamqp", TESTING):
            yield from (
                f"imports {node.module}.{alias.name}, which is not public"
                for alias in node.names
                if alias.name.startswith("_")
            )


@pytest.mark.parametrize("module", FILES)
def test_module_keeps_to_its_floor(module: str) -> None:
    path = FILES[module]
    assert faults(module, path.read_text(encoding="utf-8"), is_package=path.name == "__init__.py") == []


def test_walk_finds_the_house() -> None:
    assert {"anyamqp", "anyamqp.errors", "anyamqp.protocol.session", "feature_service"} <= set(FILES)


def test_there_are_no_circles() -> None:
    graph: dict[str, set[str]] = {}
    for module, path in FILES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = imports(module, tree, is_package=path.name == "__init__.py")
        graph[module] = {module_in(name) for name in names} - {module}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        pytest.param(
            "anyamqp.channel",
            "from anyamqp.connection import Connection",
            "imports anyamqp.connection.Connection, which is not below it",
            id="from-above",
        ),
        pytest.param(
            "anyamqp.channel",
            "import anyamqp.publisher",
            "imports anyamqp.publisher, which is not below it",
            id="module-above",
        ),
        pytest.param(
            "anyamqp.channel",
            "from anyamqp import pool",
            "imports anyamqp.pool, which is not below it",
            id="module-above-by-name",
        ),
        pytest.param(
            "anyamqp.channel",
            "from .connection import Connection",
            "imports anyamqp.connection.Connection, which is not below it",
            id="relative",
        ),
        pytest.param(
            "anyamqp.wire.frames",
            "from ..net.link import Link",
            "imports anyamqp.net.link.Link, which is not below it",
            id="relative-two-up",
        ),
        pytest.param(
            "anyamqp.net.link",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from anyamqp.channel import Channel",
            "imports anyamqp.channel.Channel, which is not below it",
            id="type-checking",
        ),
        pytest.param(
            "anyamqp.net.link",
            "def dial():\n    from anyamqp.channel import Channel",
            "imports anyamqp.channel.Channel, which is not below it",
            id="in-a-function",
        ),
        pytest.param(
            "anyamqp.pool",
            "from anyamqp import connect",
            "imports anyamqp.connect, which is not below it",
            id="public-name-from-below",
        ),
        pytest.param(
            "anyamqp.connection",
            "from anyamqp.testing.proxy import FaultProxy",
            "imports anyamqp.testing.proxy.FaultProxy, which is not below it",
            id="testing-from-a-floor",
        ),
        pytest.param(
            "anyamqp.connection",
            "from anyamqp.extras import prometheus",
            "imports anyamqp.extras.prometheus, which is not below it",
            id="extras-from-a-floor",
        ),
        pytest.param(
            "anyamqp.testing.broker",
            "from anyamqp.channel import Channel",
            "imports anyamqp.channel.Channel, which is not below it",
            id="testing-above-link",
        ),
        pytest.param(
            "anyamqp.testing.broker",
            "import anyamqp",
            "imports anyamqp, which is not below it",
            id="testing-public-names",
        ),
        pytest.param(
            "anyamqp.testing.broker",
            "import anyamqp.testing.plugin",
            "imports anyamqp.testing.plugin, which is not below it",
            id="testing-plugin",
        ),
        pytest.param(
            "anyamqp.extras.prometheus",
            "from anyamqp.cli import main",
            "imports anyamqp.cli.main, which is not below it",
            id="extras-cli",
        ),
        pytest.param(
            "anyamqp.cli",
            "from feature_service.book import Book",
            "imports feature_service.book.Book, which is not below it",
            id="service-from-cli",
        ),
        pytest.param(
            "anyamqp",
            "import feature_service",
            "imports feature_service, which is not below it",
            id="service-from-the-top",
        ),
        pytest.param(
            "feature_service.feed",
            "from anyamqp.connection import Connection",
            "imports anyamqp.connection.Connection, which is not below it",
            id="service-goes-inside",
        ),
        pytest.param(
            "feature_service.feed",
            "from anyamqp import connection",
            "imports anyamqp.connection, which is not below it",
            id="service-takes-a-module",
        ),
        pytest.param(
            "feature_service.feed",
            "from anyamqp import _secret",
            "imports anyamqp._secret, which is not public",
            id="service-private-name",
        ),
        pytest.param(
            "feature_service.feed",
            "import anyamqp\nanyamqp.protocol.wire.Frame",
            "uses anyamqp.protocol, which is not public",
            id="service-reaches-through",
        ),
        pytest.param(
            "anyamqp.wire.frames",
            "from pamqp import commands",
            "imports pamqp.commands, but anyamqp.wire.methods is the one door to pamqp",
            id="second-door-to-pamqp",
        ),
        pytest.param(
            "anyamqp.testing.embedded.peer",
            "import pamqp.base",
            "imports pamqp.base, but anyamqp.wire.methods is the one door to pamqp",
            id="second-door-to-pamqp-from-testing",
        ),
        pytest.param(
            "anyamqp.protocol.session",
            "import anyio.abc",
            "imports anyio.abc, but protocol/ is pure",
            id="protocol-anyio",
        ),
        pytest.param(
            "anyamqp.protocol.session",
            "from time import monotonic",
            "imports time.monotonic, but protocol/ is pure",
            id="protocol-time",
        ),
        pytest.param(
            "anyamqp.protocol.session",
            "import logging",
            "imports logging, but protocol/ is pure",
            id="protocol-logging",
        ),
        pytest.param(
            "anyamqp.protocol.session",
            "from datetime import datetime\ndatetime.now()",
            "reads a clock in line 2, but protocol/ is pure",
            id="protocol-datetime-now",
        ),
        pytest.param(
            "anyamqp.protocol.session",
            "import datetime\ndatetime.date.today()",
            "reads a clock in line 2, but protocol/ is pure",
            id="protocol-date-today",
        ),
        pytest.param(
            "anyamqp.protocol.session",
            "async def read(): ...",
            "waits in line 1, but protocol/ is pure",
            id="protocol-async",
        ),
        pytest.param(
            "anyamqp.attic",
            "",
            "anyamqp.attic has no floor; give it one in this test and in the design",
            id="room-without-a-floor",
        ),
        pytest.param(
            "anyamqp.protocol.attic",
            "",
            "anyamqp.protocol.attic has no floor; give it one in this test and in the design",
            id="protocol-room-without-a-floor",
        ),
        pytest.param(
            "lodger",
            "",
            "lodger has no floor; give it one in this test and in the design",
            id="package-without-a-floor",
        ),
    ],
)
def test_fault_is_found(module: str, source: str, fault: str) -> None:
    assert faults(module, source) == [fault]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        pytest.param("anyamqp.channel", "from anyamqp.net.link import Link\nfrom .errors import NotFound", id="below"),
        pytest.param("anyamqp.wire.methods", "from pamqp import base, commands", id="the-door-to-pamqp"),
        pytest.param("anyamqp.wire.frames", "from datetime import datetime\ndatetime.fromtimestamp(0)", id="no-clock"),
        pytest.param("anyamqp.protocol.heartbeat", "def poll(now): return now", id="time-as-an-argument"),
        pytest.param("anyamqp.net.link", "import ssl, time, logging, anyio", id="impure-above-protocol"),
        pytest.param("anyamqp.testing.broker", "from anyamqp.net.link import Link", id="testing-up-to-link"),
        pytest.param(PLUGIN, "import anyamqp\nfrom anyamqp.testing.broker import Broker", id="plugin-public-names"),
        pytest.param("anyamqp.extras.prometheus", "from anyamqp.connection import Connection", id="extras-above"),
        pytest.param("feature_service.feed", "import anyamqp\nanyamqp.connect('amqp://')", id="service-public-name"),
        pytest.param("feature_service.feed", "from anyamqp.testing import Broker", id="service-testing"),
        pytest.param("feature_service.feed", "from feature_service.book import Book", id="service-itself"),
    ],
)
def test_what_is_in_order_is_no_fault(module: str, source: str) -> None:
    assert faults(module, source) == []


def test_relative_import_in_a_package_starts_at_the_package() -> None:
    source = "from .connection import Connection"
    assert faults("anyamqp.testing", source, is_package=True) == []
    assert faults("anyamqp", source, is_package=True) == []
    assert faults("anyamqp.protocol", "from .session import Session", is_package=True) != []


def sources() -> list[Path]:
    return sorted((SOURCES / "anyamqp").rglob("*.py"))


def too_long(source: str) -> list[str]:
    """The classes of a file that have over 300 lines; the file itself if it has over 400, and gives no reason."""
    tree = ast.parse(source)
    found = [one.name for one in ast.walk(tree) if isinstance(one, ast.ClassDef) and length_of(one) > 300]
    if len(source.splitlines()) > 400 and LONG_BECAUSE not in (ast.get_docstring(tree) or ""):
        found.append("the file")
    return found


def length_of(definition: ast.ClassDef) -> int:
    return (definition.end_lineno or 0) - definition.lineno + 1


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(SOURCES).as_posix())
def test_files_and_classes_are_short(path: Path) -> None:
    assert too_long(path.read_text(encoding="utf-8")) == []


def test_long_files_and_classes_are_found() -> None:
    body = "    x = 1\n"
    assert too_long("class Short:\n" + body * 299) == []
    assert too_long("class Long:\n" + body * 300) == ["Long"]
    assert too_long("x = 1\n" * 401) == ["the file"]
    assert too_long(f'"""A list. {LONG_BECAUSE} it is one."""\n' + "x = 1\n" * 401) == []
