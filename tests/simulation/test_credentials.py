"""The credentials of a connection, in virtual time: each login, updates, and renewal before they expire."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, cast
from unittest.mock import AsyncMock

import anyio
import anyio.lowlevel
import pytest
import trio.testing

import anyamqp
from anyamqp import (
    Connection,
    ConnectionClosed,
    ConnectionLost,
    Credentials,
    CredentialsUnavailable,
    External,
    InvalidArgument,
    LoginRefused,
    NotAllowed,
    ReconnectPolicy,
    RequestTimeout,
    Settings,
    State,
)
from anyamqp.endpoint import CredentialsSource
from anyamqp.testing import Broker
from support.stepping import cancel_at
from support.waiting import running_tasks

pytestmark = pytest.mark.anyio

STEADY = ReconnectPolicy(first=0.0, initial=1.0, factor=1.0, maximum=1.0, jitter=0.0, stable_after=0.0)
"""At once, then every second."""
SECRET = "s3cr3t-t0ken"
REFUSED = NotAllowed("NOT_ALLOWED - New secret was refused by one of the backends")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Virtual time: only trio has a clock that jumps."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


class Guarded(Broker):
    """A broker with a password that the test sets.

    Attributes:
        password: the password that logs a client in.
        logins: the passwords that clients came with.
        refusal: the close for the next new secret; None to accept it.
    """

    def __init__(self) -> None:
        super().__init__(heartbeat=0)
        self.password = "guest"
        self.logins: list[str] = []
        self.refusal: NotAllowed | None = None

    def check_credentials(self, response: str) -> bool:
        self.logins.append(response.rpartition("\0")[2])
        return response == f"\0guest\0{self.password}"

    def update_secret(self, secret: str) -> None:
        if self.refusal is not None:
            refusal, self.refusal = self.refusal, None
            raise refusal
        super().update_secret(secret)


class Issuer:
    """A credentials function that makes the broker's password new each time.

    Args:
        broker: the broker whose password it sets.
        life: seconds that a password holds; None for ever.

    Attributes:
        asked: when it was asked, in seconds since it was made.
        life: as above, for the next passwords.
        instead: called instead, if set.
    """

    def __init__(self, broker: Guarded, life: float | None) -> None:
        self.asked: list[float] = []
        self.life = life
        self.instead: Callable[[], Awaitable[object]] | None = None
        self._broker = broker
        self._start = anyio.current_time()

    async def __call__(self) -> Credentials:
        await anyio.lowlevel.checkpoint()
        self.asked.append(round(anyio.current_time() - self._start, 6))
        if self.instead is not None:
            return cast("Credentials", await self.instead())
        self._broker.password = f"{SECRET}-{len(self.asked)}"
        return Credentials("guest", self._broker.password, expires_in=self.life)


async def fail() -> object:
    await anyio.lowlevel.checkpoint()
    raise LookupError(SECRET)


def to(broker: Broker, credentials: CredentialsSource, *, ready_timeout: float = 60, **settings: Any) -> Connection:
    told = replace(Settings(heartbeat=0, reconnect=STEADY), credentials=credentials, **settings)
    return anyamqp.connect(told, dial=broker.dial, ready_timeout=ready_timeout)


def tokens(*numbers: int) -> list[str]:
    return [f"{SECRET}-{number}" for number in numbers]


# --- what a credentials function gives ------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [None, SECRET, ("guest", SECRET), Credentials, External])
async def test_what_is_no_login_is_named_by_its_type(given: object, caplog: pytest.LogCaptureFixture) -> None:
    async def credentials() -> Credentials:
        await anyio.lowlevel.checkpoint()
        return cast("Credentials", given)

    async with Broker() as broker, to(broker, credentials, ready_timeout=0) as connection:
        await anyio.sleep(1)
        error = connection.stats.last_error
        assert isinstance(error, CredentialsUnavailable)
        kind = type(given).__name__
        assert str(error) == f"the credentials function gave {kind} instead of Credentials or a mechanism"
        assert broker.connections_total == 0
    assert SECRET not in caplog.text


async def test_function_that_is_not_async_fails_at_once_and_is_told_to_be() -> None:
    def credentials() -> Credentials:
        return Credentials("guest", SECRET)

    async with Broker() as broker:
        began = anyio.current_time()
        with pytest.raises(CredentialsUnavailable) as caught:
            async with to(broker, cast("CredentialsSource", credentials)):
                pytest.fail("logged in")
        assert str(caught.value) == "the credentials function gave Credentials without await: it must be async"
        assert anyio.current_time() == began
        assert broker.connections_total == 0


async def test_function_that_has_all_attributes_there_are_is_a_function() -> None:
    credentials = AsyncMock(return_value=Credentials("guest", "guest"))
    async with Broker() as broker, to(broker, credentials) as connection:
        assert connection.state is State.OPEN
    credentials.assert_awaited_once_with()


async def test_a_mechanism_from_the_function_is_logged_in_with() -> None:
    async def credentials() -> anyamqp.Mechanism:
        await anyio.lowlevel.checkpoint()
        return External()

    with pytest.raises(LoginRefused, match="the broker offers AMQPLAIN PLAIN, not EXTERNAL"):
        async with Broker() as broker, to(broker, credentials):
            pytest.fail("logged in")


# --- renewal --------------------------------------------------------------------------------------------------------


async def test_credentials_are_renewed_when_80_percent_of_their_life_have_passed() -> None:
    async with Guarded() as broker:
        issuer = Issuer(broker, 100)
        async with to(broker, issuer) as connection:
            await anyio.sleep(79.9)
            assert issuer.asked == [0]
            await anyio.sleep(0.2)
            assert (issuer.asked, broker.secrets) == ([0, 80], tokens(2))
            issuer.life = 1000
            await anyio.sleep(1000)
            assert (issuer.asked, broker.secrets) == ([0, 80, 160, 960], tokens(2, 3, 4))
            assert (connection.stats.link_number, connection.state) == (1, State.OPEN)
        assert broker.logins == tokens(1)


async def test_credentials_that_hold_for_ever_are_not_renewed_and_cost_no_task() -> None:
    async with Guarded() as broker:
        async with to(broker, Credentials("guest", "guest", expires_in=10)):
            static = len(running_tasks())
            await anyio.sleep(1000)
            assert broker.secrets == []
        issuer = Issuer(broker, None)
        async with to(broker, issuer):
            assert len(running_tasks()) == static
            await anyio.sleep(86_400)
            assert issuer.asked == [0]
        async with to(broker, Issuer(broker, 100)):
            assert len(running_tasks()) == static + 1


async def test_renewal_ends_when_what_comes_holds_for_ever() -> None:
    async with Guarded() as broker:
        issuer = Issuer(broker, 100)
        async with to(broker, issuer):
            tasks = len(running_tasks())
            issuer.life = None
            await anyio.sleep(86_400)
            assert (issuer.asked, broker.secrets) == ([0, 80], tokens(2))
            assert len(running_tasks()) == tasks - 1


async def test_renewal_ends_with_its_link_and_begins_with_the_next() -> None:
    """Invariant 7: and nothing is left when the connection is closed."""
    async with Guarded() as broker:
        before = running_tasks()
        issuer = Issuer(broker, 100)
        async with to(broker, issuer) as connection:
            await anyio.sleep(50)
            broker.reset_connections()
            await anyio.sleep(75)
            assert issuer.asked == [0, 50]
            await anyio.sleep(10)
            assert (issuer.asked, broker.secrets) == ([0, 50, 130], tokens(3))
            assert connection.stats.link_number == 2
        await anyio.sleep(1000)
        assert len(issuer.asked) == 3
        assert running_tasks() == before


async def test_renewal_that_fails_is_tried_again_with_growing_pauses(caplog: pytest.LogCaptureFixture) -> None:
    async with Guarded() as broker:
        issuer = Issuer(broker, 100)
        async with to(broker, issuer) as connection:
            issuer.instead = fail
            await anyio.sleep(95)
            pauses = [later - earlier for earlier, later in pairwise(issuer.asked[1:])]
            assert len(pauses) >= 3
            assert all(2**n / 2 <= pause <= 2**n for n, pause in enumerate(pauses))
            assert broker.secrets == []
            issuer.instead = None
            await anyio.sleep(20)
            assert broker.secrets == tokens(len(issuer.asked))
            renewed_at = issuer.asked[-1]
            await anyio.sleep(80)
            assert issuer.asked[-1] == pytest.approx(renewed_at + 80)
            assert connection.stats.link_number == 1
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == len(pauses) + 1
    assert "expire in 20.0 s and were not renewed: the credentials function raised LookupError" in warnings[0]
    assert SECRET not in caplog.text


async def test_renewal_goes_on_after_the_expiry_on_a_link_that_lives(caplog: pytest.LogCaptureFixture) -> None:
    async with Guarded() as broker:
        issuer = Issuer(broker, 100)
        async with to(broker, issuer) as connection:
            issuer.instead = fail
            await anyio.sleep(10_000)
            pauses = [later - earlier for earlier, later in pairwise(issuer.asked[1:])]
            assert max(pauses) <= 30
            assert len(pauses) <= 10_000 / 15
            assert "have expired and were not renewed" in caplog.text
            issuer.instead = None
            await anyio.sleep(30)
            assert broker.secrets == tokens(len(issuer.asked))
            assert connection.stats.link_number == 1


async def test_renewal_that_the_broker_does_not_answer_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async with Guarded() as broker:
        issuer = Issuer(broker, 100)
        async with to(broker, issuer, request_timeout=5.0) as connection:
            await anyio.sleep(79)
            broker.freeze()
            await anyio.sleep(8)
            assert issuer.asked[:2] == [0, 80]
            assert 85.5 <= issuer.asked[2] <= 86
            broker.thaw()
            await anyio.sleep(70)
            assert broker.secrets == tokens(2, 3)
            assert len(issuer.asked) == 3
            await anyio.sleep(10)
            assert issuer.asked[3] == pytest.approx(issuer.asked[2] + 80)
            assert connection.stats.link_number == 1
    assert "connection.update-secret: no answer within 5.0 s" in caplog.text
    assert SECRET not in caplog.text


async def test_function_that_hangs_is_given_as_long_as_a_login_gives_it(caplog: pytest.LogCaptureFixture) -> None:
    async with Guarded() as broker:
        issuer = Issuer(broker, 100)
        async with to(broker, issuer, connect_timeout=3.0):
            issuer.instead = anyio.sleep_forever
            await anyio.sleep(84.5)
            assert len(issuer.asked) == 3
            assert 83.5 <= issuer.asked[2] <= 84
    assert "the credentials function took longer than 3.0 s" in caplog.text


async def test_function_that_gives_a_mechanism_has_no_secret_to_renew(caplog: pytest.LogCaptureFixture) -> None:
    async def external() -> object:
        await anyio.lowlevel.checkpoint()
        return External()

    async with Guarded() as broker:
        issuer = Issuer(broker, 100)
        async with to(broker, issuer):
            issuer.instead = external
            await anyio.sleep(80.1)
            issuer.instead = None
            await anyio.sleep(1)
            assert broker.secrets == tokens(3)
    assert "gave External, which has no secret to update" in caplog.text


async def test_function_that_gives_one_token_until_it_expires_is_not_asked_in_a_storm() -> None:
    async with Guarded() as broker:
        issuer = Issuer(broker, 100)
        start = anyio.current_time()

        async def cached() -> object:
            await anyio.lowlevel.checkpoint()
            return Credentials("guest", SECRET, expires_in=max(100 - (anyio.current_time() - start), 0.01))

        async with to(broker, issuer):
            issuer.instead = cached
            await anyio.sleep(110)
            assert 10 <= len(issuer.asked) <= 20


async def test_renewal_that_the_broker_refuses_costs_the_link_and_the_next_login_asks_anew() -> None:
    async with Guarded() as broker:
        issuer = Issuer(broker, 100)
        async with to(broker, issuer) as connection:
            broker.refusal = REFUSED
            await anyio.sleep(81)
            assert (connection.state, connection.stats.link_number) == (State.OPEN, 2)
            assert isinstance(connection.stats.last_error, NotAllowed)
            assert (issuer.asked, broker.logins, broker.secrets) == ([0, 80, 80], tokens(1, 3), [])


# --- update_secret --------------------------------------------------------------------------------------------------

STATIC = Credentials("guest", "guest")


async def test_password_that_was_updated_is_used_at_the_next_login() -> None:
    async with Guarded() as broker, to(broker, STATIC) as connection:
        await connection.update_secret("new", reason="rotation")
        broker.password = "new"
        broker.reset_connections()
        await anyio.sleep(1)
        assert (broker.secrets, broker.logins, connection.state) == (["new"], ["guest", "new"], State.OPEN)


async def test_password_that_was_updated_last_is_the_one_that_stays() -> None:
    names = [f"new-{number}" for number in range(50)]
    async with Guarded() as broker, to(broker, STATIC) as connection:
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(connection.update_secret, name)
        broker.reset_connections()
        await anyio.sleep(0.1)
        assert sorted(broker.secrets) == sorted(names)
        assert broker.logins == ["guest", broker.secrets[-1]]


async def test_update_waits_for_the_connection() -> None:
    async with Guarded() as broker, to(broker, STATIC) as connection, anyio.create_task_group() as tasks:
        broker.refuse()
        broker.reset_connections()
        await anyio.sleep(1)
        assert connection.state is State.RECONNECTING
        tasks.start_soon(connection.update_secret, "new")
        await anyio.sleep(10)
        assert broker.secrets == []
        broker.password = "new"
        broker.accept()
        await anyio.sleep(1.5)
        assert broker.secrets == ["new"]


async def test_update_while_away_is_the_password_of_the_next_login() -> None:
    """RabbitMQ 4.3 closes the connection when its token expires, and refuses the old one at every login."""
    async with Guarded() as broker, to(broker, STATIC) as connection:
        broker.password = "new"
        broker.reset_connections()
        await anyio.sleep(1.5)
        assert connection.state is State.RECONNECTING
        with anyio.fail_after(2):
            await connection.update_secret("new")
        assert (connection.state, broker.logins[-1], broker.secrets) == (State.OPEN, "new", ["new"])


@pytest.mark.parametrize("fault", [Broker.freeze, Broker.stop])
async def test_update_gives_up_after_request_timeout(fault: Callable[[Broker], None]) -> None:
    async with Guarded() as broker, to(broker, STATIC, request_timeout=7.0) as connection:
        fault(broker)
        await anyio.sleep(1)
        start = anyio.current_time()
        with pytest.raises(RequestTimeout, match=r"update-secret: no answer within 7\.0 s") as caught:
            await connection.update_secret(SECRET)
        assert anyio.current_time() - start == pytest.approx(7)
        assert SECRET not in str(caught.value)
        broker.thaw()


async def test_update_that_a_loss_caught_is_lost_and_the_old_password_stays() -> None:
    async with Guarded() as broker, to(broker, STATIC) as connection:
        broker.freeze()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reset_after, broker, 1.0)
            with pytest.raises(ConnectionLost, match="update-secret"):
                await connection.update_secret("new")
        await connection.wait_ready(5)
        assert broker.logins == ["guest", "guest"]


async def reset_after(broker: Broker, seconds: float) -> None:
    await anyio.sleep(seconds)
    broker.reset_connections()
    broker.thaw()


async def test_update_that_a_loss_caught_is_done_if_the_login_asks_a_function() -> None:
    async with Guarded() as broker:
        issuer = Issuer(broker, None)
        async with to(broker, issuer) as connection, anyio.create_task_group() as tasks:
            broker.freeze()
            tasks.start_soon(reset_after, broker, 1.0)
            await connection.update_secret("new")
            await connection.wait_ready(5)
            assert (broker.secrets, issuer.asked) == ([], [0, 1])


@pytest.mark.parametrize("is_asking", [False, True])
async def test_update_that_the_broker_refuses_raises_what_it_says(is_asking: bool) -> None:
    async with Guarded() as broker, to(broker, Issuer(broker, None) if is_asking else STATIC) as connection:
        broker.refusal = REFUSED
        with pytest.raises(NotAllowed, match="New secret was refused") as caught:
            await connection.update_secret(SECRET)
        assert caught.value.method == "connection.update-secret"
        assert SECRET not in str(caught.value)
        await connection.wait_ready(5)
        await connection.update_secret("better")
        assert broker.secrets == ["better"]


async def test_update_of_a_cancelled_caller_takes_nobody_elses_answer() -> None:
    async with Guarded() as broker, to(broker, STATIC) as connection:
        broker.freeze()
        assert await cancel_at(1, lambda: connection.update_secret("abandoned"))
        with anyio.move_on_after(1) as waiting:
            await connection.update_secret("unanswered")
        assert waiting.cancelled_caught
        broker.thaw()
        await connection.update_secret("last")
        broker.reset_connections()
        await anyio.sleep(0.1)
        assert broker.secrets == ["abandoned", "unanswered", "last"]
        assert broker.logins == ["guest", "last"]


@pytest.mark.parametrize(
    ("secret", "reason", "named"),
    [
        (f"{SECRET}\0", "", "secret: holds a character"),
        (f"{SECRET}\ud800", "", "new_secret: text that UTF-8 cannot carry"),
        (SECRET, "r" * 256, "reason: 256 bytes"),
        (SECRET.encode(), "", "new_secret: bytes instead of text"),
        (SECRET * 20_000, "", "do not fit a frame"),
    ],
)
async def test_what_cannot_be_carried_is_refused_and_not_shown(secret: str, reason: str, named: str) -> None:
    async with Guarded() as broker, to(broker, STATIC) as connection:
        with pytest.raises(InvalidArgument, match=named) as caught:
            await connection.update_secret(secret, reason=reason)
        assert SECRET not in str(caught.value)
        await connection.update_secret("fine")
        assert broker.secrets == ["fine"]


async def test_update_on_a_closed_connection_says_so() -> None:
    async with Guarded() as broker, to(broker, STATIC) as connection:
        await connection.close()
        with pytest.raises(ConnectionClosed):
            await connection.update_secret("new")


async def test_update_that_leaving_caught_says_so() -> None:
    async with Guarded() as broker:
        issuer = Issuer(broker, None)
        connection = to(broker, issuer, close_timeout=2.0)
        raised: list[BaseException] = []

        async def update() -> None:
            try:
                await connection.update_secret("new")
            except ConnectionClosed as error:
                raised.append(error)

        async with anyio.create_task_group() as tasks, connection:
            broker.freeze()
            tasks.start_soon(update)
            await anyio.sleep(1)
        broker.thaw()
        assert len(raised) == 1
