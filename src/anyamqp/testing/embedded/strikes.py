"""The faults that strike one connection of the embedded broker. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from anyamqp.errors import InvalidUse, LoginRefused
from anyamqp.message import Message
from anyamqp.testing.embedded.handshake import login_refused
from anyamqp.testing.embedded.points import Fault, Line, Passing
from anyamqp.wire import methods
from anyamqp.wire.basic import BODY, PREFIX
from anyamqp.wire.frames import encode_content, encode_method
from anyamqp.wire.methods import Method

CLOSED_BY_FORCE: Final = "CONNECTION_FORCED - broker forced connection closure"

Style: TypeAlias = Literal["doubled", "single", "reversed", "multiple", "nacked"]
"""How confirms are sent."""


# --- the transport ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reset:
    """The transport ends as by RST; bytes under way are lost, in both directions."""

    def strike(self, line: Line, passing: Passing | None) -> None:  # noqa: ARG002
        line.reset()


@dataclass(frozen=True, slots=True)
class Finish:
    """The transport ends as by FIN: the client receives all that was sent to it, then the end of the stream."""

    def strike(self, line: Line, passing: Passing | None) -> None:  # noqa: ARG002
        line.finish()


@dataclass(frozen=True, slots=True)
class HalfClose:
    """The broker's direction ends: the client receives an end of the stream, and the broker goes on reading."""

    def strike(self, line: Line, passing: Passing | None) -> None:  # noqa: ARG002
        line.half_close()


@dataclass(frozen=True, slots=True)
class Freeze:
    """The broker neither reads from the connection nor sends on it, not even heartbeats.

    Attributes:
        seconds: for how long; None for ever, or until ``broker.faults.thaw()``.
    """

    seconds: float | None = None

    def strike(self, line: Line, passing: Passing | None) -> None:  # noqa: ARG002
        line.freeze(self.seconds)


@dataclass(frozen=True, slots=True)
class Cut:
    """The transport ends after so many bytes more, which may be inside a frame.

    Attributes:
        count: how many bytes are sent. Before a method of the broker, they are counted from its first byte.
        resets: end the transport as by RST, which may destroy the bytes before it; otherwise as by FIN.
    """

    count: int
    resets: bool = False

    def strike(self, line: Line, passing: Passing | None) -> None:  # noqa: ARG002
        line.cut(self.count, resets=self.resets)


@dataclass(frozen=True, slots=True)
class BlackHole:
    """The network loses the connection: bytes are held back in both directions, and neither side learns of it.

    Unlike a frozen broker, this one goes on, and gives the client up after two heartbeat intervals.

    Attributes:
        seconds: for how long, after which what was held back arrives; None for ever, or until ``broker.faults.heal()``.
    """

    seconds: float | None = None

    def strike(self, line: Line, passing: Passing | None) -> None:  # noqa: ARG002
        line.darken(self.seconds)


@dataclass(frozen=True, slots=True)
class Delay:
    """Each frame of the broker arrives later.

    Attributes:
        latency: by how many seconds.
        seconds: for how long that lasts; None for ever, or until ``broker.faults.heal()``.
    """

    latency: float
    seconds: float | None = None

    def strike(self, line: Line, passing: Passing | None) -> None:  # noqa: ARG002
        line.slow(latency=self.latency, rate=None, seconds=self.seconds)


@dataclass(frozen=True, slots=True)
class Throttle:
    """The broker's bytes arrive slowly.

    Attributes:
        rate: the most bytes in a second.
        seconds: for how long that lasts; None for ever, or until ``broker.faults.heal()``.
    """

    rate: float
    seconds: float | None = None

    def strike(self, line: Line, passing: Passing | None) -> None:  # noqa: ARG002
        line.slow(latency=0.0, rate=self.rate, seconds=self.seconds)


@dataclass(frozen=True, slots=True)
class SendBytes:
    """The broker sends bytes, which need not be AMQP. Before a method of the broker, they go ahead of it.

    Attributes:
        data: the bytes.
    """

    data: bytes

    def strike(self, line: Line, passing: Passing | None) -> None:
        _send(self.data, line, passing)


@dataclass(frozen=True, slots=True)
class OversizedFrame:
    """The broker announces a frame that is larger than was agreed.

    Attributes:
        size: the size of its payload, in bytes.
    """

    size: int = 2**31

    def strike(self, line: Line, passing: Passing | None) -> None:
        _send(PREFIX.pack(BODY, 1, self.size), line, passing)


# --- AMQP -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CloseConnection:
    """The broker sends connection.close; a client that does not answer is dropped after 5 s.

    Attributes:
        code: the reply code.
        text: the reply text.
    """

    code: int = 320
    text: str = CLOSED_BY_FORCE

    def strike(self, line: Line, passing: Passing | None) -> None:
        line.peer.close(self.code, self.text, _cause(passing))


