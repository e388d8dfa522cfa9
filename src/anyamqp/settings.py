"""What a connection is told: addresses, credentials, limits, and how to reconnect.

URLs follow RabbitMQ's "URI Specification" and "URI Query Parameters", with one difference that every client makes: a
path of just ``/`` means the virtual host ``/``, not the one with the empty name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast
from urllib.parse import SplitResult, unquote, urlsplit

from anyamqp.checks import check_flag, check_kind, check_seconds, check_text, check_whole
from anyamqp.entities import TopologyRecovery
from anyamqp.errors import InvalidArgument, SettingsError
from anyamqp.message import FieldTable
from anyamqp.misuse import explained_class
from anyamqp.protocol.sasl import External, Mechanism, Plain
from anyamqp.wire import fields

if TYPE_CHECKING:
    import ssl

VERSION = "0.1.0"
DEFAULT_PORT = 5672
DEFAULT_TLS_PORT = 5671
DEFAULT_HEARTBEAT = 60
DEFAULT_REQUEST_TIMEOUT = 60.0
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
        SettingsError: the name or the password is not text, or SASL PLAIN cannot carry it; or ``expires_in`` is not a
            positive number.
    """

    username: str
    password: str = field(repr=False)
    expires_in: float | None = None

    def __post_init__(self) -> None:
        for name, text in (("username", self.username), ("password", self.password)):
            check_text(name, text, error=SettingsError)
            if "\0" in text or not _is_encodable(text):
                raise SettingsError(f"{name}: holds a character that SASL PLAIN cannot carry")
        check_seconds("expires_in", self.expires_in, positive=True, finite=True, none="for ever", error=SettingsError)


Login: TypeAlias = Credentials | Mechanism
"""What a connection logs in with."""

CredentialsSource: TypeAlias = Login | Callable[[], Awaitable[Login]]
"""What to log in with, or an async function that is asked for it at every login."""

_MECHANISMS: Mapping[str, Callable[[Credentials], Mechanism]] = {
    "PLAIN": lambda credentials: Plain(credentials.username, credentials.password),
    "EXTERNAL": lambda _: External(),
}
"""The mechanisms that credentials can log in with, by name."""


@explained_class
@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """How to speak TLS, 1.2 at least. As it stands it trusts the system's CAs and verifies the host name.

    The files are PEM, and are read by :func:`connect`.

    Attributes:
        ca_file: the CAs to trust, instead of the system's.
        certificate_file: the certificate that we show to the broker, and after it those that lead up to its CA.
        key_file: the key of that certificate; None if ``certificate_file`` holds it too.
        key_password: what the key is encrypted with. Stays out of ``repr``.
        verify: whether the broker's certificate is verified. Without it, anybody may pose as the broker.
        server_name: the name sent as SNI and looked for in the certificate, instead of the host that is dialed. The
            empty name sends none, and the certificate is then verified but for its name.

    Raises:
        SettingsError: a value is of a wrong type, or the values do not go together.
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
        if self.key_password is not None and not _is_encodable(self.key_password):
            raise SettingsError(f"{tls_part('key_password')}: is not text")
        # So says the ssl module, but only once a broker has been dialed.
        if self.server_name is not None and (self.server_name.startswith(".") or "\0" in self.server_name):
            raise SettingsError(f"{tls_part('server_name')}: {self.server_name!r} is not a host name")


_TLS_QUERY: Mapping[str, str] = {
    "cacertfile": "ca_file",
    "certfile": "certificate_file",
    "keyfile": "key_file",
    "password": "key_password",
    "verify": "verify",
    "server_name_indication": "server_name",
}
"""What RabbitMQ's URI query parameters are called in :class:`TLS`."""


def tls_part(name: str) -> str:
    """What an error calls an attribute of :class:`TLS`: by that name and by the one that it has in a URL."""
    (parameter,) = (parameter for parameter, attribute in _TLS_QUERY.items() if attribute == name)
    return f"TLS.{name} (URL query {parameter})"


