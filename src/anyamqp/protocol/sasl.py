"""SASL: how a client says who it is. Bytes on both sides, as in RFC 4422; the session carries them.

AMQP 0-9-1 carries the mechanism's name and its initial response in connection.start-ok, challenges in
connection.secure and the answers to them in connection.secure-ok (section 1.4.2 "connection" of the reference).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


@runtime_checkable
class Mechanism(Protocol):
    """A SASL mechanism, one of anyamqp's or of your own.

    One object serves all logins of a connection, one after the other: :meth:`start` begins each. Both methods are
    called while bytes are read, so they must not wait. What they raise ends the attempt with
    :class:`~anyamqp.CredentialsUnavailable`.
    """

    @property
    def name(self) -> str:
        """Its name as brokers list it, such as ``PLAIN``."""
        ...

    def start(self) -> bytes:
        """Begin a login: the initial response."""
        ...

    def answer(self, challenge: bytes) -> bytes:
        """The answer to a challenge of the broker's; there may be any number of them."""
        ...


@dataclass(frozen=True, slots=True)
class Plain:
    """SASL PLAIN (RFC 4616): user name and password as they are. The password stays out of ``repr``."""

    username: str
    password: str = field(repr=False)

    @property
    def name(self) -> str:
        return "PLAIN"

    def start(self) -> bytes:
        return f"\0{self.username}\0{self.password}".encode("utf-8", "surrogateescape")

    def answer(self, challenge: bytes) -> bytes:  # noqa: ARG002 - PLAIN has nothing more to say, whatever is asked
        return b""


@dataclass(frozen=True, slots=True)
class External:
    """SASL EXTERNAL (RFC 4422, appendix A): the broker knows who we are by other means, such as our TLS certificate.

    RabbitMQ needs the plugin ``rabbitmq_auth_mechanism_ssl`` for it.

    Attributes:
        authorization_id: who to act as; empty for whomever the broker takes us for. RabbitMQ does not look at it.
    """

    authorization_id: str = ""

    @property
    def name(self) -> str:
        return "EXTERNAL"

    def start(self) -> bytes:
        return self.authorization_id.encode("utf-8", "surrogateescape")

    def answer(self, challenge: bytes) -> bytes:  # noqa: ARG002 - whatever is asked, that is all there is to say
        return self.authorization_id.encode("utf-8", "surrogateescape")
