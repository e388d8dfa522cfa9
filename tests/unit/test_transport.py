"""DNS, and the errors of TLS settings and handshakes."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import anyio
import anyio.abc
import pytest
import trustme

import anyamqp
from anyamqp import TLS, Address, ConnectTimeout, ReconnectPolicy, Settings, SettingsError, TLSError, TransportError
from anyamqp.net.dialer import Dialer
from anyamqp.net.tls import client_context
from anyamqp.protocol.addresses import AddressCycle
from anyamqp.testing import Broker
from support.waiting import eventually

A, B, C = Address("a", 1), Address("b", 2), Address("c", 3)
SECRET = "s3cr3t-w0rd"
LIMIT = 20.0


def only(address: Address) -> AddressCycle:
    """A cycle of one address."""
    return AddressCycle([address], shuffle=False, random=Random(1))


# --- DNS ------------------------------------------------------------------------------------------------------------


class Names:
    """What the system's resolver knows of the tests' names.

    Attributes:
        records: the IPv4 addresses of each name, in order; a name without any is unknown.
        asked: the names that were looked up.
        slow: set once names that are not known may be answered.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.records: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.slow = threading.Event()
        self.slow.set()
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._getaddrinfo)

    def _getaddrinfo(self, host: str | bytes, port: int | None, *arguments: int, **named: int) -> object:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in self.records:
            return self._real(host, port, *arguments, **named)
        unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        family_type_proto_flags = (*arguments, 0, 0, 0, 0)
        if family_type_proto_flags[3] & socket.AI_NUMERICHOST:
            raise unknown
        self.asked.append(name)
        if not self.records[name]:
            self.slow.wait(LIMIT)
            raise unknown
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 0)) for ip in self.records[name]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


@pytest.fixture
def reserve() -> Iterator[list[socket.socket]]:
    """Sockets that are closed when the test ends."""
    sockets: list[socket.socket] = []
    yield sockets
    for reserved in sockets:
        reserved.close()


def refuse(reserve: list[socket.socket], port: int, *ips: str) -> None:
    """Nobody can listen there, so that who dials is refused."""
    for ip in ips:
        reserved = socket.socket()
        reserve.append(reserved)
        reserved.bind((ip, port))