@explained_class
@dataclass(frozen=True, slots=True, kw_only=True)
class ReconnectPolicy:
    """When to dial again.

    By default the first retry after a loss comes within 0.1 s. Each attempt that fails is followed by a wait: 0.2 s,
    doubled each time up to 5 s, of which a random half at most is left out, for ever. All addresses, with all DNS
    records of their names, are tried before each wait.

    A link was good, and its loss starts the count of failed attempts again from 0, if the broker delivered, confirmed
    or answered anything on it after recovery, or if it lived for ``stable_after``. A broker that accepts connections
    only to drop them is thereby met with growing waits.

    Attributes:
        first: the longest wait before the first retry after the loss of a good link, in seconds. The wait is random,
            from 0 up to this, so that the clients of a broker do not all return at the same instant. 0 retries at once;
            None waits as after a failed attempt.
        initial: the wait after the first failed attempt, in seconds.
        factor: what each wait is multiplied by for the next; 1 keeps it constant.
        maximum: the longest wait, in seconds.
        jitter: how much of a wait is left to chance, from 0 (none) to 1 (anything from 0 to the whole wait).
        stable_after: seconds after which a link counts as good although nothing happened on it.
        max_attempts: attempts in a row before giving up, each DNS record being one; None for no limit.
        max_elapsed: seconds without a link before giving up; None for no limit.
        refusal_grace: seconds for which a refused login or virtual host is tried again on a reconnect: a broker that
            is booting refuses for a while.
    """

    first: float | None = 0.1
    initial: float = 0.2
    factor: float = 2.0
    maximum: float = 5.0
    jitter: float = 0.5
    stable_after: float = 1.0
    max_attempts: int | None = None
    max_elapsed: float | None = None
    refusal_grace: float = 60.0

    def __post_init__(self) -> None:
        for name in ("initial", "maximum", "stable_after", "refusal_grace"):
            check_seconds(_policy_part(name), getattr(self, name), finite=name == "initial", error=SettingsError)
        if not _is_number(self.factor) or not self.factor >= 1:
            raise SettingsError(f"{_policy_part('factor')}: {self.factor!r} is not a number from 1 up")
        if not _is_number(self.jitter) or not 0 <= self.jitter <= 1:
            raise SettingsError(f"{_policy_part('jitter')}: {self.jitter!r} is not a number from 0 to 1")
        check_seconds(_policy_part("first"), self.first, none="the wait after a failed attempt", error=SettingsError)
        if self.max_attempts is not None:
            check_whole(_policy_part("max_attempts"), self.max_attempts, 1, error=SettingsError)
        check_seconds(
            _policy_part("max_elapsed"), self.max_elapsed, positive=True, none="no limit", error=SettingsError
        )

    @classmethod
    def constant(cls, delay: float, *, jitter: float = 0.0, max_attempts: int | None = None) -> ReconnectPolicy:
        """Wait ``delay`` seconds before every attempt but that of the first connect."""
        return cls(first=None, initial=delay, factor=1.0, maximum=delay, jitter=jitter, max_attempts=max_attempts)

    def delay(self, attempt: int, random: Random) -> float:
        """Seconds to wait before an attempt.

        Args:
            attempt: how many attempts failed since the last good link; 0 for the first after its loss.
            random: where the jitter comes from.
        """
        if attempt == 0 and self.first is not None:
            return min(self.first, self.maximum) * random.random()
        exponent = attempt if self.first is None else attempt - 1
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


def _policy_part(name: str) -> str:
    return f"ReconnectPolicy.{name}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@explained_class
