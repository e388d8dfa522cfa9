"""Shared by all tests: the event loops, the number of examples of property tests, and a RabbitMQ node."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import groupby
from operator import itemgetter

import pytest
from hypothesis import settings

from support.rabbitmq import Node

pytest_plugins = ("anyio",)

settings.register_profile("default", max_examples=100, stateful_step_count=40, deadline=None)
settings.register_profile("nightly", settings.get_profile("default"), max_examples=20_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_configure() -> None:
    """Handle Ctrl-C even if a shell ignores it for a background job, because programs that tests start inherit that."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files in an order that uses all cores, and trace no more tests than the coverage needs.

    Files that wait for RabbitMQ are spread evenly among those that compute, for parallel workers. Tracing triples the
    time that a test computes. The coverage counts without RabbitMQ, and the embedded broker knows no event loop.
    """
    files = [list(tests) for _, tests in groupby(items, key=lambda item: item.path)]
    waiting = [tests for tests in files if tests[0].path.parent.name == "broker"]
    computing = [tests for tests in files if tests[0].path.parent.name != "broker"]
    places = [(at / len(kind), tests) for kind in (waiting, computing) for at, tests in enumerate(kind)]
    items[:] = [test for _, tests in sorted(places, key=itemgetter(0)) for test in tests]
    for test in items:
        folder = test.path.parent.name
        on_asyncio = folder in {"conformance", "simulation"} and "asyncio" in test.name
        if folder == "broker" or on_asyncio or (folder == "conformance" and "rabbitmq" in test.name):
            test.add_marker("no_cover")


def pytest_runtest_logstart(nodeid: str) -> None:
    """Name the thread after its test, because pytest-timeout shows only the names of threads above their stacks."""
    threading.main_thread().name = nodeid


@pytest.fixture(scope="module", params=["asyncio", "trio"], ids=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The event loop of a test marked ``anyio``. Each such test runs on both loops."""
    backend: str = request.param
    return backend


@pytest.fixture(scope="session")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A running node for all tests that do it no harm."""
    with closing(Node(tmp_path_factory.mktemp("shared-node"), name="shared")) as node:
        node.start()
        yield node
