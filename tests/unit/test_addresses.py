"""The order in which the addresses of a broker, and the DNS records of each, are dialed."""

from __future__ import annotations

from collections import Counter
from random import Random

from anyamqp import Address
from anyamqp.protocol.addresses import AddressCycle

A, B, C = Address("a", 1), Address("b", 2), Address("c", 3)


def route(*addresses: Address, shuffle: bool = False, seed: int = 1) -> AddressCycle:
    return AddressCycle(addresses, shuffle=shuffle, random=Random(seed))


def test_addresses_come_in_order_and_a_round_ends_after_the_last() -> None:
    way = route(A, B, C)
    came = [(way.address, way.advance(start_over=False)) for _ in range(4)]
    assert came == [(A, True), (B, True), (C, False), (A, True)]


def test_all_records_of_a_name_come_before_the_next_address() -> None:
    way = route(A, B)
    way.resolved(["10.0.0.1", "10.0.0.2", "10.0.0.1"])
    assert (way.record, way.advance(start_over=False)) == ("10.0.0.1", True)
    assert (way.record, way.advance(start_over=False)) == ("10.0.0.2", True)
    assert (way.address, way.record) == (B, None)
    way.resolved(["10.0.0.3"])
    assert way.advance(start_over=False) is False
    assert (way.address, way.record) == (A, None)


def test_the_next_round_begins_with_the_last_good_address() -> None:
    way = route(A, B)
    way.advance(start_over=False)
    way.resolved(["10.0.0.1", "10.0.0.2"])
    way.advance(start_over=True)
    assert (way.address, way.record) == (B, None)
    assert [way.advance(start_over=False) for _ in range(2)] == [True, False]


def test_route_says_where_it_is() -> None:
    way = route(Address("rabbit", 5672), Address("::1", 5672))
    assert str(way) == "rabbit:5672"
    way.resolved(["10.0.0.1"])
    assert str(way) == "rabbit (10.0.0.1):5672"
    way.advance(start_over=False)
    way.resolved(["::1"])
    assert str(way) == "[::1]:5672"


def test_shuffled_routes_begin_everywhere_alike_and_leave_nothing_out() -> None:
    begins, records = Counter[Address](), Counter[str]()
    for seed in range(300):
        way = route(A, B, C, shuffle=True, seed=seed)
        way.resolved(["1", "2", "3"])
        begins[way.address] += 1
        records[way.record or ""] += 1
        seen: list[tuple[Address, str | None]] = []
        for _ in range(5):
            seen.append((way.address, way.record))
            way.advance(start_over=False)
        assert {address for address, _ in seen} == {A, B, C}
        assert {record for _, record in seen} == {"1", "2", "3", None}
    assert all(70 <= count <= 130 for count in (*begins.values(), *records.values()))
