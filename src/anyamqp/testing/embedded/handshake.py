"""The handshake of the embedded broker: its properties, its logins, and the limits that it agrees to. No I/O."""

from __future__ import annotations

from typing import Final, Protocol

from anyamqp.errors import NotAllowed
from anyamqp.message import FieldTable
from anyamqp.protocol.events import Tuning
from anyamqp.wire import methods
from anyamqp.wire.frames import FRAME_MIN_SIZE, build, field_table

SERVER_PROPERTIES: FieldTable = {
    "product": "anyamqp embedded broker",
    "version": "1",
    "capabilities": {
        "authentication_failure_close": True,
        "basic.nack": True,
        "connection.blocked": True,
        "consumer_cancel_notify": True,
        "exchange_exchange_bindings": True,
        "publisher_confirms": True,
    },
}

LOGIN_REFUSED: Final = (
    "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile."
)


class Login(Protocol):
    """The logins that a broker accepts."""

    tuning: Tuning

    def check_credentials(self, response: str) -> bool:
        """Whether user and password of a PLAIN response are right."""
        ...

    def update_secret(self, secret: str) -> None:
        """Take a new secret from a client that is logged in."""
        ...


def start() -> methods.Connection.Start:
    """The broker's connection.start."""
    return build(
        methods.Connection.Start,
        version_major=0,
        version_minor=9,
        server_properties=field_table(SERVER_PROPERTIES),
        mechanisms="PLAIN",
        locales="en_US",
    )


def check_tuning(proposed: Tuning, agreed: methods.Connection.TuneOk) -> None:
    """Check the limits that a client has chosen.

    Raises:
        NotAllowed: one is higher than the broker proposed, or frame_max is lower than AMQP allows.
    """
    for name in ("channel_max", "frame_max"):
        ours, theirs = getattr(proposed, name), getattr(agreed, name)
        if ours and (theirs == 0 or theirs > ours):
            raise NotAllowed(f"NOT_ALLOWED - negotiated {name} = {theirs} is higher than the maximum allowed {ours}")
    if 0 < agreed.frame_max < FRAME_MIN_SIZE:
        raise NotAllowed(f"NOT_ALLOWED - negotiated frame_max = {agreed.frame_max} is lower than {FRAME_MIN_SIZE}")
