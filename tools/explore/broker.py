"""A small broker without I/O. It reads the methods of each channel in order, one at a time, when it is told to."""

from __future__ import annotations

from collections import deque
from itertools import takewhile
from typing import Final, NamedTuple, TypeAlias

from anyamqp.message import Message
from anyamqp.wire import methods
from anyamqp.wire.decoder import Decoder
from anyamqp.wire.frames import encode_content, encode_method, method_name
from anyamqp.wire.methods import Method
from tools.explore.violation import Violation

QUEUE: Final = "q"
FRAME_MAX: Final = 131072
_NO_LIMIT: Final = 1 << 31
_PUBLISH: Final = (60, 40)
"""The numbers of class and method of basic.publish."""


class Published(NamedTuple):
    """A publish that the broker has not read yet."""

    body: bytes


Unread: TypeAlias = Method | Published

_SILENT: Final = (
    methods.Basic.Ack,
    methods.Basic.Nack,
    methods.Basic.Reject,
    methods.Channel.CloseOk,
    methods.Channel.FlowOk,
    methods.Connection.CloseOk,
    methods.Connection.StartOk,
    methods.Connection.TuneOk,
)
"""Methods without a reply: the broker reads them as soon as nothing is in front of them."""

_REPLIES: Final[dict[type[Method], Method]] = {
    methods.Connection.Open: methods.Connection.OpenOk(),
    methods.Connection.Close: methods.Connection.CloseOk(),
    methods.Channel.Open: methods.Channel.OpenOk(),
    methods.Channel.Close: methods.Channel.CloseOk(),
    methods.Confirm.Select: methods.Confirm.SelectOk(),
    methods.Basic.Qos: methods.Basic.QosOk(),
    methods.Queue.Declare: methods.Queue.DeclareOk(QUEUE, 0, 0),
}


class BrokerChannel:
    """A channel at the broker.

    Attributes:
        is_confirming: whether it confirms publishes.
        is_stopped: whether the broker has stopped publishes on it.
        published: how many publishes it has read.
        consumer: the tag of its consumer; None without one.
        delivered: the last delivery tag.
        unsettled: the delivery tags that are not settled.
    """

    def __init__(self) -> None:
        self.is_confirming: bool = False
        self.is_stopped: bool = False
        self.published: int = 0
        self.consumer: str | None = None
        self.delivered: int = 0
        self.unsettled: list[int] = []


class BrokerLink:
    """The broker's side of one link.

    Args:
        number: the link's number.

    Attributes:
        number: the same.
        unread: the methods and publishes of each channel that it has not read yet.
        channels: the channels that are open here.
        ending: the channels that the broker has closed and whose close-ok has not come.
        settled: the settlements that the user made on this link, as channel and tag.
        is_greeted: whether connection.start and connection.tune were sent.
        is_over: whether the connection is closed on this side.
    """

    def __init__(self, number: int) -> None:
        self.number: int = number
        self.decoder: Decoder = Decoder(_NO_LIMIT, as_server=True)
        self.unread: dict[int, deque[Unread]] = {0: deque()}
        self.channels: dict[int, BrokerChannel] = {}
        self.ending: set[int] = set()
        self.settled: set[tuple[int, int]] = set()
        self.is_greeted: bool = False
        self.is_over: bool = False


