"""TLS under a link: the context, the stream, and explanations of its failures.

The first connection that uses TLS imports this module: loading OpenSSL takes a tenth of the time that importing anyamqp
does, and more from a cold disk.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Final, cast

import anyio
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from anyamqp.endpoint import TLS, tls_part
from anyamqp.errors import SettingsError

_GOODBYE: Final = 0.25
"""Seconds that the end of TLS may take. A dead peer does not answer, and the next dial waits for this."""


class _TLSStream(TLSStream):
    """TLS that sends close_notify (RFC 8446, 6.1), whether or not the peer does.

    Without it, Erlang's ssl now and then misses the end of the TCP connection (seen with RabbitMQ 3.10.8 on OTP 25),
    and the broker holds the connection for 30 s more.
    """

    async def aclose(self) -> None:
        try:
            with anyio.move_on_after(_GOODBYE):
                await self.unwrap()
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            pass
        finally:
            await self.transport_stream.aclose()


async def wrap(stream: ByteStream, context: ssl.SSLContext, name: str | None) -> ByteStream:
    """Do the handshake on a stream.

    Args:
        stream: the transport; if this raises, the caller closes it.
        context: the TLS settings.
        name: the host name that the broker's certificate must be for; None if any will do.

    Raises:
        SSLError, OSError, EndOfStream, BrokenResourceError: it failed.
        ValueError: `name` is not a valid host name.
    """
    return await _TLSStream.wrap(
        stream,
        server_side=False,
        hostname=name,
        ssl_context=context,
        # AMQP has a close of its own, which detects truncation, and not all peers send close_notify.
        standard_compatible=False,
    )


def client_context(tls: TLS) -> ssl.SSLContext:
    """Make a context of these settings.

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
    # Only TLS 1.2 has renegotiation. It would make the writer read and the reader write.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.check_hostname = tls.verify and tls.server_name != ""
    context.verify_mode = ssl.CERT_REQUIRED if tls.verify else ssl.CERT_NONE
    if tls.certificate_file is not None:
        _load_certificate(context, tls)
    return context


def _load_certificate(context: ssl.SSLContext, tls: TLS) -> None:
    # Without a password, OpenSSL asks for the one of an encrypted key on the terminal.
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


# --- explaining failures ----------------------------------------------------------------------------------------------

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
"""Ends of OpenSSL's reason."""


def reason(error: ssl.SSLError) -> str | None:
    """Describe the failure in a few words; None if the error's own text is better."""
    # Which of the two is raised depends on the versions of Python and OpenSSL.
    if isinstance(error, ssl.SSLZeroReturnError | ssl.SSLEOFError):
        return "the peer closed the TCP connection"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the broker's certificate: {error.verify_message.rstrip('.')}"
    return f"{type(error).__name__}: {error.reason}" if error.reason else None


def advice(error: ssl.SSLError, *, is_handshake: bool) -> str | None:
    """Advise on the settings; None if they are not the cause."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _NAME_MISMATCHES:
            return f"dial it by a name in its certificate, or give that as {tls_part('server_name')}"
        if error.verify_code in _EXPIRED:
            return "the broker needs a certificate that is valid now, or a clock is wrong"
        return f"if it is the broker's, give the CA that issued it as {tls_part('ca_file')}"
    if not error.reason:
        return None
    wanted = f"a certificate from a CA that it trusts, as {tls_part('certificate_file')} and {tls_part('key_file')}"
    if error.reason.endswith(_OUR_CERTIFICATE):
        return f"the broker wants {wanted}"
    if error.reason.endswith("ALERT_HANDSHAKE_FAILURE"):
        # Under TLS 1.2, Erlang sends it to a client that shows no certificate.
        return f"the broker wants {wanted}; or no cipher is known to both sides"
    if error.reason.endswith(_VERSIONS):
        return "client and broker have no version of TLS in common; 1.2 is the least here"
    if is_handshake and error.reason.endswith(_NOT_TLS):
        return "this is no port for TLS; RabbitMQ's is 5671, and on 5672 the URL begins with amqp://"
    return None
