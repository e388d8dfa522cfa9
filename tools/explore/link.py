"""A link without tasks: a real session and a real dispatcher, whose bytes the world carries to the broker."""

from __future__ import annotations

from anyamqp.errors import AnyamqpError, ReplyError
from anyamqp.protocol.dispatch import Dispatcher, LinkOwner, Witness
from anyamqp.protocol.events import Ended, Tuning
from anyamqp.protocol.lifecycle import LinkState
from anyamqp.protocol.ports import ChannelHandler
from anyamqp.protocol.requests import Purpose
from anyamqp.protocol.sasl import Plain
from anyamqp.protocol.session import Session
from tools.explore.clock import Clock

_PROPOSAL = Tuning(channel_max=16, frame_max=131072, heartbeat=0)


class PlainLink:
    """Stands for :class:`anyamqp.net.link.Link`: the same calls, without reader, writer and heartbeat.

    Args:
        number: counted from 1.
        owner: the connection, who also takes note of transitions.
        clock: the time.
    """

    def __init__(self, number: int, owner: LinkOwner, witness: Witness, clock: Clock) -> None:
        self.number: int = number
        self.session: Session = Session(
            number=number,
            mechanisms=(Plain("guest", "guest"),),
            virtual_host="/",
            proposal=_PROPOSAL,
            client_properties={},
            max_message_size=1 << 20,
            now=clock.now(),
        )
        self.dispatcher: Dispatcher = Dispatcher(self.session, owner, witness)
        self._clock = clock
        self.has_ended: bool = False
        """Whether the end of the session was told."""
        self._is_dispatching = False

    @property
    def is_open(self) -> bool:
        """Whether methods may be sent."""
        return self.session.state is LinkState.OPEN

    def attach(self, handler: ChannelHandler, purpose: Purpose) -> int:
        """Send channel.open."""
        return self.dispatcher.attach(handler, purpose)

    def close_channel(self, number: int, error: ReplyError | None = None) -> None:
        """Send channel.close."""
        self.dispatcher.closes.sent(number, self._clock.now())
        if error is None:
            self.session.close_channel(number)
        else:
            self.session.close_channel(number, error.text, error.code)

    def close_deadline(self, timeout: float) -> float:
        """When to stop waiting for the reply to a close."""
        return self.dispatcher.closes.deadline(timeout, self._clock.now())

    def close_sent(self, number: int) -> None:
        """A request of leaving was sent."""
        self.dispatcher.closes.sent(number, self._clock.now())

    def flush(self) -> None:
        """The world takes the output at the end of the step."""

    def push(self) -> None:
        """The same."""

    def close(self) -> None:
        """Begin the close handshake."""
        self.close_sent(0)
        self.session.close(self._clock.now())
        self.dispatch()

    def abort(self, error: AnyamqpError) -> None:
        """End the link without a handshake."""
        self.session.transport_ended(error, self._clock.now())
        self.dispatch()

    def receive(self, data: bytes) -> None:
        """Bytes came from the broker."""
        self.session.receive(data, self._clock.now())
        self.dispatch()

    def dispatch(self) -> None:
        """Tell of all events; those that a call below causes come behind."""
        if self._is_dispatching:
            return
        self._is_dispatching = True
        try:
            while (event := self.session.next_event()) is not None:
                self.dispatcher.tell(event)
                self.has_ended = self.has_ended or isinstance(event, Ended)
        finally:
            self._is_dispatching = False
