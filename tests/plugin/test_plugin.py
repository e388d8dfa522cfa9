"""The plugin for pytest, in runs of pytest inside the test run."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from anyamqp.testing import Broker

pytest_plugins = ("pytester",)

LOOPS = 2
"""Each asynchronous test runs on asyncio and trio."""

HEAD = """
import anyio
import pytest
import anyamqp
from anyamqp import Message
from anyamqp.testing import Broker

async_test = pytest.mark.anyio
"""

Run: TypeAlias = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Runs pytest with the plugin on the source of a test module, with options."""

    def run(source: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(HEAD + source)
        plugins = ("-p", "no:cacheprovider", "-p", "no:anyamqp", "-p", "anyamqp.testing.plugin")
        return pytester.runpytest_inprocess(*plugins, "--strict-markers", *options)

    return run


PUBLISH_AND_LOOK = """
@async_test
async def test_it(amqp_broker, amqp_connection):
    async with amqp_connection.channel() as channel, amqp_connection.publisher() as publisher:
        await channel.declare_exchange("market", "topic")
        await channel.declare_queue("trades")
        await channel.bind_queue("trades", exchange="market", routing_key="trade.*")
        await publisher.publish(Message(b"1", type="trade"), exchange="market", routing_key="trade.btc")
        assert amqp_broker.queue("trades").messages == 1
        assert amqp_broker.queue("trades").consumers == 0
        assert amqp_broker.queue("trades").bodies() == [b"1"]
        assert repr(amqp_broker.queue("trades")).startswith("<queue 'trades': 1 messages ready, ")
        assert amqp_broker.published(exchange="market").one().properties.type == "trade"
        assert amqp_broker.published(routing_key="trade.eth").bodies == []
        view = amqp_broker.connection("test")
        assert (view.state, view.channels, view.virtual_host) == ("open", (1, 2), "/")
"""


def test_test_gets_a_broker_and_a_connection_on_each_loop(run: Run) -> None:
    run(PUBLISH_AND_LOOK).assert_outcomes(passed=LOOPS)


def test_same_test_runs_on_the_broker_of_the_option(run: Run, other_broker: Broker) -> None:
    run(PUBLISH_AND_LOOK, f"--amqp-url={other_broker.url}").assert_outcomes(passed=LOOPS)
    assert other_broker.published(exchange="market").bodies[-LOOPS:] == [b"1"] * LOOPS


DECLARES = """
@async_test
@pytest.mark.parametrize("n", [1, 2])
async def test_it(amqp_broker, amqp_connection, n):
    async with amqp_connection.channel() as channel:
        queue = await channel.declare_queue("orders", durable=(n == 1))
        named = await channel.declare_queue()
        await channel.declare_queue("own", exclusive=True)
        await channel.declare_exchange("market", "topic" if n == 1 else "fanout")
        assert queue.message_count == 0
        async with amqp_connection.publisher() as publisher:
            await publisher.publish(Message(b""), routing_key="orders")
    assert amqp_broker.published(routing_key="orders").bodies == [b""]
"""


def test_no_test_sees_the_entities_and_messages_of_another(run: Run) -> None:
    run(DECLARES).assert_outcomes(passed=2 * LOOPS)


def test_entities_are_deleted_from_the_broker_of_the_option(run: Run, other_broker: Broker) -> None:
    before = set(other_broker.model.exchanges)
    run(DECLARES, f"--amqp-url={other_broker.url}").assert_outcomes(passed=2 * LOOPS)
    assert dict(other_broker.queues) == {}
    assert set(other_broker.model.exchanges) == before


LOOKS_UP = """
import pika

@pytest.fixture(scope="module", autouse=True)
def kept():
    with pika.BlockingConnection(pika.URLParameters(URL)) as connection:
        channel = connection.channel()
        channel.queue_declare("kept")
        yield
        channel.queue_declare("kept", passive=True)
        channel.queue_delete("kept")

@async_test
async def test_it(amqp_broker, amqp_connection):
    async with amqp_connection.channel() as channel:
        await channel.declare_queue("kept", passive=True)
"""


def test_entities_that_are_only_looked_up_stay(run: Run, other_broker: Broker) -> None:
    url = other_broker.url
    run(f"URL = {url!r}\n{LOOKS_UP}", f"--amqp-url={url}").assert_outcomes(passed=LOOPS)


def test_service_connects_by_url(run: Run) -> None:
    result = run(
        """
@async_test
async def test_it(amqp_broker):
    async with anyamqp.connect(amqp_broker.url, name="service"):
        assert [one.name for one in amqp_broker.connections] == ["service"]
"""
    )
    result.assert_outcomes(passed=LOOPS)


BLOCKING = """
def test_it(amqp_broker_in_thread):
    import pika
    broker = amqp_broker_in_thread
    with pika.BlockingConnection(pika.URLParameters(broker.url)) as connection:
        channel = connection.channel()
        channel.queue_declare("orders")
        channel.confirm_delivery()
        channel.basic_publish("", "orders", b"1")
        assert broker.queue("orders").bodies() == [b"1"]
        assert broker.published(routing_key="orders").one().body == b"1"
"""


def test_synchronous_test_gets_a_broker_in_a_thread(run: Run) -> None:
    run(BLOCKING).assert_outcomes(passed=1)


def test_synchronous_test_runs_on_the_broker_of_the_option(run: Run, other_broker: Broker) -> None:
    run(BLOCKING, f"--amqp-url={other_broker.url}").assert_outcomes(passed=1)
    assert dict(other_broker.queues) == {}


@pytest.mark.parametrize("is_other", [False, True], ids=["embedded", "other"])
def test_failed_lookup_names_the_queue(run: Run, other_broker: Broker, *, is_other: bool) -> None:
    source = '@async_test\nasync def test_it(amqp_broker):\n    amqp_broker.queue("orders")\n'
    result = run(source, *([f"--amqp-url={other_broker.url}"] if is_other else []))
    result.assert_outcomes(failed=LOOPS)
    result.stdout.fnmatch_lines(["E*LookupError: *no queue 'orders' in *"])


def test_failed_assertion_shows_the_queue_and_what_was_published(run: Run) -> None:
    result = run(
        """
@async_test
async def test_queue(amqp_broker, amqp_connection):
    async with amqp_connection.channel() as channel:
        await channel.declare_queue("orders")
    assert amqp_broker.queue("orders").messages == 1

@async_test
async def test_published(amqp_broker, amqp_connection):
    async with amqp_connection.publisher(mandatory=False) as publisher:
        await publisher.publish(Message(b""), routing_key="order")
    assert amqp_broker.published(routing_key="orders")
"""
    )
    result.assert_outcomes(failed=2 * LOOPS)
    result.stdout.fnmatch_lines(
        [
            "E*0 = <queue 'orders': 0 messages ready, 0 unacked, 0 consumers>.messages",
            "E*<nothing published with routing key 'orders'; there is: 1 to the default exchange with 'order'>",
        ],
    )


def test_embedded_broker_follows_the_version_of_the_option(run: Run) -> None:
    source = "@async_test\nasync def test_it(amqp_broker):\n    assert amqp_broker.model.rules.version == '4.3'\n"
    run(source, "--amqp-version=4.3").assert_outcomes(passed=LOOPS)


NEEDS_EMBEDDED = """
@async_test
@pytest.mark.amqp_embedded
async def test_it(amqp_broker, amqp_connection):
    amqp_broker.reset_connections()
    await amqp_connection.wait_ready()
"""


def test_test_of_faults_runs_on_the_embedded_broker(run: Run) -> None:
    run(NEEDS_EMBEDDED).assert_outcomes(passed=LOOPS)


def test_test_of_faults_is_skipped_on_another_broker(run: Run, other_broker: Broker) -> None:
    result = run(NEEDS_EMBEDDED, f"--amqp-url={other_broker.url}", "-rs")
    result.assert_outcomes(skipped=LOOPS)
    result.stdout.fnmatch_lines(["*needs the embedded broker, and --amqp-url names another*"])


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("amqps://guest:guest@localhost/", "*--amqp-url: *cannot use TLS*"),
        ("http://localhost/", "*--amqp-url: *scheme*"),
    ],
)
def test_wrong_url_is_refused_before_the_run(run: Run, url: str, text: str) -> None:
    result = run("def test_it(): pass\n", f"--amqp-url={url}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([text])


def test_unreachable_broker_is_an_error_of_the_fixture(run: Run, other_broker: Broker) -> None:
    source = "@async_test\nasync def test_it(amqp_broker): pass\n"
    result = run(source, f"--amqp-url={other_broker.url}missing")
    result.assert_outcomes(errors=LOOPS)
    result.stdout.fnmatch_lines(["E*vhost missing not found*"])


def test_workers_of_xdist_need_a_virtual_host_each(run: Run, other_broker: Broker) -> None:
    result = run("def test_it(): pass\n", f"--amqp-url={other_broker.url}", "-n1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*several workers need a virtual host each, such as /tests-{worker}"])


def test_worker_of_xdist_uses_its_own_virtual_host(run: Run, pytester: pytest.Pytester, other_broker: Broker) -> None:
    pytester.makeconftest('def pytest_configure(config):\n    config.workerinput = {"workerid": "gw1"}\n')
    source = "@async_test\nasync def test_it(amqp_broker): pass\n"
    result = run(source, f"--amqp-url={other_broker.url}tests-{{worker}}")
    result.stdout.fnmatch_lines(["E*vhost tests-gw1 not found*"])


def test_plugin_is_an_entry_point_of_the_distribution() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"anyamqp": "anyamqp.testing.plugin"}
