"""A plugin for pytest: a broker for each test, embedded or, with ``--amqp-url``, a RabbitMQ.

Installed with anyamqp; ``docs/testing.md`` is its guide. The fixtures run on the event loop of anyio's own plugin, so a
test is marked ``anyio``, and runs on asyncio or trio.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio.from_thread
import pytest

import anyamqp
from anyamqp.testing.broker import Broker
from anyamqp.testing.embedded.versions import RULES, Version
from anyamqp.testing.remote import RemoteBroker
from anyamqp.testing.views import AnyBroker

_EMBEDDED = "amqp_embedded"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("anyamqp", "AMQP broker")
    group.addoption(
        "--amqp-url",
        metavar="URL",
        help="run the tests on the RabbitMQ at this URL. Its virtual host must be the tests' own: the queues and "
        "exchanges that a test declares are deleted after it. {worker} stands for the worker of pytest-xdist.",
    )
    group.addoption(
        "--amqp-version",
        choices=tuple(RULES),
        default="3.10",
        help="the version of RabbitMQ that the embedded broker follows where they differ (default: 3.10)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Check the URL, and register the marker."""
    config.addinivalue_line(
        "markers",
        f"{_EMBEDDED}: the test needs the embedded broker, for its faults or its clock; skipped with --amqp-url.",
    )
    url = config.getoption("--amqp-url")
    if url is None:
        return
    if config.getoption("tx", default=None) and "{worker}" not in url:
        raise pytest.UsageError("--amqp-url: several workers need a virtual host each, such as /tests-{worker}")
    try:
        RemoteBroker(_url(config))
    except anyamqp.SettingsError as error:
        raise pytest.UsageError(f"--amqp-url: {error}") from error


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests that need the embedded broker."""
    if config.getoption("--amqp-url") is not None:
        skip = pytest.mark.skip(reason="needs the embedded broker, and --amqp-url names another")
        for item in items:
            if item.get_closest_marker(_EMBEDDED) is not None:
                item.add_marker(skip)


@pytest.fixture
async def amqp_broker(pytestconfig: pytest.Config) -> AsyncGenerator[AnyBroker, None]:
    """A broker of the test's own, which listens at ``amqp_broker.url``: a :class:`~anyamqp.testing.Broker`, or the
    RabbitMQ of ``--amqp-url``."""
    async with _broker(pytestconfig) as broker:
        yield broker


@pytest.fixture
async def amqp_connection(amqp_broker: AnyBroker) -> AsyncGenerator[anyamqp.Connection, None]:
    """A connection to ``amqp_broker`` with the name ``"test"``; in memory if that is the embedded one."""
    async with anyamqp.connect(amqp_broker.url, dial=amqp_broker.dial, name="test") as connection:
        yield connection


@pytest.fixture
def amqp_broker_in_thread(pytestconfig: pytest.Config) -> Generator[AnyBroker, None, None]:
    """A broker as ``amqp_broker``, for a test that is not asynchronous: it runs in a thread of its own."""
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(_broker(pytestconfig)) as broker,
    ):
        yield broker


def _broker(config: pytest.Config) -> AbstractAsyncContextManager[AnyBroker]:
    if config.getoption("--amqp-url") is not None:
        return RemoteBroker(_url(config))
    wanted = config.getoption("--amqp-version")
    return _listening(next(version for version in RULES if version == wanted))


@asynccontextmanager
async def _listening(version: Version) -> AsyncGenerator[Broker, None]:
    async with Broker(version=version) as broker:
        await broker.listen()
        yield broker


def _url(config: pytest.Config) -> str:
    url = str(config.getoption("--amqp-url"))
    worker: dict[str, str] = getattr(config, "workerinput", {})
    return url.replace("{worker}", worker.get("workerid", "master"))
