"""The ledger against a naive model, and the cost of settling."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.protocol.confirms import Ledger


class Settle(NamedTuple):
    """A confirm."""

    tag: int
    multiple: bool


confirms = st.builds(Settle, st.integers(-1, 25), st.booleans())


def model_settle(model: list[tuple[int, str]], confirm: Settle, published: int) -> list[str]:
    """The same from a plain list of what is outstanding; a tag that was never given settles nothing."""
    if confirm.tag > published:
        hit = []
    elif confirm.multiple:
        hit = [entry for entry in model if confirm.tag == 0 or entry[0] <= confirm.tag]
    else:
        hit = [entry for entry in model if entry[0] == confirm.tag]
    for entry in hit:
        model.remove(entry)
    return [item for _, item in hit]


@given(st.lists(st.just("publish") | confirms, max_size=60))
def test_the_ledger_does_what_a_plain_list_does(acts: list[str | Settle]) -> None:
    ledger: Ledger[str] = Ledger()
    model: list[tuple[int, str]] = []
    published = 0
    for act in acts:
        if isinstance(act, Settle):
            assert ledger.settle(act.tag, multiple=act.multiple) == model_settle(model, act, published)
        else:
            published += 1
            assert ledger.add(f"message {published}") == published
            model.append((published, f"message {published}"))
        assert ledger.outstanding() == [item for _, item in model]
        assert len(ledger) == len(model)


@given(st.lists(confirms, max_size=40), st.integers(0, 25))
def test_each_publish_is_settled_at_most_once(acts: list[Settle], count: int) -> None:
    ledger: Ledger[int] = Ledger()
    for item in range(count):
        ledger.add(item)
    settled = [item for act in acts for item in ledger.settle(act.tag, multiple=act.multiple)]
    assert len(settled) == len(set(settled))
    assert sorted(settled + ledger.outstanding()) == list(range(count))


class CountingDeque(deque[int]):
    """A deque that counts what is taken from its left end, what is looked at there, and what is put in at once."""

    pops = 0
    looks = 0
    moves = 0

    def extend(self, iterable: Iterable[int]) -> None:
        items = list(iterable)
        self.moves += len(items)
        super().extend(items)

    def popleft(self) -> int:
        self.pops += 1
        return super().popleft()

    def __getitem__(self, index: Any) -> Any:
        self.looks += 1
        return super().__getitem__(index)


def counted(count: int) -> tuple[Ledger[int], CountingDeque]:
    """A ledger of so many publishes whose order of tags is counted."""
    ledger: Ledger[int] = Ledger()
    order = CountingDeque()
    ledger._order = order  # pyright: ignore[reportPrivateUsage] - the cost cannot be seen from outside
    for item in range(count):
        ledger.add(item)
    return ledger, order


@given(st.permutations(range(1, 41)))
def test_settling_all_one_by_one_in_any_order_takes_each_tag_once(tags: list[int]) -> None:
    ledger, order = counted(len(tags))
    for tag in tags:
        ledger.settle(tag, multiple=False)
    assert len(ledger) == 0
    assert len(order) == 0
    assert order.pops <= len(tags)
    assert order.looks <= 2 * len(tags)


@given(st.lists(confirms, max_size=60))
def test_settling_in_any_way_takes_each_tag_at_most_once(acts: list[Settle]) -> None:
    ledger, order = counted(25)
    for act in acts:
        ledger.settle(act.tag, multiple=act.multiple)
    ledger.settle(0, multiple=True)
    assert len(order) == 0
    assert order.pops <= 25
    assert order.looks <= 2 * 25 + 2 * len(acts)


@pytest.mark.parametrize("tags", [range(1, 20_001), range(20_000, 0, -1)], ids=["oldest first", "newest first"])
def test_many_outstanding_publishes_make_a_confirm_no_dearer(tags: range) -> None:
    ledger, order = counted(len(tags))
    for tag in tags:
        ledger.settle(tag, multiple=False)
    assert len(order) == 0
    assert order.pops + order.moves <= 2 * len(tags)
    assert order.looks <= 2 * len(tags)