@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that a connection is told.

    Make them from URLs with :meth:`from_urls` or from the environment with :meth:`from_environment`; change single
    values with :func:`dataclasses.replace`.

    Attributes:
        addresses: where to dial, in order. A name is resolved anew each time its turn comes, and each of its DNS
            records is an attempt of its own.
        tls: how to speak TLS; None for plain TCP.
        credentials: who we are: :class:`Credentials`, a SASL mechanism of your own or :class:`External`, or an async
            function that gives one of them and is asked at every login.
        auth_mechanisms: the SASL mechanisms that :class:`Credentials` may log in with, ``PLAIN`` and ``EXTERNAL``, in
            order of preference: the first that the broker offers is taken.
        virtual_host: the virtual host.
        heartbeat: what we propose, in seconds; 0 leaves it to the broker.
        channel_max: highest channel number that we propose; 0 for the broker's.
        frame_max: largest frame that we propose, in bytes.
        max_message_size: largest message body that we accept or send, in bytes.
        connect_timeout: seconds for one attempt: DNS, TCP, TLS and the whole handshake.
        request_timeout: seconds that a request (declare, bind, qos, ...) may take, reconnects included; None for ever.
        close_timeout: seconds for closing, the connection and all channels on it together; after them the transport is
            dropped.
        reconnect: when to dial again.
        topology_recovery: what happens to declared entities after a reconnect.
        shuffle: whether each connection tries the addresses, and the records of each, in an order of its own.
        name: shown by the broker's management UI and in its log.
    """

    addresses: tuple[Address, ...] = (Address("localhost", DEFAULT_PORT),)
    tls: ssl.SSLContext | TLS | None = None
    credentials: CredentialsSource = Credentials("guest", "guest")
    auth_mechanisms: tuple[str, ...] = ("PLAIN",)
    virtual_host: str = "/"
    heartbeat: int = DEFAULT_HEARTBEAT
    channel_max: int = 2047
    frame_max: int = 131072
    max_message_size: int = 128 * 1024 * 1024
    connect_timeout: float = 10.0
    request_timeout: float | None = DEFAULT_REQUEST_TIMEOUT
    close_timeout: float = 5.0
    reconnect: ReconnectPolicy = ReconnectPolicy()
    topology_recovery: TopologyRecovery = field(default_factory=TopologyRecovery)
    shuffle: bool = False
    name: str | None = None
    client_properties: FieldTable = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        _check_addresses(self.addresses)
        _check_tls(self.tls)
        _check_credentials(self.credentials)
        check_kind("auth_mechanisms", self.auth_mechanisms, tuple, '("EXTERNAL", "PLAIN")', error=SettingsError)
        if not self.auth_mechanisms:
            raise SettingsError("auth_mechanisms: at least one is needed")
        for mechanism in self.auth_mechanisms:
            _check_mechanism("auth_mechanisms", mechanism)
        check_whole("heartbeat", self.heartbeat, 0, 65535, unit="seconds", error=SettingsError)
        check_whole("channel_max", self.channel_max, 0, 65535, unit="channels", error=SettingsError)
        check_whole("frame_max", self.frame_max, FRAME_MAX_FLOOR, 2**31 - 1, unit="bytes", error=SettingsError)
        check_whole("max_message_size", self.max_message_size, 0, 2**63 - 1, unit="bytes", error=SettingsError)
        for name in ("connect_timeout", "close_timeout"):
            check_seconds(name, getattr(self, name), positive=True, finite=True, error=SettingsError)
        check_seconds(
            "request_timeout", self.request_timeout, positive=True, finite=True, none="for ever", error=SettingsError
        )
        check_kind("reconnect", self.reconnect, ReconnectPolicy, "ReconnectPolicy.constant(5)", error=SettingsError)
        check_kind(
            "topology_recovery",
            self.topology_recovery,
            TopologyRecovery,
            "TopologyRecovery(mode=RecoveryMode.TRANSIENT)",
            error=SettingsError,
        )
        check_flag("shuffle", self.shuffle, error=SettingsError)
        for name, text in (("virtual_host", self.virtual_host), ("name", "" if self.name is None else self.name)):
            check_text(name, text, error=SettingsError)
            if not _is_encodable(text) or len(text.encode("utf-8", "surrogateescape")) > 255:
                raise SettingsError(f"{name}: longer than 255 bytes, or not text")
        try:
            fields.table("client_properties", self.client_properties)
        except InvalidArgument as error:
            raise SettingsError(str(error)) from None

    def mechanisms(self, login: Login) -> tuple[Mechanism, ...]:
        """The SASL mechanisms to log in with, in order of preference."""
        if isinstance(login, Credentials):
            return tuple(_MECHANISMS[name](login) for name in self.auth_mechanisms)
        return (login,)

    @classmethod
    def from_urls(cls, urls: str | Sequence[str], *, environment: Mapping[str, str] | None = None) -> Settings:
        """Settings from one AMQP URL, or from several for the nodes of one cluster.

        ``amqp://user:password@host:port/vhost?heartbeat=60&connection_timeout=10000&channel_max=100&name=mine``. All
        parts but the scheme may be missing. Reserved characters in user, password, vhost and query are
        percent-encoded. ``heartbeat`` is in seconds, ``connection_timeout`` in milliseconds. ``auth_mechanism`` is
        ``plain`` or ``external``, several times for several in order of preference.

        The scheme ``amqps`` means TLS, on port 5671 unless the URL says another. Its query also takes ``cacertfile``,
        ``certfile``, ``keyfile``, ``password`` (of the key), ``verify`` (``verify_peer``, the default, or
        ``verify_none``) and ``server_name_indication`` (a name, or ``disable``, which sends no name and verifies
        none): see :class:`TLS`.

        The addresses of several URLs are tried in order; what else they say must be the same in all.

        Args:
            urls: the URL or URLs.
            environment: where ``RABBITMQ_HEARTBEAT`` is looked up when no URL says ``heartbeat``; ``os.environ`` by
                default.

        Raises:
            SettingsError: a part is wrong; the text names the part and never shows the URL, which holds a password.
        """
        each = [_from_url(url) for url in _each_of(urls)]
        _, first = each[0]
        for position, (_, other) in enumerate(each[1:], start=2):
            if ("tls" in first) is not ("tls" in other):
                raise SettingsError(f"urls: number {position} differs from the first in its scheme: amqp and amqps")
            for name in first.keys() | other.keys():
                if first.get(name) != other.get(name):
                    raise SettingsError(f"urls: number {position} differs from the first in {name}")
        heartbeat = _heartbeat_from(os.environ if environment is None else environment)
        values: dict[str, Any] = {"heartbeat": heartbeat, **first}
        return cls(addresses=tuple(address for address, _ in each), **values)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Settings from ``RABBITMQ_URL``, or from ``RABBITMQ_HOST``, ``_PORT``, ``_USER``, ``_PASSWORD``, ``_VHOST``.

        ``RABBITMQ_HEARTBEAT`` (seconds) holds for both, unless the URL says ``heartbeat``. ``RABBITMQ_PASSWORD`` is
        also the password of a URL that names a user and no password. A variable that is missing or empty has RabbitMQ's
        default: localhost, 5672, guest, guest, ``/``.

        Args:
            environment: the variables; ``os.environ`` by default.

        Raises:
            SettingsError: a value is wrong; the text names the variable.
        """
        variables = os.environ if environment is None else environment
        url = variables.get("RABBITMQ_URL")
        if url:
            try:
                return with_password_from(variables, cls.from_urls(url, environment=variables))
            except SettingsError as error:
                text = str(error)
                raise SettingsError(text if text.startswith("RABBITMQ_") else f"RABBITMQ_URL: {text}") from None
        port = _whole_from("RABBITMQ_PORT", variables.get("RABBITMQ_PORT") or str(DEFAULT_PORT), 1, 65535)
        host = _checked_host("RABBITMQ_HOST", variables.get("RABBITMQ_HOST") or "localhost")
        return cls(
            addresses=(Address(host, port),),
            credentials=Credentials(
                variables.get("RABBITMQ_USER") or "guest", variables.get("RABBITMQ_PASSWORD") or "guest"
            ),
            virtual_host=variables.get("RABBITMQ_VHOST") or "/",
            heartbeat=_heartbeat_from(variables),
        )


