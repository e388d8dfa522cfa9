"""Heartbeat deadlines, poll by poll (invariant 9)."""

from __future__ import annotations

import math

import pytest

from anyamqp.protocol.heartbeat import Heartbeat, Verdict

START = 1000.0


def test_the_first_poll_says_when_a_heartbeat_is_due() -> None:
    assert Heartbeat(10, START).poll(START) == Verdict(send=False, dead=False, stalled=0.0, wake_at=START + 5)


def test_a_heartbeat_is_due_after_half_an_interval_of_silence_of_ours() -> None:
    beat = Heartbeat(10, START)
    beat.poll(START)
    assert beat.poll(START + 5) == Verdict(send=True, dead=False, stalled=0.0, wake_at=START + 10)


def test_a_heartbeat_that_is_due_is_due_once() -> None:
    beat = Heartbeat(10, START)
    beat.poll(START)
    assert beat.poll(START + 5).send
    assert not beat.poll(START + 5).send


def test_what_we_wrote_counts_as_a_heartbeat() -> None:
    beat = Heartbeat(10, START)
    beat.poll(START)
    beat.wrote(START + 4)
    assert beat.poll(START + 5) == Verdict(send=False, dead=False, stalled=0.0, wake_at=START + 9)


def test_polling_early_does_no_harm() -> None:
    beat = Heartbeat(10, START)
    beat.poll(START)
    for _ in range(3):
        assert beat.poll(START + 1) == Verdict(send=False, dead=False, stalled=0.0, wake_at=START + 5)


def test_a_peer_that_is_silent_for_two_intervals_is_dead() -> None:
    beat = Heartbeat(10, START)
    for at in (START, START + 5, START + 10, START + 15):
        assert not beat.poll(at).dead
    verdict = beat.poll(START + 20)
    assert verdict.dead
    assert not verdict.send


def test_the_next_poll_is_never_after_the_peers_deadline() -> None:
    beat = Heartbeat(10, START)
    for at in (START, START + 5, START + 10, START + 15):
        beat.poll(at)
    beat.wrote(START + 18)
    assert beat.poll(START + 18).wake_at == START + 20


def test_what_we_read_puts_the_deadline_off() -> None:
    beat = Heartbeat(10, START)
    for at in (START, START + 5, START + 10, START + 15):
        beat.poll(at)
    beat.read(START + 19)
    assert not beat.poll(START + 20).dead
    for at in (START + 25, START + 30, START + 35):
        assert not beat.poll(at).dead
    assert beat.poll(START + 39).dead


def test_a_late_poll_says_how_late_it_is() -> None:
    beat = Heartbeat(10, START)
    beat.poll(START)
    assert beat.poll(START + 5 + 3).stalled == 3


def test_the_first_poll_cannot_be_late() -> None:
    assert Heartbeat(10, START).poll(START + 9).stalled == 0


def test_a_poll_that_is_a_quarter_interval_late_is_on_time() -> None:
    beat = Heartbeat(10, START)
    beat.poll(START)
    assert beat.poll(START + 5 + 2.5).stalled == 0


def test_a_verdict_of_a_late_poll_waits_until_the_reader_had_its_turn() -> None:
    beat = Heartbeat(10, START)
    beat.poll(START)
    late = beat.poll(START + 1000)
    assert not late.dead
    assert late.stalled == 995
    beat.read(START + 1000)
    assert not beat.poll(late.wake_at).dead


def test_a_peer_that_is_dead_after_a_stall_is_found_a_quarter_interval_later() -> None:
    beat = Heartbeat(10, START)
    beat.poll(START)
    late = beat.poll(START + 1000)
    assert late.wake_at == START + 1002.5
    assert beat.poll(late.wake_at).dead


def test_a_stall_does_not_keep_our_heartbeat_back() -> None:
    beat = Heartbeat(10, START)
    beat.poll(START)
    assert beat.poll(START + 1000).send


@pytest.mark.parametrize("interval", [0, 0.0, -1])
def test_no_interval_is_no_heartbeat(interval: float) -> None:
    beat = Heartbeat(interval, START)
    assert beat.poll(START + 1e9) == Verdict(send=False, dead=False, stalled=0.0, wake_at=math.inf)
