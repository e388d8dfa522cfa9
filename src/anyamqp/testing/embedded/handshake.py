"""The handshake of the embedded broker: its properties, its logins, and the limits that it agrees to. No I/O."""

from __future__ import annotations

from typing import Protocol

from anyamqp.errors import NotAllowed
from anyamqp.message import FieldTable
from anyamqp.protocol.events import Tuning
from anyamqp.testing.embedded.hosts import Hosts
from anyamqp.testing.embedded.model import Model
from anyamqp.testing.embedded.users import User
from anyamqp.testing.embedded.versions import Rules
from anyamqp.wire import methods
from anyamqp.wire.frames import build, field_table

SERVER_PROPERTIES: FieldTable = {
    "capabilities": {
        "publisher_confirms": True,
        "exchange_exchange_bindings": True,
        "basic.nack": True,
        "consumer_cancel_notify": True,
        "connection.blocked": True,
        "consumer_priorities": True,
        "authentication_failure_close": True,
        "per_consumer_qos": True,
        "direct_reply_to": True,
    },
    "cluster_name": "anyamqp@embedded",
    "platform": "Python",
    "product": "anyamqp embedded broker",
}


class Login(Protocol):
    """The logins that a broker accepts."""

    tuning: Tuning

    def log_in(self, mechanism: str, response: str) -> User | None:
        """The user that logs in; None if the login is refused.

        Raises:
            CommandInvalid: the broker does not offer the mechanism.
            CommandSyntaxError: the response cannot be read.
        """
        ...

    def update_secret(self, secret: str) -> None:
        """Take a new secret from a client that is logged in."""
        ...


def login_refused(mechanism: str) -> str:
    """The text with which a login is refused."""
    return (
        f"ACCESS_REFUSED - Login was refused using authentication mechanism {mechanism}. "
        "For details see the broker logfile."
    )


def start(rules: Rules) -> methods.Connection.Start:
    """The broker's connection.start, with RabbitMQ's capabilities and the version that the broker follows."""
    return build(
        methods.Connection.Start,
        version_major=0,
        version_minor=9,
        server_properties=field_table({**SERVER_PROPERTIES, "version": f"{rules.version}.0"}),
        mechanisms=" ".join(rules.mechanisms),
        locales="en_US",
    )


def host_for(user: User, hosts: Hosts, name: str) -> Model:
    """The virtual host that a user opens.

    Raises:
        NotAllowed: there is no such virtual host, or the user has no permissions in it.
    """
    host = hosts.get(name)
    if host is None:
        raise NotAllowed(f"NOT_ALLOWED - vhost {name} not found")
    if user.permissions_in(name) is None:
        raise NotAllowed(f"NOT_ALLOWED - access to vhost '{name}' refused for user '{user.name}'")
    return host


def check_tuning(proposed: Tuning, agreed: methods.Connection.TuneOk, rules: Rules) -> None:
    """Check the limits that a client has chosen.

    Raises:
        NotAllowed: one is higher than the broker proposed, or frame_max is lower than the broker accepts.
    """
    for name in ("channel_max", "frame_max"):
        ours, theirs = getattr(proposed, name), getattr(agreed, name)
        if ours and (theirs == 0 or theirs > ours):
            told = "0 (no limit)" if not theirs and name == "channel_max" else theirs
            raise NotAllowed(
                f"NOT_ALLOWED - negotiated {name} = {told} is higher than the maximum allowed value ({ours})"
            )
    if 0 < agreed.frame_max < rules.least_frame_max:
        raise NotAllowed(
            f"NOT_ALLOWED - negotiated frame_max = {agreed.frame_max} is lower than the minimum allowed value "
            f"({rules.least_frame_max})"
        )
