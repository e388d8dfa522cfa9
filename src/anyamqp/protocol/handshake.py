"""The client's answers in the handshake: connection.start-ok, secure-ok, tune-ok and open.

Sources: AMQP 0-9-1, 2.2.4 "The Connection Class"; SASL (RFC 4422); RabbitMQ, "Extensions" (capabilities).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from anyamqp.errors import CommandInvalid, CredentialsUnavailable, LoginRefused, Side, printable
from anyamqp.message import FieldTable
from anyamqp.protocol.closes import unexpected
from anyamqp.protocol.events import Tuning
from anyamqp.protocol.sasl import Mechanism
from anyamqp.wire import methods
from anyamqp.wire.frames import FRAME_MIN_SIZE, build, field_table

CAPABILITIES: Final[FieldTable] = {
    "authentication_failure_close": True,
    "basic.nack": True,
    "connection.blocked": True,
    "consumer_cancel_notify": True,
    "exchange_exchange_bindings": True,
    "publisher_confirms": True,
}
"""The extensions that this client understands; brokers use no others (RabbitMQ, "Extensions")."""

_MOST_SHOWN: Final = 200
"""Characters of the broker's list of mechanisms in an error."""


class Handshake:
    """The handshake of one session.

    Args:
        mechanisms: SASL mechanisms, at least one; the first that the broker offers is used.
        virtual_host: the virtual host to open.
        client_properties: the properties that the broker shows of this client; the capabilities are added.
        proposal: our limits.

    Attributes:
        proposal: our limits.
        server_properties: the broker's properties; empty before connection.start.
    """

    __slots__ = ("_client_properties", "_mechanism", "_mechanisms", "_virtual_host", "proposal", "server_properties")

    def __init__(
        self,
        mechanisms: Sequence[Mechanism],
        virtual_host: str,
        client_properties: FieldTable,
        proposal: Tuning,
    ) -> None:
        self.proposal: Tuning = proposal
        self.server_properties: FieldTable = {}
        self._mechanisms = mechanisms
        self._mechanism = mechanisms[0]
        self._virtual_host = virtual_host
        self._client_properties: FieldTable = {**client_properties, "capabilities": CAPABILITIES}

    def start_ok(self, start: methods.Connection.Start) -> methods.Connection.StartOk:
        """The answer to connection.start.

        Raises:
            LoginRefused: the broker offers none of the mechanisms.
            CredentialsUnavailable: the mechanism raised, or returned something other than bytes.
            InvalidArgument: AMQP cannot carry one of the client properties.
        """
        offered = start.mechanisms.split()
        mechanism = next((candidate for candidate in self._mechanisms if candidate.name in offered), None)
        if mechanism is None:
            wanted = " or ".join(candidate.name for candidate in self._mechanisms)
            seen = printable(" ".join(offered)[:_MOST_SHOWN]) or "nothing"
            text = f"the broker offers {seen}, not {wanted}"
            raise LoginRefused(text, method="connection.start", found_by=Side.CLIENT)
        self._mechanism = mechanism
        self.server_properties = start.server_properties
        return methods.Connection.StartOk(
            client_properties=field_table(self._client_properties),
            mechanism=mechanism.name,
            response=_response(mechanism, mechanism.start),
            locale="en_US",
        )

    def secure_ok(self, secure: methods.Connection.Secure) -> methods.Connection.SecureOk:
        """The answer to a challenge.

        Raises:
            CredentialsUnavailable: the mechanism raised, or returned something other than bytes.
        """
        challenge = secure.challenge.encode("utf-8", "surrogateescape")
        return methods.Connection.SecureOk(_response(self._mechanism, partial(self._mechanism.answer, challenge)))

    def agree(self, tune: methods.Connection.Tune) -> Tuning:
        """The limits that both sides accept, for connection.tune-ok.

        Raises:
            CommandInvalid: the broker's ``frame_max`` is smaller than AMQP allows.
        """
        if 0 < tune.frame_max < FRAME_MIN_SIZE:
            text = f"connection.tune with frame_max {tune.frame_max}, where AMQP allows no less than {FRAME_MIN_SIZE}"
            raise unexpected(CommandInvalid, text)
        return self.proposal.agree(Tuning(tune.channel_max, tune.frame_max, tune.heartbeat))

    def open(self) -> methods.Connection.Open:
        """connection.open.

        Raises:
            InvalidArgument: AMQP cannot carry the name of the virtual host.
        """
        return build(methods.Connection.Open, self._virtual_host)


def _response(mechanism: Mechanism, ask: Callable[[], object]) -> str:
    """A mechanism's bytes as text, because long strings are text in :mod:`anyamqp.wire.methods`."""
    try:
        response = ask()
    except Exception as error:
        raise CredentialsUnavailable(f"the mechanism {mechanism.name} raised {type(error).__name__}") from error
    if not isinstance(response, bytes):
        kind = type(response).__name__
        raise CredentialsUnavailable(f"the mechanism {mechanism.name} answered with {kind} instead of bytes")
    return response.decode("utf-8", "surrogateescape")
