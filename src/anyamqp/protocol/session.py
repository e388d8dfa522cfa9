"""One AMQP session, from protocol header to close-ok, without I/O.

Three verbs at the border: :meth:`Session.receive` takes bytes, :meth:`Session.next_event` gives what they mean, step by
step, :meth:`Session.output` gives the bytes to send. Everything that the protocol decides by itself is decided here:
the handshake, tuning, heartbeats, both closes, and, in :mod:`anyamqp.protocol.channels`, what goes on inside a
channel. What the broker sends out of turn ends the session with a protocol error; it is never an exception and never a
surprise further up.

Sources: AMQP 0-9-1 specification, sections 2.2.4 (connection), 2.2.5 (channel), 4.2 (frames), 4.9 (closing); RabbitMQ,
"AMQP 0-9-1 Errata" and "Extensions".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
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
from anyamqp.protocol.events import Blocked, Ended, Event, Opened, Replied, Stalled, Tuning, Unblocked
from anyamqp.protocol.heartbeat import Heartbeat
from anyamqp.protocol.lifecycle import LINK, LinkEffect, LinkEvent, LinkState, Transition
from anyamqp.protocol.requests import Purpose, Request
from anyamqp.protocol.sasl import Mechanism
from anyamqp.wire import methods
from anyamqp.wire.basic import Route, content_parts
from anyamqp.wire.decoder import Decoder
from anyamqp.wire.frames import (
    FRAME_MIN_SIZE,
    HEARTBEAT_FRAME,
    PROTOCOL_HEADER,
    Payload,
    build,
    encode_method,
    field_table,
    method_name,
)
from anyamqp.wire.methods import Method
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


_EVENTS: Final[Mapping[type[Method], LinkEvent]] = {
    methods.Connection.Start: LinkEvent.STARTED,
    methods.Connection.Secure: LinkEvent.SECURED,
    methods.Connection.Tune: LinkEvent.TUNED,
    methods.Connection.OpenOk: LinkEvent.OPENED,
    methods.Connection.Blocked: LinkEvent.BLOCKED,
    methods.Connection.Unblocked: LinkEvent.UNBLOCKED,
    methods.Connection.UpdateSecretOk: LinkEvent.RENEWED,
    methods.Connection.Close: LinkEvent.THEIR_CLOSE,
    methods.Connection.CloseOk: LinkEvent.THEIR_CLOSE_OK,
}


_UNRECORDED: Final = (LinkEvent.BLOCKED, LinkEvent.UNBLOCKED, LinkEvent.RENEWED)
"""Steps that leave the link as it is; the connection's own steps tell of them."""


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
        self._farewell = ""
        """The text of our close."""
        self._secrets: deque[Request] = deque()
        """Those connection.update-secret that are not answered yet, the oldest first."""
        self._virtual_host = virtual_host
        self._client_properties: FieldTable = {**client_properties, "capabilities": CAPABILITIES}
        self._server_properties: FieldTable = {}
        self._lifecycle = LINK.begin()
        self._decoder = Decoder(proposal.frame_max, joins_deliveries=True)
        self._heartbeat = Heartbeat(0, now)
        self._events: deque[Event] = deque()
        self._received_at = now
        self._reading: Iterator[Event] | None = None
        """What the bytes that came mean, read step by step; None if all was read."""
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
        """Whether :meth:`next_event` may have more to tell."""
        return self._reading is not None or bool(self._events)

    @property
    def has_output(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._output) or self._channels.has_acks

    def receive(self, data: bytes, now: float) -> None:
        """Take bytes from the broker; :meth:`next_event` tells what they mean. Never raises: what is wrong with them
        ends the session."""
        self.bytes_received += len(data)
        self._received_at = now
        self._heartbeat.read(now)
        self._decoder.feed(data)
        self._reading = self._read() if self._reading is None else chain(self._reading, self._read())

    def transport_ended(self, error: AnyamqpError, now: float) -> None:
        """The byte stream is over, both ways, for this reason."""
        self._fire(LinkEvent.DIED, now, error)

    def next_event(self) -> Event | None:
        """What happened next; None if there is no more.

        The broker's next method is not looked at before the events of the last one were taken, so that whoever acts
        on an event finds the session and its channels as they were then: nothing later has closed them.
        """
        events = self._events
        if not events and self._reading is not None:
            event = next(self._reading, None)
            if event is not None:
                return event
            self._reading = None
        return events.popleft() if events else None

    def _read(self) -> Iterator[Event]:
        """Read the frames that came. Contents and confirms that follow each other are told together."""
        lifecycle, receive, events = self._lifecycle, self._channels.receive, self._events
        try:
            for channel, payload in self._decoder.frames():
                if events and isinstance(payload, Method) and not isinstance(payload, _TOLD_TOGETHER):
                    while events:
                        yield events.popleft()
                if lifecycle.state is LinkState.OPEN and channel:
                    receive(channel, payload)
                else:
                    self._handle(channel, payload, self._received_at)
        except ReplyError as error:
            while events:
                yield events.popleft()
            self._fire(LinkEvent.BROKEN, self._received_at, error)
        except (CredentialsUnavailable, InvalidArgument) as error:
            # Only what we were told to answer with can be wrong here: credentials, the virtual host.
            self._fire(LinkEvent.DIED, self._received_at, error)

    def output(self, now: float) -> list[bytes | memoryview]:
        """The next pieces to send, about 1 MiB at most where frames are smaller, which count as sent from now on.

        Many small parts are cheaper to send in one piece, large ones are cheaper to send than to copy.
        """
        if self._channels.has_acks:
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
            timeout = HeartbeatTimeout(f"the broker {fault} for two heartbeat intervals ({silence} s)")
            self._fire(LinkEvent.DIED, now, timeout)
        elif verdict.send and not self._output:  # what waits to leave says as much as a heartbeat behind it
            self._write(HEARTBEAT_FRAME)
        return verdict.wake_at

    # --- what we begin ----------------------------------------------------------------------------------------------

    def close(self, now: float, text: str = "bye") -> None:
        """Begin the close handshake.

        Raises:
            InvalidTransition: the link is not OPEN: RabbitMQ does not take a close before open-ok.
        """
        self._channels.flush_acks()
        self._farewell = text
        self._fire(LinkEvent.CLOSE, now)

    def update_secret(self, method: methods.Connection.UpdateSecret) -> Request:
        """Send a new secret (RabbitMQ). Answers come in the order of the requests.

        Raises:
            InvalidArgument: it does not fit a frame; nothing was sent.
        """
        self._require_open("update the secret")
        self._send(0, method)
        request = Request(method)
        self._secrets.append(request)
        return request

    def open_channel(self, purpose: Purpose = Purpose.SETUP) -> int:
        """Send channel.open on a free number.

        Raises:
            ChannelLimitReached: ``channel_max`` channels are open.
        """
        self._require_open("open a channel")
        return self._channels.open(self.tuning.channel_max, purpose)

    def close_channel(self, number: int, text: str = "bye", code: int = REPLY_SUCCESS) -> tuple[Request, ...]:
        """Send channel.close; whatever the broker still sends on it is discarded until close-ok.

        Returns:
            The requests on it that will not be answered any more, the oldest first.
        """
        self._require_open("close a channel")
        return self._channels.close(number, text, code)

    def request(
        self, number: int, method: Method, purpose: Purpose = Purpose.CALLER, *, as_sent: Method | None = None
    ) -> Request:
        """Send a method that the broker answers. Answers come in the order of the requests.

        Args:
            number: the channel's number.
            method: the request.
            purpose: for whom the reply is.
            as_sent: the method to send in its place, if a name in it has changed.

        Raises:
            InvalidArgument: AMQP cannot carry an argument; nothing was sent.
        """
        self._require_open(method_name(method))
        request = Request(method, purpose)
        self._channels.request(number, request, as_sent)
        return request

    def unanswered(self, number: int) -> tuple[Request, ...]:
        """The requests on a channel without a reply, the oldest first; those for new secrets on channel 0."""
        return self._channels.unanswered(number) if number else tuple(self._secrets)

    def awaits_reply(self, number: int) -> bool:
        """Whether there are any."""
        return self._channels.has_unanswered(number) if number else bool(self._secrets)

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
            error = unexpected(ChannelError, f"a frame on channel {channel} before connection.open-ok")
            self._take(LinkEvent.CHANNEL_FRAME, now, error)
        elif isinstance(payload, Method):
            self._take_method(payload, now)
        elif isinstance(payload, Header | bytes | memoryview | Delivered):
            self._take(LinkEvent.OUT_OF_PLACE, now, unexpected(ChannelError, "content on channel 0"))

    def _take_method(self, method: Method, now: float) -> None:
        event = _EVENTS.get(type(method), LinkEvent.OUT_OF_PLACE)
        if event is LinkEvent.RENEWED and not self._secrets:
            event = LinkEvent.OUT_OF_PLACE
        self._take(event, now, unexpected(CommandInvalid, f"{method_name(method)} in state {self.state.name}"), method)

    def _take(self, event: LinkEvent, now: float, fault: ReplyError, method: Method | None = None) -> None:
        """Take an event that the broker caused; where the table has no cell for it, the broker is at fault."""
        reason = None
        if isinstance(method, methods.Connection.Close):
            reason = self._note_close(method)
        try:
            self._fire(event, now, reason, method)
        except InvalidTransition as refused:
            raise fault from refused

    def _fire(
        self, event: LinkEvent, now: float, reason: AnyamqpError | None = None, method: Method | None = None
    ) -> None:
        step = self._lifecycle.fire(event)
        if step.effects and event not in _UNRECORDED:
            # A close that crosses ours is none of its reasons.
            why = None if LinkEffect.TELL_CLOSED in step.effects or reason is None else reason_of(reason)
            self._emit(Transition(self._name, step.source, event, step.target, now, why, self._number))
        for effect in step.effects:
            self._carry_out(effect, now, reason, method)

    def _carry_out(self, effect: LinkEffect, now: float, reason: AnyamqpError | None, method: Method | None) -> None:
        match effect, method:
            case LinkEffect.LOG_IN, methods.Connection.Start():
                self._log_in(method, now)
            case LinkEffect.ANSWER_CHALLENGE, methods.Connection.Secure():
                challenge = method.challenge.encode("utf-8", "surrogateescape")
                response = _response(self._mechanism, partial(self._mechanism.answer, challenge))
                self._answer(0, methods.Connection.SecureOk(response))
            case LinkEffect.AGREE_AND_OPEN, methods.Connection.Tune():
                self._agree(method, now)
            case LinkEffect.TELL_BLOCKED, methods.Connection.Blocked():
                self.blocked = printable(method.reason)
                self._emit(Blocked(self.blocked))
            case LinkEffect.TELL_UNBLOCKED, _:
                self.blocked = None
                self._emit(Unblocked())
            case LinkEffect.TELL_OPENED, _:
                self._emit(Opened(self.tuning, self._server_properties))
            case LinkEffect.TELL_RENEWED, _:
                request = self._secrets.popleft()
                request.reply = method
                self._emit(Replied(0, request))
            case LinkEffect.SEND_CLOSE, _:
                close = CloseFrame(REPLY_SUCCESS, self._farewell, None)
                self._send(0, methods.Connection.Close(close.code, close.text, 0, 0))
                self.close_facts = CloseFacts(None, close, Side.CLIENT)
            case LinkEffect.NAME_FAULT, _ if isinstance(reason, ReplyError):
                text = reason.text[:_MOST_SHOWN]
                self._send(0, methods.Connection.Close(reason.code, text, 0, 0))
                reason.close = self.close_facts = CloseFacts(None, CloseFrame(reason.code, text, None), Side.CLIENT)
            case LinkEffect.CONFIRM_CLOSE, _:
                self._send(0, methods.Connection.CloseOk())
            case LinkEffect.TELL_REFUSED, _:
                if isinstance(reason, ReplyError) and reason.code == LoginRefused.code:
                    reason = LoginRefused(reason.text, close=self.close_facts)
                self._end(reason)
            case LinkEffect.TELL_ENDED, _:
                self._end(reason)
            case LinkEffect.TELL_CLOSED, _:
                self._end(None)
            case _:
                raise InvalidUse(f"the link cannot {effect.value}")

    def _end(self, error: AnyamqpError | None) -> None:
        self._channels.drop_acks()
        self._emit(Ended(error))

    def _note_close(self, method: methods.Connection.Close) -> ReplyError:
        received = frame_of(method)
        if self.close_facts is None:
            self.close_facts = CloseFacts(received, None, Side.BROKER)
        else:
            self.close_facts = CloseFacts(received, self.close_facts.sent, self.close_facts.first)
        return error_of(received)

    def _log_in(self, method: methods.Connection.Start, now: float) -> None:
        offered = method.mechanisms.split()
        mechanism = next((candidate for candidate in self._mechanisms if candidate.name in offered), None)
        if mechanism is None:
            # Not a protocol error: the stream is sound, so nothing is left to say but to leave.
            wanted = " or ".join(candidate.name for candidate in self._mechanisms)
            seen = printable(" ".join(offered)[:_MOST_SHOWN]) or "nothing"
            text = f"the broker offers {seen}, not {wanted}"
            self._fire(LinkEvent.DIED, now, LoginRefused(text, method="connection.start", found_by=Side.CLIENT))
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

    def _agree(self, method: methods.Connection.Tune, now: float) -> None:
        if 0 < method.frame_max < FRAME_MIN_SIZE:
            text = f"connection.tune with frame_max {method.frame_max}, where AMQP allows no less than {FRAME_MIN_SIZE}"
            raise unexpected(CommandInvalid, text)
        self.tuning = self.tuning.agree(Tuning(method.channel_max, method.frame_max, method.heartbeat))
        self._decoder.max_frame_size = self.tuning.frame_max
        # Timers start here and not before: until tune nobody has agreed to any (AMQP 0-9-1, 4.2.7).
        self._heartbeat = Heartbeat(self.tuning.heartbeat, now)
        self._send(0, methods.Connection.TuneOk(*self.tuning))
        self._send(0, build(methods.Connection.Open, self._virtual_host))

    # --- small change -----------------------------------------------------------------------------------------------

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
