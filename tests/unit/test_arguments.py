"""Keyword arguments of queues and consumers become RabbitMQ's arguments, or an error names the wrong one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from anyamqp import InvalidArgument
from anyamqp.options import queue_arguments, stream_offset_argument

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("options", "table"),
    [
        ({"queue_type": "quorum"}, {"x-queue-type": "quorum"}),
        ({"message_ttl": 60}, {"x-message-ttl": 60000}),
        ({"message_ttl": 0}, {"x-message-ttl": 0}),
        ({"message_ttl": 0.0015}, {"x-message-ttl": 2}),
        ({"expires": 0.001}, {"x-expires": 1}),
        ({"max_length": 0}, {"x-max-length": 0}),
        ({"max_length_bytes": 2**40}, {"x-max-length-bytes": 2**40}),
        ({"overflow": "reject-publish-dlx"}, {"x-overflow": "reject-publish-dlx"}),
        ({"dead_letter_exchange": ""}, {"x-dead-letter-exchange": ""}),
        ({"dead_letter_routing_key": "dead"}, {"x-dead-letter-routing-key": "dead"}),
        ({"max_priority": 255}, {"x-max-priority": 255}),
        ({"single_active_consumer": False}, {"x-single-active-consumer": False}),
        ({"delivery_limit": 20}, {"x-delivery-limit": 20}),
        ({"max_length": None}, {}),
        ({}, {}),
    ],
)
def test_a_keyword_becomes_its_argument(options: Any, table: dict[str, object]) -> None:
    assert queue_arguments(None, options) == table


def test_keywords_and_a_table_are_joined() -> None:
    table = {"x-queue-leader-locator": "balanced"}
    assert queue_arguments(table, {"max_length": 5}) == {"x-max-length": 5, "x-queue-leader-locator": "balanced"}
    assert table == {"x-queue-leader-locator": "balanced"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"queue_type": "fast"}, "queue_type: 'fast' is none of classic, quorum, stream"),
        ({"message_ttl": -1}, "message_ttl: -1 is not between 0 and 4294967 seconds"),
        ({"message_ttl": 2**32 / 1000}, "message_ttl: 4294967.296 is not between"),
        ({"message_ttl": "60"}, "message_ttl: '60' is not a number of seconds"),
        ({"message_ttl": True}, "message_ttl: True is not a number of seconds"),
        ({"message_ttl": float("nan")}, "message_ttl: nan is not a number of seconds"),
        ({"expires": 0}, "expires: 0 is not between 0.001 and"),
        ({"max_length": -1}, "max_length: -1 is not a whole number"),
        ({"max_length": 1.5}, "max_length: 1.5 is not a whole number"),
        ({"max_length": True}, "max_length: True is not a whole number"),
        ({"max_length_bytes": 2**63}, "max_length_bytes: 9223372036854775808 is not"),
        ({"overflow": "drop"}, "overflow: 'drop' is none of drop-head"),
        ({"dead_letter_exchange": b"x"}, "dead_letter_exchange: bytes instead of text"),
        ({"dead_letter_routing_key": 5}, "dead_letter_routing_key: int instead of text"),
        ({"max_priority": 0}, "max_priority: 0 is not a whole number from 1 to 255"),
        ({"max_priority": 256}, "max_priority: 256 is not"),
        ({"single_active_consumer": 1}, "single_active_consumer: 1 is neither True nor False"),
        ({"delivery_limit": "3"}, "delivery_limit: '3' is not a whole number"),
        ({"message_tll": 5}, "message_tll: no option of queues; known are queue_type, message_ttl"),
    ],
)
def test_a_wrong_keyword_is_named(options: Any, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        queue_arguments(None, options)
    assert str(caught.value).startswith(text)


def test_a_keyword_that_is_in_the_table_as_well_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="max_length: given as a keyword and as 'x-max-length'"):
        queue_arguments({"x-max-length": 5}, {"max_length": 5})


@pytest.mark.parametrize("offset", ["first", "last", "next", "1h", "30m", "10D", "1Y", "2M", "59s", 0, 2**63 - 1, NOON])
def test_an_offset_that_a_stream_knows_is_passed_on(offset: object) -> None:
    assert stream_offset_argument(offset) == offset


@pytest.mark.parametrize("offset", ["frist", "", "h", "1x", "-1h", "1 h", "٣h", -1, True, 1.5, None, b"first"])
def test_another_offset_is_refused(offset: object) -> None:
    with pytest.raises(InvalidArgument, match="stream_offset: "):
        stream_offset_argument(offset)