def with_password_from(environment: Mapping[str, str], settings: Settings) -> Settings:
    """The settings of a URL, which has the password from ``RABBITMQ_PASSWORD`` if it names a user and no password.

    A URL without a user does not get it: the variable may hold the password of another broker.
    """
    login, password = settings.credentials, environment.get("RABBITMQ_PASSWORD")
    if password and isinstance(login, Credentials) and login.username and not login.password:
        return replace(settings, credentials=replace(login, password=password))
    return settings


def _each_of(urls: object) -> list[str]:
    is_one = isinstance(urls, str | bytes) or not isinstance(urls, Iterable)
    given: list[object] = [urls] if is_one else list(cast("Iterable[object]", urls))
    for url in given:
        if not isinstance(url, str):
            raise SettingsError(f"urls: {type(url).__name__} instead of a URL, which is text, or of several")
    if not given:
        raise SettingsError("urls: at least one is needed")
    return cast("list[str]", given)


def _from_url(url: str) -> tuple[Address, dict[str, object]]:
    url = url.strip()
    _check_readable(url)
    parts, port, problem = None, None, ""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        problem = _without_secret(error)
    # Raised here, so that urllib's error, which quotes what it could not read, is not its context.
    if parts is None or problem:
        raise SettingsError(f"URL: {problem}")
    if parts.scheme not in ("amqp", "amqps"):
        raise SettingsError(f"URL scheme: {parts.scheme!r} is neither 'amqp' nor 'amqps'")
    is_tls = parts.scheme == "amqps"
    if port == 0:
        raise SettingsError("URL port: 0 is not between 1 and 65535")
    values: dict[str, object] = {}
    if parts.username is not None or parts.password is not None:
        values["credentials"] = Credentials(
            _decoded("URL user", parts.username or ""), _decoded("URL password", parts.password or "")
        )
    path = parts.path[1:]
    if "/" in path:
        raise SettingsError("URL path: a '/' inside the virtual host's name must be percent-encoded (%2F)")
    if path:
        values["virtual_host"] = _decoded("URL path", path)
    values.update(_from_query(parts.query, is_tls=is_tls))
    return Address(_host(parts), port or (DEFAULT_TLS_PORT if is_tls else DEFAULT_PORT)), values


