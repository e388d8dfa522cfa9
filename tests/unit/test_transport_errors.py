"""The errors of a transport, and the parts of the network that only rare systems and event loops use."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import sys
from collections.abc import Iterator
from random import Random
from typing import Any

import anyio
import pytest

from anyamqp.endpoint import Address
from anyamqp.errors import TransportError
from anyamqp.net.dialer import Dialer, transport_error
from anyamqp.net.event_loop import Loop, running_loop
from anyamqp.net.tcp import SocketStream
from anyamqp.net.tls import advice, reason
from anyamqp.protocol.addresses import AddressCycle


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


def test_failures_of_several_addresses_are_told_once_each() -> None:
    refused, lost = OSError(errno.ECONNREFUSED, "Connection refused"), OSError(errno.EHOSTUNREACH, "No route to host")
    error = transport_error("dialing", ExceptionGroup("all failed", [refused, lost, refused]))
    assert str(error).startswith("dialing: ConnectionRefusedError: Connection refused / OSError: No route to host")
    assert error.__cause__ is not None


@pytest.mark.anyio
async def test_host_with_a_zero_character_is_a_failed_resolution() -> None:
    addresses = AddressCycle((Address("a\0b", 1),), shuffle=False, random=Random(1))
    with pytest.raises(TransportError, match=r"resolving 'a\\x00b'"):
        await Dialer(None, addresses, None).dial()


@pytest.mark.parametrize("error", [ssl.SSLEOFError(), ssl.SSLZeroReturnError()])
def test_end_of_tls_is_the_end_of_the_connection(error: ssl.SSLError) -> None:
    assert reason(error) == "the peer closed the TCP connection"


@pytest.mark.parametrize(
    ("alert", "says"),
    [
        (
            "TLSV13_ALERT_CERTIFICATE_REQUIRED",
            "the broker wants a certificate from a CA that it trusts, as TLS.certificate_file",
        ),
        ("TLSV1_ALERT_UNKNOWN_CA", "the broker wants a certificate from a CA that it trusts, as TLS.certificate_file"),
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", "or no cipher is known to both sides"),
    ],
)
def test_alert_of_the_broker_is_advice_on_the_settings(alert: str, says: str) -> None:
    error = ssl.SSLError(1, "alert")
    error.reason = alert
    assert says in (advice(error, is_handshake=True) or "")


@pytest.mark.anyio
async def test_any_other_event_loop_reads_through_anyio(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    read: list[bytes] = []

    def take() -> bool:
        read.append(ours.recv(1))
        return len(read) < 2

    theirs.send(b"ab")
    loop = Loop()
    assert loop.is_here
    with anyio.fail_after(10):
        await loop.while_readable(ours, take)
    assert read == [b"a", b"b"]


@pytest.mark.anyio
async def test_closing_ends_a_wait_through_anyio(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    loop = Loop()

    async def close() -> None:
        await anyio.wait_all_tasks_blocked()
        loop.notify_closing(ours)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(close)
        with anyio.fail_after(10), pytest.raises(anyio.ClosedResourceError):
            await loop.while_readable(ours, lambda: True)


async def read_twice(pair: tuple[socket.socket, socket.socket]) -> list[bytes]:
    """Read two bytes with the running event loop's own means."""
    ours, theirs = pair
    read: list[bytes] = []

    def take() -> bool:
        read.append(ours.recv(1))
        return len(read) < 2

    theirs.send(b"ab")
    with anyio.fail_after(10):
        await running_loop().while_readable(ours, take)
    return read


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_an_event_loop_without_readers_reads_through_anyio(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, where anyio has a thread for it."""
    loop = asyncio.get_running_loop()
    add_reader = loop.add_reader
    attempts: list[object] = []

    def refuse_once(*given: Any) -> None:
        attempts.append(given)
        if len(attempts) == 1:
            raise NotImplementedError
        add_reader(*given)

    monkeypatch.setattr(loop, "add_reader", refuse_once)
    assert await read_twice(pair) == [b"a", b"b"]
    assert len(attempts) > 1


@pytest.mark.anyio
async def test_reading_does_without_sniffio(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sniffio", None)
    assert await read_twice(pair) == [b"a", b"b"]


@pytest.mark.anyio
async def test_what_a_dead_peer_cannot_take_is_left_and_the_end_tells_why(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    theirs.close()
    stream = SocketStream(ours)
    assert stream.send_nowait([b"x"]) == [b"x"]
    with pytest.raises(anyio.BrokenResourceError) as caught:
        await stream.send_pieces([b"x"])
    assert isinstance(caught.value.__cause__, BrokenPipeError)


@pytest.mark.anyio
async def test_end_of_a_socket_that_is_not_connected_is_an_error() -> None:
    with socket.socket() as unconnected:
        unconnected.setblocking(False)
        with pytest.raises(anyio.BrokenResourceError):
            await SocketStream(unconnected).send_eof()
