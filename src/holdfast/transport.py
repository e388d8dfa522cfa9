"""How a transport to the broker is opened: which of several, DNS, TCP, TLS, and what their failures are called.

Where to dial is decided by :class:`Route`, without a wait and without a clock. Each DNS record is an attempt of its own
rather than one of a race: who dials several at once holds connections that it then drops, and a broker logs each of
them as one that went away during the handshake.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from random import Random
from typing import Final, TypeAlias, TypeVar, cast

import anyio
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from holdfast.errors import SettingsError, TLSError, TransportError
from holdfast.settings import TLS, Address, Settings, tls_part
from holdfast.sockets import dial_tcp

Dial: TypeAlias = Callable[[Address], Awaitable[ByteStream]]
"""Opens a transport to an address. Raises OSError when that fails."""

_T = TypeVar("_T")
_BROKEN = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


_GOODBYE: Final = 0.25
"""Seconds that the end of TLS may take. A peer that is dead does not answer, and the next dial waits for this."""


class Route:
    """Where to dial next.

    A round goes through all addresses, and through all DNS records of each. What follows it is another one in the same
    order, with names resolved anew.

    Args:
        addresses: the addresses in order.
        shuffle: whether to go through them, and through the records of each, in an order of its own.
        random: where that order comes from.
    """

    def __init__(self, addresses: Sequence[Address], *, shuffle: bool, random: Random) -> None:
        self._shuffle = shuffle
        self._random = random
        self._addresses = deque(self._ordered(addresses))
        self._left = len(self._addresses)
        """Addresses of this round, the present one included."""
        self._records: deque[str] = deque()
        """Records of the present address, the present one first; empty before it is resolved."""

    def __str__(self) -> str:
        host, port = self.address
        record = self.record
        return f"{host} ({record}):{port}" if record not in (None, host) else str(self.address)

    @property
    def address(self) -> Address:
        """Whose turn it is."""
        return self._addresses[0]

    @property
    def record(self) -> str | None:
        """Which of its records; None if it is not resolved."""
        return self._records[0] if self._records else None

    def resolved(self, records: Iterable[str]) -> None:
        """The address has these records."""
        self._records = deque(self._ordered(dict.fromkeys(records)))

    def advance(self, *, start_over: bool) -> bool:
        """What was dialed is over: go on to the next.

        Args:
            start_over: begin a round with the same address, because it was good.

        Returns:
            Whether the next belongs to the same round.
        """
        if start_over:
            self._records.clear()
            self._left = len(self._addresses)
            return False
        if len(self._records) > 1:
            self._records.popleft()
            return True
        self._records.clear()
        self._addresses.rotate(-1)
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
        settings: what the connection was told.
        dial: what opens a transport in place of TCP; it gets addresses, and resolves them itself.
        random: where the order comes from, if it is to be shuffled.

    Attributes:
        route: where it dials.
        doing: what it does at present, for the text of an error.

    Raises:
        SettingsError: a file of the TLS settings is missing or not what it should be.
    """

    def __init__(self, settings: Settings, dial: Dial | None, random: Random) -> None:
        self.route: Route = Route(settings.addresses, shuffle=settings.shuffle, random=random)
        self.doing: str = ""
        self._dial = dial
        self._context = client_context(settings.tls) if isinstance(settings.tls, TLS) else settings.tls
        self._server_name = settings.tls.server_name if isinstance(settings.tls, TLS) else None

    async def dial(self) -> ByteStream:
        """Open a transport to where the route is.

        Raises:
            TransportError: that failed.
            TLSError: TLS was refused, by us or by the broker.
        """
        stream = await self._open()
        if self._context is None:
            return stream
        self.doing = f"TLS handshake with {self.route}"
        try:
            return await _TLSStream.wrap(
                stream,
                server_side=False,
                hostname=self._expected_name(),
                ssl_context=self._context,
                # AMQP has a close of its own, so that an end without it is noticed, and peers do not all say goodbye.
                standard_compatible=False,
            )
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
        # Certificates hold neither the dot that ends an absolute name nor the zone of an IPv6 address.
        return self.route.address.host.rstrip(".").partition("%")[0]


async def _resolve(host: str) -> list[str]:
    """The records of a name, in the order of the system's resolver."""
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
        # Not only UnicodeError, for labels that are empty or too long: zero characters are refused as well.
        raise TransportError(f"resolving {host!r}: {error}") from error
    return [_with_zone(*entry[4]) for entry in found]


def _with_zone(ip: str, _port: int, _flow: int = 0, zone: int = 0) -> str:
    # A link-local IPv6 address means nothing without the interface.
    return f"{ip}%{zone}" if zone and "%" not in ip else ip


# --- TLS --------------------------------------------------------------------------------------------------------------


class _TLSStream(TLSStream):
    """TLS that says goodbye with close_notify (RFC 8446, 6.1), whether or not the peer does.

    Without it, Erlang's ssl now and then misses the end of the TCP connection (seen with RabbitMQ 3.10.8 on OTP 25),
    and the broker holds the connection for 30 s more.
    """

    async def aclose(self) -> None:
        try:
            with anyio.move_on_after(_GOODBYE):
                await self.unwrap()
        except _BROKEN:
            pass
        finally:
            await self.transport_stream.aclose()


