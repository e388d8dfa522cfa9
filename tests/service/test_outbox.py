"""The outbox never drops an accepted vector."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from feature_service.outbox import Outbox, Parcel
from feature_service.vector import FeatureVector


def vector(number: int) -> FeatureVector:
    return FeatureVector(float(number), "BTCUSDT", {"mid_price": 1.0}, "1")


def test_what_was_accepted_is_taken_in_order() -> None:
    outbox = Outbox(10)
    ids = [parcel.message_id for parcel in (outbox.offer(vector(n)) for n in range(5)) if parcel]
    assert [parcel.message_id for parcel in (*outbox.take(2), *outbox.take(9))] == ids
    assert len(set(ids)) == 5


def test_what_is_under_way_takes_room_until_it_is_confirmed() -> None:
    outbox = Outbox(1)
    outbox.offer(vector(1))
    (parcel,) = outbox.take(1)
    assert outbox.is_full
    assert outbox.offer(vector(2)) is None
    assert (outbox.accepted, outbox.refused) == (1, 1)
    outbox.confirm(parcel)
    assert not outbox.is_full


def test_what_failed_goes_out_next_under_the_same_id() -> None:
    outbox = Outbox(10)
    for number in range(4):
        outbox.offer(vector(number))
    first, second, third = outbox.take(3)
    outbox.confirm(second)
    outbox.put_back([first, third])
    assert outbox.take(2) == [first, third]
    assert outbox.retried == 2


@given(st.lists(st.sampled_from(["offer", "take", "confirm", "put back"]), max_size=80), st.integers(1, 8))
def test_accepted_is_always_waiting_under_way_or_confirmed(acts: list[str], bound: int) -> None:
    outbox = Outbox(bound)
    under_way: list[Parcel] = []
    for number, act in enumerate(acts):
        if act == "offer":
            was_full = outbox.is_full
            assert (outbox.offer(vector(number)) is None) == was_full
        elif act == "take":
            under_way += outbox.take(2)
        elif act == "confirm" and under_way:
            outbox.confirm(under_way.pop(0))
        elif act == "put back" and under_way:
            outbox.put_back(under_way)
            under_way = []
        assert outbox.accepted == outbox.confirmed + len(outbox)
        assert len(outbox) <= bound
