"""The settings of a connection: addresses, credentials, limits, and the policy for reconnects."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING

from anyamqp.checks import check_flag, check_kind, check_seconds, check_text, check_whole
from anyamqp.endpoint import (
    DEFAULT_PORT,
    MECHANISMS,
    TLS,
    Address,
    Credentials,
    CredentialsSource,
    Login,
    check_addresses,
    check_credentials,
    check_mechanism,
    check_tls,
    is_encodable,
)
from anyamqp.entities import TopologyRecovery
from anyamqp.errors import InvalidArgument, SettingsError
from anyamqp.message import FieldTable
from anyamqp.misuse import explained_class
from anyamqp.protocol.sasl import Mechanism
from anyamqp.urls import DEFAULT_HEARTBEAT, read_urls, read_variables
from anyamqp.wire import fields

if TYPE_CHECKING:
    import ssl

VERSION = "1.0.0"
DEFAULT_REQUEST_TIMEOUT = 60.0
FRAME_MAX_FLOOR = 8192
"""RabbitMQ 4.1 and later refuse less (release notes of 4.1.0)."""
_GUEST = Credentials("guest", "guest")


@explained_class
@dataclass(frozen=True, slots=True, kw_only=True)
class ReconnectPolicy:
    """When to dial again after a loss or a failed attempt.

    By default the first retry after a loss comes within 0.1 s. A wait follows each failed attempt: 0.2 s, doubled each
    time up to 5 s, and shortened at random by up to a half. The policy never gives up. Before each wait, all addresses
    are tried, with all DNS records of their names.

    A link was good if the broker delivered, confirmed or answered anything on it after recovery, or if it lived for
    ``stable_after``. The loss of a good link starts the count of failed attempts again from 0. So the waits grow if a
    broker accepts connections only to drop them.

    Attributes:
        first: the longest wait before the first retry after the loss of a good link, in seconds. The wait is random,
            from 0 up to this, so that the clients of a broker do not all return at the same instant. 0 retries at once;
            None waits as long as after a failed attempt.
        initial: the wait after the first failed attempt, in seconds.
        factor: the ratio of each wait to the one before; 1 keeps it constant.
        maximum: the longest wait, in seconds.
        jitter: the random part of a wait, from 0 (none) to 1 (anything from 0 to the whole wait).
        stable_after: seconds after which an idle link counts as good.
        max_attempts: attempts in a row before giving up, where each DNS record counts as one; None for no limit.
        max_elapsed: seconds without a link before giving up; None for no limit.
        refusal_grace: seconds for which a refused login or virtual host is tried again on a reconnect, because a broker
            that is booting refuses for a while.
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
        """A policy that waits ``delay`` seconds before every attempt except the very first."""
        return cls(first=None, initial=delay, factor=1.0, maximum=delay, jitter=jitter, max_attempts=max_attempts)

    def delay(self, attempt: int, random: Random) -> float:
        """Seconds to wait before an attempt.

        Args:
            attempt: how many attempts have failed since the last good link; 0 for the first after its loss.
            random: the source of the jitter.
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
        """Whether to give up after this many attempts in a row, and ``elapsed`` seconds without a link."""
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
    """All settings of a connection.

    Make them from URLs with :meth:`from_urls` or from the environment with :meth:`from_environment`; change single
    values with :func:`dataclasses.replace`.

    Attributes:
        addresses: the addresses to dial, in order. A name is resolved each time its turn comes, and each of its DNS
            records is an attempt of its own.
        tls: the TLS settings; None for plain TCP.
        credentials: :class:`Credentials`, :class:`External` or a SASL mechanism of your own, or an async function
            that is called at every login and returns one of them.
        auth_mechanisms: the SASL mechanisms that :class:`Credentials` may log in with, ``PLAIN`` and ``EXTERNAL``, in
            order of preference: the first that the broker offers is taken.
        virtual_host: the virtual host.
        heartbeat: the interval to propose, in seconds; 0 leaves it to the broker.
        channel_max: the highest channel number to propose; 0 for the broker's.
        frame_max: the largest frame to propose, in bytes.
        max_message_size: the largest message body that is accepted or sent, in bytes.
        connect_timeout: seconds for one attempt: DNS, TCP, TLS and the whole handshake.
        request_timeout: seconds that a request (declare, bind, qos, ...) may take, reconnects included; None for ever.
        close_timeout: seconds for closing the connection and all its channels together; then the transport is dropped.
        reconnect: when to dial again.
        topology_recovery: how declared entities are recovered after a reconnect.
        shuffle: whether each connection tries the addresses, and the records of each, in an order of its own.
        name: the name of the connection in the broker's management UI and log.
        client_properties: sent to the broker for its management UI, besides or instead of our own: product, version,
            platform and connection_name.
    """

    addresses: tuple[Address, ...] = (Address("localhost", DEFAULT_PORT),)
    tls: ssl.SSLContext | TLS | None = None
    credentials: CredentialsSource = _GUEST
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
        check_addresses(self.addresses)
        check_tls(self.tls)
        check_credentials(self.credentials)
        check_kind("auth_mechanisms", self.auth_mechanisms, tuple, '("EXTERNAL", "PLAIN")', error=SettingsError)
        if not self.auth_mechanisms:
            raise SettingsError("auth_mechanisms: at least one is needed")
        for mechanism in self.auth_mechanisms:
            check_mechanism("auth_mechanisms", mechanism)
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
            if not is_encodable(text) or len(text.encode("utf-8", "surrogateescape")) > 255:
                raise SettingsError(f"{name}: longer than 255 bytes, or not text")
        try:
            fields.table("client_properties", self.client_properties)
        except InvalidArgument as error:
            raise SettingsError(str(error)) from None

    def mechanisms(self, login: Login) -> tuple[Mechanism, ...]:
        """The SASL mechanisms to log in with, in order of preference."""
        if isinstance(login, Credentials):
            return tuple(MECHANISMS[name](login) for name in self.auth_mechanisms)
        return (login,)

    @classmethod
    def from_urls(cls, urls: str | Sequence[str], *, environment: Mapping[str, str] | None = None) -> Settings:
        """Settings from one AMQP URL, or from several for the nodes of one cluster.

        ``amqp://user:password@host:port/vhost?heartbeat=60&connection_timeout=10000&channel_max=100&name=mine``. All
        parts but the scheme may be missing. Reserved characters in user, password, vhost and query are
        percent-encoded. ``heartbeat`` is in seconds, ``connection_timeout`` in milliseconds. ``auth_mechanism`` is
        ``plain`` or ``external``; repeat it to give several in order of preference.

        The scheme ``amqps`` means TLS, by default on port 5671. Its query also takes ``cacertfile``,
        ``certfile``, ``keyfile``, ``password`` (of the key), ``verify`` (``verify_peer``, the default, or
        ``verify_none``) and ``server_name_indication`` (a name, or ``disable``, which sends no name and verifies
        none): see :class:`TLS`.

        The addresses of several URLs are tried in order; all other parts must be the same in all of them.

        Args:
            urls: the URL or URLs.
            environment: the variables, of which ``RABBITMQ_HEARTBEAT`` is read when no URL has ``heartbeat``;
                ``os.environ`` by default.

        Raises:
            SettingsError: a part is wrong; the text names the part and does not show the URL, which may hold a
                password.
        """
        return cls(**read_urls(urls, os.environ if environment is None else environment))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Settings from ``RABBITMQ_URL``, or from ``RABBITMQ_HOST``, ``_PORT``, ``_USER``, ``_PASSWORD``, ``_VHOST``.

        ``RABBITMQ_HEARTBEAT`` (seconds) applies to both, unless the URL has ``heartbeat``. ``RABBITMQ_PASSWORD`` is
        also the password of a URL that names a user and no password. The default for a variable that is missing or
        empty is RabbitMQ's: localhost, 5672, guest, guest, ``/``.

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
        return cls(**read_variables(variables))


def with_password_from(environment: Mapping[str, str], settings: Settings) -> Settings:
    """Settings with the password from ``RABBITMQ_PASSWORD``, if they name a user and no password.

    A URL without a user does not get it: the variable may hold the password of another broker.
    """
    login, password = settings.credentials, environment.get("RABBITMQ_PASSWORD")
    if password and isinstance(login, Credentials) and login.username and not login.password:
        return replace(settings, credentials=replace(login, password=password))
    return settings