def dialed(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Where connecting failed, in order, as the log tells it."""
    return re.findall(r"no link: connecting to (\S+ \(\S+?\)):", caplog.text)


FAST = ReconnectPolicy(initial=0.01, maximum=0.01, stable_after=0.0)


@pytest.mark.anyio
async def test_each_record_is_an_attempt_of_its_own_and_the_order_is_kept(
    names: Names, reserve: list[socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    ips = [f"127.0.0.{last}" for last in (9, 4, 7)]
    names.records["rabbit.test"] = [*ips, "127.0.0.1"]
    async with Broker() as broker:
        await broker.listen()
        port = broker.port
        refuse(reserve, port, *ips)
        with anyio.fail_after(LIMIT):
            async with anyamqp.connect(f"amqp://guest:guest@rabbit.test:{port}/", reconnect=FAST) as connection:
                assert connection.stats.dials == 4
    assert dialed(caplog) == [f"rabbit.test ({ip})" for ip in ips]
    assert names.asked == ["rabbit.test"]
    assert caplog.text.count("in 0.0 s") == 3


@pytest.mark.anyio
async def test_all_addresses_and_records_come_before_the_delay(
    names: Names, reserve: list[socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    names.records |= {"one.test": ["127.0.0.2", "127.0.0.3"], "two.test": ["127.0.0.4"]}
    port = free_port(reserve)
    refuse(reserve, port, "127.0.0.2", "127.0.0.3", "127.0.0.4")
    urls = [f"amqp://one.test:{port}/", f"amqp://two.test:{port}/"]
    policy = ReconnectPolicy(initial=0.2, factor=1.0, jitter=0.0, max_attempts=5)
    with anyio.fail_after(LIMIT), pytest.raises(anyamqp.ConnectionLost, match="after 5 attempts"):
        async with anyamqp.connect(urls, reconnect=policy):
            pytest.fail("connected")
    assert dialed(caplog) == [
        "one.test (127.0.0.2)",
        "one.test (127.0.0.3)",
        "two.test (127.0.0.4)",
        "one.test (127.0.0.2)",
    ]
    assert re.findall(r"in (\d\.\d) s", caplog.text) == ["0.0", "0.0", "0.2", "0.0"]
    assert names.asked == ["one.test", "two.test", "one.test"]


def free_port(reserve: list[socket.socket]) -> int:
    reserved = socket.socket()
    reserve.append(reserved)
    reserved.bind(("127.0.0.1", 0))
    return int(reserved.getsockname()[1])


@pytest.mark.anyio
async def test_shuffled_records_are_dialed_each_once_in_an_order_of_its_own(
    names: Names, reserve: list[socket.socket]
) -> None:
    ips = [f"127.0.0.{last}" for last in range(2, 8)]
    names.records["rabbit.test"] = ips
    port = free_port(reserve)
    refuse(reserve, port, *ips)
    orders: set[tuple[str, ...]] = set()
    for seed in range(5):
        route = AddressCycle([Address("rabbit.test", port)], shuffle=True, random=Random(seed))
        dialer, tried = Dialer(None, route, None), list[str]()
        for left in range(len(ips) - 1, -1, -1):
            with pytest.raises(TransportError, match="ConnectionRefusedError"):
                await dialer.dial()
            tried.append(route.record or "")
            assert route.advance(start_over=False) is (left > 0)
        assert sorted(tried) == ips
        orders.add(tuple(tried))
    assert len(orders) > 1


@pytest.mark.anyio
async def test_name_is_resolved_anew_when_its_turn_comes_again(names: Names, reserve: list[socket.socket]) -> None:
    names.records["rabbit.test"] = ["127.0.0.1"]
    async with Broker() as broker:
        await broker.listen()
        port = broker.port
        refuse(reserve, port, "127.0.0.2")
        with anyio.fail_after(LIMIT):
            async with anyamqp.connect(f"amqp://guest:guest@rabbit.test:{port}/", reconnect=FAST) as connection:
                names.records["rabbit.test"] = ["127.0.0.2", "127.0.0.1"]
                broker.reset_connections()
                await eventually(lambda: connection.stats.reconnects == 1)
                assert connection.stats.dials == 3
    assert names.asked == ["rabbit.test"] * 2


@pytest.mark.anyio
async def test_failed_resolution_names_the_host_and_the_next_address_comes(
    names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    names.records["gone.test"] = []
    async with Broker() as broker:
        await broker.listen()
        port = broker.port
        urls = [f"amqp://guest:guest@{host}:{port}/" for host in ("gone.test", "127.0.0.1")]
        with anyio.fail_after(LIMIT):
            async with anyamqp.connect(urls, reconnect=FAST) as connection:
                assert connection.stats.dials == 2
                assert type(connection.stats.last_error) is TransportError
    assert "no link: resolving 'gone.test': Name or service not known; dialing 127.0.0.1:" in caplog.text


@pytest.mark.anyio
@pytest.mark.parametrize("host", ["x" * 64 + ".test", "a..test"])
async def test_name_that_cannot_be_one_is_a_failed_resolution(host: str) -> None:
    dialer = Dialer(None, only(Address(host, 1)), None)
    with anyio.fail_after(LIMIT), pytest.raises(TransportError, match=f"resolving '{host}'"):
        await dialer.dial()


@pytest.mark.anyio
async def test_resolution_counts_into_the_connect_timeout(names: Names) -> None:
    names.records["slow.test"] = []
    names.slow.clear()
    policy = ReconnectPolicy(max_attempts=1)
    try:
        with anyio.fail_after(LIMIT / 2), pytest.raises(anyamqp.ConnectionLost) as caught:
            async with anyamqp.connect("amqp://slow.test/", connect_timeout=0.1, reconnect=policy):
                pytest.fail("connected")
    finally:
        names.slow.set()
    assert isinstance(caught.value.__cause__, ConnectTimeout)
    assert "resolving 'slow.test': no answer within 0.1 s" in str(caught.value)


@pytest.mark.anyio
async def test_dial_of_the_users_own_gets_the_address_and_nothing_is_resolved(names: Names) -> None:
    names.records["rabbit.test"] = []
    got: list[Address] = []
    async with Broker() as broker:

        async def dial(address: Address) -> anyio.abc.ByteStream:
            got.append(address)
            return await broker.dial(address)

        async with anyamqp.connect("amqp://guest:guest@rabbit.test:1234/", dial=dial):
            pass
    assert (got, names.asked) == ([Address("rabbit.test", 1234)], [])


# --- TLS handshakes that come to nothing ----------------------------------------------------------------------------


@pytest.mark.anyio
async def test_silent_peer_costs_the_connect_timeout_and_nothing_is_left_open() -> None:
    ended = anyio.Event()

    async def stay_silent(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):  # noqa: PT012 - whichever read sees it
                while True:
                    await stream.receive()
        ended.set()

    with anyio.fail_after(LIMIT):
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, stay_silent)
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            policy = ReconnectPolicy(max_attempts=1)
            with pytest.raises(anyamqp.ConnectionLost, match=f"TLS handshake with 127.0.0.1:{port}: no ") as caught:
                async with anyamqp.connect(f"amqps://127.0.0.1:{port}/", connect_timeout=0.2, reconnect=policy):
                    pytest.fail("connected")
            assert isinstance(caught.value.__cause__, ConnectTimeout)
            await ended.wait()
            tasks.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (b"", TransportError, "the peer closed the TCP connection"),
        (b"AMQP\0\0\x09\x01", TLSError, "this is no port for TLS"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", TLSError, "this is no port for TLS"),
        (b"\x15\x03\x03\0\x02\x02\x46", TLSError, "no version of TLS in common"),
        (b"\x15\x03\x03\0\x02\x02\x28", TLSError, "URL query certfile"),
        (b"\x15\x03\x03\0\x02\x02\x50", TransportError, "INTERNAL_ERROR"),
    ],
)
async def test_what_ends_a_tls_handshake_is_told_apart(answer: bytes, kind: type[TransportError], said: str) -> None:
    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            if answer:
                await stream.send(answer)

    with anyio.fail_after(LIMIT):
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, serve)
            address = Address("127.0.0.1", listener.extra(anyio.abc.SocketAttribute.local_port))
            dialer = Dialer(TLS(), only(address), None)
            with pytest.raises(TransportError, match=said) as caught:
                await dialer.dial()
            assert type(caught.value) is kind
            assert str(caught.value).startswith(f"TLS handshake with {address}: ")
            tasks.cancel_scope.cancel()


# --- TLS files ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CA, a certificate, its key in the clear and encrypted, another key, and text."""
    folder, ca = tmp_path_factory.mktemp("tls"), trustme.CA()
    leaf, other = ca.issue_cert("localhost"), ca.issue_cert("localhost")
    ca.cert_pem.write_to_path(folder / "ca.pem")
    leaf.cert_chain_pems[0].write_to_path(folder / "leaf.pem")
    leaf.private_key_pem.write_to_path(folder / "leaf.key")
    leaf.private_key_and_cert_chain_pem.write_to_path(folder / "both.pem")
    other.private_key_pem.write_to_path(folder / "other.key")
    (folder / "text").write_text("hello")
    (folder / "locked.key").write_bytes(encrypted(leaf.private_key_pem.bytes()))
    return folder


def encrypted(key: bytes) -> bytes:
    from cryptography.hazmat.primitives import serialization as to

    return to.load_pem_private_key(key, None).private_bytes(
        to.Encoding.PEM, to.PrivateFormat.PKCS8, to.BestAvailableEncryption(SECRET.encode())
    )


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"ca_file": "ca.pem"},
        {"certificate_file": "leaf.pem", "key_file": "leaf.key"},
        {"certificate_file": "leaf.pem", "key_file": "locked.key", "key_password": SECRET},
        {"certificate_file": "both.pem"},
    ],
)
def test_right_files_are_taken(files: Path, given: dict[str, str]) -> None:
    client_context(tls(files, given))


