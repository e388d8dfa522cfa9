"""SASL mechanisms (RFC 4422), which authenticate the client. The session exchanges their bytes with the broker.

AMQP 0-9-1 sends the mechanism's name and its initial response in connection.start-ok, challenges in connection.secure
and the responses to them in connection.secure-ok (section 1.4.2 "connection" of the reference).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


@runtime_checkable
class Mechanism(Protocol):
    """A SASL mechanism, anyamqp's or your own.

    One object serves all logins of a connection, one after the other; :meth:`start` begins each. Both methods are
    called while the client reads, so they must not block. If they raise, the attempt ends with
    :class:`~anyamqp.CredentialsUnavailable`.
    """

    @property
    def name(self) -> str:
        """The mechanism's name as brokers list it, such as ``PLAIN``."""
        ...

    def start(self) -> bytes:
        """Begin a login. Returns the initial response."""
        ...

    def answer(self, challenge: bytes) -> bytes:
        """Answer a challenge of the broker, which may send any number of them. Returns the response."""
        ...


@dataclass(frozen=True, slots=True)
class Plain:
    """SASL PLAIN (RFC 4616): user name and password in clear text. ``repr`` does not show the password."""

    username: str
    password: str = field(repr=False)

    @property
    def name(self) -> str:
        return "PLAIN"

    def start(self) -> bytes:
        return f"\0{self.username}\0{self.password}".encode("utf-8", "surrogateescape")

    def answer(self, challenge: bytes) -> bytes:  # noqa: ARG002 - PLAIN has no challenges
        return b""


@dataclass(frozen=True, slots=True)
class External:
    """SASL EXTERNAL (RFC 4422, appendix A): the broker authenticates us by other means, such as our TLS certificate.

    RabbitMQ supports it with the plugin ``rabbitmq_auth_mechanism_ssl``.

    Attributes:
        authorization_id: the identity to act as; empty for the authenticated one. RabbitMQ ignores it.
    """

    authorization_id: str = ""

    @property
    def name(self) -> str:
        return "EXTERNAL"

    def start(self) -> bytes:
        return self.authorization_id.encode("utf-8", "surrogateescape")

    def answer(self, challenge: bytes) -> bytes:  # noqa: ARG002 - the answer to every challenge
        return self.authorization_id.encode("utf-8", "surrogateescape")
