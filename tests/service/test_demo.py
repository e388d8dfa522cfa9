"""The demo passes if and only if nothing is lost."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace

import pytest
import trio.testing

from feature_service.demo_cast import Account
from feature_service.demo_stage import Fault, Schedule

GOOD = Account(
    accepted={"a", "b"},
    confirmed={"a", "b"},
    delivered={"a", "b"},
    refused=0,
    duplicates=3,
    disordered=0,
    dials_at_once=1,
    channels_at_start=6,
    channels_now=6,
    unexpected_closes=0,
    reconnects=9,
)


def test_account_adds_up_when_everything_arrived_whatever_came_twice() -> None:
    assert GOOD.adds_up
    assert replace(GOOD, unexpected_closes=None).adds_up


@pytest.mark.parametrize(
    "wrong",
    [
        replace(GOOD, delivered={"a"}),
        replace(GOOD, confirmed={"a"}),
        replace(GOOD, accepted=set(), confirmed=set(), delivered=set()),
        replace(GOOD, disordered=1),
        replace(GOOD, dials_at_once=2),
        replace(GOOD, channels_now=7),
        replace(GOOD, unexpected_closes=1),
    ],
    ids=["lost", "unconfirmed", "nothing", "disorder", "two dials", "channels", "unexpected close"],
)
def test_account_does_not_add_up(wrong: Account) -> None:
    assert not wrong.adds_up
    assert sum(not is_right for _, _, is_right in wrong.lines()) >= 1


def test_lost_vectors_are_named() -> None:
    assert any("1: b" in found for _, found, _ in replace(GOOD, delivered={"a"}).lines())


def played(seed: int) -> list[str]:
    happened: list[str] = []

    def fault(name: str) -> Fault:
        async def happen() -> None:
            happened.append(name)

        return Fault(name, happen)

    schedule = Schedule(tuple(fault(name) for name in "abcd"), random.Random(seed))
    trio.run(schedule.play, 30.0, clock=trio.testing.MockClock(autojump_threshold=0))
    return happened


def test_seed_repeats_the_faults_and_every_kind_comes_before_any_comes_again() -> None:
    assert played(1) == played(1)
    assert played(1) != played(2)
    assert set(played(1)[:4]) == set("abcd")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_short_demo_passes(backend: str) -> None:
    command = [sys.executable, "-m", "feature_service", "demo", "--plain", "--seed", "7", "--duration", "4"]
    ended = subprocess.run(  # noqa: S603 - our own interpreter
        [*command, "--backend", backend], capture_output=True, text=True, timeout=90, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "accepted = confirmed = delivered" in ended.stdout
    assert "Nothing lost. Seed 7." in ended.stdout
    assert "WRONG" not in ended.stdout
