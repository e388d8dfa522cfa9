"""One AMQP session, from protocol header to close-ok, without I/O.

Three verbs at the border: :meth:`Session.receive` takes bytes, :meth:`Session.events` gives what they mean, step by
step, :meth:`Session.output` gives the bytes to send. Everything that the protocol decides by itself is decided here:
the handshake, tuning, heartbeats, both closes, and, in :mod:`anyamqp.protocol.channels`, what goes on inside a
channel. What the broker sends out of turn ends the session with a protocol error; it is never an exception and never a
surprise further up.

Sources: AMQP 0-9-1 specification, sections 2.2.4 (connection), 2.2.5 (channel), 4.2 (frames), 4.9 (closing); RabbitMQ,
"AMQP 0-9-1 Errata" and "Extensions".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain
from typing import Final

from anyamqp.errors import (
    AnyamqpError,
    ChannelError,
    CloseFacts,
    CloseFrame,
    CommandInvalid,
    CredentialsUnavailable,
    HeartbeatTimeout,
    InvalidArgument,
    InvalidTransition,
    InvalidUse,
    LoginRefused,
    ReplyError,
    Side,
    printable,
    reason_of,
)
from anyamqp.message import FieldTable
from anyamqp.protocol.channels import REPLY_SUCCESS, Channels, error_of, frame_of, unexpected
from anyamqp.protocol.events import Blocked, Ended, Event, Opened, SecretUpdated, Stalled, Tuning, Unblocked
from anyamqp.protocol.heartbeat import Heartbeat
from anyamqp.protocol.lifecycle import LINK, LinkEvent, LinkState, Transition
from anyamqp.protocol.sasl import Mechanism
from anyamqp.wire import methods
from anyamqp.wire.basic import Route, content_parts
from anyamqp.wire.decoder import Decoder
from anyamqp.wire.frames import (
    FRAME_MIN_SIZE,
    HEARTBEAT_FRAME,
    PROTOCOL_HEADER,
    Frame,
    Method,
    Payload,
    build,
    encode_method,
    field_table,
    method_name,
)
from anyamqp.wire.receiving import Delivered, Header

CAPABILITIES: FieldTable = {
    "authentication_failure_close": True,
    "basic.nack": True,
    "connection.blocked": True,
    "consumer_cancel_notify": True,
    "exchange_exchange_bindings": True,
    "publisher_confirms": True,
}
"""What this client can take; brokers keep to it (RabbitMQ, "Extensions", capabilities)."""

_TOLD_TOGETHER = (methods.Basic.Deliver, methods.Basic.Return, methods.Basic.Ack, methods.Basic.Nack)
"""Methods that close nothing and change no state."""

_CHUNK: Final = 256 * 1024
"""Bytes after which output that is joined is cut, between two parts."""

_GATHERED_CHUNK: Final = 1024 * 1024
"""The same where most of it is not copied."""

_LARGE: Final = 16 * 1024
"""Bytes from which on a part of the output is not copied."""

_MOST_OWED: Final = 256 * 1024
"""Bytes of unsent answers to the broker above which nothing more is to be read."""

_MOST_SHOWN: Final = 200
"""Characters of a long text of the broker's in an error."""

_ACK_WEIGHT: Final = 2
"""Bytes that an ack counts for before it is known which frame carries it: consumers may hold 65535 each."""