class Broker:
    """The broker.

    Args:
        messages: how many messages are in its queue.

    Attributes:
        link: the link that is up; None while none is.
        waiting: messages in the queue.
        stored: the bodies that it has taken responsibility for.
        seen: the bodies that it has read, in the order of their first appearance.
        is_blocking: whether it has blocked the link.
        facts: the remarkable events of the present step.
        heard: the client's methods in the last call of :meth:`take`.
    """

    def __init__(self, messages: int) -> None:
        self.link: BrokerLink | None = None
        self.waiting: int = messages
        self.stored: set[bytes] = set()
        self.seen: list[bytes] = []
        self.is_blocking: bool = False
        self.facts: set[str] = set()
        self.heard: list[str] = []

    # --- the link -----------------------------------------------------------------------------------------------------

    def accept(self, number: int) -> None:
        """A new link: the broker knows that the last one is gone."""
        self.lose()
        self.link = BrokerLink(number)

    def lose(self) -> None:
        """The link is gone: unsettled messages are in the queue again."""
        if self.link is not None:
            for channel in self.link.channels.values():
                self.waiting += len(channel.unsettled)
        self.link = None
        self.is_blocking = False

    def read_unconfirmed(self, count: int) -> None:
        """Read so many publishes whose confirms will not arrive."""
        for _, unread in sorted(self._present.unread.items()):
            for one in unread:
                if isinstance(one, Published) and count:
                    count -= 1
                    self._store(one)

    def expect(self, link: int, number: int, tag: int) -> None:
        """The consumer settles a delivery that came on a channel of a link."""
        if self.link is not None and self.link.number == link:
            self.link.settled.add((number, tag))

    def take(self, data: bytes) -> bytes:
        """Take the client's bytes. Returns the answers that no move has to ask for."""
        link = self._present
        link.decoder.feed(data)
        self.heard.clear()
        for number, payload in link.decoder.frames():
            unread = link.unread.setdefault(number, deque())
            if isinstance(payload, bytes | memoryview):
                unread.append(Published(bytes(payload)))
            elif isinstance(payload, Method):
                self.heard.append(f"{method_name(payload)} on channel {number}")
                if not isinstance(payload, methods.Basic.Publish):
                    unread.append(payload)
        return b"".join(self._read_silent(number) for number in list(link.unread))

    def greet(self) -> bytes:
        """Answer the protocol header; the client's start-ok is taken for granted."""
        self._present.is_greeted = True
        start = methods.Connection.Start(0, 9, {"product": "model"}, "PLAIN")
        return encode_method(0, start) + encode_method(0, methods.Connection.Tune(0, FRAME_MAX, 0))

    def close_link(self) -> bytes:
        """Close the connection, as an operator does."""
        link = self._present
        if any(isinstance(one, methods.Connection.Close) for one in link.unread[0]):
            self.facts.add("a close of the connection that crossed theirs")
        link.is_over = True
        return encode_method(0, methods.Connection.Close(320, "CONNECTION_FORCED - an operator's doing", 0, 0))

    def close_for_publish(self) -> bytes:
        """Close the connection because of a publish that the broker cannot read."""
        self._present.is_over = True
        return encode_method(0, methods.Connection.Close(541, "INTERNAL_ERROR", *_PUBLISH))

    def close_without_reason(self) -> bytes:
        """Close the connection for an error whose cause is not named."""
        self._present.is_over = True
        return encode_method(0, methods.Connection.Close(541, "INTERNAL_ERROR", 0, 0))

    @property
    def is_opening(self) -> bool:
        """Whether the request to open a channel is unanswered."""
        return any(isinstance(one, methods.Channel.Open) for unread in self._present.unread.values() for one in unread)

    def block(self) -> bytes:
        """Accept no publishes."""
        self.is_blocking = True
        return encode_method(0, methods.Connection.Blocked("low on memory"))

    def unblock(self) -> bytes:
        """Accept publishes again."""
        self.is_blocking = False
        return encode_method(0, methods.Connection.Unblocked())

    # --- channels -----------------------------------------------------------------------------------------------------

    def unanswered(self, number: int) -> Unread | None:
        """The next method or publish on a channel that awaits an answer; None if there is none."""
        unread = self._present.unread.get(number)
        return unread[0] if unread else None

    def publishes_unread(self, number: int) -> int:
        """How many publishes are the next that it reads on a channel."""
        return sum(1 for _ in takewhile(lambda one: isinstance(one, Published), self._present.unread[number]))

    def answer(self, number: int) -> bytes:
        """Read the next method of a channel and reply; a publish is confirmed."""
        link = self._present
        one = link.unread[number].popleft()
        if isinstance(one, Published):
            self._store(one)
            return self._say(number, methods.Basic.Ack(self._count(number), False))
        return self._say(number, self._reply(number, one))

    def confirm_both(self, number: int) -> bytes:
        """Read two publishes and confirm them together."""
        unread = self._present.unread[number]
        for _ in range(2):
            one = unread.popleft()
            if isinstance(one, Published):
                self._store(one)
                self._count(number)
        return self._say(number, methods.Basic.Ack(self._present.channels[number].published, True))

    def nack(self, number: int) -> bytes:
        """Read a publish and refuse responsibility for it."""
        self._see(self._present.unread[number].popleft())
        return self._say(number, methods.Basic.Nack(self._count(number), False, False))

    def send_back(self, number: int) -> bytes:
        """Read a publish, return it as unroutable, and confirm it."""
        one = self._present.unread[number].popleft()
        self._see(one)
        body = one.body if isinstance(one, Published) else b""
        method = methods.Basic.Return(312, "NO_ROUTE", "x", "key")
        returned = encode_content(number, method, Message(body, message_id=body.decode()), FRAME_MAX)
        return b"".join(returned) + self._say(number, methods.Basic.Ack(self._count(number), False))

    def refuse(self, number: int, *, behind: int = 0) -> bytes:
        """Close a channel because of the next method on it.

        Args:
            number: the channel.
            behind: how many publishes in front of that method are read, and not confirmed.
        """
        unread = self._present.unread[number]
        for _ in range(behind):
            one = unread.popleft()
            if isinstance(one, Published):
                self._store(one)
        refused = unread.popleft()
        self._see(refused)
        numbers = _PUBLISH if isinstance(refused, Published) else divmod(refused.index, 1 << 16)
        return self._end_channel(number, methods.Channel.Close(404, "NOT_FOUND - not there", *numbers))

    def close_channel(self, number: int) -> bytes:
        """Close a channel for no method of the client's."""
        return self._end_channel(number, methods.Channel.Close(406, "PRECONDITION_FAILED - too late an ack", 0, 0))

    def deliver(self, number: int) -> bytes:
        """Deliver the next message of the queue to the consumer of a channel."""
        channel = self._present.channels[number]
        self.waiting -= 1
        channel.delivered += 1
        channel.unsettled.append(channel.delivered)
        method = methods.Basic.Deliver(channel.consumer or "", channel.delivered, False, "", QUEUE)
        return b"".join(encode_content(number, method, Message(b"m"), FRAME_MAX))

    def flow(self, number: int) -> bytes:
        """Stop publishes on a channel, or let them go on."""
        channel = self._present.channels[number]
        channel.is_stopped = not channel.is_stopped
        return encode_method(number, methods.Channel.Flow(not channel.is_stopped))

    def cancel(self, number: int) -> bytes:
        """Cancel the consumer of a channel."""
        channel = self._present.channels[number]
        tag, channel.consumer = channel.consumer or "", None
        return encode_method(number, methods.Basic.Cancel(tag, True))

    # --- inside -------------------------------------------------------------------------------------------------------

    @property
    def _present(self) -> BrokerLink:
        if self.link is None:
            raise Violation("something is sent where there is no link")
        return self.link

    def _see(self, one: Unread) -> None:
        if isinstance(one, Published) and one.body not in self.seen:
            self.seen.append(one.body)

    def _store(self, one: Published) -> None:
        self._see(one)
        self.stored.add(one.body)

    def _count(self, number: int) -> int:
        channel = self._present.channels[number]
        channel.published += 1
        return channel.published

    def _reply(self, number: int, method: Method) -> Method:
        link = self._present
        if isinstance(method, methods.Channel.Open):
            link.channels[number] = BrokerChannel()
        elif isinstance(method, methods.Channel.Close):
            self._drop(number)
        elif isinstance(method, methods.Connection.Close):
            link.is_over = True
        elif isinstance(method, methods.Confirm.Select):
            link.channels[number].is_confirming = True
        elif isinstance(method, methods.Basic.Consume):
            link.channels[number].consumer = method.consumer_tag
            return methods.Basic.ConsumeOk(method.consumer_tag)
        elif isinstance(method, methods.Basic.Cancel):
            link.channels[number].consumer = None
            return methods.Basic.CancelOk(method.consumer_tag)
        return _REPLIES[type(method)]

    def _end_channel(self, number: int, close: methods.Channel.Close) -> bytes:
        link = self._present
        if any(isinstance(one, methods.Channel.Close) for one in link.unread[number]):
            self.facts.add("a close of a channel that crossed theirs")
        self._drop(number)
        link.ending.add(number)
        return self._say(number, close)

    def _drop(self, number: int) -> None:
        channel = self._present.channels.pop(number, None)
        if channel is not None:
            self.waiting += len(channel.unsettled)

    def _say(self, number: int, method: Method) -> bytes:
        """Send a method, then read the methods without a reply that follow."""
        return encode_method(number, method) + self._read_silent(number)

    def _read_silent(self, number: int) -> bytes:
        """Read methods without a reply, and discard those on a channel that the broker has closed."""
        link = self._present
        unread = link.unread[number]
        while unread:
            one = unread[0]
            if link.is_over or number in link.ending:
                unread.popleft()
                if isinstance(one, methods.Channel.CloseOk):
                    link.ending.discard(number)
                elif isinstance(one, methods.Channel.Close) and not link.is_over:
                    return self._say(number, methods.Channel.CloseOk())
            elif isinstance(one, _SILENT) or (isinstance(one, methods.Basic.Cancel) and one.nowait):
                unread.popleft()
                self._settle(number, one)
            else:
                break
        return b""

    def _settle(self, number: int, method: Method) -> None:
        if isinstance(method, methods.Basic.Cancel):
            self._present.channels[number].consumer = None
        if not isinstance(method, methods.Basic.Ack | methods.Basic.Nack | methods.Basic.Reject):
            return
        channel = self._present.channels.get(number)
        unsettled = [] if channel is None else channel.unsettled
        last, is_multiple = method.delivery_tag, not isinstance(method, methods.Basic.Reject) and method.multiple
        for tag in [one for one in unsettled if one < last] if is_multiple else []:
            self._settle_one(number, tag, unsettled, method)
        self._settle_one(number, last, unsettled, method)

    def _settle_one(self, number: int, tag: int, unsettled: list[int], method: Method) -> None:
        if tag not in unsettled or (number, tag) not in self._present.settled:
            raise Violation(f"invariant 8: {method_name(method)} of tag {tag}, which nobody settled on this link")
        unsettled.remove(tag)
        if not isinstance(method, methods.Basic.Ack):
            self.waiting += 1
