"""The other end of a connection: its address, the credentials, and the TLS settings."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from anyamqp.checks import check_flag, check_kind, check_seconds, check_text, check_whole
from anyamqp.errors import SettingsError
from anyamqp.misuse import explained_class
from anyamqp.protocol.sasl import External, Mechanism, Plain

DEFAULT_PORT = 5672
DEFAULT_TLS_PORT = 5671


def is_encodable(text: str) -> bool:
    """Whether AMQP can carry a text, which may come from the environment."""
    # os.environ represents bytes that are not UTF-8 as lone surrogates; the broker receives the original bytes.
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


class Address(NamedTuple):
    """The address of a broker."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and its password, or a token in its place. The password stays out of ``repr``.

    Attributes:
        username: the user's name.
        password: the password or token.
        expires_in: seconds for which they are valid after a credentials function has returned them; None for ever.
            After 80 % of that time the function is called again, and its new secret is sent with
            connection.update-secret. Without a function, this has no effect.

    Raises:
        SettingsError: the name or the password is not text, or SASL PLAIN cannot carry it; or ``expires_in`` is not a
            positive number.
    """

    username: str
    password: str = field(repr=False)
    expires_in: float | None = None

    def __post_init__(self) -> None:
        for name, text in (("username", self.username), ("password", self.password)):
            check_text(name, text, error=SettingsError)
            if "\0" in text or not is_encodable(text):
                raise SettingsError(f"{name}: holds a character that SASL PLAIN cannot carry")
        check_seconds("expires_in", self.expires_in, positive=True, finite=True, none="for ever", error=SettingsError)


Login: TypeAlias = Credentials | Mechanism
"""The credentials or the SASL mechanism of a login."""

CredentialsSource: TypeAlias = Login | Callable[[], Awaitable[Login]]
"""A login, or an async function that is called at every login and returns one."""

MECHANISMS: Mapping[str, Callable[[Credentials], Mechanism]] = {
    "PLAIN": lambda credentials: Plain(credentials.username, credentials.password),
    "EXTERNAL": lambda _: External(),
}
"""The mechanisms that credentials can log in with, by name."""


@explained_class
@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """TLS settings, for version 1.2 or later. The defaults trust the system's CAs and verify the host name.

    The files are PEM, and are read by :func:`connect`.

    Attributes:
        ca_file: the CAs to trust, instead of the system's.
        certificate_file: our certificate, followed by the chain up to its CA.
        key_file: the key of that certificate; None if it is in ``certificate_file``.
        key_password: the password of the key. Stays out of ``repr``.
        verify: whether the broker's certificate is verified. Without it, anybody can pose as the broker.
        server_name: the name that is sent as SNI and that the certificate must have, instead of the host's. With the
            empty name, none is sent, and the certificate is verified except for its name.

    Raises:
        SettingsError: a value has the wrong type, or two values contradict each other.
    """

    ca_file: str | os.PathLike[str] | None = None
    certificate_file: str | os.PathLike[str] | None = None
    key_file: str | os.PathLike[str] | None = None
    key_password: str | None = field(default=None, repr=False)
    verify: bool = True
    server_name: str | None = None

    def __post_init__(self) -> None:
        for name in ("ca_file", "certificate_file", "key_file"):
            path = getattr(self, name)
            if path is not None and not isinstance(path, str | os.PathLike):
                raise SettingsError(f"{tls_part(name)}: {type(path).__name__} is not a path")
        for name in ("key_password", "server_name"):
            if getattr(self, name) is not None:
                check_text(tls_part(name), getattr(self, name), error=SettingsError)
        check_flag(tls_part("verify"), self.verify, error=SettingsError)
        if self.certificate_file is None:
            for name, value in (("key_file", self.key_file), ("key_password", self.key_password)):
                if value is not None:
                    raise SettingsError(f"{tls_part(name)}: is of no use without {tls_part('certificate_file')}")
        if self.key_password is not None and not is_encodable(self.key_password):
            raise SettingsError(f"{tls_part('key_password')}: is not text")
        # The ssl module refuses it as well, but only after a broker was dialed.
        if self.server_name is not None and (self.server_name.startswith(".") or "\0" in self.server_name):
            raise SettingsError(f"{tls_part('server_name')}: {self.server_name!r} is not a host name")


TLS_QUERY: Mapping[str, str] = {
    "cacertfile": "ca_file",
    "certfile": "certificate_file",
    "keyfile": "key_file",
    "password": "key_password",
    "verify": "verify",
    "server_name_indication": "server_name",
}
"""The attributes of :class:`TLS`, by RabbitMQ's URI query parameters."""


def tls_part(name: str) -> str:
    """The name of an attribute of :class:`TLS` in errors, together with its URL query parameter."""
    (parameter,) = (parameter for parameter, attribute in TLS_QUERY.items() if attribute == name)
    return f"TLS.{name} (URL query {parameter})"


def check_addresses(addresses: tuple[Address, ...]) -> None:
    """Refuse anything but a tuple of at least one address.

    Raises:
        SettingsError: the value is wrong, as in all functions below.
    """
    example = 'Address("localhost", 5672)'
    check_kind("addresses", addresses, tuple, f"({example},)", error=SettingsError)
    if not addresses:
        raise SettingsError("addresses: at least one is needed")
    for address in addresses:
        check_kind("addresses", address, Address, example, error=SettingsError)
        check_text("addresses: host", address.host, error=SettingsError)
        if not address.host:
            raise SettingsError("addresses: host: is empty")
        check_whole("addresses: port", address.port, 1, 65535, error=SettingsError)


def check_credentials(source: object) -> None:
    """Refuse anything but a login or a function that returns one."""
    # A class looks like a mechanism, because it has its methods, and like a function, because it can be called.
    if isinstance(source, type) or not (isinstance(source, Credentials | Mechanism) or callable(source)):
        kind = type(source).__name__
        raise SettingsError(f"credentials: {kind} is neither Credentials, nor a mechanism, nor an async function")


def check_tls(tls: object) -> None:
    """Refuse anything but :class:`TLS`, an ``ssl.SSLContext`` of a client, or None."""
    if tls is None or isinstance(tls, TLS):
        return
    import ssl  # loaded already, if `tls` is a context

    if not isinstance(tls, ssl.SSLContext):
        raise SettingsError(f"tls: {type(tls).__name__} is neither TLS nor an ssl.SSLContext")
    if tls.protocol is ssl.PROTOCOL_TLS_SERVER:
        raise SettingsError("tls: an SSLContext of PROTOCOL_TLS_SERVER cannot dial; one of PROTOCOL_TLS_CLIENT can")


def check_mechanism(name: str, mechanism: str) -> str:
    """Refuse anything but the name of a mechanism that :class:`Credentials` can log in with, and return it."""
    check_text(name, mechanism, error=SettingsError)
    if mechanism not in MECHANISMS:
        known = " and ".join(MECHANISMS)
        raise SettingsError(f"{name}: {mechanism!r} is unknown; known are {known}")
    return mechanism
