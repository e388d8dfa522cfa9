"""Each fault of the proxy, observed at both ends of a connection through it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from anyamqp.errors import InvalidUse, SettingsError
from anyamqp.testing.proxy import FaultProxy

SILENCE = 0.15
"""Seconds after which a socket that has said nothing counts as silent."""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """The broker's side: a test accepts and speaks for the broker itself."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(5)
        yield listening


@pytest.fixture
def proxy(listener: socket.socket) -> Iterator[FaultProxy]:
    before = set(threading.enumerate())
    with FaultProxy("127.0.0.1", listener.getsockname()[1]) as running:
        yield running
    assert set(threading.enumerate()) <= before  # the timer of an earlier test may have ended meanwhile


@pytest.fixture
def sockets() -> Iterator[contextlib.ExitStack]:
    """Closes what a test opens."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def dial(proxy: FaultProxy, sockets: contextlib.ExitStack) -> Callable[[], socket.socket]:
    """Opens a connection to the proxy."""

    def dial() -> socket.socket:
        return sockets.enter_context(socket.create_connection((proxy.host, proxy.port), timeout=5))

    return dial


@pytest.fixture
def connect(
    listener: socket.socket, sockets: contextlib.ExitStack, dial: Callable[[], socket.socket]
) -> Callable[[], tuple[socket.socket, socket.socket]]:
    """Opens a connection through the proxy; both of its ends."""

    def connect() -> tuple[socket.socket, socket.socket]:
        client = dial()
        broker, _ = listener.accept()
        broker.settimeout(5)
        return client, sockets.enter_context(broker)

    return connect


Connect = Callable[[], tuple[socket.socket, socket.socket]]
Dial = Callable[[], socket.socket]


def read(sock: socket.socket, size: int) -> bytes:
    """Exactly ``size`` bytes, or fewer if the stream ends before."""
    got = b""
    while len(got) < size and (chunk := sock.recv(size - len(got))):
        got += chunk
    return got


def passes(source: socket.socket, target: socket.socket, data: bytes = b"hello") -> bool:
    source.sendall(data)
    return read(target, len(data)) == data


def silent(sock: socket.socket) -> bool:
    sock.settimeout(SILENCE)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(5)
    return False


def fill(sock: socket.socket) -> int:
    """Write until the socket takes no more; return how many bytes it took."""
    sock.settimeout(SILENCE)
    taken = 0
    try:
        while True:
            taken += sock.send(bytes(65536))
    except TimeoutError:
        return taken


def eventually(condition: Callable[[], bool]) -> bool:
    limit = time.monotonic() + 5
    while not condition() and time.monotonic() < limit:
        time.sleep(0.005)
    return condition()


def test_without_a_fault_bytes_and_ends_pass_both_ways(proxy: FaultProxy, connect: Connect) -> None:
    client, broker = connect()
    assert passes(client, broker)
    assert passes(broker, client)
    client.shutdown(socket.SHUT_WR)
    assert broker.recv(1) == b""
    assert passes(broker, client, b"the other direction is still open")
    broker.close()
    assert client.recv(1) == b""
    assert proxy.live_connections == 0


def test_a_lot_passes_whole_and_in_order(connect: Connect) -> None:
    client, broker = connect()
    data = b"".join(i.to_bytes(4) for i in range(1_000_000))
    with ThreadPoolExecutor(2) as pool:
        sending = [pool.submit(end.sendall, data) for end in (client, broker)]
        with ThreadPoolExecutor(2) as readers:
            up, down = readers.map(read, (broker, client), (len(data), len(data)))
        assert [job.result() for job in sending] == [None, None]
    assert up == data
    assert down == data


def test_connections_are_counted(proxy: FaultProxy, connect: Connect) -> None:
    pairs = [connect() for _ in range(3)]
    assert (proxy.connections_total, proxy.live_connections, proxy.max_live_connections) == (3, 3, 3)
    pairs[0][0].close()
    assert eventually(lambda: proxy.live_connections == 2)
    connect()
    assert (proxy.connections_total, proxy.live_connections, proxy.max_live_connections) == (4, 3, 3)


def test_a_broker_that_is_down_resets_the_client(proxy: FaultProxy, listener: socket.socket, dial: Dial) -> None:
    listener.close()
    with pytest.raises(ConnectionResetError):
        dial().recv(1)
    assert proxy.live_connections == 0


def test_a_reset_by_one_side_reaches_the_other(connect: Connect) -> None:
    client, broker = connect()
    broker.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    broker.close()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_reset(proxy: FaultProxy, connect: Connect) -> None:
    pairs = [connect(), connect()]
    proxy.reset()
    assert proxy.live_connections == 0
    for end in (end for pair in pairs for end in pair):
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    assert passes(*connect())


def test_finish(proxy: FaultProxy, connect: Connect) -> None:
    client, broker = connect()
    proxy.finish()
    assert client.recv(1) == b""
    assert broker.recv(1) == b""
    assert proxy.live_connections == 1, "the client has not closed its end"
    client.close()
    assert eventually(lambda: proxy.live_connections == 0)


def test_half_close(proxy: FaultProxy, connect: Connect) -> None:
    client, broker = connect()
    proxy.half_close()
    assert client.recv(1) == b""
    assert passes(client, broker)
    broker.sendall(b"nobody reads this")
    assert passes(client, broker)
    client.close()
    assert broker.recv(1) == b""


def test_black_hole_and_heal(proxy: FaultProxy, connect: Connect, dial: Dial, listener: socket.socket) -> None:
    client, broker = connect()
    proxy.black_hole()
    client.sendall(b"up")
    broker.sendall(b"down")
    broker.close()
    newcomer = dial()
    newcomer.sendall(b"new")
    assert silent(client)
    proxy.heal()
    assert read(client, 5) == b"down"
    with listener.accept()[0] as second:
        assert read(second, 3) == b"new"


def test_black_hole_holds_what_the_client_sends(proxy: FaultProxy, connect: Connect) -> None:
    client, broker = connect()
    proxy.black_hole()
    client.sendall(b"one")
    assert silent(broker)
    client.sendall(b"two")
    proxy.heal()
    assert read(broker, 6) == b"onetwo"


def test_strand(proxy: FaultProxy, connect: Connect) -> None:
    client, broker = connect()
    proxy.strand()
    client.sendall(b"lost")
    assert silent(broker)
    assert silent(client)
    assert fill(client) < 32 * 1024 * 1024, "the window must fill"
    assert proxy.live_connections == 0
    assert passes(*connect())
    proxy.heal()
    assert silent(broker)


def test_refuse_and_accept(proxy: FaultProxy, connect: Connect, dial: Dial) -> None:
    port = proxy.port
    client, broker = connect()
    proxy.refuse()
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        dial()
    assert passes(client, broker), "what exists goes on"
    proxy.accept()
    proxy.accept()
    assert proxy.port == port
    assert passes(*connect())
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        dial()


def test_mute_and_unmute(proxy: FaultProxy, connect: Connect, dial: Dial, listener: socket.socket) -> None:
    old = connect()
    proxy.mute()
    client = dial()
    client.sendall(b"hello?")
    assert silent(client)
    listener.settimeout(SILENCE)
    with pytest.raises(TimeoutError):
        listener.accept()
    listener.settimeout(5)
    assert passes(*old)
    assert proxy.live_connections == 2
    proxy.unmute()
    assert passes(*connect())
    assert silent(client)
    client.close()
    assert eventually(lambda: proxy.live_connections == 2)


@pytest.mark.parametrize("end", [FaultProxy.finish, FaultProxy.half_close])
def test_a_silent_connection_can_be_ended(end: Callable[[FaultProxy], None], proxy: FaultProxy, dial: Dial) -> None:
    proxy.mute()
    client = dial()
    assert eventually(lambda: proxy.live_connections == 1)
    end(proxy)
    assert client.recv(1) == b""


def test_delay(proxy: FaultProxy, connect: Connect) -> None:
    client, broker = connect()
    proxy.delay(0.5)
    began = time.monotonic()
    client.sendall(b"a")
    time.sleep(0.05)
    proxy.delay(0)
    client.sendall(b"b")
    assert read(broker, 2) == b"ab", "what comes later does not overtake"
    assert time.monotonic() - began >= 0.5
    began = time.monotonic()
    assert passes(broker, client)
    assert time.monotonic() - began < 0.4


def test_rate(proxy: FaultProxy, connect: Connect) -> None:
    client, broker = connect()
    proxy.rate(100_000)
    began = time.monotonic()
    assert passes(client, broker, bytes(30_000))
    assert 0.2 < time.monotonic() - began < 1.5
    proxy.rate(10)
    client.sendall(bytes(1_000))
    proxy.rate(None)
    began = time.monotonic()
    assert read(broker, 1_000) == bytes(1_000)
    assert time.monotonic() - began < 1


def test_cut_after(proxy: FaultProxy, connect: Connect) -> None:
    client, broker = connect()
    proxy.cut_after(10)
    assert passes(client, broker, b"what the client sends does not count")
    broker.sendall(b"0123456")
    assert read(client, 7) == b"0123456"
    broker.sendall(b"789abc")
    assert read(client, 3) == b"789"
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    other_client, other_broker = connect()
    assert passes(other_broker, other_client, b"it happens once")


def test_cut_after_nothing(proxy: FaultProxy, connect: Connect) -> None:
    client, broker = connect()
    proxy.cut_after(0)
    assert passes(client, broker)
    broker.sendall(b"x")
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_corrupt(proxy: FaultProxy, connect: Connect) -> None:
    client, broker = connect()
    proxy.corrupt()
    assert passes(client, broker)
    broker.sendall(b"frame\xce")
    assert read(client, 6) == b"frame\x31"
    assert passes(broker, client)


def test_wrong_arguments_are_refused(proxy: FaultProxy) -> None:
    with pytest.raises(SettingsError):
        proxy.delay(-1)
    with pytest.raises(SettingsError):
        proxy.delay(float("nan"))
    with pytest.raises(SettingsError):
        proxy.rate(0)
    with pytest.raises(SettingsError):
        proxy.cut_after(-1)


def test_outside_its_context_it_says_so(listener: socket.socket) -> None:
    proxy = FaultProxy("127.0.0.1", listener.getsockname()[1])
    with pytest.raises(InvalidUse):
        _ = proxy.port
    with pytest.raises(InvalidUse):
        proxy.reset()
    with proxy:
        proxy.reset()
    with pytest.raises(InvalidUse):
        proxy.reset()
    with pytest.raises(InvalidUse):
        proxy.__enter__()


def test_leaving_ends_everything(listener: socket.socket, sockets: contextlib.ExitStack) -> None:
    with FaultProxy("localhost", listener.getsockname()[1]) as proxy:
        address = (proxy.host, proxy.port)
        clients = [sockets.enter_context(socket.create_connection(address, timeout=5)) for _ in range(2)]
        for _ in clients:
            sockets.enter_context(listener.accept()[0])
        proxy.strand()
        clients.append(sockets.enter_context(socket.create_connection(address, timeout=5)))
        assert eventually(lambda: proxy.live_connections == 1)
    for client in clients:
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)


def test_faults_from_many_threads_while_clients_come_and_go(
    proxy: FaultProxy, listener: socket.socket, sockets: contextlib.ExitStack
) -> None:
    def visit(_: int) -> None:
        with contextlib.suppress(ConnectionError), socket.create_connection((proxy.host, proxy.port), timeout=5) as one:
            one.sendall(b"x")
            one.settimeout(0.05)
            with contextlib.suppress(TimeoutError):
                one.recv(1)

    def break_it(_: int) -> None:
        for fault in (proxy.reset, proxy.finish, proxy.half_close, proxy.black_hole, proxy.heal, proxy.mute):
            fault()
        proxy.unmute()

    with ThreadPoolExecutor(8) as pool:
        visits = pool.map(visit, range(60))
        breaks = pool.map(break_it, range(30))
        assert [*visits, *breaks] == [None] * 90
    assert eventually(lambda: proxy.live_connections == 0)
    listener.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        while True:
            sockets.enter_context(listener.accept()[0])
