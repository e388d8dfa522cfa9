"""Opens a transport to the broker with DNS, TCP and TLS, and gives their failures names."""

from __future__ import annotations

import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeAlias, TypeGuard, cast

import anyio
from anyio.abc import ByteStream

from anyamqp.endpoint import TLS, Address
from anyamqp.errors import TLSError, TransportError
from anyamqp.net.tcp import dial_tcp
from anyamqp.protocol.addresses import AddressCycle

if TYPE_CHECKING:
    import ssl

Dial: TypeAlias = Callable[[Address], Awaitable[ByteStream]]
"""Opens a transport to an address. Raises OSError when that fails."""

_BROKEN = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


class Dialer:
    """Opens the transports of one connection, one attempt per call.

    Args:
        tls: the TLS settings; None for no TLS.
        addresses: the address and record to dial.
        dial: opens a transport in place of TCP; it resolves the addresses that it gets.

    Attributes:
        doing: the current step, for the text of an error.

    Raises:
        SettingsError: a file of the TLS settings is missing or invalid.
    """

    def __init__(self, tls: ssl.SSLContext | TLS | None, addresses: AddressCycle, dial: Dial | None) -> None:
        self.doing: str = ""
        self._addresses = addresses
        self._dial = dial
        self._context = _context(tls)
        self._server_name = tls.server_name if isinstance(tls, TLS) else None

    async def dial(self) -> ByteStream:
        """Open a transport to the current address and record.

        Raises:
            TransportError: opening it failed.
            TLSError: we or the broker refused TLS.
        """
        stream = await self._open()
        if self._context is None:
            return stream
        self.doing = f"TLS handshake with {self._addresses}"
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
        address = self._addresses.address
        if self._dial is None and self._addresses.record is None:
            self.doing = f"resolving {address.host!r}"
            self._addresses.resolved(await _resolve(address.host))
        self.doing = f"connecting to {self._addresses}"
        try:
            if self._dial is not None:
                return await self._dial(address)
            return await dial_tcp(Address(self._addresses.record or address.host, address.port))
        except OSError as error:
            raise transport_error(self.doing, error) from error

    def _expected_name(self) -> str | None:
        if self._server_name is not None:
            return self._server_name or None
        # Certificates contain neither the final dot of an absolute name nor the zone of an IPv6 address.
        return self._addresses.address.host.rstrip(".").partition("%")[0]


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