def _check_readable(url: str) -> None:
    """Refuse whatever may be a password with reserved characters in it: read on, parts of it would be shown."""
    if any(character < " " or character == "\x7f" for character in url):
        raise SettingsError("URL: a control character in it must be percent-encoded")
    if "#" in url:
        raise SettingsError("URL: '#' must be percent-encoded (%23), in a password too")
    _, separator, rest = url.partition("://")
    if not separator:
        raise SettingsError("URL scheme: there is none; a URL begins with amqp:// or amqps://")
    if "@" in rest[len(re.split("[/?]", rest, maxsplit=1)[0]) :]:
        raise SettingsError(
            "URL: '@' behind the host; reserved characters such as '@', '/' and '?' must be percent-encoded "
            "(%40, %2F, %3F), in a password too"
        )


def _host(parts: SplitResult) -> str:
    return _checked_host("URL host", _decoded("URL host", parts.hostname)) if parts.hostname else "localhost"


def _checked_host(name: str, host: str) -> str:
    if not host.isprintable() or any(character in host for character in " @/"):
        # A text with '@' or ':' may be the middle of a URL, with a password in it.
        shown = "the value" if "@" in host or ":" in host else repr(host)
        raise SettingsError(f"{name}: {shown} is not a host name")
    return host


_LONE_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")


def _decoded(part: str, text: str) -> str:
    # Guessing at what is not percent-encoded would end in a refused login, far from its cause.
    if _LONE_PERCENT.search(text):
        raise SettingsError(f"{part}: a '%' that begins no percent-encoding must itself be encoded (%25)")
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        pass  # raised below, so that this error, which holds the text, is not its context
    raise SettingsError(f"{part}: percent-encoded bytes are not UTF-8")


_QUERY = ("heartbeat", "connection_timeout", "channel_max", "name", "auth_mechanism")


