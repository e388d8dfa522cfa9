"""Making a connection: URLs, settings and keywords become one :class:`~anyamqp.settings.Settings`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar, cast

from anyamqp.checks import check_flag, check_seconds
from anyamqp.connection import Connection
from anyamqp.core.supervisor import Supervisor
from anyamqp.endpoint import TLS, CredentialsSource
from anyamqp.entities import TopologyRecovery
from anyamqp.errors import SettingsError
from anyamqp.hooks import Hooks
from anyamqp.misuse import explained
from anyamqp.net.dialer import Dial
from anyamqp.settings import ReconnectPolicy, Settings

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")


@explained
def connect(
    urls: str | Sequence[str] | Settings | None = None,
    *,
    credentials: CredentialsSource | None = None,
    heartbeat: int | None = None,
    name: str | None = None,
    reconnect: ReconnectPolicy | None = None,
    connect_timeout: float | None = None,
    shuffle: bool | None = None,
    tls: ssl.SSLContext | TLS | None = None,
    topology_recovery: TopologyRecovery | None = None,
    ready_timeout: float | None = 60.0,
    fail_fast: bool = True,
    dial: Dial | None = None,
    hooks: Hooks | Sequence[Hooks] = (),
) -> Connection:
    """A connection to a broker: ``async with connect("amqp://guest:guest@localhost/") as connection``.

    Args:
        urls: an AMQP URL, several for the nodes of one cluster, or :class:`Settings`. None takes them from the
            environment, see :meth:`Settings.from_environment`.
        credentials: instead of those in the URL: :class:`Credentials`, a SASL :class:`Mechanism`, or an async function
            that returns one of them and is called at every login, and again before its credentials expire.
        heartbeat: the interval to propose, in seconds; 0 leaves it to the broker. Overrides the URL's and
            ``RABBITMQ_HEARTBEAT``; 60 if none of them is given.
        name: shown by the broker's management UI and in its log.
        reconnect: when to dial again.
        connect_timeout: seconds for one attempt: DNS, TCP, TLS and the whole handshake.
        shuffle: try the addresses, and the DNS records of each, in an order of this connection's own.
        tls: use TLS with exactly these settings, with any scheme; the port stays the URL's. Without it, the scheme
            ``amqps`` means ``TLS()`` with the parameters of the URL's query.
        topology_recovery: which declared entities are declared again after a reconnect, and a function to call for
            those that the broker refuses.
        ready_timeout: seconds that entering the block waits for the connection to be ready; None waits for ever, 0 does
            not wait at all: calls on the connection then wait instead.
        fail_fast: on the first connect, raise at once the errors that no retry cures: refused credentials, an unknown
            virtual host, a certificate that cannot be verified. Otherwise, as on a reconnect, refused credentials and
            virtual hosts are tried again for ``refusal_grace``, and TLS as long as ``reconnect`` says.
        dial: opens the transport to an address, whose name it resolves itself; TLS runs on top of that transport. The
            default is TCP, trying one DNS record after the other.
        hooks: observe transitions, publishes and deliveries, such as
            :class:`anyamqp.extras.opentelemetry.OpenTelemetry`; see :class:`Hooks`.

    Raises:
        SettingsError: an argument or a part of a URL is wrong, or a file for TLS is missing or invalid.
    """
    check_seconds("ready_timeout", ready_timeout, none="for ever", error=SettingsError)
    check_flag("fail_fast", fail_fast, error=SettingsError)
    if dial is not None and not callable(dial):
        raise SettingsError(f"dial: {type(dial).__name__} is not an async function of an Address")
    observers = _checked_hooks(hooks)
    if urls is None:
        settings = Settings.from_environment()
    elif isinstance(urls, Settings):
        settings = urls
    else:
        settings = Settings.from_urls(urls)
    settings = replace(
        settings,
        credentials=_or(credentials, settings.credentials),
        heartbeat=_or(heartbeat, settings.heartbeat),
        name=_or(name, settings.name),
        reconnect=_or(reconnect, settings.reconnect),
        connect_timeout=_or(connect_timeout, settings.connect_timeout),
        shuffle=_or(shuffle, settings.shuffle),
        tls=_or(tls, settings.tls),
        topology_recovery=_or(topology_recovery, settings.topology_recovery),
    )
    supervisor = Supervisor(settings, fail_fast=fail_fast, dial=dial, hooks=observers)
    return Connection(settings, supervisor, ready_timeout=ready_timeout)


def _checked_hooks(hooks: Hooks | Sequence[Hooks]) -> Sequence[Hooks]:
    observers = [hooks] if isinstance(hooks, Hooks) else list(hooks)
    for one in cast("Sequence[object]", observers):
        if not isinstance(one, Hooks):
            raise SettingsError(f"hooks: {type(one).__name__} is not a subclass of anyamqp.Hooks")
    return observers


def _or(given: T | None, otherwise: T) -> T:
    return otherwise if given is None else given
