"""Channel 0 of a session: the handshake, the agreed limits, both closes.

It runs the table of the link (:data:`~anyamqp.protocol.lifecycle.LINK`): the methods of AMQP's class ``connection``
become the table's events, and the table's effects are carried out here.

Sources: AMQP 0-9-1, 2.2.4 "The Connection Class", 4.2.3 (channel 0); RabbitMQ, "Extensions".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from anyamqp.errors import (
    AnyamqpError,
    ChannelError,
    CloseFacts,
    CloseFrame,
    CommandInvalid,
    InvalidTransition,
    InvalidUse,
    LoginRefused,
    ReplyError,
    Side,
    printable,
    reason_of,
)
from anyamqp.protocol.acks import UnsentAcks
from anyamqp.protocol.closes import REPLY_SUCCESS, error_of, frame_of, unexpected
from anyamqp.protocol.events import Blocked, BlockNotice, Ended, EventQueue, Opened, Replied, Tuning, Unblocked
from anyamqp.protocol.handshake import Handshake
from anyamqp.protocol.heartbeat import Heartbeat
from anyamqp.protocol.lifecycle import LINK, LinkEffect, LinkEvent, LinkState, Transition
from anyamqp.protocol.lifecycle.table import Lifecycle
from anyamqp.protocol.output import Output
from anyamqp.protocol.requests import Request
from anyamqp.wire import methods
from anyamqp.wire.decoder import Decoder
from anyamqp.wire.frames import Payload, method_name
from anyamqp.wire.methods import Method
from anyamqp.wire.receiving import Delivered, Header

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
"""Steps that leave the link's state as it is; the connection's own transitions record them."""

_MOST_SHOWN: Final = 200
"""Characters of an error in the connection.close that reports it."""


class ChannelZero:
    """Channel 0 of one session.

    Args:
        number: the link's number, for the records of its transitions.
        handshake: the answers in the handshake.
        output: the frames of the session.
        decoder: the decoder of the session, whose limit follows connection.tune.
        unsent_acks: the acks of the session that no frame carries yet.
        events: the events of the session.
        now: the current time in seconds.

    Attributes:
        lifecycle: the state of the link.
        tuning: the agreed limits; our own before connection.tune.
        heartbeat: the heartbeat deadlines; none before connection.tune.
        block: the broker's notice while it reads no publishes; None while it does.
        close_facts: the close frames so far; None before any.
        secrets: the requests for a new secret without a reply, the oldest first.
    """

    __slots__ = (
        "_decoder",
        "_events",
        "_farewell",
        "_handshake",
        "_name",
        "_number",
        "_output",
        "_unsent_acks",
        "block",
        "close_facts",
        "heartbeat",
        "lifecycle",
        "secrets",
        "tuning",
    )

    def __init__(
        self,
        *,
        number: int,
        handshake: Handshake,
        output: Output,
        decoder: Decoder,
        unsent_acks: UnsentAcks,
        events: EventQueue,
        now: float,
    ) -> None:
        self.lifecycle: Lifecycle[LinkState, LinkEvent, LinkEffect] = LINK.begin()
        self.tuning: Tuning = handshake.proposal
        self.heartbeat: Heartbeat = Heartbeat(0, now)
        self.block: BlockNotice | None = None
        self.close_facts: CloseFacts | None = None
        self.secrets: list[Request] = []
        self._number = number
        self._name = f"link {number}"
        self._handshake = handshake
        self._output = output
        self._decoder = decoder
        self._unsent_acks = unsent_acks
        self._events = events
        self._farewell = ""
        """The text of our close."""

    def close(self, now: float, text: str) -> None:
        """Begin the close handshake.

        Raises:
            InvalidTransition: the link is not OPEN: RabbitMQ does not accept a close before open-ok.
        """
        self._unsent_acks.flush_all()
        self._farewell = text
        self._fire(LinkEvent.CLOSE, now)

    def die(self, error: AnyamqpError, now: float) -> None:
        """End the link: the transport has ended, or we cannot log in."""
        self._fire(LinkEvent.DIED, now, error)

    def break_off(self, fault: ReplyError, now: float) -> None:
        """End the link because of a fault of the broker's, which is reported to it if the link is OPEN."""
        self._fire(LinkEvent.BROKEN, now, fault)

    def update_secret(self, method: methods.Connection.UpdateSecret) -> Request:
        """Send connection.update-secret (RabbitMQ).

        Raises:
            InvalidArgument: it does not fit a frame; nothing was sent.
        """
        self._output.send(0, method)
        request = Request(method)
        self.secrets.append(request)
        return request

    def receive(self, channel: int, payload: Payload, now: float) -> None:
        """Take a frame on channel 0, or one on another channel while the link is not OPEN.

        Raises:
            ReplyError: the broker may not send it here.
            CredentialsUnavailable: the SASL mechanism failed.
            InvalidArgument: AMQP cannot carry the client properties, or the virtual host.
        """
        if channel:
            error = unexpected(ChannelError, f"a frame on channel {channel} before connection.open-ok")
            self._take(LinkEvent.CHANNEL_FRAME, now, error)
        elif isinstance(payload, Method):
            event = _EVENTS.get(type(payload), LinkEvent.OUT_OF_PLACE)
            if event is LinkEvent.RENEWED and not self.secrets:
                event = LinkEvent.OUT_OF_PLACE
            text = f"{method_name(payload)} in state {self.lifecycle.state.name}"
            self._take(event, now, unexpected(CommandInvalid, text), payload)
        elif isinstance(payload, Header | bytes | memoryview | Delivered):
            self._take(LinkEvent.OUT_OF_PLACE, now, unexpected(ChannelError, "content on channel 0"))

    def _take(self, event: LinkEvent, now: float, fault: ReplyError, method: Method | None = None) -> None:
        """Take an event that the broker caused; where the table has no cell for it, the broker is at fault."""
        reason = self._note_close(method) if isinstance(method, methods.Connection.Close) else None
        try:
            self._fire(event, now, reason, method)
        except InvalidTransition as refused:
            raise fault from refused

    def _note_close(self, method: methods.Connection.Close) -> ReplyError:
        received = frame_of(method)
        if self.close_facts is None:
            self.close_facts = CloseFacts(received, None, Side.BROKER)
        else:
            self.close_facts = CloseFacts(received, self.close_facts.sent, self.close_facts.first)
        return error_of(received)

    def _fire(
        self, event: LinkEvent, now: float, reason: AnyamqpError | None = None, method: Method | None = None
    ) -> None:
        step = self.lifecycle.fire(event)
        if step.effects and event not in _UNRECORDED:
            # A close that crosses ours is no reason: we left.
            why = None if LinkEffect.TELL_CLOSED in step.effects or reason is None else reason_of(reason)
            self._events.append(Transition(self._name, step.source, event, step.target, now, why, self._number))
        for effect in step.effects:
            self._carry_out(effect, now, reason, method)

    def _carry_out(self, effect: LinkEffect, now: float, reason: AnyamqpError | None, method: Method | None) -> None:
        match effect, method:
            case LinkEffect.LOG_IN, methods.Connection.Start():
                self._output.send(0, self._handshake.start_ok(method))
            case LinkEffect.ANSWER_CHALLENGE, methods.Connection.Secure():
                self._output.answer(0, self._handshake.secure_ok(method))
            case LinkEffect.AGREE_AND_OPEN, methods.Connection.Tune():
                self._agree(method, now)
            case LinkEffect.TELL_BLOCKED, methods.Connection.Blocked():
                since = now if self.block is None else self.block.since
                self.block = BlockNotice(printable(method.reason), since)
                self._events.append(Blocked(self.block.reason))
            case LinkEffect.TELL_UNBLOCKED, _:
                self.block = None
                self._events.append(Unblocked())
            case LinkEffect.TELL_OPENED, _:
                self._events.append(Opened(self.tuning, self._handshake.server_properties))
            case LinkEffect.TELL_RENEWED, _:
                request = self.secrets.pop(0)
                request.reply = method
                self._events.append(Replied(0, request))
            case LinkEffect.SEND_CLOSE, _:
                self._send_close(REPLY_SUCCESS, self._farewell)
            case LinkEffect.NAME_FAULT, _ if isinstance(reason, ReplyError):
                reason.close = self._send_close(reason.code, reason.text[:_MOST_SHOWN])
            case LinkEffect.CONFIRM_CLOSE, _:
                self._output.send(0, methods.Connection.CloseOk())
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

    def _agree(self, tune: methods.Connection.Tune, now: float) -> None:
        self.tuning = self._handshake.agree(tune)
        self._decoder.max_frame_size = self._output.frame_max = self.tuning.frame_max
        # Heartbeats begin here: before tune no interval is agreed (AMQP 0-9-1, 4.2.7).
        self.heartbeat = Heartbeat(self.tuning.heartbeat, now)
        self._output.send(0, methods.Connection.TuneOk(*self.tuning))
        self._output.send(0, self._handshake.open())

    def _send_close(self, code: int, text: str) -> CloseFacts:
        self._output.send(0, methods.Connection.Close(code, text, 0, 0))
        self.close_facts = CloseFacts(None, CloseFrame(code, text, None), Side.CLIENT)
        return self.close_facts

    def _end(self, error: AnyamqpError | None) -> None:
        self._unsent_acks.drop_all()
        self._events.append(Ended(error))