def _from_query(query: str, *, is_tls: bool) -> dict[str, object]:
    values: dict[str, object] = {}
    tls: dict[str, Any] = {}
    mechanisms: list[str] = []
    seen: set[str] = set()
    # Not parse_qsl, which takes a '+' for a space: that holds for HTML forms, and a '+' in a file's name is one.
    for number, pair in enumerate(query.split("&") if query else (), start=1):
        key, _, encoded = pair.partition("=")
        key = _decoded("URL query", key)
        part = f"URL query {key}"
        _check_query_key(key, number, is_tls=is_tls)
        if key in seen and key != "auth_mechanism":
            raise SettingsError(f"{part}: is there more than once")
        seen.add(key)
        text = _decoded(part, encoded)
        if key == "heartbeat":
            values["heartbeat"] = _whole_from(part, text, 0, 65535)
        elif key == "connection_timeout":
            values["connect_timeout"] = _whole_from(part, text, 1, 2**31) / 1000
        elif key == "channel_max":
            values["channel_max"] = _whole_from(part, text, 0, 65535)
        elif key == "name":
            values["name"] = text
        elif key == "auth_mechanism":
            mechanisms.append(_check_mechanism(part, text.upper()))
        else:
            tls[_TLS_QUERY[key]] = _tls_value(part, key, text)
    if mechanisms:
        values["auth_mechanisms"] = tuple(mechanisms)
    if is_tls:
        values["tls"] = TLS(**tls)
    return values


def _check_query_key(key: str, number: int, *, is_tls: bool) -> None:
    if key in _TLS_QUERY:
        if not is_tls:
            raise SettingsError(f"URL query {key}: is only for the scheme amqps")
    elif key not in _QUERY:
        known = ", ".join((*_QUERY, *_TLS_QUERY))
        # Not quoted: it may be the rest of a password with a '?' or an '&' in it, as in amqp://user:12?secret.
        raise SettingsError(f"URL query: parameter {number} is unknown; known are {known}")


def _tls_value(part: str, key: str, text: str) -> str | bool:
    if not text:
        raise SettingsError(f"{part}: is empty")
    if key == "verify":
        if text not in ("verify_peer", "verify_none"):
            raise SettingsError(f"{part}: {text!r} is neither 'verify_peer' nor 'verify_none'")
        return text == "verify_peer"
    # Erlang's ssl application, whose word it is, then verifies no name either.
    return "" if (key, text) == ("server_name_indication", "disable") else text


def _heartbeat_from(environment: Mapping[str, str]) -> int:
    text = environment.get("RABBITMQ_HEARTBEAT")
    return _whole_from("RABBITMQ_HEARTBEAT", text, 0, 65535) if text else DEFAULT_HEARTBEAT


def _whole_from(name: str, text: str, low: int, high: int) -> int:
    # isdecimal alone would let other scripts' digits through, int alone "1_000" and " 1".
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and low <= int(text) <= high):
        raise SettingsError(f"{name}: {text!r} is not a whole number from {low} to {high}")
    return int(text)


def _check_addresses(addresses: tuple[Address, ...]) -> None:
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


def _check_credentials(source: object) -> None:
    # A class passes for a mechanism, since it has the methods of one, and for a function, since it can be called.
    if isinstance(source, type) or not (isinstance(source, Credentials | Mechanism) or callable(source)):
        kind = type(source).__name__
        raise SettingsError(f"credentials: {kind} is neither Credentials, nor a mechanism, nor an async function")


def _check_tls(tls: object) -> None:
    if tls is None or isinstance(tls, TLS):
        return
    import ssl  # loaded already, if this is what it should be

    if not isinstance(tls, ssl.SSLContext):
        raise SettingsError(f"tls: {type(tls).__name__} is neither TLS nor an ssl.SSLContext")
    if tls.protocol is ssl.PROTOCOL_TLS_SERVER:
        raise SettingsError("tls: an SSLContext of PROTOCOL_TLS_SERVER cannot dial; one of PROTOCOL_TLS_CLIENT can")


def _check_mechanism(name: str, mechanism: str) -> str:
    check_text(name, mechanism, error=SettingsError)
    if mechanism not in _MECHANISMS:
        known = " and ".join(_MECHANISMS)
        raise SettingsError(f"{name}: {mechanism!r} is unknown; known are {known}")
    return mechanism


def _without_secret(error: ValueError) -> str:
    # urllib quotes the text it could not read, which for a URL with a stray '@' or ':' may be the password.
    if "ort" not in str(error):
        return "it cannot be read"
    return "port: not a number from 1 to 65535 (reserved characters in a password must be percent-encoded)"
