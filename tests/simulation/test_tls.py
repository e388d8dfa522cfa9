"""TLS with the embedded broker: certificates, and the advice in the errors when one is not accepted."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
import trustme

import anyamqp
from anyamqp import TLS, Message, State, TLSError
from anyamqp.testing import Broker
from support.waiting import eventually

pytestmark = pytest.mark.anyio

LIMIT = 30.0


class Papers:
    """Certificate authorities, one of them known to the client, and the client's settings."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.other = trustme.CA(), trustme.CA()
        self.folder = folder
        self.ca_file = folder / "ca.pem"
        self.client_file = folder / "client.pem"
        self.ca.cert_pem.write_to_path(self.ca_file)
        self.ca.issue_cert("client.test").private_key_and_cert_chain_pem.write_to_path(self.client_file)

    def context(self, certificate: trustme.LeafCert, *, asks: bool = False) -> ssl.SSLContext:
        """The broker's context, which ``asks`` for a certificate of the client or not."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        broker_file = self.folder / "broker.pem"
        certificate.private_key_and_cert_chain_pem.write_to_path(broker_file)
        context.load_cert_chain(broker_file)
        if asks:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca_file)
        return context


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


@asynccontextmanager
async def listening(context: ssl.SSLContext) -> AsyncGenerator[str, None]:
    """The URL of a broker that listens with TLS."""
    with anyio.fail_after(LIMIT):
        async with Broker() as broker:
            yield await broker.listen(tls=context)


async def refusal(url: str, tls: TLS) -> str:
    """The text of the error with which a client fails at its first attempt."""
    with pytest.raises(TLSError) as caught:
        async with anyamqp.connect(url, tls=tls, fail_fast=True):
            pytest.fail("connected")
    return str(caught.value)


async def test_messages_pass_over_tls(papers: Papers) -> None:
    async with (
        listening(papers.context(papers.ca.issue_cert("127.0.0.1"))) as url,
        anyamqp.connect(url, tls=TLS(ca_file=papers.ca_file)) as connection,
        connection.channel() as channel,
        connection.publisher() as publisher,
    ):
        await channel.declare_queue("q")
        await publisher.publish(Message(b"secret"), routing_key="q")
        delivery = await channel.get("q")
        assert delivery is not None
        assert delivery.body == b"secret"


async def test_certificate_for_another_name_is_accepted_under_that_name(papers: Papers) -> None:
    async with (
        listening(papers.context(papers.ca.issue_cert("rabbit.test"))) as url,
        anyamqp.connect(url, tls=TLS(ca_file=papers.ca_file, server_name="rabbit.test")) as connection,
    ):
        assert connection.state is State.OPEN


async def test_certificate_for_another_name_asks_for_server_name(papers: Papers) -> None:
    async with listening(papers.context(papers.ca.issue_cert("rabbit.test"))) as url:
        text = await refusal(url, TLS(ca_file=papers.ca_file))
        assert "dial it by a name in its certificate, or give that as TLS.server_name" in text


async def test_certificate_of_a_stranger_asks_for_its_ca(papers: Papers) -> None:
    async with listening(papers.context(papers.other.issue_cert("127.0.0.1"))) as url:
        text = await refusal(url, TLS(ca_file=papers.ca_file))
        assert "if it is the broker's, give the CA that issued it as TLS.ca_file" in text


async def test_certificate_that_has_expired_is_named_so(papers: Papers) -> None:
    expired = papers.ca.issue_cert("127.0.0.1", not_after=datetime(2020, 1, 1, tzinfo=UTC))
    async with listening(papers.context(expired)) as url:
        text = await refusal(url, TLS(ca_file=papers.ca_file))
        assert "the broker needs a certificate that is valid now, or a clock is wrong" in text


async def test_certificate_of_the_client_is_shown_to_the_broker(papers: Papers) -> None:
    context = papers.context(papers.ca.issue_cert("127.0.0.1"), asks=True)
    tls = TLS(ca_file=papers.ca_file, certificate_file=papers.client_file)
    async with listening(context) as url, anyamqp.connect(url, tls=tls) as connection:
        assert connection.state is State.OPEN


async def test_host_that_no_certificate_can_name_fails_the_connect_at_once() -> None:
    async with Broker() as broker:
        with pytest.raises(TLSError, match=r"TLS handshake with \.example:5671: server_hostname cannot .* leading dot"):
            async with anyamqp.connect("amqps://.example/", dial=broker.dial):
                pass


async def test_handshake_that_fails_is_one_line_in_the_log_of_the_broker(
    papers: Papers, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(papers.context(papers.other.issue_cert("127.0.0.1"))) as url:
        await refusal(url, TLS(ca_file=papers.ca_file))
        await eventually(lambda: "failed the TLS handshake" in caplog.text)
    assert [record.exc_info for record in caplog.records if "TLS handshake" in record.getMessage()] == [None, None]
