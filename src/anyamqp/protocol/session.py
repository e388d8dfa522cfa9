"""One AMQP session, from protocol header to close-ok, without I/O.

The caller gives received bytes to :meth:`Session.receive`, takes their events from :meth:`Session.next_event`, and
sends the bytes of :meth:`Session.output`. A session answers the broker by itself where AMQP leaves no choice: the
handshake and both closes (:mod:`anyamqp.protocol.channel_zero`), heartbeats, and closes of channels
(:mod:`anyamqp.protocol.channels`). A broker that sends a frame out of turn ends the session with a protocol error,
which is an event and never an exception.

Sources: AMQP 0-9-1 specification, sections 2.2.4 (connection), 2.2.5 (channel), 4.2 (frames), 4.9 (closing); RabbitMQ,
"AMQP 0-9-1 Errata" and "Extensions".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final

from anyamqp.errors import (
    AnyamqpError,
    CloseFacts,
    CredentialsUnavailable,
    HeartbeatTimeout,
    InvalidArgument,
    InvalidUse,
    LoginRefused,
    ReplyError,
)
from anyamqp.message import FieldTable
from anyamqp.protocol.acks import UnsentAcks
from anyamqp.protocol.channel_zero import ChannelZero
from anyamqp.protocol.channels import Channels
from anyamqp.protocol.closes import REPLY_SUCCESS
from anyamqp.protocol.events import BlockNotice, Event, EventQueue, Stalled, Tuning
from anyamqp.protocol.handshake import Handshake
from anyamqp.protocol.lifecycle import LinkState
from anyamqp.protocol.output import Output
from anyamqp.protocol.requests import Purpose, Request
from anyamqp.protocol.sasl import Mechanism
from anyamqp.wire import methods
from anyamqp.wire.basic import Route, content_parts
from anyamqp.wire.decoder import Decoder
from anyamqp.wire.frames import HEARTBEAT_FRAME, method_name
from anyamqp.wire.methods import Method

_BATCHED: Final = (methods.Basic.Deliver, methods.Basic.Return, methods.Basic.Ack, methods.Basic.Nack)
"""Methods that change no state, so that they may be read while events of earlier ones wait."""

_MOST_OWED: Final = 256 * 1024
"""Bytes of unsent answers to the broker above which the caller should read no more."""

_ACK_WEIGHT: Final = 2
"""Bytes that count for an ack before a frame carries it; consumers may have 65535 of them each."""


class Session:
    """The client's side of one AMQP session.

    Args:
        number: the link's number, for the records of its transitions.
        mechanisms: SASL mechanisms, at least one; the first that the broker offers is used.
        virtual_host: the virtual host to open.
        proposal: our limits.
        client_properties: the properties that the broker shows of this client; the capabilities are added.
        max_message_size: the largest body accepted, in bytes.
        now: the current time in seconds, here and in every method, on any clock that does not go back.
    """

    def __init__(
        self,
        *,
        number: int,
        mechanisms: Sequence[Mechanism],
        virtual_host: str,
        proposal: Tuning,
        client_properties: FieldTable,
        max_message_size: int,
        now: float,
    ) -> None:
        self.bytes_received: int = 0
        """Bytes that :meth:`receive` has taken."""
        self.received_at: float = now
        self._decoder = Decoder(proposal.frame_max, joins_deliveries=True)
        self._reading: Iterator[Event] | None = None
        """The events of the received bytes, made one by one; None when all bytes are read."""
        self._events = EventQueue()
        self._output = Output(proposal.frame_max)
        self._unsent_acks = UnsentAcks(self._output)
        self._channels = Channels(self._output, self._unsent_acks, self._events, max_message_size)
        self._zero = ChannelZero(
            number=number,
            handshake=Handshake(mechanisms, virtual_host, client_properties, proposal),
            output=self._output,
            decoder=self._decoder,
            unsent_acks=self._unsent_acks,
            events=self._events,
            now=now,
        )
        self._lifecycle = self._zero.lifecycle

    # --- state -----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> LinkState:
        """The state of the link."""
        return self._lifecycle.state

    @property
    def tuning(self) -> Tuning:
        """The agreed limits; our own before connection.tune."""
        return self._zero.tuning

    @property
    def block(self) -> BlockNotice | None:
        """The broker's notice while it reads no publishes (RabbitMQ, "Blocked Connections"); None while it does."""
        return self._zero.block

    @property
    def close_facts(self) -> CloseFacts | None:
        """The close frames so far; None before any."""
        return self._zero.close_facts

    @property
    def bytes_sent(self) -> int:
        """Bytes that :meth:`output` has returned."""
        return self._output.bytes_taken

    @property
    def frames_sent(self) -> int:
        """Frames written, those that wait to be sent included."""
        return self._output.frames_written

    @property
    def frames_received(self) -> int:
        """Frames decoded."""
        return self._decoder.frames_decoded

    @property
    def channel_count(self) -> int:
        """Channel numbers in use."""
        return len(self._channels)

    @property
    def output_size(self) -> int:
        """Bytes that wait to be sent, without acks that no frame carries yet."""
        return self._output.size

    @property
    def has_output(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._output) or bool(self._unsent_acks)

    @property
    def owes_too_much(self) -> bool:
        """Whether the caller should stop reading, because too many answers to the broker wait to be sent.

        A broker that takes none of its answers stops sending when nobody reads (invariant 11).
        """
        owed = self._output.owed + _ACK_WEIGHT * len(self._unsent_acks)
        return owed > _MOST_OWED and self.state is not LinkState.CLOSING

    @property
    def has_unread(self) -> bool:
        """Whether :meth:`next_event` may return another event."""
        return self._reading is not None or bool(self._events)

    # --- bytes and time ---------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> None:
        """Take bytes from the broker. Never raises: a fault in them ends the session."""
        self.bytes_received += len(data)
        self.received_at = now
        self._zero.heartbeat.read(now)
        self._decoder.feed(data)
        self._reading = self._read() if self._reading is None else chain(self._reading, self._read())

    def transport_ended(self, error: AnyamqpError, now: float) -> None:
        """End the session: the byte stream has ended in both directions, for this reason."""
        self._zero.die(error, now)

    def next_event(self) -> Event | None:
        """The next event; None if there is none.

        The broker's next method is read only when the events of the last one have been taken. So a caller that acts on
        an event finds the session and its channels as they were at that event: nothing later has closed them.
        """
        events = self._events
        if not events and self._reading is not None:
            event = next(self._reading, None)
            if event is not None:
                return event
            self._reading = None
        return events.popleft() if events else None

    def _read(self) -> Iterator[Event]:
        """Read the frames that came. Contents that follow each other become one event, and so do confirms."""
        lifecycle, zero, receive, events = self._lifecycle, self._zero, self._channels.receive, self._events
        try:
            for channel, payload in self._decoder.frames():
                if events and isinstance(payload, Method) and not isinstance(payload, _BATCHED):
                    while events:
                        yield events.popleft()
                if lifecycle.state is LinkState.OPEN and channel:
                    receive(channel, payload)
                else:
                    zero.receive(channel, payload, self.received_at)
        except (LoginRefused, CredentialsUnavailable, InvalidArgument) as error:
            # Faults in the answers of the handshake, not in the broker's bytes.
            zero.die(error, self.received_at)
        except ReplyError as error:
            while events:
                yield events.popleft()
            zero.break_off(error, self.received_at)

    def output(self, now: float) -> list[bytes | memoryview]:
        """The next pieces to send, which count as sent: about 1 MiB at most, unless one frame is larger."""
        if self._unsent_acks:
            self._unsent_acks.flush_all()
        pieces = self._output.take()
        if pieces:
            self._zero.heartbeat.wrote(now)
        return pieces

    def reading_paused(self, now: float) -> None:
        """The caller does not read for now, so that the silence is not the broker's fault."""
        self._zero.heartbeat.read(now)

    def poll(self, now: float) -> float:
        """Do what is due by the clock: send a heartbeat, or end a link whose broker is silent.

        Returns:
            When to poll again, in seconds; infinity for never.
        """
        if self.state is LinkState.CLOSED:
            return float("inf")
        verdict = self._zero.heartbeat.poll(now)
        if verdict.stalled:
            self._events.append(Stalled(verdict.stalled))
        if verdict.dead:
            fault = "has read nothing" if self.owes_too_much else "was silent"
            silence = 2 * self.tuning.heartbeat
            self._zero.die(HeartbeatTimeout(f"the broker {fault} for two heartbeat intervals ({silence} s)"), now)
        elif verdict.send and not self._output:  # frames that wait to be sent count as a heartbeat
            self._output.write(HEARTBEAT_FRAME)
        return verdict.wake_at

    # --- requests and messages --------------------------------------------------------------------------------------

    def close(self, now: float, text: str = "bye") -> None:
        """Begin the close handshake.

        Raises:
            InvalidTransition: the link is not OPEN: RabbitMQ does not accept a close before open-ok.
        """
        self._zero.close(now, text)

    def update_secret(self, method: methods.Connection.UpdateSecret) -> Request:
        """Send a new secret (RabbitMQ). The broker answers in the order of the requests.

        Raises:
            InvalidArgument: it does not fit a frame; nothing was sent.
        """
        self._require_open("update the secret")
        return self._zero.update_secret(method)

    def open_channel(self, purpose: Purpose = Purpose.SETUP) -> int:
        """Send channel.open.

        Returns:
            The channel's number.

        Raises:
            ChannelLimitReached: ``channel_max`` channels are open.
        """
        self._require_open("open a channel")
        return self._channels.open(self.tuning.channel_max, purpose)

    def close_channel(self, number: int, text: str = "bye", code: int = REPLY_SUCCESS) -> tuple[Request, ...]:
        """Send channel.close; frames that come on it until close-ok are discarded.

        On a link that is not open nothing is sent: the end of the link ends the channel.

        Returns:
            The requests on it that the broker will not answer, the oldest first.
        """
        if self.state is not LinkState.OPEN:
            return self._channels.unanswered(number)
        return self._channels.close(number, text, code)

    def request(
        self, number: int, method: Method, purpose: Purpose = Purpose.CALLER, *, as_sent: Method | None = None
    ) -> Request:
        """Send a method that the broker answers. The broker answers in the order of a channel's requests.

        Args:
            number: the channel's number.
            method: the request.
            purpose: the use of the reply.
            as_sent: the method to send in its place, if a name in it has changed; None to send ``method``.

        Raises:
            InvalidArgument: AMQP cannot carry an argument; nothing was sent.
        """
        self._require_open(method_name(method))
        request = Request(method, purpose)
        self._channels.request(number, request, as_sent)
        return request

    def unanswered(self, number: int) -> tuple[Request, ...]:
        """The requests on a channel without a reply, the oldest first; on channel 0 those for new secrets."""
        return self._channels.unanswered(number) if number else tuple(self._zero.secrets)

    def awaits_reply(self, number: int) -> bool:
        """Whether a channel has requests without a reply."""
        return self._channels.has_unanswered(number) if number else bool(self._zero.secrets)

    def send(self, number: int, method: Method) -> None:
        """Send a method that has no answer.

        Raises:
            InvalidArgument: AMQP cannot carry an argument; nothing was sent.
        """
        self._require_open(method_name(method))
        self._channels.send(number, method)

    def ack(self, number: int, tag: int, *, multiple: bool) -> None:
        """Acknowledge a delivery. One frame stands for several acks where nothing older is unsettled."""
        if self._lifecycle.state is not LinkState.OPEN:
            self._require_open("acknowledge")
        self._channels.ack(number, tag, multiple=multiple)

    def settled_count(self, number: int) -> float:
        """How many deliveries are settled by frames that have been written; infinity where that is not known."""
        return self._channels.settled_count(number)

    def nack(self, number: int, method: methods.Basic.Nack | methods.Basic.Reject) -> None:
        """Refuse a delivery, with basic.nack or basic.reject; at the end of a link the broker requeues it by itself."""
        if self.state is LinkState.OPEN:
            self._channels.nack(number, method)

    def publish(self, number: int, route: Route, properties: bytes, body: bytes) -> None:
        """Send basic.publish with its content, whose properties are encoded already: a resend need not do it again.

        Raises:
            InvalidArgument: the properties do not fit a frame; nothing was sent.
        """
        if self._lifecycle.state is not LinkState.OPEN:
            self._require_open("publish")
        self._channels.require_open(number)
        parts = content_parts(route.frame(number), number, properties, body, self._output.frame_max)
        self._output.write_content(parts, len(body))

    def _require_open(self, purpose: str) -> None:
        if self.state is not LinkState.OPEN:
            raise InvalidUse(f"cannot {purpose}: the link is {self.state.name}")
