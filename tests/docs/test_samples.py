"""The Python samples of the README and of the guide run as they stand, on an embedded broker.

A sample is a module, or the inside of an async function with a connection: what it uses without making it is in
:func:`names`. Brokers that samples name by URL are the embedded one. Endless loops end when nothing more comes.
"""

from __future__ import annotations

import ast
import re
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio
import pytest
from opentelemetry import trace
from prometheus_client import REGISTRY

import anyamqp
from anyamqp import Connection, Delivery, Message
from anyamqp.testing import Broker

ROOT: Final = Path(__file__).parents[2]
FOLDERS: Final = ("guide", "how-to", "coming-from")
PAGES: Final = (
    "README.md",
    "docs/index.md",
    "docs/observability.md",
    *sorted(str(path.relative_to(ROOT)) for folder in FOLDERS for path in (ROOT / "docs" / folder).glob("*.md")),
)
FENCED: Final = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN: Final = {
    ("README.md", "amqp_broker"): "a test for pytest: examples/testing has the same",
    ("docs/guide/connect.md", "amqps://user"): "names files that only its reader has",
    ("docs/guide/connect.md", "fetch_credentials"): "asks an identity provider",
}
"""The samples that are not run, by the page and a piece of each, with the reason. They are compiled."""
QUEUES: Final = ("orders", "events", "square", "done")
PATIENCE: Final = 0.2
"""Seconds after which an endless sample has shown what it shows."""


class Sample(NamedTuple):
    """A fenced block.

    Attributes:
        page: the page that holds it.
        line: the line of its beginning.
        source: its text.
    """

    page: str
    line: int
    source: str

    @property
    def is_run(self) -> bool:
        """Whether the test runs it."""
        return not any(page == self.page and piece in self.source for page, piece in NOT_RUN)


def samples() -> Iterator[Sample]:
    for page in PAGES:
        text = (ROOT / page).read_text()
        for found in FENCED.finditer(text):
            yield Sample(page, text.count("\n", 0, found.start()) + 1, found[1])


SAMPLES: Final = list(samples())


def names(connection: Connection) -> dict[str, object]:
    """The names that samples use without making them."""

    async def handler(delivery: Delivery) -> None:
        assert delivery.body

    return {
        "anyamqp": anyamqp,
        "anyio": anyio,
        "time": time,
        "Message": Message,
        "connection": connection,
        "bodies": [b"1", b"2"],
        "handle": repr,
        "handler": handler,
        "tracer": trace.get_tracer("sample"),
    }


def compiled(sample: Sample) -> Any:
    """The sample as a code object; await is allowed at its top level."""
    tree = ast.parse(sample.source, f"{sample.page}:{sample.line}")
    return compile(tree, f"{sample.page}:{sample.line}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@asynccontextmanager
async def connected(broker: Broker) -> AsyncGenerator[Connection, None]:
    """A connection to a broker with the queues that samples name, a message in each."""
    async with anyamqp.connect("amqp://guest:guest@memory/", dial=broker.dial) as connection:
        async with connection.channel() as channel, connection.publisher() as publisher:
            await channel.declare_exchange("market", "topic")
            for queue in QUEUES:
                await channel.declare_queue(queue, queue_type="stream" if queue == "events" else "classic")
                for _ in range(2):
                    await publisher.publish(Message.json({"item": "tea", "count": 2}), routing_key=queue)
        yield connection


async def run(sample: Sample) -> None:
    """Run a sample until its end, or until it waits for more."""
    async with Broker() as broker, connected(broker) as connection:
        mains: list[Callable[[], Any]] = []
        with anyio.move_on_after(PATIENCE), pytest.MonkeyPatch.context() as patch:
            patch.setattr(anyamqp, "connect", partial(anyamqp.connect, dial=broker.dial))
            patch.setattr(anyio, "run", mains.append)
            result = eval(compiled(sample), names(connection))  # noqa: S307 - the project's own documents
            if result is not None:
                await result
            for main in mains:
                await main()


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """Takes away what a sample registers with Prometheus."""
    before = set(REGISTRY._collector_to_names)  # pyright: ignore[reportPrivateUsage] - it tells nobody
    yield
    for collector in set(REGISTRY._collector_to_names) - before:  # pyright: ignore[reportPrivateUsage]
        REGISTRY.unregister(collector)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("sample", [one for one in SAMPLES if one.is_run], ids=lambda one: f"{one.page}:{one.line}")
def test_sample_runs_as_it_stands(sample: Sample, backend: str) -> None:
    anyio.run(run, sample, backend=backend)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda one: f"{one.page}:{one.line}")
def test_sample_is_python(sample: Sample) -> None:
    assert compiled(sample) is not None


def test_each_exception_still_applies() -> None:
    assert [key for key in NOT_RUN if not any(key[0] == one.page and key[1] in one.source for one in SAMPLES)] == []
