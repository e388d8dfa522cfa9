"""When the supervisor dials again, and when it gives up: invariant 10 of the design, in virtual time."""

from __future__ import annotations

from random import Random

import pytest

from anyamqp import ConnectionLost, LoginRefused, NotAllowed, ReconnectPolicy, SettingsError, TransportError
from anyamqp.errors import AnyamqpError, FrameError, Side
from anyamqp.reconnect import Attempts

RESET = TransportError("reset")
REFUSED = LoginRefused("no")
PLAIN = ReconnectPolicy(jitter=0.0)


def attempts(policy: ReconnectPolicy = PLAIN, *, fail_fast: bool = True) -> Attempts:
    return Attempts(policy, fail_fast=fail_fast, random=Random(1), now=0.0)


def delays(counting: Attempts, count: int, error: AnyamqpError = RESET) -> list[float]:
    return [counting.ended(error, opened_at=None, untried=False, now=float(n)) for n in range(count)]


def test_waits_double_up_to_the_cap() -> None:
    assert delays(attempts(), 12) == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0]


def test_first_retry_after_a_stable_link_comes_at_once() -> None:
    counting = attempts()
    delays(counting, 5)
    assert counting.ended(RESET, opened_at=10.0, untried=False, now=12.0) == 0.0
    assert counting.ended(RESET, opened_at=None, untried=False, now=12.1) == 0.1


def test_links_that_die_young_are_met_with_growing_waits() -> None:
    counting = attempts()
    assert [counting.ended(RESET, opened_at=n, untried=False, now=n + 0.1) for n in range(4)] == [0.1, 0.2, 0.4, 0.8]


def test_what_is_untried_is_dialed_without_a_wait() -> None:
    counting = attempts()
    rounds = [True, True, False, True, False, False, True]
    waits = [counting.ended(RESET, opened_at=None, untried=untried, now=1.0) for untried in rounds]
    assert waits == [0.0, 0.0, 0.1, 0.0, 0.2, 0.4, 0.0]


def test_link_that_dies_young_is_followed_by_what_is_untried() -> None:
    counting = attempts()
    waits = [counting.ended(RESET, opened_at=1.0, untried=untried, now=1.1) for untried in (True, False, True, False)]
    assert waits == [0.0, 0.1, 0.0, 0.2]


def test_loss_of_a_stable_link_is_met_as_the_policy_says_whatever_is_untried() -> None:
    counting = attempts(ReconnectPolicy.constant(2.0))
    assert counting.ended(RESET, opened_at=1.0, untried=True, now=5.0) == 2.0


def test_constant_policy_waits_the_same_each_time() -> None:
    counting = attempts(ReconnectPolicy.constant(2.0))
    assert delays(counting, 3) == [2.0, 2.0, 2.0]
    assert counting.ended(RESET, opened_at=5.0, untried=False, now=50.0) == 2.0


def test_full_jitter_spreads_a_thousand_clients_over_the_whole_wait() -> None:
    policy = ReconnectPolicy(initial=8.0)
    waits = sorted(policy.delay(1, Random(client)) for client in range(1000))
    assert waits[0] < 0.1
    assert waits[-1] > 7.9
    for low in range(8):
        assert 80 <= sum(low <= wait < low + 1 for wait in waits) <= 170


def test_many_attempts_do_not_overflow() -> None:
    assert PLAIN.delay(100_000, Random(1)) == 30.0


def test_policy_gives_up_after_so_many_attempts() -> None:
    counting = attempts(ReconnectPolicy(jitter=0.0, max_attempts=3))
    delays(counting, 2)
    with pytest.raises(ConnectionLost, match="gave up after 3 attempts") as caught:
        counting.ended(RESET, opened_at=None, untried=False, now=2.0)
    assert caught.value.__cause__ is RESET


def test_policy_gives_up_after_so_many_seconds_without_a_link() -> None:
    counting = attempts(ReconnectPolicy(max_elapsed=10.0))
    counting.ended(RESET, opened_at=3.0, untried=False, now=100.0)
    counting.ended(RESET, opened_at=None, untried=False, now=109.9)
    with pytest.raises(ConnectionLost, match=r"10\.0 s"):
        counting.ended(RESET, opened_at=None, untried=False, now=110.0)


@pytest.mark.parametrize("error", [REFUSED, NotAllowed("no vhost"), FrameError("not AMQP", found_by=Side.CLIENT)])
def test_first_connect_fails_fast_on_what_no_retry_cures(error: AnyamqpError) -> None:
    with pytest.raises(type(error)):
        attempts().ended(error, opened_at=None, untried=False, now=0.0)


def test_first_connect_keeps_trying_through_refusals_when_told_to() -> None:
    counting = attempts(fail_fast=False)
    assert counting.ended(REFUSED, opened_at=None, untried=False, now=0.0) == 0.1
    assert counting.ended(REFUSED, opened_at=None, untried=False, now=59.9) == 0.2
    with pytest.raises(LoginRefused):
        counting.ended(REFUSED, opened_at=None, untried=False, now=60.0)


def test_reconnect_tolerates_refusals_for_the_grace_and_then_fails_with_that_error() -> None:
    counting = attempts()
    counting.ended(RESET, opened_at=0.0, untried=False, now=100.0)
    counting.ended(REFUSED, opened_at=None, untried=False, now=100.0)
    counting.ended(REFUSED, opened_at=None, untried=False, now=159.0)
    with pytest.raises(LoginRefused):
        counting.ended(REFUSED, opened_at=None, untried=False, now=160.0)


def test_another_error_in_between_starts_the_grace_anew() -> None:
    counting = attempts()
    counting.ended(RESET, opened_at=0.0, untried=False, now=100.0)
    counting.ended(REFUSED, opened_at=None, untried=False, now=100.0)
    counting.ended(RESET, opened_at=None, untried=False, now=130.0)
    counting.ended(REFUSED, opened_at=None, untried=False, now=140.0)
    assert counting.ended(REFUSED, opened_at=None, untried=False, now=199.0) > 0


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
