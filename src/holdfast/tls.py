"""TLS: what a connection is told of it, and the context that it makes of that."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.errors import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """How to speak TLS, version 1.2 or later. The key's password stays out of ``repr``.

    Attributes:
        ca_file: certificates of those whom we trust, in PEM; the system's if None.
        certificate_file: our own certificate, in PEM, for brokers that ask for one.
        key_file: its key, in PEM; None if it is in ``certificate_file``.
        key_password: the key's password, if it has one.
        verify: whether the broker's certificate must be signed by somebody whom we trust. Without it anybody in
            between can read and change everything.
        verify_host: whether the certificate must be for the host that was dialed.
        server_name: the host's name for its certificate and for SNI (RFC 6066), if it is not the name that was dialed.
    """

    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    key_password: str | None = field(default=None, repr=False)
    verify: bool = True
    verify_host: bool = True
    server_name: str | None = None

    def __post_init__(self) -> None:
        if self.key_file is not None and self.certificate_file is None:
            raise SettingsError("key_file: a key without a certificate; give certificate_file (certfile in a URL) too")

    def context(self) -> ssl.SSLContext:
        """The context for connections.

        Raises:
            SettingsError: a file cannot be read, or is not what it should be; the text names it.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = self.verify and self.verify_host
        context.verify_mode = ssl.CERT_REQUIRED if self.verify else ssl.CERT_NONE
        for name, file in (("CA", self.ca_file), ("certificate", self.certificate_file), ("key", self.key_file)):
            if file is not None:
                _check_readable(name, file)
        if self.ca_file is None:
            context.load_default_certs()
        else:
            try:
                context.load_verify_locations(cafile=self.ca_file)
            except ssl.SSLError as error:
                raise SettingsError(f"TLS: the CA file {self.ca_file!r} holds no certificate in PEM") from error
        if self.certificate_file is not None:
            self._load_own(context, self.certificate_file)
        return context

    def server_hostname(self, host: str) -> str | None:
        """What to verify the certificate against, and to send as SNI, for a host that was dialed."""
        return self.server_name or (host if self.verify_host else None)

    def _load_own(self, context: ssl.SSLContext, certificate_file: str) -> None:
        key = self.key_file or certificate_file
        try:
            # A function, because without one OpenSSL asks on the terminal.
            context.load_cert_chain(certificate_file, self.key_file, lambda: self.key_password or "")
        except (ssl.SSLError, ValueError) as error:
            # OpenSSL's text may name what it was given, so it stays out.
            raise SettingsError(
                f"TLS: the certificate {certificate_file!r} and the key {key!r} are not in PEM, do not belong "
                "together, or the key's password is wrong"
            ) from (error if self.key_password is None else None)


def _check_readable(name: str, file: str) -> None:
    try:
        with Path(file).open("rb"):
            return
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a file name"
        raise SettingsError(f"TLS: the {name} file {file!r} cannot be read: {reason}") from None