@dataclass(frozen=True, slots=True)
class CloseChannel:
    """The broker sends channel.close.

    Attributes:
        code: the reply code.
        text: the reply text.
        number: the channel's number; None for the channel on which a method passes, or for all channels.
    """

    code: int
    text: str
    number: int | None = None

    def strike(self, line: Line, passing: Passing | None) -> None:
        number = passing.channel if self.number is None and passing is not None else self.number
        for channel in list(line.peer.channels.values()):
            if number in (None, channel.number):
                line.peer.close_channel(channel, self.code, self.text, _cause(passing))


@dataclass(frozen=True, slots=True)
class Drop:
    """The method does not arrive: the broker does not handle it, or does not send it."""

    def strike(self, line: Line, passing: Passing | None) -> None:  # noqa: ARG002
        _passing(self, passing).is_dropped = True


@dataclass(frozen=True, slots=True)
class SendMethod:
    """The broker sends a method that it would not send. Before a method of the broker, it goes ahead of it.

    Attributes:
        method: the method.
        channel: its channel; None for the channel of the method at which this happens, or 0.
        body: the body of its content; None if it has none.
    """

    method: Method
    channel: int | None = None
    body: bytes | None = None

    def strike(self, line: Line, passing: Passing | None) -> None:
        channel = self.channel
        if channel is None:
            channel = 0 if passing is None else passing.channel
        if self.body is None:
            frames = [encode_method(channel, self.method)]
        else:
            frames = encode_content(channel, self.method, Message(self.body), 4096)
        _send(b"".join(frames), line, passing)


@dataclass(frozen=True, slots=True)
class Repeat:
    """The broker sends a method again, with its content.

    Attributes:
        times: how often.
    """

    times: int = 1

    def strike(self, line: Line, passing: Passing | None) -> None:  # noqa: ARG002
        frames = _passing(self, passing).frames
        frames *= self.times + 1


@dataclass(frozen=True, slots=True)
class Confirms:
    """The broker sends confirms in another way than it would: strikes before basic.ack of the broker.

    Attributes:
        style: ``doubled``: the confirm is sent twice. ``single``: one confirm for each message. ``reversed``: so, but
            the last one first. ``multiple``: with the flag ``multiple``, even for one message. ``nacked``: basic.nack
            instead.
    """

    style: Style

    def strike(self, line: Line, passing: Passing | None) -> None:  # noqa: ARG002
        found = _passing(self, passing)
        tags = found.confirmed
        if not tags:
            return
        last = tags[-1]
        styles: dict[Style, list[Method]] = {
            "doubled": [found.method] * 2,
            "single": [methods.Basic.Ack(tag) for tag in tags],
            "reversed": [methods.Basic.Ack(tag) for tag in reversed(tags)],
            "multiple": [methods.Basic.Ack(last, True)],
            "nacked": [methods.Basic.Nack(last, len(tags) > 1, False)],
        }
        found.frames[:] = [encode_method(found.channel, method) for method in styles[self.style]]


@dataclass(frozen=True, slots=True)
class CancelConsumer:
    """The broker cancels consumers, as it does when their queue becomes unavailable: basic.cancel.

    Attributes:
        tag: the consumer's tag; None for all.
    """

    tag: str | None = None

    def strike(self, line: Line, passing: Passing | None) -> None:  # noqa: ARG002
        for channel in list(line.peer.channels.values()):
            channel.deliveries.cancel(tag=self.tag)


@dataclass(frozen=True, slots=True)
class RefuseLogin:
    """The broker refuses the login, whatever the password is: strikes before connection.start-ok."""

    def strike(self, line: Line, passing: Passing | None) -> None:
        found = _passing(self, passing)
        found.is_dropped = True
        mechanism = getattr(found.method, "mechanism", "PLAIN")
        line.peer.close(LoginRefused.code, login_refused(mechanism))


@dataclass(frozen=True, slots=True)
class Hang:
    """The broker answers nothing on the channel, as where the node of a queue is down, until ``faults.release()``."""

    def strike(self, line: Line, passing: Passing | None) -> None:
        found = _passing(self, passing)
        found.is_dropped = True
        line.hang(found.channel)


ONLY_BEFORE: Final = (Drop, Repeat, Confirms, RefuseLogin, Hang)
"""The faults that change a method, and so strike only before it passes."""


def _send(data: bytes, line: Line, passing: Passing | None) -> None:
    if passing is not None and passing.frames and not passing.is_dropped:
        passing.frames.insert(0, data)
    else:
        line.send(data)


def _cause(passing: Passing | None) -> Method | None:
    """The method that a close names as its cause."""
    return passing.method if passing is not None and passing.sender == "client" else None


def only_before(fault: Fault) -> InvalidUse:
    """The error for a fault that was armed for another point."""
    return InvalidUse(f"{fault}: this fault strikes only before a method: broker.faults.before(...)")


def _passing(fault: Fault, passing: Passing | None) -> Passing:
    if passing is None:
        raise only_before(fault)
    return passing
