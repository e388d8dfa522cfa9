"""The ledger of delivery tags, one confirm at a time."""

from __future__ import annotations

import pytest

from anyamqp.protocol.confirms import Ledger


def ledger(items: str) -> Ledger[str]:
    """A ledger with one publish per letter, tagged from 1."""
    made: Ledger[str] = Ledger()
    for item in items:
        made.add(item)
    return made


def test_tags_count_from_1() -> None:
    made: Ledger[str] = Ledger()
    assert [made.add(item) for item in "abc"] == [1, 2, 3]


def test_tags_go_on_after_a_settle() -> None:
    made = ledger("abc")
    made.settle(0, multiple=True)
    assert made.add("d") == 4


def test_an_empty_ledger_has_nothing_outstanding() -> None:
    made: Ledger[str] = Ledger()
    assert len(made) == 0
    assert made.outstanding() == []


def test_a_single_confirm_settles_one() -> None:
    made = ledger("abc")
    assert made.settle(2, multiple=False) == ["b"]
    assert made.outstanding() == ["a", "c"]
    assert len(made) == 2


def test_a_multiple_confirm_settles_everything_up_to_its_tag_oldest_first() -> None:
    made = ledger("abcd")
    assert made.settle(3, multiple=True) == ["a", "b", "c"]
    assert made.outstanding() == ["d"]


def test_a_multiple_confirm_leaves_out_what_is_settled_already() -> None:
    made = ledger("abcd")
    made.settle(2, multiple=False)
    assert made.settle(3, multiple=True) == ["a", "c"]


def test_a_multiple_confirm_of_tag_0_settles_everything() -> None:
    made = ledger("abc")
    made.settle(1, multiple=False)
    assert made.settle(0, multiple=True) == ["b", "c"]
    assert len(made) == 0


@pytest.mark.parametrize("tag", [-1, 0, 4, 2**62])
def test_a_single_confirm_of_an_unknown_tag_settles_nothing(tag: int) -> None:
    made = ledger("abc")
    assert made.settle(tag, multiple=False) == []
    assert made.outstanding() == ["a", "b", "c"]


def test_a_multiple_confirm_below_every_tag_settles_nothing() -> None:
    made = ledger("abc")
    assert made.settle(-1, multiple=True) == []
    made.settle(2, multiple=True)
    assert made.settle(1, multiple=True) == []
    assert made.outstanding() == ["c"]


@pytest.mark.parametrize("multiple", [True, False])
def test_a_second_confirm_settles_nothing(*, multiple: bool) -> None:
    made = ledger("abc")
    made.settle(1, multiple=False)
    assert made.settle(1, multiple=multiple) == []
    assert made.outstanding() == ["b", "c"]


def test_equal_items_are_settled_one_by_one() -> None:
    made = ledger("aaa")
    assert made.settle(2, multiple=False) == ["a"]
    assert made.outstanding() == ["a", "a"]


def test_items_that_are_none_are_settled_too() -> None:
    made: Ledger[None] = Ledger()
    made.add(None)
    assert made.settle(1, multiple=False) == [None]
    assert made.settle(1, multiple=False) == []
