"""One AMQP session, from protocol header to close-ok, without I/O.

Three verbs at the border: :meth:`Session.receive` takes bytes, :meth:`Session.events` gives what they meant,
:meth:`Session.output` gives the bytes to send. Everything that the protocol decides by itself is decided here: the
handshake, tuning, channel numbers, which reply belongs to which request, how content is put together, what is
discarded while a close is under way. What the broker sends out of turn ends the session with a protocol error; it is
never an exception and never a surprise further up.

Sources: AMQP 0-9-1 specification, sections 2.2.4 (connection), 2.2.5 (channel), 4.2 (frames), 4.9 (closing); RabbitMQ,
"AMQP 0-9-1 Errata" and "Extensions".
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from pamqp import commands

from holdfast.errors import (
    ChannelError,
    ChannelLimitReached,
    CommandInvalid,
    ContentTooLarge,
    FrameError,
    HeartbeatTimeout,
    HoldfastError,
    InvalidTransition,
    InvalidUse,
    LoginRefused,
    ReplyError,
    Side,
    UnexpectedFrame,
    reply_error,
)
from holdfast.message import FieldTable, Message
from holdfast.protocol.heartbeat import Heartbeat
from holdfast.protocol.lifecycle import LinkEvent, LinkState, Transition, link_lifecycle
from holdfast.protocol.wire import (
    HEARTBEAT_FRAME,
    PROTOCOL_HEADER,
    Decoder,
    Frame,
    Header,
    Method,
    content_frames,
    encode_method,
    field_table,
    message_from,
    method_name,
)

CAPABILITIES: FieldTable = {
    "authentication_failure_close": True,
    "basic.nack": True,
    "connection.blocked": True,
    "consumer_cancel_notify": True,
    "exchange_exchange_bindings": True,
    "publisher_confirms": True,
}
"""What this client can take; brokers keep to it (RabbitMQ, "Extensions", capabilities)."""

_HIGHEST_CHANNEL = 65535
_REPLY_SUCCESS = 200


class Tuning(NamedTuple):
    """The limits of a session: AMQP 0-9-1, connection.tune.

    Attributes:
        channel_max: highest channel number; 0 for no limit.
        frame_max: largest frame in bytes; 0 for no limit.
        heartbeat: heartbeat interval in seconds; 0 for none.
    """

    channel_max: int
    frame_max: int
    heartbeat: int

    def agree(self, theirs: Tuning) -> Tuning:
        """What both sides can accept: the smaller of two values, the other one where one is 0."""
        return Tuning(
            *(min(ours, other) if ours and other else ours or other for ours, other in zip(self, theirs, strict=True))
        )


class Mechanism(Protocol):
    """A SASL mechanism (AMQP 0-9-1, connection.start-ok and connection.secure-ok)."""

    name: str

    def start(self) -> str:
        """The initial response."""
        ...

    def answer(self, challenge: str) -> str:
        """The answer to a challenge."""
        ...


class Plain:
    """SASL PLAIN (RFC 4616)."""

    name = "PLAIN"

    def __init__(self, username: str, password: str) -> None:
        self._username = username
        self._password = password

    def start(self) -> str:
        return f"\0{self._username}\0{self._password}"

    def answer(self, challenge: str) -> str:  # noqa: ARG002 - PLAIN has nothing more to say, whatever is asked
        return ""


@dataclass(frozen=True, slots=True)
class Opened:
    """The handshake is done."""

    tuning: Tuning
    server_properties: FieldTable


@dataclass(frozen=True, slots=True)
class MethodReceived:
    """A method without content on a channel: the reply to the oldest request, or one that came unasked."""

    channel: int
    method: Method
    is_reply: bool


@dataclass(frozen=True, slots=True)
class ContentReceived:
    """A method with its whole content on a channel: basic.deliver, basic.return or basic.get-ok."""

    channel: int
    method: Method
    message: Message


@dataclass(frozen=True, slots=True)
class ChannelClosed:
    """A channel was closed for an error, by the broker or because of what the broker sent on it."""

    channel: int
    error: ReplyError


@dataclass(frozen=True, slots=True)
class ChannelReleased:
    """A close of ours is complete: the number is free again."""

    channel: int


@dataclass(frozen=True, slots=True)
class Blocked:
    """The broker stopped reading what is published (RabbitMQ, "Blocked Connections")."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unblocked:
    """The broker reads again."""