@pytest.mark.parametrize(
    ("given", "part", "file"),
    [
        ({"ca_file": "none"}, "cacertfile", "none"),
        ({"ca_file": "text"}, "cacertfile", "text"),
        ({"ca_file": "."}, "cacertfile", ""),
        ({"certificate_file": "none", "key_file": "leaf.key"}, "certfile", "none"),
        ({"certificate_file": "text", "key_file": "leaf.key"}, "certfile", "text"),
        ({"certificate_file": "leaf.pem"}, "certfile", "leaf.pem"),
        ({"certificate_file": "leaf.pem", "key_file": "none"}, "keyfile", "none"),
        ({"certificate_file": "leaf.pem", "key_file": "text"}, "keyfile", "text"),
        ({"certificate_file": "leaf.pem", "key_file": "other.key"}, "keyfile", "other.key"),
        ({"certificate_file": "leaf.pem", "key_file": "locked.key"}, "keyfile", "locked.key"),
        ({"certificate_file": "leaf.pem", "key_file": "locked.key", "key_password": f"not {SECRET}"}, "keyfile", ""),
        ({"certificate_file": "leaf.pem", "key_file": "locked.key", "key_password": SECRET * 200}, "keyfile", ""),
    ],
)
def test_wrong_file_is_named_at_connect_with_its_parameter(
    files: Path, given: dict[str, str], part: str, file: str
) -> None:
    settings = replace(Settings(), tls=tls(files, given))
    with pytest.raises(SettingsError) as caught:
        anyamqp.connect(settings)
    text = str(caught.value)
    assert re.match(rf"TLS\.\w+ \(URL query {part}\): ", text)
    assert str(files / file) in text
    assert SECRET not in text
    assert caught.value.__cause__ is None


def tls(files: Path, given: dict[str, str]) -> TLS:
    values = {name: value if name == "key_password" else str(files / value) for name, value in given.items()}
    return TLS(**values)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("given", "checks_name", "mode"),
    [
        (TLS(), True, "CERT_REQUIRED"),
        (TLS(server_name="other"), True, "CERT_REQUIRED"),
        (TLS(server_name=""), False, "CERT_REQUIRED"),
        (TLS(verify=False), False, "CERT_NONE"),
    ],
)
def test_what_is_verified(given: TLS, checks_name: bool, mode: str) -> None:
    context = client_context(given)
    assert (context.check_hostname, context.verify_mode.name) == (checks_name, mode)
    assert context.minimum_version.name == "TLSv1_2"
