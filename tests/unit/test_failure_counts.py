"""How often a message has failed, and what happens to its delivery."""

from __future__ import annotations

import pytest

from anyamqp.delivery import Delivery
from anyamqp.message import FieldTable, Message
from anyamqp.protocol.failures import Decision, FailureCounts, Rejected, Requeued, Retry
from anyamqp.wire.basic import Received


def delivery(
    body: bytes = b"poison", *, again: bool = True, message_id: str | None = None, headers: FieldTable | None = None
) -> Delivery:
    message = Message(body, message_id=message_id, headers=headers)
    return Delivery(message, exchange="", routing_key="q", delivery_tag=1, redelivered=again, settler=None)


def failures_of(counts: FailureCounts, failed: Delivery) -> int:
    treatment = counts.failed(failed, "reject")
    assert isinstance(treatment, Rejected)
    return treatment.failures


def test_acknowledging_counts_nothing() -> None:
    counts = FailureCounts()
    assert counts.failed(delivery(again=False), "ack") == "ack"
    assert len(counts) == 0


def test_pauses_grow_with_each_failure_of_the_same_message() -> None:
    counts = FailureCounts()
    pauses: list[float] = []
    for run in range(10):
        treatment = counts.failed(delivery(again=run > 0), "requeue")
        assert isinstance(treatment, Requeued)
        pauses.append(round(treatment.after, 6))
    assert pauses == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


@pytest.mark.parametrize("message_id", [None, "m"])
def test_retry_handles_a_message_again_so_many_times(message_id: str | None) -> None:
    counts = FailureCounts()
    policy: Decision = Retry(limit=2, delay=0.5)
    treatments = [counts.failed(delivery(again=run > 0, message_id=message_id), policy) for run in range(3)]
    assert treatments == [Requeued(0.5), Requeued(0.5), Rejected(3)]
    assert len(counts) == 0


def test_a_redelivery_of_unknown_history_has_failed_once_before() -> None:
    assert failures_of(FailureCounts(), delivery()) == 2


@pytest.mark.parametrize(("headers", "failures"), [({"x-delivery-count": 4}, 5), ({"x-acquired-count": 9}, 1)])
def test_a_redelivery_is_believed_what_its_queue_tells(headers: FieldTable, failures: int) -> None:
    assert failures_of(FailureCounts(), delivery(headers=headers)) == failures


def test_a_first_delivery_is_believed_no_count() -> None:
    assert failures_of(FailureCounts(), delivery(again=False, headers={"x-delivery-count": 4})) == 1


def test_a_count_that_comes_again_was_published_and_is_counted_from() -> None:
    counts = FailureCounts()
    dead_lettered: FieldTable = {"x-delivery-count": 4}
    counts.failed(delivery(again=False, message_id="m", headers=dead_lettered), "requeue")
    assert failures_of(counts, delivery(message_id="m", headers=dead_lettered)) == 2


def test_a_count_from_headers_is_not_used_for_the_same_body() -> None:
    counts = FailureCounts()
    counts.failed(delivery(headers={"x-delivery-count": 1}), "requeue")
    assert len(counts) == 0
    assert failures_of(counts, delivery(headers={"x-delivery-count": 1})) == 2


def test_identical_messages_without_an_id_do_not_add_up() -> None:
    counts = FailureCounts()
    for _ in range(2):
        counts.failed(delivery(again=False), "requeue")
    assert [failures_of(counts, delivery()) for _ in range(2)] == [2, 2]


def test_a_success_takes_one_failure_back() -> None:
    counts = FailureCounts()
    counts.failed(delivery(again=False), "requeue")
    counts.succeeded(delivery())
    assert len(counts) == 0


def test_unreadable_properties_count_by_the_body() -> None:
    counts = FailureCounts()
    unreadable = Received(b"abc", b"\x80\x00\xffabc")
    for again in (False, True):
        failed = Delivery(unreadable, exchange="", routing_key="q", delivery_tag=1, redelivered=again, settler=None)
        counts.failed(failed, "requeue")
    failed = Delivery(unreadable, exchange="", routing_key="q", delivery_tag=1, redelivered=True, settler=None)
    assert failures_of(counts, failed) == 3


def test_a_message_that_was_published_anew_under_its_id_begins_anew() -> None:
    counts = FailureCounts()
    for again in (False, True, False):
        counts.failed(delivery(again=again, message_id="m"), "requeue")
    assert len(counts) == 1
    assert failures_of(counts, delivery(message_id="m")) == 2


def test_the_oldest_failures_are_forgotten_beyond_ten_thousand() -> None:
    """Invariant 11."""
    counts = FailureCounts()
    for n in range(10_100):
        for again in (False, True):
            counts.failed(delivery(again=again, message_id=str(n)), "requeue")
    assert len(counts) == 10_000
    assert failures_of(counts, delivery(message_id="10099")) == 3
    assert failures_of(counts, delivery(message_id="0")) == 2  # as of unknown history
