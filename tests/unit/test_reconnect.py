"""When the supervisor dials again, and when it gives up: invariant 10 of the design, in virtual time."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from anyamqp import Address, ConnectionLost, LoginRefused, NotAllowed, ReconnectPolicy, SettingsError, TransportError
from anyamqp.errors import AnyamqpError, ConnectionForced, FrameError, Side, UnexpectedFailure
from anyamqp.protocol.addresses import AddressCycle
from anyamqp.protocol.reconnect import Attempts, Life, Pause, Turns

RESET = TransportError("reset")
REFUSED = LoginRefused("no")
PLAIN = ReconnectPolicy(first=0.0, jitter=0.0)


def idle(opened_at: float) -> Life:
    """A link on which nothing came after recovery."""
    return Life(opened_at, has_worked=False)


def working(opened_at: float) -> Life:
    """A link on which the broker delivered, confirmed or answered."""
    return Life(opened_at, has_worked=True)


def attempts(policy: ReconnectPolicy = PLAIN, *, fail_fast: bool = True, addresses: int = 1) -> Attempts:
    cycle = AddressCycle([Address(f"rabbit-{n}", 5672) for n in range(addresses)], shuffle=False, random=Random(1))
    return Attempts(policy, cycle, fail_fast=fail_fast, random=Random(1))


def failed(counting: Attempts, error: AnyamqpError = RESET, *, now: float) -> float:
    """The wait after an attempt that failed."""
    counting.failed(error)
    return counting.pause(now).seconds


def ended(counting: Attempts, life: Life, error: AnyamqpError = RESET, *, now: float) -> float:
    """The wait after the end of a link."""
    counting.link_ended(error, life)
    return counting.pause(now).seconds


def delays(counting: Attempts, count: int, error: AnyamqpError = RESET) -> list[float]:
    return [failed(counting, error, now=float(n)) for n in range(count)]


def test_waits_double_up_to_the_cap() -> None:
    assert delays(attempts(), 8) == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]


@pytest.mark.parametrize("life", [idle(10.0), working(11.9)], ids=["lived long enough", "worked"])
def test_first_retry_after_a_good_link_comes_at_once(life: Life) -> None:
    counting = attempts()
    delays(counting, 5)
    assert ended(counting, life, RESET, now=12.0) == 0.0
    assert failed(counting, RESET, now=12.1) == 0.2


def test_first_retry_of_the_default_comes_within_a_tenth_of_a_second() -> None:
    policy = ReconnectPolicy()
    waits = sorted(policy.delay(0, Random(client)) for client in range(1000))
    assert 0 <= waits[0] < 0.01
    assert 0.09 < waits[-1] < 0.1


def test_waits_of_the_default_lie_between_half_and_whole() -> None:
    policy = ReconnectPolicy()
    for attempt, whole in enumerate([0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0], start=1):
        waits = sorted(policy.delay(attempt, Random(client)) for client in range(1000))
        assert whole / 2 <= waits[0] < 0.52 * whole
        assert 0.98 * whole < waits[-1] <= whole


def test_first_wait_is_capped_like_every_other() -> None:
    policy = ReconnectPolicy(first=10.0, maximum=0.5)
    assert max(policy.delay(0, Random(client)) for client in range(100)) <= 0.5


def test_link_that_worked_is_no_failed_attempt_however_short_it_lived() -> None:
    counting = attempts(ReconnectPolicy(first=0.0, max_attempts=1))
    for number in range(100):
        opened_at = number * 0.3
        assert ended(counting, working(opened_at), RESET, now=opened_at + 0.01) == 0.0


def test_link_that_worked_and_broke_the_protocol_is_a_failed_attempt() -> None:
    """Invariant 10: what is wrong with the bytes comes again on the next link."""
    counting = attempts()
    fault = FrameError("no frame", found_by=Side.CLIENT)
    waits = [ended(counting, working(n), fault, now=n + 0.1) for n in range(4)]
    assert waits == [0.2, 0.4, 0.8, 1.6]


def test_link_that_worked_and_failed_unexpectedly_is_a_failed_attempt() -> None:
    """Invariant 10: a fault in the handling of what came may come again on the next link."""
    counting = attempts()
    fault = UnexpectedFailure("unexpected KeyError: 7")
    waits = [ended(counting, working(n), fault, now=n + 0.1) for n in range(4)]
    assert waits == [0.2, 0.4, 0.8, 1.6]


def test_link_that_worked_and_was_closed_by_an_operator_is_no_failed_attempt() -> None:
    counting = attempts()
    assert ended(counting, working(1.0), ConnectionForced("bye"), now=1.1) == 0.0


def test_links_that_die_young_are_met_with_growing_waits() -> None:
    counting = attempts()
    assert [ended(counting, idle(n), RESET, now=n + 0.1) for n in range(4)] == [0.2, 0.4, 0.8, 1.6]


def test_what_is_untried_is_dialed_without_a_wait() -> None:
    assert delays(attempts(addresses=3), 9) == [0.0, 0.0, 0.2, 0.0, 0.0, 0.4, 0.0, 0.0, 0.8]


def test_link_that_dies_young_is_followed_by_what_is_untried() -> None:
    counting = attempts(addresses=2)
    assert [ended(counting, idle(1.0), now=1.1) for _ in range(4)] == [0.0, 0.2, 0.0, 0.4]


def test_the_policy_decides_after_the_loss_of_a_stable_link() -> None:
    counting = attempts(ReconnectPolicy.constant(2.0), addresses=2)
    assert ended(counting, idle(1.0), now=5.0) == 2.0


def test_the_first_dial_has_no_pause_and_no_failure() -> None:
    assert attempts().pause(0.0) == Pause(0.0, None)


def test_an_attempt_and_a_link_that_never_opened_are_failures() -> None:
    counting = attempts()
    counting.failed(RESET)
    assert counting.pause(0.0) == Pause(0.2, RESET)
    counting.link_ended(RESET, Life(None, has_worked=False))
    assert counting.pause(1.0) == Pause(0.4, RESET)


def test_the_loss_of_an_open_link_is_no_failure() -> None:
    counting = attempts()
    counting.link_ended(RESET, idle(0.9))
    assert counting.pause(1.0) == Pause(0.2, None)


def test_a_link_that_we_closed_is_no_failure() -> None:
    counting = attempts()
    counting.link_ended(None, idle(0.9))
    assert counting.pause(1.0) == Pause(0.0, None)


def test_an_end_counts_once() -> None:
    counting = attempts(ReconnectPolicy(max_attempts=2))
    failed(counting, now=0.0)
    assert counting.pause(0.0) == Pause(0.0, None)


def test_constant_policy_waits_the_same_each_time() -> None:
    counting = attempts(ReconnectPolicy.constant(2.0))
    assert delays(counting, 3) == [2.0, 2.0, 2.0]
    assert ended(counting, idle(5.0), RESET, now=50.0) == 2.0


def test_full_jitter_spreads_a_thousand_clients_over_the_whole_wait() -> None:
    policy = ReconnectPolicy(initial=8.0, maximum=8.0, jitter=1.0)
    waits = sorted(policy.delay(1, Random(client)) for client in range(1000))
    assert waits[0] < 0.1
    assert waits[-1] > 7.9
    for low in range(8):
        assert 80 <= sum(low <= wait < low + 1 for wait in waits) <= 170


def test_many_attempts_do_not_overflow() -> None:
    assert PLAIN.delay(100_000, Random(1)) == 5.0


def test_policy_gives_up_after_so_many_attempts() -> None:
    counting = attempts(ReconnectPolicy(jitter=0.0, max_attempts=3))
    delays(counting, 2)
    with pytest.raises(ConnectionLost, match="gave up after 3 attempts") as caught:
        failed(counting, RESET, now=2.0)
    assert caught.value.__cause__ is RESET


def test_policy_gives_up_after_so_many_seconds_without_a_link() -> None:
    counting = attempts(ReconnectPolicy(max_elapsed=10.0))
    ended(counting, idle(3.0), RESET, now=100.0)
    failed(counting, RESET, now=109.9)
    with pytest.raises(ConnectionLost, match=r"10\.0 s"):
        failed(counting, RESET, now=110.0)


@pytest.mark.parametrize("error", [REFUSED, NotAllowed("no vhost"), FrameError("not AMQP", found_by=Side.CLIENT)])
def test_first_connect_fails_fast_on_what_no_retry_cures(error: AnyamqpError) -> None:
    with pytest.raises(type(error)):
        failed(attempts(), error, now=0.0)


def test_first_connect_keeps_trying_through_refusals_when_told_to() -> None:
    counting = attempts(fail_fast=False)
    assert failed(counting, REFUSED, now=0.0) == 0.2
    assert failed(counting, REFUSED, now=59.9) == 0.4
    with pytest.raises(LoginRefused):
        failed(counting, REFUSED, now=60.0)


def test_reconnect_tolerates_refusals_for_the_grace_and_then_fails_with_that_error() -> None:
    counting = attempts()
    ended(counting, idle(0.0), RESET, now=100.0)
    failed(counting, REFUSED, now=100.0)
    failed(counting, REFUSED, now=159.0)
    with pytest.raises(LoginRefused):
        failed(counting, REFUSED, now=160.0)


def test_another_error_in_between_starts_the_grace_anew() -> None:
    counting = attempts()
    ended(counting, idle(0.0), RESET, now=100.0)
    failed(counting, REFUSED, now=100.0)
    failed(counting, RESET, now=130.0)
    failed(counting, REFUSED, now=140.0)
    assert failed(counting, REFUSED, now=199.0) > 0


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"initial": -1.0}, "initial"),
        ({"factor": 0.5}, "factor"),
        ({"jitter": 1.5}, "jitter"),
        ({"maximum": float("nan")}, "maximum"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_elapsed": 0.0}, "max_elapsed"),
        ({"refusal_grace": -0.1}, "refusal_grace"),
    ],
)
def test_a_wrong_policy_is_refused_by_name(values: dict[str, float], named: str) -> None:
    with pytest.raises(SettingsError, match=rf"ReconnectPolicy\.{named}"):
        ReconnectPolicy(**values)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# --- many connections of one process ------------------------------------------------------------------------------


def test_single_dial_does_not_wait_for_its_turn() -> None:
    turns = Turns()
    assert [turns.take(Address("rabbit-1", 5672), now) for now in (0.0, 1.0, 2.0)] == [0.0, 0.0, 0.0]


def test_dials_to_one_address_take_turns() -> None:
    """Invariant 10: 200 connections that are lost together do not shake hands at the same instant."""
    turns = Turns()
    waits = [turns.take(Address("rabbit-1", 5672), 5.0) for _ in range(200)]
    assert all(later - earlier > 0.001 for earlier, later in pairwise(waits))
    assert waits[-1] < 0.5


def test_dials_to_other_addresses_take_turns_of_their_own() -> None:
    """Invariant 13."""
    turns = Turns()
    for _ in range(200):
        turns.take(Address("rabbit-1", 5672), 5.0)
    assert turns.take(Address("rabbit-2", 5672), 5.0) == 0.0


def test_turns_remember_no_address_that_nobody_waits_for() -> None:
    """Invariant 11."""
    turns = Turns()
    for number in range(1000):
        turns.take(Address(f"rabbit-{number}", 5672), float(number))
    assert len(turns) <= 1


def test_processes_that_lost_one_broker_spread_their_dials() -> None:
    """Invariant 10, for clients that know nothing of each other: jitter alone."""
    clients, policy = 1000, ReconnectPolicy()
    dials: Counter[int] = Counter()
    for client in range(clients):
        random, at, attempt = Random(client), 0.0, 0
        while at < 60.0:
            at += policy.delay(attempt, random)
            attempt += 1
            dials[int(at * 10)] += 1
    steady = [dials[tenth] for tenth in range(200, 600)]
    assert max(steady) < 60
    assert sum(steady) / len(steady) == pytest.approx(clients / 37.5, rel=0.1)