class Session:
    """The client's side of one AMQP session.

    Args:
        number: the link's number, for the records of its transitions.
        mechanisms: how to log in, one at least; the first that the broker offers is taken.
        virtual_host: which virtual host to open.
        proposal: our limits.
        client_properties: what the broker shows of us; the capabilities are added.
        max_message_size: the largest body accepted, in bytes.
        now: the present time in seconds, here and in every method, on any clock that does not go back.
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
        self.tuning: Tuning = proposal
        self.blocked: str | None = None
        self.close_facts: CloseFacts | None = None
        """What was said at the close, so far."""
        self.bytes_received: int = 0
        self.bytes_sent: int = 0
        self.frames_sent: int = 0
        self._number = number
        self._name = f"link {number}"
        self._mechanisms = mechanisms
        self._mechanism = mechanisms[0]
        self._unanswered_secrets = 0
        self._virtual_host = virtual_host
        self._client_properties: FieldTable = {**client_properties, "capabilities": CAPABILITIES}
        self._server_properties: FieldTable = {}
        self._lifecycle = LINK.begin()
        self._decoder = Decoder(proposal.frame_max, joins_deliveries=True)
        self._heartbeat = Heartbeat(0, now)
        self._events: list[Event] = []
        self._received_at = now
        self._has_unread = False
        """Whether something came that was not looked at."""
        self._frames: Iterator[Frame] | None = None
        """Of what came, those that are left."""
        self._held: Frame | None = None
        """The first of them, if it was taken out already."""
        self._fault: ReplyError | None = None
        """What is wrong with the first of them."""
        self._channels = Channels(self._send, self._answer, self._answer_with, self._events, max_message_size)
        self._output: list[bytes | memoryview] = [PROTOCOL_HEADER]
        self._output_size = len(PROTOCOL_HEADER)
        self._has_large = False
        """Whether some part of the output may be large."""
        self._owed = 0
        """Bytes of answers written since the last moment at which all answers had left."""
        self._owed_until = 0
        """The place in the whole output, from the first byte on, where the last answer ends."""

    # --- the border -------------------------------------------------------------------------------------------------

    @property
    def state(self) -> LinkState:
        """Where the link's life cycle is."""
        return self._lifecycle.state

    @property
    def frames_received(self) -> int:
        """Frames decoded so far."""
        return self._decoder.frames_decoded

    @property
    def channel_count(self) -> int:
        """Channel numbers in use."""
        return len(self._channels)

    @property
    def output_size(self) -> int:
        """Bytes that wait to be sent, acks not counted."""
        return self._output_size

    @property
    def owes_too_much(self) -> bool:
        """Whether the broker takes so little of what its own traffic makes us send that nothing more is to be read.

        It sends what it is owed for, so it stops as well when nobody reads (invariant 11).
        """
        owed = self._owed + _ACK_WEIGHT * self._channels.unsent_acks
        return owed > _MOST_OWED and self.state is not LinkState.CLOSING

    @property
    def has_unread(self) -> bool:
        """Whether :meth:`events` has more to tell."""
        return self._has_unread or bool(self._events)

    @property
    def has_output(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._output) or (self._channels.has_acks and self.state is LinkState.OPEN)

    def receive(self, data: bytes, now: float) -> None:
        """Take bytes from the broker; :meth:`events` tells what they mean. Never raises: what is wrong with them ends
        the session."""
        if self.state is LinkState.CLOSED:
            return
        self.bytes_received += len(data)
        self._received_at = now
        self._heartbeat.read(now)
        self._decoder.feed(data)
        self._has_unread = True

    def transport_ended(self, error: AnyamqpError, now: float) -> None:
        """The byte stream is over, both ways, for this reason."""
        if self.state is not LinkState.CLOSED:
            self._die(error, now)

    def events(self) -> list[Event]:
        """What happened next, in order; nothing if that is all.

        Call it until it gives nothing. The broker's next method waits until the events before it were told, so that
        whoever acts on an event finds the session and its channels as they were then: nothing later has closed them.
        """
        if self._has_unread and not self._events and self._lifecycle.state is not LinkState.CLOSED:
            self._read_on()
        events = self._events.copy()
        self._events.clear()
        return events

    def _read_on(self) -> None:
        fault, self._fault = self._fault, None
        try:
            if fault is not None:
                raise fault
            if self._take_frames():
                return
        except ReplyError as error:
            if self._events:
                self._fault = error
                return
            self._protocol_error(error, self._received_at)
        except (CredentialsUnavailable, InvalidArgument) as error:
            # Only what we were told to answer with can be wrong here: credentials, the virtual host.
            self._die(error, self._received_at)
        self._frames = None
        self._has_unread = False

    def _take_frames(self) -> bool:
        """Take what came, frame by frame. Returns whether one is held back until what came before it was told."""
        lifecycle, receive, events = self._lifecycle, self._channels.receive, self._events
        frames = self._frames or self._decoder.frames()
        held, self._held = self._held, None
        for frame in chain((held,), frames) if held is not None else frames:
            channel, payload = frame
            if events and isinstance(payload, Method) and not isinstance(payload, _TOLD_TOGETHER):
                self._frames, self._held = frames, frame
                return True
            if channel and lifecycle.state is LinkState.OPEN:
                receive(channel, payload)
                continue
            self._handle(channel, payload, self._received_at)
            if lifecycle.state is LinkState.CLOSED:
                break
        return False

    def output(self, now: float) -> list[bytes | memoryview]:
        """The next pieces to send, about 1 MiB at most where frames are smaller, which count as sent from now on.

        Many small parts are cheaper to send in one piece, large ones are cheaper to send than to copy.
        """
        if self._channels.has_acks and self.state is LinkState.OPEN:
            self._channels.flush_acks()
        parts, size = self._output, self._output_size
        if not parts:
            return []
        most = _GATHERED_CHUNK if self._has_large else _CHUNK
        if size <= most:
            self._output = []
        else:
            sizes = enumerate(accumulate(map(len, parts)), start=1)
            count, size = next(reached for reached in sizes if reached[1] >= most)
            parts, self._output = parts[:count], parts[count:]
        self._output_size -= size
        self.bytes_sent += size
        if self.bytes_sent >= self._owed_until:
            self._owed = 0
        self._heartbeat.wrote(now)
        if not self._has_large:
            return [b"".join(parts)]
        self._has_large = bool(self._output)
        return _gathered(parts)

    def reading_paused(self, now: float) -> None:
        """The caller does not read for now: the broker is not to blame for the silence."""
        self._heartbeat.read(now)

    def poll(self, now: float) -> float:
        """Do what is due by the clock: send a heartbeat, give up a silent broker.

        Returns:
            When to poll again.
        """
        if self.state is LinkState.CLOSED:
            return float("inf")
        verdict = self._heartbeat.poll(now)
        if verdict.stalled:
            self._emit(Stalled(verdict.stalled))
        if verdict.dead:
            fault = "has read nothing" if self.owes_too_much else "was silent"
            silence = 2 * self.tuning.heartbeat
            self._die(HeartbeatTimeout(f"the broker {fault} for two heartbeat intervals ({silence} s)"), now)
        elif verdict.send and not self._output:  # what waits to leave says as much as a heartbeat behind it
            self._write(HEARTBEAT_FRAME)
        return verdict.wake_at

    # --- what we begin ----------------------------------------------------------------------------------------------

    def close(self, now: float, text: str = "bye") -> None:
        """Begin the close handshake. Only in state OPEN: RabbitMQ does not take a close before open-ok."""
        self._channels.flush_acks()
        self._fire(LinkEvent.CLOSE, now)
        self._send(0, methods.Connection.Close(REPLY_SUCCESS, text, 0, 0))
        self.close_facts = CloseFacts(None, CloseFrame(REPLY_SUCCESS, text, None), Side.CLIENT)

    def update_secret(self, method: methods.Connection.UpdateSecret) -> None:
        """Send a new secret (RabbitMQ); :class:`SecretUpdated` tells of each answer, in order.

        Raises:
            InvalidArgument: it does not fit a frame; nothing was sent.
        """
        self._require_open("update the secret")
        self._send(0, method)
        self._unanswered_secrets += 1

    def open_channel(self) -> int:
        """Send channel.open on a free number.

        Raises:
            ChannelLimitReached: ``channel_max`` channels are open.
        """
        self._require_open("open a channel")
        return self._channels.open(self.tuning.channel_max)

    def close_channel(self, number: int, text: str = "bye", code: int = REPLY_SUCCESS) -> None:
        """Send channel.close; what the broker still sends on it is discarded until close-ok."""
        self._require_open("close a channel")
        self._channels.close(number, text, code)

    def request(self, number: int, method: Method) -> None:
        """Send a method that the broker answers. Answers come in the order of the requests.

        Raises:
            InvalidArgument: AMQP cannot carry an argument; nothing was sent.
        """
        self._require_open(method_name(method))
        self._channels.request(number, method)

    def send(self, number: int, method: Method) -> None:
        """Send a method that has no answer.

        Raises:
            InvalidArgument: AMQP cannot carry an argument; nothing was sent.
        """
        self._require_open(method_name(method))
        self._channels.send(number, method)

    def ack(self, number: int, tag: int, *, multiple: bool) -> None:
        """Acknowledge a delivery. Acks that leave together become one frame where they cover all that is older."""
        if self._lifecycle.state is not LinkState.OPEN:
            self._require_open("acknowledge")
        self._channels.ack(number, tag, multiple=multiple)

    def settled_count(self, number: int) -> float:
        """How many deliveries of a channel are settled by frames that have left; infinity where that is not known."""
        return self._channels.settled_count(number)

    def nack(self, number: int, method: methods.Basic.Nack | methods.Basic.Reject) -> None:
        """Give a delivery back: basic.nack or basic.reject."""
        self._require_open(method_name(method))
        self._channels.nack(number, method)

    def publish(self, number: int, route: Route, properties: bytes, body: bytes) -> None:
        """Send basic.publish with its content, whose properties are encoded already: a resend need not do it again.

        Raises:
            InvalidArgument: the properties do not fit a frame; nothing was sent.
        """
        if self._lifecycle.state is not LinkState.OPEN:
            self._require_open("publish")
        self._channels.require_open(number)
        parts = content_parts(route.frame(number), number, properties, body, self.tuning.frame_max)
        self._output += parts
        self.frames_sent += 2 + (len(parts) - 1) // 2
        self._output_size += sum(map(len, parts)) if len(parts) != 3 else len(parts[0]) + len(body) + 1
        if len(body) >= _LARGE:
            self._has_large = True

    # --- what the broker sends --------------------------------------------------------------------------------------

    def _handle(self, channel: int, payload: Payload, now: float) -> None:
        if channel:
            if self.state is not LinkState.CLOSING:
                raise unexpected(ChannelError, f"a frame on channel {channel} before connection.open-ok")
        elif isinstance(payload, Method):
            self._handle_connection(payload, now)
        elif isinstance(payload, Header | bytes | memoryview | Delivered) and self.state is not LinkState.CLOSING:
            raise unexpected(ChannelError, "content on channel 0")

    def _handle_connection(self, method: Method, now: float) -> None:
        if isinstance(method, methods.Connection.Close):
            self._closed_by_broker(method, now)
        elif isinstance(method, methods.Connection.CloseOk):
            self._advance(LinkEvent.CLOSED, method, now, only_from=LinkState.CLOSING)
            self._emit(Ended(None))
        elif self.state is LinkState.CLOSING:
            return
        elif isinstance(method, methods.Connection.Start):
            self._start(method, now)
        elif isinstance(method, methods.Connection.Secure):
            self._advance(LinkEvent.SECURED, method, now)
            challenge = method.challenge.encode("utf-8", "surrogateescape")
            response = _response(self._mechanism, lambda: self._mechanism.answer(challenge))
            self._answer(0, methods.Connection.SecureOk(response))
        elif isinstance(method, methods.Connection.Tune):
            self._tune(method, now)
        elif isinstance(method, methods.Connection.OpenOk):
            self._advance(LinkEvent.OPENED, method, now)
            self._emit(Opened(self.tuning, self._server_properties))
        elif isinstance(method, methods.Connection.Blocked) and self.state is LinkState.OPEN:
            self.blocked = printable(method.reason)
            self._emit(Blocked(self.blocked))
        elif isinstance(method, methods.Connection.Unblocked) and self.state is LinkState.OPEN:
            self.blocked = None
            self._emit(Unblocked())
        elif isinstance(method, methods.Connection.UpdateSecretOk) and self._unanswered_secrets:
            self._unanswered_secrets -= 1
            self._emit(SecretUpdated())
        else:
            raise unexpected(CommandInvalid, f"{method_name(method)} in state {self.state.name}")

    def _start(self, method: methods.Connection.Start, now: float) -> None:
        self._advance(LinkEvent.STARTED, method, now)
        offered = method.mechanisms.split()
        mechanism = next((candidate for candidate in self._mechanisms if candidate.name in offered), None)
        if mechanism is None:
            # Not a protocol error: the stream is sound, so nothing is left to say but to leave.
            wanted = " or ".join(candidate.name for candidate in self._mechanisms)
            seen = printable(" ".join(offered)[:_MOST_SHOWN]) or "nothing"
            text = f"the broker offers {seen}, not {wanted}"
            self._die(LoginRefused(text, method="connection.start", found_by=Side.CLIENT), now)
            return
        self._mechanism = mechanism
        self._server_properties = method.server_properties
        self._send(
            0,
            methods.Connection.StartOk(
                client_properties=field_table(self._client_properties),
                mechanism=mechanism.name,
                response=_response(mechanism, mechanism.start),
                locale="en_US",
            ),
        )

    def _tune(self, method: methods.Connection.Tune, now: float) -> None:
        self._advance(LinkEvent.TUNED, method, now)
        if 0 < method.frame_max < FRAME_MIN_SIZE:
            text = f"connection.tune with frame_max {method.frame_max}, where AMQP allows no less than {FRAME_MIN_SIZE}"
            raise unexpected(CommandInvalid, text)
        self.tuning = self.tuning.agree(Tuning(method.channel_max, method.frame_max, method.heartbeat))
        self._decoder.max_frame_size = self.tuning.frame_max
        # Timers start here and not before: until tune nobody has agreed to any (AMQP 0-9-1, 4.2.7).
        self._heartbeat = Heartbeat(self.tuning.heartbeat, now)
        self._send(0, methods.Connection.TuneOk(*self.tuning))
        self._send(0, build(methods.Connection.Open, self._virtual_host))

    def _closed_by_broker(self, method: methods.Connection.Close, now: float) -> None:
        logging_in = self.state in (LinkState.AWAITING_TUNE, LinkState.AWAITING_START)
        ours = self.state is LinkState.CLOSING
        received = frame_of(method)
        if self.close_facts is None:
            self.close_facts = CloseFacts(received, None, Side.BROKER)
        else:
            self.close_facts = CloseFacts(received, self.close_facts.sent, self.close_facts.first)
        error = error_of(received)
        if logging_in and error.code == LoginRefused.code:
            error = LoginRefused(received.text, close=self.close_facts)
        self._send(0, methods.Connection.CloseOk())
        self._fire(LinkEvent.CLOSED, now, reason=None if ours else reason_of(error))
        # Two closes that cross are a close of ours that the broker agreed to.
        self._emit(Ended(None if ours else error))

    # --- endings and small change -----------------------------------------------------------------------------------

    def _protocol_error(self, error: ReplyError, now: float) -> None:
        # The stream cannot be read any more, so there is no close-ok to wait for: say why, then leave.
        if self.state is LinkState.OPEN:
            text = error.text[:_MOST_SHOWN]
            self._send(0, methods.Connection.Close(error.code, text, 0, 0))
            error.close = self.close_facts = CloseFacts(None, CloseFrame(error.code, text, None), Side.CLIENT)
        self._die(error, now)

    def _die(self, error: AnyamqpError, now: float) -> None:
        self._fire(LinkEvent.DIED, now, reason=reason_of(error))
        self._emit(Ended(error))

    def _advance(self, event: LinkEvent, method: Method, now: float, *, only_from: LinkState | None = None) -> None:
        if only_from is not None and self.state is not only_from:
            raise unexpected(CommandInvalid, f"{method_name(method)} in state {self.state.name}")
        try:
            self._fire(event, now)
        except InvalidTransition as refused:
            raise unexpected(CommandInvalid, f"{method_name(method)} in state {self.state.name}") from refused

    def _fire(self, event: LinkEvent, now: float, *, reason: str | None = None) -> None:
        step = self._lifecycle.fire(event)
        self._emit(Transition(self._name, step.source, event, step.target, now, reason, self._number))

    def _emit(self, event: Event) -> None:
        self._events.append(event)

    def _require_open(self, purpose: str) -> None:
        if self.state is not LinkState.OPEN:
            raise InvalidUse(f"cannot {purpose}: the link is {self.state.name}")

    def _send(self, number: int, method: Method) -> None:
        data = encode_method(number, method)
        if self.tuning.frame_max and len(data) > self.tuning.frame_max:
            text = f"{method_name(method)}: {len(data)} bytes do not fit a frame of {self.tuning.frame_max}"
            raise InvalidArgument(text)
        self._write(data)

    def _answer(self, number: int, method: Method) -> None:
        """Send what the broker's own traffic makes us send: a reply, or a delivery's settlement."""
        before = self._output_size
        self._send(number, method)
        self._owed += self._output_size - before
        self._owed_until = self.bytes_sent + self._output_size

    def _answer_with(self, frame: bytes) -> None:
        """The same, encoded already."""
        self._write(frame)
        self._owed += len(frame)
        self._owed_until = self.bytes_sent + self._output_size

    def _write(self, frame: bytes) -> None:
        self._output.append(frame)
        self._output_size += len(frame)
        self.frames_sent += 1


def _gathered(parts: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """The parts with the small ones in between joined."""
    pieces: list[bytes | memoryview] = []
    small: list[bytes | memoryview] = []
    for part in parts:
        if len(part) < _LARGE:
            small.append(part)
        else:
            if small:
                pieces.append(b"".join(small))
                small.clear()
            pieces.append(part)
    if small:
        pieces.append(b"".join(small))
    return pieces


def _response(mechanism: Mechanism, ask: Callable[[], object]) -> str:
    """What a mechanism says, as text: a long string is text here, whatever the bytes are."""
    try:
        response = ask()
    except Exception as error:
        raise CredentialsUnavailable(f"the mechanism {mechanism.name} raised {type(error).__name__}") from error
    if not isinstance(response, bytes):
        kind = type(response).__name__
        raise CredentialsUnavailable(f"the mechanism {mechanism.name} answered with {kind} instead of bytes")
    return response.decode("utf-8", "surrogateescape")
