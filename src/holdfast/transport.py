"""Transports: where to dial, TCP, TLS, and the one error for all the ways in which they fail."""

from __future__ import annotations

import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import TypeAlias, TypeVar, cast

import anyio
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from holdfast.errors import TLSError, TransportError
from holdfast.settings import Address

Dial: TypeAlias = Callable[[Address], Awaitable[ByteStream]]
"""Opens a transport to an address. Raises OSError when that fails."""

_Choice = TypeVar("_Choice")

_NOT_TLS = (
    "WRONG_VERSION_NUMBER",
    "UNKNOWN_PROTOCOL",
    "HTTP_REQUEST",
    "PACKET_LENGTH_TOO_LONG",
)


class Route:
    """Where to dial next: a decision without a wait.

    A host name may stand for several records. Each is an attempt of its own, and all of a name's come before the next
    address. Names are looked up anew each time that it is their turn. After a loss the same address comes first.

    Args:
        addresses: in the order in which they are tried.
        shuffle: where chance comes from if addresses and records are to be tried in an order of this route's own.
    """

    def __init__(self, addresses: Sequence[Address], *, shuffle: Random | None) -> None:
        self._shuffle = shuffle
        self._addresses = deque(self._in_order(addresses))
        self._untried = len(self._addresses)
        self._records: deque[str] = deque()

    def __str__(self) -> str:
        address = self.address
        if not self._records or self._records[0] == address.host:
            return str(address)
        return f"{address.host} ({Address(self._records[0], address.port)})"

    @property
    def address(self) -> Address:
        """The address whose turn it is."""
        return self._addresses[0]

    @property
    def record(self) -> Address | None:
        """The record of it whose turn it is; None if its name is to be looked up first."""
        return Address(self._records[0], self.address.port) if self._records else None

    def resolved(self, records: Sequence[str]) -> None:
        """The name of the address was looked up."""
        self._records = deque(self._in_order(records))

    def failed(self) -> bool:
        """Go on to the next. Returns whether there is one that was not tried in this round."""
        if self._records:
            self._records.popleft()
        if self._records:
            return True
        self._addresses.rotate(-1)
        self._untried -= 1
        if self._untried:
            return True
        self._untried = len(self._addresses)
        return False

    def arrived(self) -> None:
        """A link was opened here: a loss begins a new round, with a fresh look at the name."""
        self._untried = len(self._addresses)
        self._records.clear()

    def _in_order(self, choices: Sequence[_Choice]) -> list[_Choice]:
        ordered = list(choices)
        if self._shuffle is not None:
            self._shuffle.shuffle(ordered)
        return ordered


async def resolve(address: Address) -> list[str]:
    """The IP addresses of a host, in the resolver's order.

    Raises:
        OSError: there is none.
    """
    found = await anyio.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(where[0]) for *_, where in found))


async def dial_tcp(address: Address) -> ByteStream:
    """Open a TCP connection."""
    return await anyio.connect_tcp(address.host, address.port)


async def start_tls(stream: ByteStream, context: ssl.SSLContext, server_hostname: str | None) -> ByteStream:
    """Speak TLS on a transport, which is closed if that fails.

    Raises:
        ssl.SSLError, OSError, anyio.BrokenResourceError, anyio.EndOfStream: the handshake failed.
    """
    try:
        # Not standard compatible: AMQP has a close of its own, and brokers do not say goodbye a second time.
        return await TLSStream.wrap(
            stream, server_side=False, hostname=server_hostname, ssl_context=context, standard_compatible=False
        )
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise


def transport_error(doing: str, error: Exception) -> TransportError:
    """The one error for all the ways in which a transport fails; a :class:`TLSError` where settings are to blame."""
    refusal = _tls_refusal(error)
    wrapped = (
        TransportError(f"{doing}: {' / '.join(dict.fromkeys(_reasons(error)))}")
        if refusal is None
        else TLSError(f"{doing}: {refusal}")
    )
    wrapped.__cause__ = error
    return wrapped


def _tls_refusal(error: BaseException | None) -> str | None:
    """What is wrong with the TLS settings, here or there; None if the network may be to blame."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__
    if error is None:
        return None
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the broker's certificate cannot be trusted: {error.verify_message}; "
            "is the CA file the right one, and the host's name in the certificate?"
        )
    reason = error.reason or ""
    if reason in _NOT_TLS:
        return f"the peer does not speak TLS ({reason}): is this a port for amqp:// rather than amqps://?"
    if "ALERT" in reason or "PROTOCOL" in reason or "CIPHER" in reason:
        alert = reason.lower().replace("_", " ")
        return f"TLS was refused ({alert}): does the broker ask for a client certificate, or for another TLS version?"
    return None


def _reasons(error: BaseException) -> list[str]:
    # anyio wraps what the system said, and puts the failures of a name with several addresses into a group.
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return [reason for inner in group.exceptions for reason in _reasons(inner)]
    wraps = isinstance(error, anyio.BrokenResourceError) or (isinstance(error, OSError) and error.errno is None)
    if wraps and error.__cause__ is not None:
        return _reasons(error.__cause__)
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return [f"{type(error).__name__}: {text}" if text else type(error).__name__]
