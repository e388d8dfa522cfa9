"""What a connection is told: addresses, credentials, limits, and how to reconnect.

URLs follow RabbitMQ's "URI Specification" and "URI Query Parameters", with one difference that every client makes: a
path of just ``/`` means the virtual host ``/``, not the one with the empty name.
"""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from holdfast.entities import TopologyRecovery
from holdfast.errors import SettingsError
from holdfast.message import FieldTable
from holdfast.protocol.sasl import External, Mechanism, Plain

VERSION = "0.1.0"
DEFAULT_PORT = 5672
DEFAULT_HEARTBEAT = 60
FRAME_MAX_FLOOR = 8192
"""RabbitMQ 4.1 and later refuse less (release notes of 4.1.0)."""


def _is_encodable(text: str) -> bool:
    # os.environ gives bytes that are not UTF-8 as lone surrogates; they reach the broker as the bytes they were.
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


class Address(NamedTuple):
    """Where a broker listens."""

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
        expires_in: seconds for which they hold, counted from the moment in which a credentials function returns them;
            None for ever. The function is asked again when 80 % of them have passed, and what it gives is sent with
            connection.update-secret. Without a function there is nobody to ask, and nothing happens.

    Raises:
        SettingsError: SASL PLAIN cannot carry the name or the password, or ``expires_in`` is not positive.
    """

    username: str
    password: str = field(repr=False)
    expires_in: float | None = None

    def __post_init__(self) -> None:
        for name, text in (("username", self.username), ("password", self.password)):
            if "\0" in text or not _is_encodable(text):
                raise SettingsError(f"{name}: holds a character that SASL PLAIN cannot carry")
        if self.expires_in is not None:
            _check_positive("expires_in", self.expires_in)


Login: TypeAlias = Credentials | Mechanism
"""What a connection logs in with."""

CredentialsSource: TypeAlias = Login | Callable[[], Awaitable[Login]]
"""What to log in with, or an async function that is asked for it at every login."""

_MECHANISMS: Mapping[str, Callable[[Credentials], Mechanism]] = {
    "PLAIN": lambda credentials: Plain(credentials.username, credentials.password),
    "EXTERNAL": lambda _: External(),
}
"""The mechanisms that credentials can log in with, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconnectPolicy:
    """When to dial again.

    The default retries at once after a loss, then waits 0.1 s, doubled each time up to 30 s, with full jitter, for
    ever. All addresses are tried before each wait.

    Attributes:
        initial: the first wait, in seconds.
        factor: what each wait is multiplied by for the next; 1 keeps it constant.
        maximum: the longest wait, in seconds.
        jitter: how much of a wait is left to chance, from 0 (none) to 1 (anything from 0 to the whole wait).
        at_once: whether the first retry after a loss comes without a wait, if the link lived for ``stable_after``.
        stable_after: seconds that a link must live before the count of attempts starts again from 0. A broker that
            accepts and drops connections in a circle is thereby met with growing waits.
        max_attempts: attempts in a row before giving up; None for no limit.
        max_elapsed: seconds without a link before giving up; None for no limit.
        refusal_grace: seconds for which a refused login or virtual host is tried again on a reconnect: a broker that
            is booting refuses for a while.
    """

    initial: float = 0.1
    factor: float = 2.0
    maximum: float = 30.0
    jitter: float = 1.0
    at_once: bool = True
    stable_after: float = 1.0
    max_attempts: int | None = None
    max_elapsed: float | None = None
    refusal_grace: float = 60.0

    def __post_init__(self) -> None:
        for name in ("initial", "maximum", "stable_after", "refusal_grace"):
            value = getattr(self, name)
            if not value >= 0:
                raise SettingsError(f"ReconnectPolicy.{name}: {value} is not a number of seconds from 0 up")
        if not self.factor >= 1:
            raise SettingsError(f"ReconnectPolicy.factor: {self.factor} is less than 1, so the waits would shrink")
        if not 0 <= self.jitter <= 1:
            raise SettingsError(f"ReconnectPolicy.jitter: {self.jitter} is not between 0 and 1")
        if self.max_attempts is not None and self.max_attempts < 1:
            raise SettingsError(
                f"ReconnectPolicy.max_attempts: {self.max_attempts} is less than 1; None means no limit"
            )
        if self.max_elapsed is not None and not self.max_elapsed > 0:
            raise SettingsError(f"ReconnectPolicy.max_elapsed: {self.max_elapsed} is not more than 0 seconds")

    @classmethod
    def constant(cls, delay: float, *, jitter: float = 0.0, max_attempts: int | None = None) -> ReconnectPolicy:
        """Wait ``delay`` seconds before every attempt but the first."""
        return cls(initial=delay, factor=1.0, maximum=delay, jitter=jitter, at_once=False, max_attempts=max_attempts)

    def delay(self, attempt: int, random: Random) -> float:
        """Seconds to wait before an attempt.

        Args:
            attempt: how many attempts failed since the last stable link; 0 for the first after a loss.
            random: where the jitter comes from.
        """
        if attempt == 0 and self.at_once:
            return 0.0
        exponent = attempt - 1 if self.at_once else attempt
        try:
            wait = min(self.initial * self.factor**exponent, self.maximum)
        except OverflowError:
            wait = self.maximum
        return wait * (1 - self.jitter * random.random())

    def is_exhausted(self, attempts: int, elapsed: float) -> bool:
        """Whether to give up after so many attempts in a row and so many seconds without a link."""
        return (self.max_attempts is not None and attempts >= self.max_attempts) or (
            self.max_elapsed is not None and elapsed >= self.max_elapsed
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that a connection is told.

    Make them from URLs with :meth:`from_urls` or from the environment with :meth:`from_environment`; change single
    values with :func:`dataclasses.replace`.

    Attributes:
        addresses: where to dial, in order.
        credentials: who we are: :class:`Credentials`, a SASL mechanism of your own or :class:`External`, or an async
            function that gives one of them and is asked at every login.
        auth_mechanisms: the SASL mechanisms that :class:`Credentials` may log in with, ``PLAIN`` and ``EXTERNAL``, in
            order of preference: the first that the broker offers is taken.
        virtual_host: the virtual host.
        heartbeat: what we propose, in seconds; 0 leaves it to the broker.
        channel_max: highest channel number that we propose; 0 for the broker's.
        frame_max: largest frame that we propose, in bytes.
        max_message_size: largest message body that we accept or send, in bytes.
        connect_timeout: seconds for one attempt: TCP and the whole handshake.
        request_timeout: seconds that a request (declare, bind, qos, ...) may take, reconnects included; None for ever.
        close_timeout: seconds for the close handshake; after them the transport is dropped.
        reconnect: when to dial again.
        topology_recovery: what happens to declared entities after a reconnect.
        shuffle: whether each connection tries the addresses in an order of its own.
        name: shown by the broker's management UI and in its log.
    """

    addresses: tuple[Address, ...] = (Address("localhost", DEFAULT_PORT),)
    credentials: CredentialsSource = Credentials("guest", "guest")
    auth_mechanisms: tuple[str, ...] = ("PLAIN",)
    virtual_host: str = "/"
    heartbeat: int = DEFAULT_HEARTBEAT
    channel_max: int = 2047
    frame_max: int = 131072
    max_message_size: int = 128 * 1024 * 1024
    connect_timeout: float = 10.0
    request_timeout: float | None = 60.0
    close_timeout: float = 5.0
    reconnect: ReconnectPolicy = ReconnectPolicy()
    topology_recovery: TopologyRecovery = field(default_factory=TopologyRecovery)
    shuffle: bool = False
    name: str | None = None
    client_properties: FieldTable = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        if not self.addresses:
            raise SettingsError("addresses: at least one is needed")
        _check_credentials(self.credentials)
        if not self.auth_mechanisms:
            raise SettingsError("auth_mechanisms: at least one is needed")
        for mechanism in self.auth_mechanisms:
            _check_mechanism("auth_mechanisms", mechanism)
        _check_whole("heartbeat", self.heartbeat, 0, 65535, "seconds")
        _check_whole("channel_max", self.channel_max, 0, 65535, "channels")
        _check_whole("frame_max", self.frame_max, FRAME_MAX_FLOOR, 2**31 - 1, "bytes")
        _check_whole("max_message_size", self.max_message_size, 0, 2**63 - 1, "bytes")
        for name in ("connect_timeout", "close_timeout"):
            _check_positive(name, getattr(self, name))
        if self.request_timeout is not None:
            _check_positive("request_timeout", self.request_timeout)
        for name, text in (("virtual_host", self.virtual_host), ("name", self.name or "")):
            if not _is_encodable(text) or len(text.encode("utf-8", "surrogateescape")) > 255:
                raise SettingsError(f"{name}: longer than 255 bytes, or not text")

    def mechanisms(self, login: Login) -> tuple[Mechanism, ...]:
        """The SASL mechanisms to log in with, in order of preference."""
        if isinstance(login, Credentials):
            return tuple(_MECHANISMS[name](login) for name in self.auth_mechanisms)
        return (login,)

    @classmethod
    def from_urls(cls, urls: str | Sequence[str], *, environment: Mapping[str, str] | None = None) -> Settings:
        """Settings from one AMQP URL, or from several for the nodes of one cluster.

        ``amqp://user:password@host:port/vhost?heartbeat=60&connection_timeout=10000&channel_max=100&name=mine``. The
        query also takes ``auth_mechanism``, ``plain`` or ``external``, several times for several in order of
        preference. All parts but the scheme may be missing. Reserved characters in user, password and vhost are
        percent-encoded. The addresses of several URLs are tried in order; what else they say must be the same in all.

        Args:
            urls: the URL or URLs.
            environment: where ``RABBITMQ_HEARTBEAT`` is looked up when no URL says ``heartbeat``; ``os.environ`` by
                default.

        Raises:
            SettingsError: a part is wrong; the text names the part and never shows the URL, which holds a password.
        """
        each = [_from_url(url) for url in ([urls] if isinstance(urls, str) else urls)]
        if not each:
            raise SettingsError("urls: at least one is needed")
        _, first = each[0]
        for position, (_, other) in enumerate(each[1:], start=2):
            for name in first.keys() | other.keys():
                if first.get(name) != other.get(name):
                    raise SettingsError(f"urls: number {position} differs from the first in {name}")
        heartbeat = _heartbeat_from(os.environ if environment is None else environment)
        values: dict[str, Any] = {"heartbeat": heartbeat, **first}
        return cls(addresses=tuple(address for address, _ in each), **values)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Settings from ``RABBITMQ_URL``, or from ``RABBITMQ_HOST``, ``_PORT``, ``_USER``, ``_PASSWORD``, ``_VHOST``.

        ``RABBITMQ_HEARTBEAT`` (seconds) holds for both, unless the URL says ``heartbeat``. Whatever is missing has
        RabbitMQ's default: localhost, 5672, guest, guest, ``/``.

        Args:
            environment: the variables; ``os.environ`` by default.

        Raises:
            SettingsError: a value is wrong; the text names the variable.
        """
        variables = os.environ if environment is None else environment
        url = variables.get("RABBITMQ_URL")
        if url:
            try:
                return cls.from_urls(url, environment=variables)
            except SettingsError as error:
                text = str(error)
                raise SettingsError(text if text.startswith("RABBITMQ_") else f"RABBITMQ_URL: {text}") from None
        port = _whole_from("RABBITMQ_PORT", variables.get("RABBITMQ_PORT", str(DEFAULT_PORT)), 1, 65535)
        return cls(
            addresses=(Address(variables.get("RABBITMQ_HOST") or "localhost", port),),
            credentials=Credentials(
                variables.get("RABBITMQ_USER") or "guest", variables.get("RABBITMQ_PASSWORD") or "guest"
            ),
            virtual_host=variables.get("RABBITMQ_VHOST") or "/",
            heartbeat=_heartbeat_from(variables),
        )


def _from_url(url: str) -> tuple[Address, dict[str, object]]:
    if "#" in url:
        raise SettingsError("URL: '#' must be percent-encoded (%23), in a password too")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SettingsError(f"URL: {_without_secret(error)}") from None
    if parts.scheme != "amqp":
        hint = " (TLS is not supported yet)" if parts.scheme == "amqps" else ""
        raise SettingsError(f"URL scheme: {parts.scheme!r} is not 'amqp'{hint}")
    if port == 0:
        raise SettingsError("URL port: 0 is not between 1 and 65535")
    values: dict[str, object] = {}
    if parts.username is not None or parts.password is not None:
        values["credentials"] = Credentials(unquote(parts.username or ""), unquote(parts.password or ""))
    path = parts.path[1:]
    if "/" in path:
        raise SettingsError("URL path: a '/' inside the virtual host's name must be percent-encoded (%2F)")
    if path:
        values["virtual_host"] = unquote(path)
    values.update(_from_query(parts.query))
    return Address(_host(parts), port or DEFAULT_PORT), values


def _host(parts: SplitResult) -> str:
    return unquote(parts.hostname) if parts.hostname else "localhost"


def _from_query(query: str) -> dict[str, object]:
    values: dict[str, object] = {}
    mechanisms: list[str] = []
    for key, text in parse_qsl(query, keep_blank_values=True):
        if key == "heartbeat":
            values["heartbeat"] = _whole_from("URL query heartbeat", text, 0, 65535)
        elif key == "connection_timeout":
            values["connect_timeout"] = _whole_from("URL query connection_timeout", text, 1, 2**31) / 1000
        elif key == "channel_max":
            values["channel_max"] = _whole_from("URL query channel_max", text, 0, 65535)
        elif key == "name":
            values["name"] = text
        elif key == "auth_mechanism":
            mechanisms.append(_check_mechanism("URL query auth_mechanism", text.upper()))
        else:
            raise SettingsError(
                f"URL query: {key!r} is unknown; known are heartbeat, connection_timeout, channel_max, name and "
                "auth_mechanism"
            )
    if mechanisms:
        values["auth_mechanisms"] = tuple(mechanisms)
    return values


def _heartbeat_from(environment: Mapping[str, str]) -> int:
    text = environment.get("RABBITMQ_HEARTBEAT")
    return _whole_from("RABBITMQ_HEARTBEAT", text, 0, 65535) if text else DEFAULT_HEARTBEAT


def _whole_from(name: str, text: str, low: int, high: int) -> int:
    # isdecimal alone would let other scripts' digits through, int alone "1_000" and " 1".
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and low <= int(text) <= high):
        raise SettingsError(f"{name}: {text!r} is not a whole number from {low} to {high}")
    return int(text)


def _check_whole(name: str, value: int, low: int, high: int, unit: str) -> None:
    if type(value) is not int or not low <= value <= high:
        raise SettingsError(f"{name}: {value!r} is not a whole number of {unit} from {low} to {high}")


def _check_positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise SettingsError(f"{name}: {value!r} is not a positive number of seconds")


def _check_credentials(source: object) -> None:
    # A class passes for a mechanism, since it has the methods of one, and for a function, since it can be called.
    if isinstance(source, type) or not (isinstance(source, Credentials | Mechanism) or callable(source)):
        kind = type(source).__name__
        raise SettingsError(f"credentials: {kind} is neither Credentials, nor a mechanism, nor an async function")


def _check_mechanism(name: str, mechanism: str) -> str:
    if mechanism not in _MECHANISMS:
        known = " and ".join(_MECHANISMS)
        raise SettingsError(f"{name}: {mechanism!r} is unknown; known are {known}")
    return mechanism


def _without_secret(error: ValueError) -> str:
    # urllib quotes the text it could not read, which for a URL with a stray '@' or ':' may be the password.
    if "ort" not in str(error):
        return "it cannot be read"
    return "port: not a number from 1 to 65535 (reserved characters in a password must be percent-encoded)"
