"""Opens a transport to the broker: chooses the address, then DNS, TCP and TLS, and gives their failures names.

:class:`AddressCycle` decides where to dial, without a wait and without a clock. Each DNS record is an attempt of its
own, not one of a race: a race opens connections only to drop them, and a broker logs each of those as a client that
went away during the handshake.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address
from random import Random
from typing import TYPE_CHECKING, TypeAlias, TypeGuard, TypeVar, cast

import anyio
from anyio.abc import ByteStream

from anyamqp.endpoint import TLS, Address
from anyamqp.errors import TLSError, TransportError
from anyamqp.net.tcp import dial_tcp
from anyamqp.settings import Settings

if TYPE_CHECKING:
    import ssl

Dial: TypeAlias = Callable[[Address], Awaitable[ByteStream]]
"""Opens a transport to an address. Raises OSError when that fails."""

_T = TypeVar("_T")
_BROKEN = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


class AddressCycle:
    """Where to dial next.

    A round goes through all addresses, and through all DNS records of each. The next round has the same order and
    resolves the names anew.

    Args:
        addresses: the addresses in order.
        shuffle: whether to shuffle the addresses, and the records of each.
        random: the source of the shuffled order.
    """

    def __init__(self, addresses: Sequence[Address], *, shuffle: bool, random: Random) -> None:
        self._shuffle = shuffle
        self._random = random
        self._addresses = self._ordered(addresses)
        self._left = len(self._addresses)
        """Addresses left in this round, with the current one."""
        self._records: list[str] = []
        """Records left of the current address, the current one first; empty before it is resolved."""

    def __str__(self) -> str:
        host, port = self.address
        record = self.record
        return f"{host} ({record}):{port}" if record not in (None, host) else str(self.address)

    @property
    def address(self) -> Address:
        """The current address."""
        return self._addresses[0]

    @property
    def record(self) -> str | None:
        """The current record of the address; None if it is not resolved."""
        return self._records[0] if self._records else None

    def resolved(self, records: Iterable[str]) -> None:
        """Set the records of the current address."""
        self._records = self._ordered(dict.fromkeys(records))

    def advance(self, *, start_over: bool) -> bool:
        """Go on to the next record or address.

        Args:
            start_over: begin a round with the same address, because a link to it was good.

        Returns:
            Whether the next one belongs to the same round.
        """
        if start_over:
            self._records.clear()
            self._left = len(self._addresses)
            return False
        if len(self._records) > 1:
            del self._records[0]
            return True
        self._records.clear()
        self._addresses.append(self._addresses.pop(0))
        self._left -= 1
        if self._left:
            return True
        self._left = len(self._addresses)
        return False

    def _ordered(self, items: Iterable[_T]) -> list[_T]:
        order = list(items)
        if self._shuffle:
            self._random.shuffle(order)
        return order


class Dialer:
    """Opens the transports of one connection, one attempt a call.

    Args:
        settings: the settings of the connection.
        dial: opens a transport in place of TCP; it resolves the addresses that it gets.
        random: the source of the order, if the addresses are shuffled.

    Attributes:
        route: the address and record to dial.
        doing: the current step, for the text of an error.

    Raises:
        SettingsError: a file of the TLS settings is missing or invalid.
    """

    def __init__(self, settings: Settings, dial: Dial | None, random: Random) -> None:
        self.route: AddressCycle = AddressCycle(settings.addresses, shuffle=settings.shuffle, random=random)
        self.doing: str = ""
        self._dial = dial
        self._context = _context(settings.tls)
        self._server_name = settings.tls.server_name if isinstance(settings.tls, TLS) else None

    async def dial(self) -> ByteStream:
        """Open a transport to the current address and record.

        Raises:
            TransportError: opening it failed.
            TLSError: we or the broker refused TLS.
        """
        stream = await self._open()
        if self._context is None:
            return stream
        self.doing = f"TLS handshake with {self.route}"
        from anyamqp.net.tls import wrap

        try:
            return await wrap(stream, self._context, self._expected_name())
        except BaseException as error:
            await anyio.aclose_forcefully(stream)
            if isinstance(error, _BROKEN):
                raise transport_error(self.doing, error, is_tls_handshake=True) from error
            if isinstance(error, ValueError):
                raise TLSError(f"{self.doing}: {error}") from error
            raise

    async def _open(self) -> ByteStream:
        address = self.route.address
        if self._dial is None and self.route.record is None:
            self.doing = f"resolving {address.host!r}"
            self.route.resolved(await _resolve(address.host))
        self.doing = f"connecting to {self.route}"
        try:
            if self._dial is not None:
                return await self._dial(address)
            return await dial_tcp(Address(self.route.record or address.host, address.port))
        except OSError as error:
            raise transport_error(self.doing, error) from error

    def _expected_name(self) -> str | None:
        if self._server_name is not None:
            return self._server_name or None
        # Certificates contain neither the final dot of an absolute name nor the zone of an IPv6 address.
        return self.route.address.host.rstrip(".").partition("%")[0]


def _context(tls: ssl.SSLContext | TLS | None) -> ssl.SSLContext | None:
    if not isinstance(tls, TLS):
        return tls
    from anyamqp.net.tls import client_context

    return client_context(tls)


async def _resolve(host: str) -> list[str]:
    """Resolve a name; the records keep the order of the system's resolver."""
    try:
        ip_address(host)
    except ValueError:
        pass
    else:
        return [host]
    try:
        found = await anyio.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise TransportError(f"resolving {host!r}: {error.strerror or error}") from error
    except ValueError as error:
        # UnicodeError for labels that are empty or too long, plain ValueError for zero characters.
        raise TransportError(f"resolving {host!r}: {error}") from error
    return [_with_zone(*entry[4]) for entry in found]


