"""Options of queues: the arguments that they become, and the values that are refused."""

from __future__ import annotations

from typing import Any, cast

import pytest

from anyamqp import InvalidArgument, QueueOptions
from anyamqp.options import queue_arguments

GOOD: list[tuple[str, object, object]] = [
    ("dead_letter_strategy", "at-least-once", "at-least-once"),
    ("queue_leader_locator", "balanced", "balanced"),
    ("quorum_initial_group_size", 3, 3),
    ("quorum_target_group_size", 5, 5),
    ("initial_cluster_size", 1, 1),
    ("max_age", 3600, "3600s"),
    ("stream_max_segment_size_bytes", 100_000_000, 100_000_000),
    ("delayed_retry_type", "failed", "failed"),
    ("delayed_retry_min", 0.5, 500),
    ("delayed_retry_max", 60, 60_000),
]
BAD: list[tuple[str, object, str]] = [
    ("dead_letter_strategy", "exactly-once", "dead_letter_strategy: 'exactly-once' is none of at-most-once"),
    ("queue_leader_locator", "random", "queue_leader_locator: 'random' is none of client-local"),
    ("quorum_initial_group_size", 0, "quorum_initial_group_size: 0 is not a whole number from 1"),
    ("quorum_target_group_size", 1.5, "quorum_target_group_size: 1.5 is not a whole number"),
    ("initial_cluster_size", True, "initial_cluster_size: True is not a whole number"),
    ("max_age", "7D", "max_age: '7D' is not a whole number of seconds from 1 up"),
    ("max_age", 0, "max_age: 0 is not a whole number of seconds"),
    ("stream_max_segment_size_bytes", 3_000_000_001, "stream_max_segment_size_bytes: 3000000001 is not"),
    ("delayed_retry_type", True, "delayed_retry_type: True is none of disabled"),
    ("delayed_retry_min", -1, "delayed_retry_min: -1 is not between 0 and"),
    ("delayed_retry_max", float("inf"), "delayed_retry_max: inf is not a number of seconds"),
    ("colour", "red", "colour: no option of queues; known are queue_type"),
]


def options(name: str, value: object) -> QueueOptions:
    return cast("QueueOptions", cast("Any", {name: value}))


@pytest.mark.parametrize(("name", "value", "wanted"), GOOD, ids=[name for name, _, _ in GOOD])
def test_option_becomes_its_argument(name: str, value: object, wanted: object) -> None:
    assert queue_arguments(None, options(name, value)) == {f"x-{name.replace('_', '-')}": wanted}


@pytest.mark.parametrize(("name", "value", "text"), BAD, ids=[f"{name} {value}" for name, value, _ in BAD])
def test_wrong_value_is_refused_by_name(name: str, value: object, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        queue_arguments(None, options(name, value))
    assert str(caught.value).startswith(text)


def test_option_that_the_arguments_have_as_well_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="max_age: given as a keyword and as 'x-max-age' in arguments"):
        queue_arguments({"x-max-age": "1h"}, {"max_age": 60})