@dataclass(frozen=True, slots=True)
class Stalled:
    """The caller's event loop was late by so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Ended:
    """The session is over. ``error`` is the one reason; None if we closed it and the broker agreed."""

    error: HoldfastError | None


Event: TypeAlias = (
    Opened
    | MethodReceived
    | ContentReceived
    | ChannelClosed
    | ChannelReleased
    | Blocked
    | Unblocked
    | Stalled
    | Ended
    | Transition
)


class _Channel:
    """What a session knows of a channel number."""

    __slots__ = ("closing", "expected", "header", "method", "pieces", "received")

    def __init__(self) -> None:
        self.closing = False
        self.expected: deque[list[str]] = deque()
        self.method: Method | None = None
        self.header: Header | None = None
        self.pieces: list[bytes] = []
        self.received = 0


_CONTENT_METHODS = (commands.Basic.Deliver, commands.Basic.Return, commands.Basic.GetOk)
_UNASKED = (
    commands.Basic.Ack,
    commands.Basic.Nack,
    commands.Basic.Cancel,
    commands.Channel.Flow,
)


class Session:
    """The client's side of one AMQP session.

    Args:
        number: the link's number, for the records of its transitions.
        mechanism: how to log in.
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
        mechanism: Mechanism,
        virtual_host: str,
        proposal: Tuning,
        client_properties: FieldTable,
        max_message_size: int,
        now: float,
    ) -> None:
        self.tuning = proposal
        self.blocked: str | None = None
        self.bytes_received = 0
        self.bytes_sent = 0
        self.frames_sent = 0
        self._number = number
        self._name = f"link {number}"
        self._mechanism = mechanism
        self._virtual_host = virtual_host
        self._client_properties: FieldTable = {**client_properties, "capabilities": CAPABILITIES}
        self._max_message_size = max_message_size
        self._server_properties: FieldTable = {}
        self._lifecycle = link_lifecycle()
        self._decoder = Decoder(proposal.frame_max)
        self._heartbeat = Heartbeat(0, now)
        self._channels: dict[int, _Channel] = {}
        self._free: list[int] = []
        self._highest = 0
        self._events: list[Event] = []
        self._output: list[bytes] = [PROTOCOL_HEADER]
        self._output_size = len(PROTOCOL_HEADER)

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
        """Bytes that wait to be sent."""
        return self._output_size

    def receive(self, data: bytes, now: float) -> None:
        """Take bytes from the broker. Never raises: what is wrong with them ends the session."""
        if self.state is LinkState.CLOSED:
            return
        self.bytes_received += len(data)
        self._heartbeat.read(now)
        self._decoder.feed(data)
        try:
            for frame in self._decoder.frames():
                self._handle(frame, now)
                if self._lifecycle.state is LinkState.CLOSED:
                    return
        except ReplyError as error:
            self._protocol_error(error, now)

    def transport_ended(self, error: HoldfastError, now: float) -> None:
        """The byte stream is over, both ways, for this reason."""
        if self.state is not LinkState.CLOSED:
            self._die(error, now)

    def events(self) -> list[Event]:
        """What happened since the last call, in order."""
        events = self._events
        self._events = []
        return events

    def output(self, now: float) -> bytes:
        """The bytes to send, which count as sent from now on."""
        data = self._output[0] if len(self._output) == 1 else b"".join(self._output)
        self._output.clear()
        self._output_size = 0
        self.bytes_sent += len(data)
        self._heartbeat.wrote(now)
        return data

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
            self._events.append(Stalled(verdict.stalled))
        if verdict.dead:
            silence = 2 * self.tuning.heartbeat
            self._die(HeartbeatTimeout(f"the broker was silent for two heartbeat intervals ({silence} s)"), now)
        elif verdict.send:
            self._write(HEARTBEAT_FRAME)
        return verdict.wake_at

    # --- what we begin ----------------------------------------------------------------------------------------------

    def close(self, now: float, text: str = "bye") -> None:
        """Begin the close handshake. Only in state OPEN: RabbitMQ does not take a close before open-ok."""
        self._fire(LinkEvent.CLOSE, now)
        self._send(0, commands.Connection.Close(_REPLY_SUCCESS, text, 0, 0))

    def open_channel(self) -> int:
        """Send channel.open on the lowest free number.

        Raises:
            ChannelLimitReached: ``channel_max`` channels are open.
        """
        self._require_open("open a channel")
        if self._free:
            number = heapq.heappop(self._free)
        elif self._highest < (self.tuning.channel_max or _HIGHEST_CHANNEL):
            self._highest += 1
            number = self._highest
        else:
            raise ChannelLimitReached(
                f"all {self._highest} channels that the connection may have are open (channel_max)"
            )
        self._channels[number] = _Channel()
        self.request(number, commands.Channel.Open())
        return number

    def close_channel(self, number: int, text: str = "bye") -> None:
        """Send channel.close; what the broker still sends on it is discarded until close-ok."""
        self._require_open("close a channel")
        self._send(number, commands.Channel.Close(_REPLY_SUCCESS, text, 0, 0))
        self._channels[number].closing = True

    def request(self, number: int, method: Method) -> None:
        """Send a method that the broker answers. Answers come in the order of the requests.

        Raises:
            InvalidArgument: AMQP cannot carry an argument; nothing was sent.
        """
        self._require_open(method_name(method))
        self._send(number, method)
        self._channels[number].expected.append(method.valid_responses)

    def send(self, number: int, method: Method) -> None:
        """Send a method that has no answer.

        Raises:
            InvalidArgument: AMQP cannot carry an argument; nothing was sent.
        """
        self._require_open(method_name(method))
        self._send(number, method)

    def publish(self, number: int, method: commands.Basic.Publish, properties: bytes, body: bytes) -> None:
        """Send basic.publish with its content, whose properties are encoded already: a resend need not do it again.

        Raises:
            InvalidArgument: AMQP cannot carry it; nothing was sent.
        """
        self._require_open("publish")
        self._write(*content_frames(number, method, properties, body, self.tuning.frame_max))

    # --- what the broker sends --------------------------------------------------------------------------------------

    def _handle(self, frame: Frame, now: float) -> None:
        channel, payload = frame
        if channel:
            if self.state is LinkState.OPEN:
                self._handle_channel(channel, payload)
            elif self.state is not LinkState.CLOSING:
                raise _unexpected(ChannelError, f"a frame on channel {channel} before connection.open-ok")
        elif isinstance(payload, Method):
            self._handle_connection(payload, now)
        elif isinstance(payload, Header | bytes):
            raise _unexpected(UnexpectedFrame, "content on channel 0")

    def _handle_connection(self, method: Method, now: float) -> None:
        if isinstance(method, commands.Connection.Close):
            self._closed_by_broker(method, now)
        elif isinstance(method, commands.Connection.CloseOk):
            self._advance(LinkEvent.CLOSED, method, now, only_from=LinkState.CLOSING)
            self._events.append(Ended(None))
        elif self.state is LinkState.CLOSING:
            return
        elif isinstance(method, commands.Connection.Start):
            self._start(method, now)
        elif isinstance(method, commands.Connection.Secure):
            self._advance(LinkEvent.SECURED, method, now)
            self._send(0, commands.Connection.SecureOk(self._mechanism.answer(method.challenge or "")))
        elif isinstance(method, commands.Connection.Tune):
            self._tune(method, now)
        elif isinstance(method, commands.Connection.OpenOk):
            self._advance(LinkEvent.OPENED, method, now)
            self._events.append(Opened(self.tuning, self._server_properties))
        elif isinstance(method, commands.Connection.Blocked) and self.state is LinkState.OPEN:
            self.blocked = method.reason
            self._events.append(Blocked(method.reason))
        elif isinstance(method, commands.Connection.Unblocked) and self.state is LinkState.OPEN:
            self.blocked = None
            self._events.append(Unblocked())
        else:
            raise _unexpected(CommandInvalid, f"{method_name(method)} in state {self.state.name}")

    def _start(self, method: commands.Connection.Start, now: float) -> None:
        self._advance(LinkEvent.STARTED, method, now)
        offered = method.mechanisms.split()
        if self._mechanism.name not in offered:
            # Not a protocol error: the stream is sound, so nothing is left to say but to leave.
            text = f"the broker offers {' '.join(offered) or 'nothing'}, not {self._mechanism.name}"
            self._die(LoginRefused(text, method="connection.start", found_by=Side.CLIENT), now)
            return
        self._server_properties = method.server_properties
        self._send(
            0,
            commands.Connection.StartOk(
                client_properties=field_table(self._client_properties),
                mechanism=self._mechanism.name,
                response=self._mechanism.start(),
                locale="en_US",
            ),
        )

    def _tune(self, method: commands.Connection.Tune, now: float) -> None:
        self._advance(LinkEvent.TUNED, method, now)
        self.tuning = self.tuning.agree(Tuning(method.channel_max, method.frame_max, method.heartbeat))
        self._decoder.max_frame_size = self.tuning.frame_max
        # Timers start here and not before: until tune nobody has agreed to any (AMQP 0-9-1, 4.2.7).
        self._heartbeat = Heartbeat(self.tuning.heartbeat, now)
        self._send(0, commands.Connection.TuneOk(*self.tuning))
        self._send(0, commands.Connection.Open(self._virtual_host))

    def _closed_by_broker(self, method: commands.Connection.Close, now: float) -> None:
        logging_in = self.state in (LinkState.AWAITING_TUNE, LinkState.AWAITING_START)
        ours = self.state is LinkState.CLOSING
        error = _error_of(method)
        if logging_in and error.code == LoginRefused.code:
            error = LoginRefused(method.reply_text)
        self._send(0, commands.Connection.CloseOk())
        self._fire(LinkEvent.CLOSED, now, reason=None if ours else str(error))
        # Two closes that cross are a close of ours that the broker agreed to.
        self._events.append(Ended(None if ours else error))

    def _handle_channel(self, number: int, payload: object) -> None:
        channel = self._channels.get(number)
        if channel is None:
            raise _unexpected(ChannelError, f"a frame on channel {number}, which is not open")
        if isinstance(payload, Method):
            self._handle_method(number, channel, payload)
        elif channel.closing:
            return
        elif isinstance(payload, Header):
            self._handle_header(number, channel, payload)
        elif isinstance(payload, bytes):
            self._handle_body(number, channel, payload)

    def _handle_method(self, number: int, channel: _Channel, method: Method) -> None:
        if isinstance(method, commands.Channel.Close):
            error = _error_of(method)
            self._send(number, commands.Channel.CloseOk())
            if channel.closing:
                # The broker's close crossed ours. It answers ours as well, so the number stays taken until then.
                return
            self._release(number)
            self._events.append(ChannelClosed(number, error))
        elif isinstance(method, commands.Channel.CloseOk):
            if not channel.closing:
                raise _unexpected(CommandInvalid, f"channel.close-ok on channel {number}, which nobody closed")
            self._release(number)
            self._events.append(ChannelReleased(number))
        elif channel.closing:
            return
        elif channel.method is not None:
            raise _unexpected(
                UnexpectedFrame,
                f"{method_name(method)} on channel {number} inside the content of {method_name(channel.method)}",
            )
        elif isinstance(method, commands.Basic.GetOk):
            self._take_expected(number, channel, method)
            channel.method = method
        elif isinstance(method, _CONTENT_METHODS):
            channel.method = method
        elif isinstance(method, _UNASKED):
            if isinstance(method, commands.Channel.Flow):
                self._send(number, commands.Channel.FlowOk(method.active))
            self._events.append(MethodReceived(number, method, is_reply=False))
        else:
            self._take_expected(number, channel, method)
            self._events.append(MethodReceived(number, method, is_reply=True))

    def _take_expected(self, number: int, channel: _Channel, method: Method) -> None:
        if not channel.expected or method.name not in channel.expected[0]:
            raise _unexpected(
                CommandInvalid, f"{method_name(method)} on channel {number} answers nothing that was asked"
            )
        channel.expected.popleft()

    def _handle_header(self, number: int, channel: _Channel, header: Header) -> None:
        if channel.method is None or channel.header is not None:
            raise _unexpected(UnexpectedFrame, f"a content header on channel {number} that belongs to no method")
        if header.body_size > self._max_message_size:
            text = f"a message of {header.body_size} bytes, but max_message_size is {self._max_message_size}"
            self._send(number, commands.Channel.Close(ContentTooLarge.code, text, 0, 0))
            channel.closing = True
            error = ContentTooLarge(text, method=method_name(channel.method), found_by=Side.CLIENT)
            self._events.append(ChannelClosed(number, error))
            return
        channel.header = header
        if header.body_size == 0:
            self._finish_content(number, channel)

    def _handle_body(self, number: int, channel: _Channel, piece: bytes) -> None:
        if channel.header is None:
            raise _unexpected(UnexpectedFrame, f"a body frame on channel {number} that belongs to no content header")
        channel.received += len(piece)
        if channel.received > channel.header.body_size:
            raise _unexpected(
                FrameError,
                f"{channel.received} bytes of body on channel {number}, but {channel.header.body_size} announced",
            )
        channel.pieces.append(piece)
        if channel.received == channel.header.body_size:
            self._finish_content(number, channel)

    def _finish_content(self, number: int, channel: _Channel) -> None:
        method, header = channel.method, channel.header
        if method is None or header is None:
            raise _unexpected(UnexpectedFrame, f"content on channel {number} without method or header")
        body = channel.pieces[0] if len(channel.pieces) == 1 else b"".join(channel.pieces)
        channel.method = channel.header = None
        channel.pieces = []
        channel.received = 0
        self._events.append(ContentReceived(number, method, message_from(header.properties, body)))

    # --- endings and small change -----------------------------------------------------------------------------------

    def _protocol_error(self, error: ReplyError, now: float) -> None:
        # The stream cannot be read any more, so there is no close-ok to wait for: say why, then leave.
        if self.state is LinkState.OPEN:
            self._send(0, commands.Connection.Close(error.code, error.text[:200], 0, 0))
        self._die(error, now)

    def _die(self, error: HoldfastError, now: float) -> None:
        self._fire(LinkEvent.DIED, now, reason=str(error))
        self._events.append(Ended(error))

    def _advance(self, event: LinkEvent, method: Method, now: float, *, only_from: LinkState | None = None) -> None:
        if only_from is not None and self.state is not only_from:
            raise _unexpected(CommandInvalid, f"{method_name(method)} in state {self.state.name}")
        try:
            self._fire(event, now)
        except InvalidTransition as refused:
            raise _unexpected(CommandInvalid, f"{method_name(method)} in state {self.state.name}") from refused

    def _fire(self, event: LinkEvent, now: float, *, reason: str | None = None) -> None:
        source = self._lifecycle.fire(event)
        self._events.append(Transition(self._name, source, event, self._lifecycle.state, now, reason, self._number))

    def _release(self, number: int) -> None:
        del self._channels[number]
        heapq.heappush(self._free, number)

    def _require_open(self, purpose: str) -> None:
        if self.state is not LinkState.OPEN:
            raise InvalidUse(f"cannot {purpose}: the link is {self.state.name}")

    def _send(self, number: int, method: Method) -> None:
        self._write(encode_method(number, method))

    def _write(self, *frames: bytes) -> None:
        self._output.extend(frames)
        self._output_size += sum(map(len, frames))
        self.frames_sent += len(frames)


def _unexpected(error: type[ReplyError], text: str) -> ReplyError:
    return error(text, found_by=Side.CLIENT)


def _error_of(close: commands.Connection.Close | commands.Channel.Close) -> ReplyError:
    culprit = None
    if close.class_id:
        known = commands.INDEX_MAPPING.get(close.class_id << 16 | (close.method_id or 0))
        culprit = method_name(known()) if known else f"method {close.class_id}.{close.method_id}"
    return reply_error(close.reply_code or 0, close.reply_text, method=culprit)
