"""Each line of the log carries its facts as fields, and a loss is told as one story."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator

import anyio
import pytest
import structlog

import anyamqp
from anyamqp import Message, State
from anyamqp.testing import Broker
from support.waiting import eventually

pytestmark = pytest.mark.anyio

URL = "amqp://guest:guest@memory/"
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message"}


class JsonFormatter(logging.Formatter):
    """Writes a record with its extra fields, as the formatters for JSON do."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {key: value for key, value in vars(record).items() if key not in STANDARD}
        return json.dumps({"text": record.getMessage(), **fields}, default=str)


class Lines(logging.Handler):
    """Keeps the lines that a formatter makes."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def handler(request: pytest.FixtureRequest) -> Iterator[Lines]:
    """A handler of anyamqp's log, with the formatter that the test names."""
    lines = Lines(request.param())
    logger = logging.getLogger("anyamqp")
    logger.addHandler(lines)
    before = logger.level
    logger.setLevel(logging.DEBUG)
    yield lines
    logger.setLevel(before)
    logger.removeHandler(lines)


def structured() -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(default=str),
        ],
        foreign_pre_chain=[structlog.stdlib.ExtraAdder()],
    )


async def lose_and_return() -> None:
    """A connection with a pending publish is lost and comes back."""
    async with (
        Broker() as broker,
        anyamqp.connect(URL, dial=broker.dial, name="billing") as connection,
        connection.channel() as channel,
        connection.publisher() as publisher,
    ):
        await channel.declare_queue("q")
        broker.faults.before("basic.ack").reset()
        await publisher.publish(Message(b"x"), routing_key="q")
        await eventually(lambda: connection.state is State.OPEN)


@pytest.mark.parametrize("handler", [JsonFormatter, structured], indirect=True, ids=["json", "structlog"])
async def test_formatters_get_the_facts_of_each_line(handler: Lines) -> None:
    await lose_and_return()
    lines = [json.loads(line) for line in handler.lines]
    assert {line["connection"] for line in lines} == {"billing"}
    (lost,) = (line for line in lines if line.get("event") == "lost" and line.get("machine") == "connection")
    assert (lost["from_state"], lost["state"], lost["link"]) == ("OPEN", "RECONNECTING", 1)
    assert "reset" in lost["reason"]
    back = [line for line in lines if line.get("machine") == "connection" and line.get("event") == "opened"][-1]
    assert (back["dials"], back["unconfirmed"], back["lost_because"]) == (1, 1, lost["reason"])
    assert back["away"] > 0


async def test_the_line_of_the_return_tells_the_story_of_the_loss(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "anyamqp.connection")
    await lose_and_return()
    (line,) = (text for text in caplog.messages if "RECONNECTING -> OPEN" in text)
    assert re.fullmatch(
        r"billing: connection RECONNECTING -> OPEN \(opened\) \[link 2\]; away for \d+\.\d s, 1 dial; "
        r"1 unconfirmed publish sent; it was lost because: reading: ConnectionResetError: .*",
        line,
    )


async def test_the_story_begins_with_the_first_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "anyamqp.connection")
    async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial) as connection:
        broker.faults.refuse()
        broker.faults.reset()
        await eventually(lambda: connection.stats.dials > 3)
        broker.faults.accept()
        await eventually(lambda: connection.state is State.OPEN)
        dials = connection.stats.dials
    (line,) = (text for text in caplog.messages if "RECONNECTING -> OPEN" in text)
    assert f"{dials - 1} dials; it was lost because: reading: ConnectionResetError" in line


async def test_a_connection_that_opens_for_the_first_time_has_no_story(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "anyamqp.connection")
    with anyio.fail_after(5):
        async with Broker() as broker, anyamqp.connect(URL, dial=broker.dial):
            pass
    assert "connection CONNECTING -> OPEN (opened) [link 1]" in caplog.messages