def _with_zone(ip: str, _port: int, _flow: int = 0, zone: int = 0) -> str:
    # A link-local IPv6 address is useless without its interface.
    return f"{ip}%{zone}" if zone and "%" not in ip else ip


# --- failures ---------------------------------------------------------------------------------------------------------


def transport_error(doing: str, error: Exception, *, is_tls_handshake: bool = False) -> TransportError:
    """Make one error of any failure of a transport.

    Args:
        doing: the step that failed.
        error: its exception.
        is_tls_handshake: whether it failed during the TLS handshake. Bytes that are not TLS then mean a port without
            TLS; later they were damaged on their way.
    """
    roots = list(_roots(error))
    text = f"{doing}: {' / '.join(dict.fromkeys(map(_reason, roots)))}"
    advice = next((advice for root in roots if (advice := _advice(root, is_tls_handshake=is_tls_handshake))), None)
    wrapped = TransportError(text) if advice is None else TLSError(f"{text}: {advice}")
    wrapped.__cause__ = error
    return wrapped


def _roots(error: BaseException) -> Iterator[BaseException]:
    # anyio wraps the system's error, and groups the failures of a name with several addresses.
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _roots(inner)
        return
    wraps = isinstance(error, anyio.BrokenResourceError) or (isinstance(error, OSError) and error.errno is None)
    if wraps and error.__cause__ is not None:
        yield from _roots(error.__cause__)
    else:
        yield error


def _reason(error: BaseException) -> str:
    if isinstance(error, anyio.EndOfStream):
        return "the peer closed the TCP connection"
    if _is_of_tls(error):
        from anyamqp.net.tls import reason

        if (said := reason(error)) is not None:
            return said
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _advice(error: BaseException, *, is_tls_handshake: bool) -> str | None:
    if not _is_of_tls(error):
        return None
    from anyamqp.net.tls import advice

    return advice(error, is_handshake=is_tls_handshake)


def _is_of_tls(error: BaseException) -> TypeGuard[ssl.SSLError]:
    # OpenSSL is imported only when TLS is used.
    module = sys.modules.get("ssl")
    return module is not None and isinstance(error, module.SSLError)
