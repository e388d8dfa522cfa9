"""Which credentials a login uses, and when they are renewed, without an event loop."""

from __future__ import annotations

from random import Random

import pytest

from anyamqp import ConnectionLost, Credentials, CredentialsUnavailable, External
from anyamqp.endpoint import CredentialsSource
from anyamqp.protocol.logins import Lease, Logins, Renewal, checked_login, lease_of, secret_of

STATIC = Credentials("guest", "old")


async def fresh() -> Credentials:
    return STATIC


def passwords(logins: Logins) -> str:
    assert isinstance(logins.source, Credentials)
    return logins.source.password


# --- secrets of the user ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("is_up", "password"), [(False, "new"), (True, "old")])
def test_a_secret_offered_while_away_is_used_at_once(is_up: bool, password: str) -> None:
    logins = Logins(STATIC)
    logins.offered("new", is_up=is_up)
    assert passwords(logins) == password


def test_a_secret_that_the_broker_accepted_is_used_from_then_on() -> None:
    logins = Logins(STATIC)
    logins.accepted("new")
    assert logins.source == Credentials("guest", "new")


@pytest.mark.parametrize("source", [fresh, External()], ids=["function", "mechanism"])
def test_a_secret_replaces_no_function_and_no_mechanism(source: CredentialsSource) -> None:
    logins = Logins(source)
    logins.offered("new", is_up=False)
    logins.accepted("new")
    assert logins.source is source


def test_a_secret_lost_with_its_link_is_an_error_unless_a_function_has_another() -> None:
    lost = ConnectionLost("the link ended")
    with pytest.raises(ConnectionLost) as caught:
        Logins(STATIC).unanswered(lost)
    assert caught.value is lost
    Logins(fresh).unanswered(lost)


# --- results of a credentials function --------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [None, "secret", ("guest", "secret"), Credentials, External])
def test_only_credentials_and_mechanisms_are_a_login(given: object) -> None:
    with pytest.raises(CredentialsUnavailable, match=f"gave {type(given).__name__} instead of Credentials"):
        checked_login(given)


@pytest.mark.parametrize("given", [STATIC, External()], ids=["credentials", "mechanism"])
def test_credentials_and_mechanisms_are_a_login(given: object) -> None:
    assert checked_login(given) is given


def test_only_credentials_have_a_secret() -> None:
    assert secret_of(STATIC) == "old"
    with pytest.raises(CredentialsUnavailable, match="External, which has no secret"):
        secret_of(External())


@pytest.mark.parametrize(
    ("expires_in", "lease"), [(100.0, Lease(1080.0, 1100.0)), (0.5, Lease(1001.0, 1000.5)), (None, None)]
)
def test_a_lease_is_renewed_after_80_percent_but_not_within_a_second(
    expires_in: float | None, lease: Lease | None
) -> None:
    assert lease_of(Credentials("guest", "x", expires_in=expires_in), 1000.0) == lease


def test_a_mechanism_does_not_expire() -> None:
    assert lease_of(External(), 1000.0) is None


# --- renewal ----------------------------------------------------------------------------------------------------------


def test_a_renewal_is_due_when_the_lease_says() -> None:
    renewal = Renewal(Lease(80.0, 100.0), Random(1))
    assert renewal.due_at == 80.0
    renewal.renewed(Lease(160.0, 180.0))
    assert (renewal.due_at, renewal.lease) == (160.0, Lease(160.0, 180.0))


def test_renewals_that_fail_are_repeated_with_growing_pauses() -> None:
    renewal = Renewal(Lease(80.0, 100.0), Random(1))
    for whole in [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]:
        delay = renewal.failed(1000.0)
        assert whole / 2 <= delay <= whole
        assert renewal.due_at == 1000.0 + delay
    assert renewal.lease == Lease(80.0, 100.0)


def test_a_renewal_that_succeeds_begins_the_pauses_anew() -> None:
    renewal = Renewal(Lease(80.0, 100.0), Random(1))
    for _ in range(5):
        renewal.failed(90.0)
    renewal.renewed(Lease(160.0, 180.0))
    assert renewal.failed(160.0) <= 1.0


def test_renewals_end_with_credentials_that_do_not_expire() -> None:
    renewal = Renewal(Lease(80.0, 100.0), Random(1))
    renewal.renewed(None)
    assert renewal.lease is None
