"""The link's own socket: sending, receiving, and its ends."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import anyio
import pytest

from anyamqp.endpoint import Address
from anyamqp.net.tcp import Piece, SocketStream, dial_tcp

pytestmark = pytest.mark.anyio

LIMIT = 10.0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def address(listener: socket.socket) -> Address:
    return Address(*listener.getsockname())


async def connected(listener: socket.socket) -> tuple[SocketStream, socket.socket]:
    """A stream, and a blocking socket at the other end."""
    stream = await dial_tcp(address(listener))
    return stream, listener.accept()[0]


async def test_bytes_pass_both_ways(listener: socket.socket) -> None:
    stream, peer = await connected(listener)
    with peer, anyio.fail_after(LIMIT):
        async with stream:
            await stream.send(b"to the peer")
            assert peer.recv(100) == b"to the peer"
            peer.sendall(b"from the peer")
            assert await stream.receive() == b"from the peer"


async def test_no_more_is_received_than_was_asked_for(listener: socket.socket) -> None:
    stream, peer = await connected(listener)
    with peer, anyio.fail_after(LIMIT):
        async with stream:
            peer.sendall(b"abcdef")
            peer.close()
            got = [await stream.receive(4), await stream.receive(4)]
            assert got == [b"abcd", b"ef"]


async def test_the_end_of_the_peer_is_the_end_of_the_stream(listener: socket.socket) -> None:
    stream, peer = await connected(listener)
    with anyio.fail_after(LIMIT):
        async with stream:
            peer.close()
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()


async def test_a_reset_is_told_with_its_cause(listener: socket.socket) -> None:
    stream, peer = await connected(listener)
    with anyio.fail_after(LIMIT):
        async with stream:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            with pytest.raises(anyio.BrokenResourceError) as reading:
                await stream.receive()
            assert isinstance(reading.value.__cause__, ConnectionResetError)
            with pytest.raises(anyio.BrokenResourceError) as writing:
                await stream.send(b"x")
            assert isinstance(writing.value.__cause__, BrokenPipeError)


async def test_more_than_the_system_takes_is_sent_as_the_peer_reads(listener: socket.socket) -> None:
    data = bytes(range(256)) * 64 * 1024
    stream, peer = await connected(listener)
    got = bytearray()

    def read() -> None:
        while len(got) < len(data):
            got.extend(peer.recv(1 << 20))

    with peer, anyio.fail_after(LIMIT):
        async with stream, anyio.create_task_group() as tasks:
            tasks.start_soon(stream.send, data)
            await anyio.wait_all_tasks_blocked()
            await anyio.to_thread.run_sync(read)
    assert bytes(got) == data


async def test_a_large_amount_arrives_whole(listener: socket.socket) -> None:
    data = bytes(range(256)) * 64 * 1024
    stream, peer = await connected(listener)
    got = bytearray()

    async def write() -> None:
        await anyio.to_thread.run_sync(peer.sendall, data)

    with peer, anyio.fail_after(LIMIT):
        async with stream, anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            while len(got) < len(data):
                got += await stream.receive(256 * 1024)
    assert bytes(got) == data


async def test_a_listener_gets_bytes_until_it_has_enough(listener: socket.socket) -> None:
    stream, peer = await connected(listener)
    got = bytearray()

    def take(data: bytes) -> bool:
        got.extend(data)
        return len(got) % 4 != 0

    with peer, anyio.fail_after(LIMIT):
        async with stream:
            peer.sendall(b"abcdefgh")
            await stream.listen(take, 2)
            assert got == b"abcd"
            await stream.listen(take, 3)
            assert got == b"abcdefgh"


async def test_a_listener_waits_for_what_comes_later(listener: socket.socket) -> None:
    stream, peer = await connected(listener)
    got = bytearray()

    def take(data: bytes) -> bool:
        got.extend(data)
        if len(got) == len("first"):
            peer.sendall(b", last")
        return len(got) < len("first, last")

    with peer, anyio.fail_after(LIMIT):
        async with stream, anyio.create_task_group() as tasks:
            tasks.start_soon(stream.listen, take, 100)
            await anyio.wait_all_tasks_blocked()
            peer.sendall(b"first")
    assert got == b"first, last"


async def test_what_a_listener_raises_is_raised(listener: socket.socket) -> None:
    stream, peer = await connected(listener)

    def take(data: bytes) -> bool:
        raise ValueError(data)

    with peer, anyio.fail_after(LIMIT):
        async with stream:
            peer.sendall(b"x")
            with pytest.raises(ValueError, match="x"):
                await stream.listen(take, 100)


async def test_a_listener_is_told_of_the_end_and_of_a_reset(listener: socket.socket) -> None:
    for linger, error in ((None, anyio.EndOfStream), (struct.pack("ii", 1, 0), anyio.BrokenResourceError)):
        stream, peer = await connected(listener)
        with anyio.fail_after(LIMIT):
            async with stream:
                if linger is not None:
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                peer.close()
                with pytest.raises(error):
                    await stream.listen(bool, 100)


async def test_a_cancelled_listener_takes_nothing_more(listener: socket.socket) -> None:
    stream, peer = await connected(listener)
    got: list[bytes] = []

    def take(data: bytes) -> bool:
        got.append(data)
        scope.cancel()
        return True

    with peer, anyio.fail_after(LIMIT):
        async with stream:
            peer.sendall(b"one")
            with anyio.CancelScope() as scope:
                await stream.listen(take, 100)
            peer.sendall(b"two")
            assert await stream.receive() == b"two"
    assert got == [b"one"]


async def test_what_a_listener_was_given_stays_as_it_came(listener: socket.socket) -> None:
    one, first = await connected(listener)
    other, second = await connected(listener)
    got: list[bytes] = []

    def take(data: bytes) -> bool:
        got.append(data)
        return False

    with first, second, anyio.fail_after(LIMIT):
        async with one, other:
            first.sendall(b"first")
            second.sendall(b"second")
            await one.listen(take, 100)
            await other.listen(take, 100)
    assert got == [b"first", b"second"]


async def test_a_cancelled_receive_has_taken_nothing(listener: socket.socket) -> None:
    stream, peer = await connected(listener)
    with peer, anyio.fail_after(LIMIT):
        async with stream:
            peer.sendall(b"first")
            assert await stream.receive() == b"first"
            peer.sendall(b"second")
            with anyio.CancelScope() as scope:
                scope.cancel()
                pytest.fail(f"took {await stream.receive()!r}")
            assert await stream.receive() == b"second"


async def test_what_cannot_be_sent_at_once_is_left(listener: socket.socket) -> None:
    stream, peer = await connected(listener)
    pieces = [b"first", bytes(64 * 1024 * 1024), b"last"]
    with peer, anyio.fail_after(LIMIT):
        async with stream:
            left = stream.send_nowait(pieces)
            sent = sum(map(len, pieces)) - sum(map(len, left))
            assert len(left) == 2
            assert len(pieces[0]) < sent < len(pieces[1])
            while sent:
                sent -= len(peer.recv(sent))


async def test_nothing_is_left_of_what_was_sent_at_once(listener: socket.socket) -> None:
    stream, peer = await connected(listener)
    with peer, anyio.fail_after(LIMIT):
        async with stream:
            assert stream.send_nowait([b"alone"]) == []
            assert peer.recv(100) == b"alone"
            assert stream.send_nowait([b"one", memoryview(b" and other")]) == []
            assert peer.recv(100) == b"one and other"


@pytest.mark.parametrize("gathers", [True, False], ids=["sendmsg", "no sendmsg"])
async def test_pieces_arrive_in_order_and_whole(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, *, gathers: bool
) -> None:
    monkeypatch.setattr("anyamqp.net.tcp._CAN_GATHER", gathers)
    large = bytes(range(256)) * 64 * 1024
    pieces: list[Piece] = [b"first", large, b"between", memoryview(large)[1:], b"last"]
    whole = b"".join(pieces)
    stream, peer = await connected(listener)

    def read() -> bytes:
        got = bytearray()
        while data := peer.recv(1 << 20):
            got += data
        return bytes(got)

    async def write() -> None:
        await stream.send_pieces(pieces)
        await stream.send_eof()

    with peer, anyio.fail_after(LIMIT):
        async with stream, anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            assert await anyio.to_thread.run_sync(read) == whole


@pytest.mark.parametrize("listens", [True, False])
async def test_closing_ends_those_who_wait(listener: socket.socket, *, listens: bool) -> None:
    stream, peer = await connected(listener)
    ended = anyio.Event()

    async def wait() -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await (stream.listen(bool, 100) if listens else stream.receive())
        ended.set()

    with peer, anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await stream.aclose()
            await ended.wait()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.send(b"x")
        await stream.aclose()


async def test_the_peer_is_told_that_nothing_follows(listener: socket.socket) -> None:
    stream, peer = await connected(listener)
    with peer, anyio.fail_after(LIMIT):
        async with stream:
            await stream.send_eof()
            assert peer.recv(1) == b""
            peer.sendall(b"still here")
            assert await stream.receive() == b"still here"


async def test_a_refused_connection_is_told_by_its_errno(listener: socket.socket) -> None:
    target = address(listener)
    listener.close()
    with anyio.fail_after(LIMIT), pytest.raises(ConnectionRefusedError, match="refused"):
        await dial_tcp(target)


async def test_a_cancelled_dial_leaves_no_socket(listener: socket.socket) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await dial_tcp(address(listener))
    listener.settimeout(LIMIT)
    peer, _ = listener.accept()  # the system had connected it already
    with peer:
        peer.settimeout(LIMIT)
        assert peer.recv(1) == b""


async def test_small_writes_leave_at_once(listener: socket.socket) -> None:
    stream, peer = await connected(listener)
    with peer:
        async with stream:
            assert stream._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)  # pyright: ignore[reportPrivateUsage]
