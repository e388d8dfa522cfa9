"""The ledger against a naive model, and the cost of settling."""

from __future__ import annotations

from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyamqp.protocol.confirms import Ledger

pytestmark = pytest.mark.no_cover  # long, and it covers nothing that others do not


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


class CountingList(list[Any]):
    """A list that counts the places that are read, written or moved."""

    touched = 0

    def __getitem__(self, index: Any) -> Any:
        got = super().__getitem__(index)
        self.touched += len(got) if isinstance(index, slice) else 1
        return got

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(index, value)
        self.touched += len(self[index]) if isinstance(index, slice) else 1

    def __delitem__(self, index: Any) -> None:
        super().__delitem__(index)
        self.touched += len(self)


def counted(count: int) -> tuple[Ledger[int], CountingList]:
    """A ledger of so many publishes whose work is counted."""
    ledger: Ledger[int] = Ledger()
    places = CountingList()
    ledger._places = places  # pyright: ignore[reportPrivateUsage] - the cost cannot be seen from outside
    for item in range(count):
        ledger.add(item)
    return ledger, places


@given(st.permutations(range(1, 41)))
def test_settling_all_one_by_one_in_any_order_costs_each_tag_a_few_looks(tags: list[int]) -> None:
    ledger, places = counted(len(tags))
    for tag in tags:
        ledger.settle(tag, multiple=False)
    assert len(ledger) == 0
    assert places.touched <= 4 * len(tags)


@given(st.lists(confirms, max_size=60))
def test_settling_in_any_way_costs_what_it_settles(acts: list[Settle]) -> None:
    ledger, places = counted(25)
    for act in acts:
        ledger.settle(act.tag, multiple=act.multiple)
    ledger.settle(0, multiple=True)
    assert len(ledger) == 0
    assert places.touched <= 5 * 25 + 2 * len(acts)


@pytest.mark.parametrize("tags", [range(1, 20_001), range(20_000, 0, -1)], ids=["oldest first", "newest first"])
def test_many_outstanding_publishes_make_a_confirm_no_dearer(tags: range) -> None:
    ledger, places = counted(len(tags))
    for tag in tags:
        ledger.settle(tag, multiple=False)
    assert len(ledger) == 0
    assert places.touched <= 5 * len(tags)


@pytest.mark.parametrize("multiple", [False, True])
def test_a_publish_that_is_never_confirmed_does_not_keep_the_places_of_those_behind_it(*, multiple: bool) -> None:
    ledger, places = counted(1)
    for item in range(1, 20_001):
        tag = ledger.add(item)
        if multiple and not item % 100:
            ledger.settle(tag, multiple=False)
        elif not multiple:
            assert ledger.settle(tag, multiple=False) == [item]
    assert len(places) <= 3 * len(ledger) + 300
    assert ledger.settle(0, multiple=True)[0] == 0
    assert len(ledger) == 0


@given(st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=3, max_size=12), st.randoms())
def test_stragglers_are_settled_like_all_others(acts: list[tuple[int, bool]], random: Random) -> None:
    ledger: Ledger[int] = Ledger()
    open_tags: list[int] = []
    for count, multiple in acts:
        open_tags += [ledger.add(0) for _ in range(count)]
        for tag in random.sample(open_tags, k=len(open_tags) - min(5, len(open_tags))):
            assert len(ledger.settle(tag, multiple=False)) == 1
            open_tags.remove(tag)
        if multiple and open_tags:
            tag = random.choice(open_tags)
            assert len(ledger.settle(tag, multiple=True)) == sum(one <= tag for one in open_tags)
            open_tags = [one for one in open_tags if one > tag]
        assert [tag for tag, _ in ledger.tagged()] == open_tags
        assert len(ledger) == len(open_tags)
