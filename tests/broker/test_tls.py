"""TLS with RabbitMQ: certificates, errors when one is not trusted, and network faults."""

from __future__ import annotations

import json
import logging
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
import trustme

import anyamqp
from anyamqp import TLS, Connection, External, FrameError, Message, ReconnectPolicy, State, TLSError
from anyamqp.endpoint import CredentialsSource
from anyamqp.testing import FaultProxy
from support.queues import unique
from support.rabbitmq import Certificates, Node
from support.waiting import eventually

pytestmark = pytest.mark.anyio

LIMIT = 60.0
EAGER = ReconnectPolicy(maximum=0.2, stable_after=0.0)
USER = "alice"


class Papers:
    """Certificates, as files in a folder: of the broker, of a client whose common name is a user, and of a stranger."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.other_ca = folder / "ca.pem", folder / "other-ca.pem"
        self.client, self.stranger = folder / "client.pem", folder / "stranger.pem"
        self.broker = Certificates(self.ca, folder / "broker.pem", folder / "broker.key")
        ca, other = trustme.CA(), trustme.CA()
        ca.cert_pem.write_to_path(self.ca)
        other.cert_pem.write_to_path(self.other_ca)
        broker = ca.issue_cert("localhost", "127.0.0.1", "rabbit.test")
        broker.cert_chain_pems[0].write_to_path(self.broker.certificate)
        broker.private_key_pem.write_to_path(self.broker.key)
        ca.issue_cert("client.test", common_name=USER).private_key_and_cert_chain_pem.write_to_path(self.client)
        other.issue_cert("client.test", common_name=USER).private_key_and_cert_chain_pem.write_to_path(self.stranger)

    @property
    def tls(self) -> TLS:
        """Settings that the broker accepts."""
        return TLS(ca_file=self.ca, certificate_file=self.client)


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="module")
def tls_node(tmp_path_factory: pytest.TempPathFactory, papers: Papers) -> Iterator[Node]:
    """A running node that asks for a certificate on its TLS port, and logs its owner in with EXTERNAL."""
    node = Node(
        tmp_path_factory.mktemp("tls-node"),
        name="tls",
        plugins=["rabbitmq_auth_mechanism_ssl"],
        certificates=papers.broker,
        config={
            "auth_mechanisms.1": "EXTERNAL",
            "auth_mechanisms.2": "PLAIN",
            "ssl_cert_login_from": "common_name",
        },
    )
    with closing(node):
        node.start()
        node.ctl("add_user", USER, "never used")
        node.ctl("set_permissions", USER, ".*", ".*", ".*")
        yield node


def to(
    node: Node,
    tls: ssl.SSLContext | TLS | None,
    *,
    port: int | None = None,
    host: str = "127.0.0.1",
    query: Mapping[str, object] | None = None,
    credentials: CredentialsSource | None = None,
    name: str | None = None,
) -> Connection:
    parameters = "&".join(f"{key}={value}" for key, value in (query or {}).items())
    url = f"amqps://guest:guest@{host}:{port or node.tls_port}/?{parameters}"
    return anyamqp.connect(url, tls=tls, reconnect=EAGER, name=name, credentials=credentials, ready_timeout=LIMIT)


async def publish(connection: Connection, body: bytes = b"hello") -> None:
    async with connection.channel() as channel, connection.publisher() as publisher:
        queue = await channel.declare_queue(unique("queue"), exclusive=True)
        await publisher.publish(Message(body), routing_key=queue.name)


async def refused(connection: Connection) -> TLSError:
    """The error that entering raises at once."""
    with anyio.fail_after(LIMIT), pytest.raises(TLSError) as caught:
        async with connection:
            pytest.fail("connected")
    assert connection.stats.dials == 1
    return caught.value


async def seen_by(node: Node, name: str) -> tuple[bool, str, str]:
    """Whether the connection of that name is encrypted, how it logged in and as whom, as the broker sees it."""
    columns = ("ssl", "auth_mechanism", "user", "client_properties")
    listed = await anyio.to_thread.run_sync(lambda: node.ctl("--formatter", "json", "list_connections", *columns))
    (row,) = [row for row in json.loads(listed) if ["connection_name", "longstr", name] in row["client_properties"]]
    return row["ssl"], row["auth_mechanism"], row["user"]


# --- what works -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_publish_is_confirmed_and_the_close_is_clean(tls_node: Node, papers: Papers, host: str) -> None:
    name = unique("tls")
    with anyio.fail_after(LIMIT):
        async with to(tls_node, papers.tls, host=host, name=name) as connection:
            await publish(connection)
            assert await seen_by(tls_node, name) == (True, "PLAIN", "guest")
            listed = await anyio.to_thread.run_sync(tls_node.connections)
            (peer,) = [one.name for one in listed if one.connection_name == name]
        await eventually(lambda: bool(closes(tls_node, peer)), every=0.01)
    (close,) = closes(tls_node, peer)
    assert "[info]" in close


def closes(node: Node, peer: str) -> list[str]:
    """The log lines about the end of a connection. A clean end has level info."""
    return [line for line in node.log_text().splitlines() if "closing AMQP connection" in line and peer in line]


async def test_closed_connections_are_gone_at_the_broker(tls_node: Node, papers: Papers) -> None:
    """One in ten stayed for 30 s when TLS ended without close_notify."""
    prefix = unique("gone")
    with anyio.fail_after(LIMIT):
        for number in range(40):
            async with to(tls_node, papers.tls, name=f"{prefix}-{number}"):
                pass
        await eventually(lambda: not any(one.connection_name.startswith(prefix) for one in tls_node.connections()))


async def test_url_alone_says_it_all(tls_node: Node, papers: Papers) -> None:
    query = {"cacertfile": papers.ca, "certfile": papers.client, "verify": "verify_peer"}
    with anyio.fail_after(LIMIT):
        async with to(tls_node, None, query=query) as connection:
            await publish(connection)


async def test_context_of_the_users_own_and_tls_below_a_plain_scheme(tls_node: Node, papers: Papers) -> None:
    context = ssl.create_default_context(cafile=papers.ca)
    context.load_cert_chain(papers.client)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    url, name = f"amqp://guest:guest@127.0.0.1:{tls_node.tls_port}/", unique("tls")
    with anyio.fail_after(LIMIT):
        async with anyamqp.connect(url, tls=context, name=name) as connection:
            await publish(connection)
            assert (await seen_by(tls_node, name))[0] is True


async def test_client_certificate_logs_in_with_external(tls_node: Node, papers: Papers) -> None:
    name = unique("external")
    with anyio.fail_after(LIMIT):
        async with to(tls_node, papers.tls, credentials=External(), name=name) as connection:
            assert await seen_by(tls_node, name) == (True, "EXTERNAL", USER)
            await publish(connection)


async def test_a_mebibyte_goes_both_ways(tls_node: Node, papers: Papers) -> None:
    body = bytes(range(256)) * 4096
    with anyio.fail_after(LIMIT):
        async with to(tls_node, papers.tls) as connection, connection.channel() as channel:
            queue = await channel.declare_queue(unique("queue"), exclusive=True)
            async with connection.publisher() as publisher, connection.consumer(queue, no_ack=True) as consumer:
                for _ in range(8):
                    await publisher.submit(Message(body), routing_key=queue.name)
                for _ in range(8):
                    assert (await anext(aiter(consumer))).body == body
                await publisher.flush()
            assert connection.stats.link_number == 1


@pytest.mark.parametrize("server_name", ["rabbit.test", ""])
async def test_another_name_or_none_is_verified_on_request(tls_node: Node, papers: Papers, server_name: str) -> None:
    tls = TLS(ca_file=papers.ca, certificate_file=papers.client, server_name=server_name)
    with anyio.fail_after(LIMIT):
        async with to(tls_node, tls) as connection:
            await publish(connection)


async def test_nothing_is_verified_on_request(tls_node: Node, papers: Papers) -> None:
    tls = TLS(ca_file=papers.other_ca, certificate_file=papers.client, verify=False, server_name="wrong.test")
    with anyio.fail_after(LIMIT):
        async with to(tls_node, tls) as connection:
            await publish(connection)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_system", [True, False])
async def test_unknown_ca_is_refused(tls_node: Node, papers: Papers, is_system: bool) -> None:
    tls = TLS(certificate_file=papers.client, ca_file=None if is_system else papers.other_ca)
    error = await refused(to(tls_node, tls))
    assert "give the CA that issued it as TLS.ca_file (URL query cacertfile)" in str(error)
    assert f"127.0.0.1:{tls_node.tls_port}" in str(error)


async def test_wrong_host_name_is_refused(tls_node: Node, papers: Papers) -> None:
    tls = TLS(ca_file=papers.ca, certificate_file=papers.client, server_name="wrong.test")
    error = await refused(to(tls_node, tls))
    assert "not valid for 'wrong.test'" in str(error)
    assert "TLS.server_name (URL query server_name_indication)" in str(error)


async def test_address_that_is_not_in_the_certificate_is_refused(tls_node: Node, papers: Papers) -> None:
    """The address that is dialed does, the one that was asked for does not."""

    async def dial(_: anyamqp.Address) -> anyio.abc.ByteStream:
        return await anyio.connect_tcp("127.0.0.1", tls_node.tls_port)

    connection = anyamqp.connect("amqps://guest:guest@127.0.0.2/", tls=papers.tls, dial=dial, ready_timeout=LIMIT)
    assert "IP address mismatch, certificate is not valid for '127.0.0.2'" in str(await refused(connection))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("is_shown", [False, True])
async def test_missing_or_foreign_client_certificate_is_refused_at_once(
    tls_node: Node, papers: Papers, version: ssl.TLSVersion, is_shown: bool
) -> None:
    context = ssl.create_default_context(cafile=papers.ca)
    context.minimum_version = context.maximum_version = version
    if is_shown:
        context.load_cert_chain(papers.stranger)
    error = await refused(to(tls_node, context))
    assert "the broker wants a certificate from a CA that it trusts" in str(error)


async def test_plain_port_is_no_port_for_tls(tls_node: Node, papers: Papers) -> None:
    assert "this is no port for TLS" in str(await refused(to(tls_node, papers.tls, port=tls_node.port)))


async def test_tls_port_is_no_port_for_plain_amqp(tls_node: Node) -> None:
    url = f"amqp://guest:guest@127.0.0.1:{tls_node.tls_port}/"
    with anyio.fail_after(LIMIT), pytest.raises(FrameError, match="its URL begins with amqps://"):
        async with anyamqp.connect(url, reconnect=EAGER, ready_timeout=LIMIT):
            pytest.fail("connected")


async def test_refused_tls_is_tried_again_when_told_to(tls_node: Node) -> None:
    connection = anyamqp.connect(
        f"amqps://127.0.0.1:{tls_node.tls_port}/", reconnect=EAGER, ready_timeout=0, fail_fast=False
    )
    with anyio.fail_after(LIMIT):
        async with connection:
            await eventually(lambda: connection.stats.dials >= 3)
            assert connection.state is State.CONNECTING
            assert isinstance(connection.stats.last_error, TLSError)


# --- a network that breaks ------------------------------------------------------------------------------------------


async def test_reset_in_the_middle_of_traffic_recovers(
    tls_node: Node, papers: Papers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bodies = [f"{number} {'x' * 100_000}".encode() for number in range(60)]
    with anyio.fail_after(LIMIT), FaultProxy("127.0.0.1", tls_node.tls_port) as proxy:
        async with to(tls_node, papers.tls, port=proxy.port) as connection, connection.channel() as channel:
            queue = await channel.declare_queue(unique("queue"), durable=True)
            async with connection.publisher() as publisher:
                for number, body in enumerate(bodies):
                    if number in (20, 40):
                        reconnects = connection.stats.reconnects
                        await anyio.to_thread.run_sync(proxy.reset)
                        await eventually(lambda: connection.stats.reconnects > reconnects, within=LIMIT)  # noqa: B023
                    await publisher.submit(Message(body), routing_key=queue.name)
                await publisher.flush()
            received: set[bytes] = set()
            async with connection.consumer(queue) as consumer:
                async for delivery in consumer:
                    async with delivery:
                        received.add(delivery.body)
                    if len(received) == len(bodies):
                        break
            assert received == set(bodies)
            assert connection.stats.link_number == 3
            await channel.delete_queue(queue)
    assert "guest:guest" not in caplog.text


async def test_end_of_stream_during_the_tls_handshake_is_tried_again(tls_node: Node, papers: Papers) -> None:
    with anyio.fail_after(LIMIT), FaultProxy("127.0.0.1", tls_node.tls_port) as proxy:
        proxy.cut_after(300)
        connection = to(tls_node, papers.tls, port=proxy.port)
        async with connection:
            await publish(connection)
            assert connection.stats.dials >= 2
            assert not isinstance(connection.stats.last_error, TLSError)