def client_context(tls: TLS) -> ssl.SSLContext:
    """The context that these settings describe.

    Raises:
        SettingsError: a file is missing, cannot be read, or holds something else; the text names it.
    """
    for name in ("ca_file", "certificate_file", "key_file"):
        _check_readable(name, getattr(tls, name))
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except (ssl.SSLError, ValueError):
        raise SettingsError(f"{tls_part('ca_file')}: {_shown(tls.ca_file)} holds no certificate in PEM form") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # TLS 1.2 alone has it. A renegotiation would have the writer read and the reader write.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.check_hostname = tls.verify and tls.server_name != ""
    context.verify_mode = ssl.CERT_REQUIRED if tls.verify else ssl.CERT_NONE
    if tls.certificate_file is not None:
        _load_certificate(context, tls)
    return context


def _load_certificate(context: ssl.SSLContext, tls: TLS) -> None:
    # Without a password, OpenSSL would ask for that of an encrypted key on the terminal.
    password = (tls.key_password or "").encode("utf-8", "surrogateescape")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(tls.certificate_file)
    except (ssl.SSLError, ValueError):
        name, path = tls_part("certificate_file"), _shown(tls.certificate_file)
        raise SettingsError(f"{name}: {path} holds no certificate in PEM form") from None
    try:
        context.load_cert_chain(cast("str", tls.certificate_file), tls.key_file, lambda: password)
    except (ssl.SSLError, ValueError) as error:
        part = "certificate_file" if tls.key_file is None else "key_file"
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            why = f"the key is not that of the certificate in {_shown(tls.certificate_file)}"
        else:
            why = f"holds no key in PEM form, or {tls_part('key_password')} is not that of the key"
        raise SettingsError(f"{tls_part(part)}: {_shown(getattr(tls, part))}: {why}") from None


def _check_readable(name: str, path: str | os.PathLike[str] | None) -> None:
    if path is None:
        return
    try:
        with Path(path).open("rb") as file:
            file.read(1)
    except OSError as error:
        raise SettingsError(f"{tls_part(name)}: {_shown(path)}: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"{tls_part(name)}: {_shown(path)}: {error}") from None


def _shown(path: str | os.PathLike[str] | None) -> str:
    return repr(os.fspath(path)) if path is not None else "the system's store"


# --- what failures are called -----------------------------------------------------------------------------------------

_NAME_MISMATCHES = (62, 64)
_EXPIRED = (9, 10)
"""OpenSSL's X509_V_ERR_*: host name and IP address; not yet and no longer valid."""

_OUR_CERTIFICATE = (
    "ALERT_BAD_CERTIFICATE",
    "ALERT_CERTIFICATE_EXPIRED",
    "ALERT_CERTIFICATE_REQUIRED",
    "ALERT_CERTIFICATE_REVOKED",
    "ALERT_CERTIFICATE_UNKNOWN",
    "ALERT_NO_CERTIFICATE",
    "ALERT_UNKNOWN_CA",
    "ALERT_UNSUPPORTED_CERTIFICATE",
    "ALERT_ACCESS_DENIED",
)
_VERSIONS = ("ALERT_PROTOCOL_VERSION", "ALERT_INSUFFICIENT_SECURITY", "UNSUPPORTED_PROTOCOL")
_NOT_TLS = ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE")
"""Ends of what OpenSSL calls the reason."""


def transport_error(doing: str, error: Exception, *, is_tls_handshake: bool = False) -> TransportError:
    """The one error for all the ways in which a transport fails.

    Args:
        doing: what was tried.
        error: what became of it.
        is_tls_handshake: whether TLS was being agreed on. Later, bytes that are not TLS were damaged on their way.
    """
    roots = list(_roots(error))
    text = f"{doing}: {' / '.join(dict.fromkeys(map(_reason, roots)))}"
    advice = next((advice for root in roots if (advice := _advice(root, is_tls_handshake))), None)
    wrapped = TransportError(text) if advice is None else TLSError(f"{text}: {advice}")
    wrapped.__cause__ = error
    return wrapped


def _roots(error: BaseException) -> Iterator[BaseException]:
    # anyio wraps what the system said, and puts the failures of a name with several addresses into a group.
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
    # Which of the three it is depends on the versions of Python and OpenSSL.
    if isinstance(error, anyio.EndOfStream | ssl.SSLZeroReturnError | ssl.SSLEOFError):
        return "the peer closed the TCP connection"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the broker's certificate: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"{type(error).__name__}: {error.reason}"
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _advice(error: BaseException, is_tls_handshake: bool) -> str | None:
    """What would be right; None if it is no matter of settings."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _NAME_MISMATCHES:
            return f"dial it by a name in its certificate, or give that as {tls_part('server_name')}"
        if error.verify_code in _EXPIRED:
            return "the broker needs a certificate that is valid now, or a clock is wrong"
        return f"if it is the broker's, give the CA that issued it as {tls_part('ca_file')}"
    reason = getattr(error, "reason", None) if isinstance(error, ssl.SSLError) else None
    if not reason:
        return None
    wanted = f"a certificate from a CA that it trusts, as {tls_part('certificate_file')} and {tls_part('key_file')}"
    if reason.endswith(_OUR_CERTIFICATE):
        return f"the broker wants {wanted}"
    if reason.endswith("ALERT_HANDSHAKE_FAILURE"):
        # Erlang's word, under TLS 1.2, to a client that shows no certificate.
        return f"the broker wants {wanted}; or no cipher is known to both sides"
    if reason.endswith(_VERSIONS):
        return "client and broker have no version of TLS in common; 1.2 is the least here"
    if is_tls_handshake and reason.endswith(_NOT_TLS):
        return "this is no port for TLS; RabbitMQ's is 5671, and on 5672 the URL begins with amqp://"
    return None
