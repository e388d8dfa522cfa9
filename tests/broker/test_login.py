"""Logging in to RabbitMQ: mechanisms, passwords that change, tokens that expire."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Iterator
from contextlib import closing

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import anyamqp
from anyamqp import (
    AccessRefused,
    Connection,
    ConnectionForced,
    Credentials,
    External,
    LoginRefused,
    NotAllowed,
    ReconnectPolicy,
    State,
)
from anyamqp.endpoint import CredentialsSource
from support.queues import unique
from support.rabbitmq import Node
from support.waiting import eventually

pytestmark = pytest.mark.anyio

LIMIT = 60.0
EAGER = ReconnectPolicy(maximum=0.2, stable_after=0.0)
SIGNING_KEY = "the tests' own key, and long enough for HS256"
AUDIENCE = "rabbitmq"

OAUTH2 = f"""{{rabbitmq_auth_backend_oauth2, [
  {{resource_server_id, <<"{AUDIENCE}">>}},
  {{key_config, [{{default_key, <<"tests">>}}, {{signing_keys, #{{<<"tests">> => {{map,
    #{{<<"kty">> => <<"MAC">>, <<"alg">> => <<"HS256">>, <<"value">> => <<"{SIGNING_KEY}">>}}}}}}}}]}}]}}"""


@pytest.fixture(scope="module")
def login_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A running node that takes passwords and tokens, and offers PLAIN and RabbitMQ's demonstration of challenges."""
    node = Node(
        tmp_path_factory.mktemp("login-node"),
        name="login",
        plugins=["rabbitmq_auth_backend_oauth2"],
        config={
            "auth_mechanisms.1": "PLAIN",
            "auth_mechanisms.2": "RABBIT-CR-DEMO",
            "auth_backends.1": "internal",
            "auth_backends.2": "rabbit_auth_backend_oauth2",
        },
        advanced=OAUTH2,
    )
    with closing(node):
        node.start()
        yield node


def to(
    node: Node, credentials: CredentialsSource | None = None, *, query: str = "", name: str | None = None
) -> Connection:
    return anyamqp.connect(node.url + query, credentials=credentials, reconnect=EAGER, name=name, ready_timeout=LIMIT)


async def ctl(node: Node, *arguments: str) -> str:
    return await anyio.to_thread.run_sync(lambda: node.ctl(*arguments))


async def mechanism_and_user(node: Node, name: str) -> tuple[str, str]:
    """How the connection of that name logged in, as the broker sees it."""
    columns = ("auth_mechanism", "user", "client_properties")
    rows = json.loads(await ctl(node, "--formatter", "json", "list_connections", *columns))
    (row,) = [row for row in rows if ["connection_name", "longstr", name] in row["client_properties"]]
    return row["auth_mechanism"], row["user"]


async def lose(node: Node, connection: Connection) -> None:
    """Have the broker close the connection, and wait until it is back."""
    reconnects = connection.stats.reconnects
    await anyio.to_thread.run_sync(node.close_all_connections)
    await eventually(lambda: connection.stats.reconnects > reconnects and connection.state is State.OPEN, within=LIMIT)


# --- mechanisms -----------------------------------------------------------------------------------------------------


class ChallengeDemo:
    """RabbitMQ's RABBIT-CR-DEMO: the user's name at once, the password when asked for it.

    Attributes:
        challenges: the challenges that came.
    """

    name = "RABBIT-CR-DEMO"

    def __init__(self, password: str) -> None:
        self.challenges: list[bytes] = []
        self._password = password

    def start(self) -> bytes:
        return b"guest"

    def answer(self, challenge: bytes) -> bytes:
        self.challenges.append(challenge)
        return f"My password is {self._password}".encode()


@pytest.mark.parametrize("query", ["", "?auth_mechanism=plain", "?auth_mechanism=external&auth_mechanism=plain"])
async def test_password_with_plain(login_node: Node, query: str) -> None:
    name = unique("plain")
    with anyio.fail_after(LIMIT):
        async with to(login_node, query=query, name=name):
            assert await mechanism_and_user(login_node, name) == ("PLAIN", "guest")


async def test_mechanism_of_the_users_own_answers_the_challenge(login_node: Node) -> None:
    mechanism, name = ChallengeDemo("guest"), unique("demo")
    with anyio.fail_after(LIMIT):
        async with to(login_node, mechanism, name=name) as connection:
            assert mechanism.challenges == [b"Please tell me your password"]
            assert await mechanism_and_user(login_node, name) == ("RABBIT-CR-DEMO", "guest")
            await lose(login_node, connection)
            assert len(mechanism.challenges) == 2


@pytest.mark.parametrize("is_plain", [True, False])
async def test_wrong_password_is_refused_and_shown_nowhere(
    login_node: Node, is_plain: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    password = unique("hunter2")
    login = Credentials("guest", password) if is_plain else ChallengeDemo(password)
    connection = to(login_node, login)
    with anyio.fail_after(LIMIT), pytest.raises(LoginRefused) as caught:
        async with connection:
            pytest.fail("logged in")
    assert caught.value.code == 403
    assert connection.stats.dials == 1
    assert password not in f"{caught.value} {caught.value!r} {connection!r} {caplog.text}"


async def test_a_missing_mechanism_is_named_with_the_offered_ones(login_node: Node) -> None:
    with anyio.fail_after(LIMIT), pytest.raises(LoginRefused) as caught:
        async with to(login_node, External()):
            pytest.fail("logged in")
    offered = str(caught.value).partition("the broker offers ")[2].partition(", not EXTERNAL")[0]
    assert sorted(offered.split()) == ["PLAIN", "RABBIT-CR-DEMO"]


# --- passwords that change ------------------------------------------------------------------------------------------


async def test_credentials_are_asked_for_at_every_login(login_node: Node) -> None:
    user, passwords = unique("user"), [unique("password")]

    async def credentials() -> Credentials:
        await anyio.lowlevel.checkpoint()
        return Credentials(user, passwords[-1])

    with anyio.fail_after(LIMIT):
        await ctl(login_node, "add_user", user, passwords[-1])
        await ctl(login_node, "set_permissions", user, ".*", ".*", ".*")
        name = unique("rotating")
        async with to(login_node, credentials, name=name) as connection:
            passwords.append(unique("password"))
            await ctl(login_node, "change_password", user, passwords[-1])
            await lose(login_node, connection)
            assert await mechanism_and_user(login_node, name) == ("PLAIN", user)


async def test_new_secret_is_answered_and_used_at_the_next_login(login_node: Node) -> None:
    user, old, new = unique("user"), unique("password"), unique("password")
    with anyio.fail_after(LIMIT):
        await ctl(login_node, "add_user", user, old)
        await ctl(login_node, "set_permissions", user, ".*", ".*", ".*")
        async with to(login_node, Credentials(user, old)) as connection:
            await ctl(login_node, "change_password", user, new)
            await connection.update_secret(new, reason="the password was changed")
            assert connection.stats.link_number == 1
            await lose(login_node, connection)
            assert not isinstance(connection.stats.last_error, LoginRefused)
            assert connection.stats.link_number == 2
    log = login_node.log_text()
    assert "the password was changed" in log
    assert new not in log


# --- tokens that expire ---------------------------------------------------------------------------------------------


def token(expires_at: float) -> str:
    """A JSON Web Token (RFC 7519, signed with HS256) that may do everything until then, in seconds since 1970."""
    scopes = [f"{AUDIENCE}.{right}:*/*" for right in ("configure", "read", "write")]
    claims = {"aud": [AUDIENCE], "scope": scopes, "client_id": "tests", "exp": int(expires_at)}
    parts = [_base64url(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT", "kid": "tests"}, claims)]
    signature = hmac.digest(SIGNING_KEY.encode(), ".".join(parts).encode(), hashlib.sha256)
    return ".".join([*parts, _base64url(signature)])


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


async def declare(connection: Connection) -> None:
    """An operation that needs a valid token."""
    async with connection.channel() as channel:
        queue = await channel.declare_queue(unique("queue"), exclusive=True)
        await channel.delete_queue(queue)


async def test_token_is_renewed_by_itself_before_it_expires(login_node: Node, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    issued: list[tuple[str, float]] = []

    async def credentials() -> Credentials:
        await anyio.lowlevel.checkpoint()
        expires_at = int(time.time()) + 6
        issued.append((token(expires_at), expires_at))
        return Credentials("tests", issued[-1][0], expires_in=expires_at - time.time())

    with anyio.fail_after(LIMIT):
        async with to(login_node, credentials) as connection:
            await declare(connection)
            await eventually(lambda: time.time() > issued[0][1] + 1, within=LIMIT, every=0.1)
            await declare(connection)
            assert (connection.stats.link_number, connection.stats.last_error) == (1, None)
    assert len(issued) >= 2
    assert not any(text in caplog.text for text, _ in issued)


async def test_token_that_is_not_renewed_does_expire(login_node: Node) -> None:
    """The test above relies on this."""
    expires_at = int(time.time()) + 3
    lifetimes = iter([expires_at, expires_at + 60])

    async def credentials() -> Credentials:
        await anyio.lowlevel.checkpoint()
        return Credentials("tests", token(next(lifetimes)))

    with anyio.fail_after(LIMIT):
        async with to(login_node, credentials) as connection:
            await declare(connection)
            await eventually(lambda: time.time() > expires_at + 1, within=LIMIT, every=0.1)
            if login_node.facts.expired_token_costs_link:
                await declare(connection)
                assert connection.stats.link_number == 2
                assert isinstance(connection.stats.last_error, ConnectionForced)
                assert str(connection.stats.last_error) == "credential expired"
            else:
                with pytest.raises(AccessRefused):
                    await declare(connection)
                await connection.update_secret(token(time.time() + 60))
                await declare(connection)
                assert connection.stats.link_number == 1


async def test_a_refused_token_is_reported_and_ends_the_link(login_node: Node) -> None:
    async def credentials() -> Credentials:
        await anyio.lowlevel.checkpoint()
        return Credentials("tests", token(time.time() + 60))

    with anyio.fail_after(LIMIT):
        async with to(login_node, credentials) as connection:
            with pytest.raises(NotAllowed) as caught:
                await connection.update_secret(token(time.time() + 60)[:-4] + "AAAA")
            assert caught.value.method == "connection.update-secret"
            await connection.wait_ready()
            assert connection.stats.link_number == 2
            await declare(connection)
