"""The listeners of the embedded broker: TLS, IPv6, and several at a time."""

from __future__ import annotations

import ssl
from pathlib import Path

import anyio
import anyio.abc
import pytest
import trustme

import anyamqp
from anyamqp import TLS, Message, ReconnectPolicy
from anyamqp.testing import Broker
from support.rawpeer import RawPeer

pytestmark = pytest.mark.anyio


class Papers:
    """Certificates of the broker.

    Attributes:
        server: a context with its certificate.
        client: settings that trust it.
        ca_file: the certificate of its authority.
    """

    def __init__(self, folder: Path) -> None:
        ca = trustme.CA()
        self.ca_file: Path = folder / "ca.pem"
        ca.cert_pem.write_to_path(self.ca_file)
        self.server: ssl.SSLContext = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("localhost", "127.0.0.1", "::1").private_key_and_cert_chain_pem.write_to_path(
            folder / "broker.pem"
        )
        self.server.load_cert_chain(folder / "broker.pem")
        self.client: TLS = TLS(ca_file=self.ca_file)


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


async def round_trip(connection: anyamqp.Connection) -> bytes:
    """The body of a message that went through a queue."""
    async with connection.channel() as channel:
        queue = await channel.declare_queue("", exclusive=True)
        async with connection.publisher() as publisher:
            await publisher.publish(Message(b"x" * 200_000), routing_key=queue.name)
        delivery = await channel.get(queue.name)
        assert delivery is not None
        return delivery.body


async def drained(stream: anyio.abc.ByteStream) -> None:
    """Read until the transport ends."""
    try:
        while True:
            await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return


async def test_a_client_connects_over_tls(papers: Papers) -> None:
    async with Broker() as broker:
        url = await broker.listen(tls=papers.server)
        assert url == f"amqps://guest:guest@127.0.0.1:{broker.port}/"
        async with anyamqp.connect(url, tls=papers.client) as connection:
            assert len(await round_trip(connection)) == 200_000
        assert broker.unexpected_closes == []


async def test_a_close_over_tls_reaches_the_client(papers: Papers) -> None:
    async with Broker() as broker:
        url = await broker.listen(tls=papers.server)
        policy = ReconnectPolicy(max_attempts=1)
        with pytest.raises(anyamqp.LoginRefused):
            async with anyamqp.connect(url.replace("guest@", "wrong@"), tls=papers.client, reconnect=policy):
                pass


async def test_a_reset_over_tls_is_survived(papers: Papers) -> None:
    async with Broker() as broker:
        url = await broker.listen(tls=papers.server)
        policy = ReconnectPolicy(initial=0.01, stable_after=0.0)
        async with anyamqp.connect(url, tls=papers.client, reconnect=policy) as connection:
            broker.reset_connections()
            assert len(await round_trip(connection)) == 200_000
        assert broker.connections_total == 2


async def test_a_client_that_speaks_no_tls_harms_nobody(papers: Papers) -> None:
    async with Broker() as broker:
        url = await broker.listen(tls=papers.server)
        async with await anyio.connect_tcp("127.0.0.1", broker.port) as stream:
            with anyio.fail_after(5):
                await stream.send(b"AMQP\x00\x00\x09\x01" + bytes(64))
                await drained(stream)
        async with anyamqp.connect(url, tls=papers.client):
            pass


async def test_a_direction_over_tls_ends_alone(papers: Papers) -> None:
    async with Broker() as broker:
        await broker.listen(tls=papers.server)
        trusting = ssl.create_default_context(cafile=papers.ca_file)
        async with await anyio.connect_tcp(
            "127.0.0.1", broker.port, ssl_context=trusting, tls_standard_compatible=False
        ) as stream:
            peer = RawPeer(stream)
            await peer.log_in()
            await peer.tune(heartbeat=0)
            await peer.open()
            broker.faults.half_close()
            await peer.ended()
            assert broker.connection_count == 1


async def test_a_client_connects_over_ipv6() -> None:
    async with Broker() as broker:
        url = await broker.listen(host="::1")
        assert url == f"amqp://guest:guest@[::1]:{broker.port}/"
        async with anyamqp.connect(url) as connection:
            assert len(await round_trip(connection)) == 200_000


async def test_several_listeners_come_back_after_a_stop() -> None:
    async with Broker() as broker:
        urls = [await broker.listen(), await broker.listen()]
        assert broker.url == urls[1]
        broker.stop()
        await broker.start()
        for url in urls:
            async with anyamqp.connect(url):
                pass


async def test_an_address_of_another_machine_is_refused() -> None:
    async with Broker() as broker:
        with pytest.raises(OSError):  # noqa: PT011 - the kernel's error
            await broker.listen(host="192.0.2.1")
        with pytest.raises(anyamqp.InvalidUse, match="call listen"):
            _ = broker.port
