"""The embedded broker's side of one connection, without I/O: frames in, bytes out.

Follows RabbitMQ where AMQP leaves a choice: confirms in bulk, returns before confirms, basic.qos for each consumer, the
wording of errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pamqp import commands

from holdfast.errors import (
    AccessRefused,
    ChannelError,
    CommandInvalid,
    FrameError,
    LoginRefused,
    NotAllowed,
    NotImplementedByBroker,
    PreconditionFailed,
    ReplyError,
    UnexpectedFrame,
)
from holdfast.message import FieldTable
from holdfast.protocol.events import Tuning
from holdfast.protocol.heartbeat import Heartbeat
from holdfast.protocol.wire import (
    FRAME_MIN_SIZE,
    HEARTBEAT_FRAME,
    Decoder,
    Frame,
    Header,
    Method,
    Payload,
    ProtocolHeader,
    build,
    encode_content,
    encode_method,
    field_table,
    message_from,
)
from holdfast.testing.model import Entry, Exchange, Model, Queue

OUTPUT_BOUND = 1024 * 1024
"""Bytes of output above which a connection takes no deliveries."""

SERVER_PROPERTIES: FieldTable = {
    "product": "holdfast embedded broker",
    "version": "1",
    "capabilities": {
        "authentication_failure_close": True,
        "basic.nack": True,
        "connection.blocked": True,
        "consumer_cancel_notify": True,
        "exchange_exchange_bindings": True,
        "publisher_confirms": True,
    },
}


class Login(Protocol):
    """What a broker lets in."""

    tuning: Tuning

    def check_credentials(self, response: str) -> bool:
        """Whether a PLAIN response is right."""
        ...


class Consumer:
    """A consumer on a channel."""

    def __init__(self, channel: Channel, tag: str, queue: Queue, *, no_ack: bool, prefetch: int) -> None:
        self.tag = tag
        self.queue = queue
        self.unacked = 0
        self._channel = channel
        self._no_ack = no_ack
        self._prefetch = prefetch

    def can_take(self) -> bool:
        return (not self._prefetch or self.unacked < self._prefetch) and self._channel.peer.has_room()

    def take(self, queue: Queue, entry: Entry) -> None:
        tag = self._channel.hand_out(queue, entry, None if self._no_ack else self, no_ack=self._no_ack)
        method = commands.Basic.Deliver(self.tag, tag, entry.redelivered, entry.exchange, entry.routing_key)
        self._channel.peer.write_content(self._channel.number, method, entry)

    def cancel(self) -> None:
        self._channel.consumers.pop(self.tag, None)
        self._channel.peer.write(self._channel.number, commands.Basic.Cancel(self.tag, nowait=True))


class Channel:
    """A channel of a connection."""

    def __init__(self, peer: Peer, number: int) -> None:
        self.peer = peer
        self.number = number
        self.is_closing = False
        self.consumers: dict[str, Consumer] = {}
        self._unacked: dict[int, tuple[Queue, Entry, Consumer | None]] = {}
        self._last_delivery = 0
        self._prefetch = 0
        self._confirms = False
        self._published = 0
        self._confirmed = 0
        self._method: Method | None = None
        self._header: Header | None = None
        self._body: list[bytes] = []

    # --- deliveries -------------------------------------------------------------------------------------------------

    def hand_out(self, queue: Queue, entry: Entry, consumer: Consumer | None, *, no_ack: bool) -> int:
        """Take note of a delivery. Returns its tag."""
        self._last_delivery += 1
        if not no_ack:
            if consumer is not None:
                consumer.unacked += 1
            queue.unacked += 1
            self._unacked[self._last_delivery] = (queue, entry, consumer)
        return self._last_delivery

    def leave(self) -> None:
        """The channel is gone: its consumers too, and what it has not settled goes back."""
        consumers, self.consumers = self.consumers, {}
        for consumer in consumers.values():
            self._remove(consumer)
        unacked, self._unacked = self._unacked, {}
        queues: dict[str, Queue] = {}
        for queue, entry, _ in reversed(unacked.values()):
            queue.unacked -= 1
            queue.put_back(entry)
            queues[queue.name] = queue
        for queue in queues.values():
            queue.pump()

    def _remove(self, consumer: Consumer) -> None:
        queue = consumer.queue
        if consumer in queue.consumers:
            queue.consumers.remove(consumer)
            queue.has_exclusive_consumer = False
            if queue.auto_delete and not queue.consumers:
                self.peer.model.delete_queue(queue)

    def _settle(self, tag: int, *, multiple: bool, requeue: bool | None) -> None:
        tags = [one for one in self._unacked if one <= tag or tag == 0] if multiple else [tag]
        if (not multiple or tag) and tag not in self._unacked:
            raise PreconditionFailed(f"PRECONDITION_FAILED - unknown delivery tag {tag}")
        queues: dict[str, Queue] = {}
        for one in reversed(tags):
            queue, entry, consumer = self._unacked.pop(one)
            queue.unacked -= 1
            queues[queue.name] = queue
            if consumer is not None:
                consumer.unacked -= 1
            if requeue:
                queue.put_back(entry)
        for queue in queues.values():
            queue.pump()

    # --- what the client sends --------------------------------------------------------------------------------------

    def receive(self, payload: Payload) -> None:
        """Take a frame.

        Raises:
            ReplyError: the client is at fault.
        """
        if isinstance(payload, Method):
            if self._method is not None:
                raise UnexpectedFrame("UNEXPECTED_FRAME - expected content header or body")
            if isinstance(payload, commands.Basic.Publish):
                self.peer.model.route(payload.exchange, payload.routing_key)
                self._method = payload
            else:
                self._call(payload)
        elif isinstance(payload, Header):
            if self._method is None or self._header is not None:
                raise UnexpectedFrame("UNEXPECTED_FRAME - expected method frame")
            self._header = payload
            self._publish_if_complete()
        elif isinstance(payload, bytes):
            if self._header is None:
                raise UnexpectedFrame("UNEXPECTED_FRAME - expected content header")
            self._body.append(payload)
            self._publish_if_complete()

    def send_confirms(self) -> None:
        """Confirm what has gathered, in one frame."""
        if self._confirmed < self._published:
            multiple = self._published - self._confirmed > 1
            self._confirmed = self._published
            self._reply(commands.Basic.Ack(self._published, multiple))

    def _publish_if_complete(self) -> None:
        method, header = self._method, self._header
        if header is None or not isinstance(method, commands.Basic.Publish):
            return
        size = sum(map(len, self._body))
        if size > header.body_size:
            raise FrameError("FRAME_ERROR - body larger than its header says")
        if size < header.body_size:
            return
        message = message_from(header.properties, b"".join(self._body))
        self._method = self._header = None
        self._body = []
        self.peer.has_published = True
        queues = self.peer.model.route(method.exchange, method.routing_key)
        for queue in queues:
            queue.put(message, method.exchange, method.routing_key)
            queue.pump()
        if not queues and method.mandatory:
            entry = Entry(message, method.exchange, method.routing_key, 0)
            returned = commands.Basic.Return(312, "NO_ROUTE", method.exchange, method.routing_key)
            self.peer.write_content(self.number, returned, entry)
        if self._confirms:
            self._published += 1

    def _call(self, method: Method) -> None:
        handler = _HANDLERS.get(type(method))
        if handler is None:
            raise NotImplementedByBroker(f"NOT_IMPLEMENTED - {method.name}")
        handler(self, method)

    def _reply(self, method: Method, *, nowait: bool = False) -> None:
        if not nowait:
            self.peer.write(self.number, method)

    def on_exchange_declare(self, method: commands.Exchange.Declare) -> None:
        model = self.peer.model
        if method.passive:
            model.exchange(method.exchange)
        else:
            model.declare_exchange(
                Exchange(
                    method.exchange,
                    method.exchange_type,
                    durable=method.durable,
                    auto_delete=method.auto_delete,
                    internal=method.internal,
                    arguments=method.arguments or {},
                )
            )
        self._reply(commands.Exchange.DeclareOk(), nowait=method.nowait)

    def on_exchange_delete(self, method: commands.Exchange.Delete) -> None:
        self.peer.model.delete_exchange(method.exchange, if_unused=method.if_unused)
        self._reply(commands.Exchange.DeleteOk(), nowait=method.nowait)

    def on_exchange_bind(self, method: commands.Exchange.Bind) -> None:
        self.peer.model.exchange(method.destination)
        self.peer.model.bind(method.source, "exchange", method.destination, method.routing_key)
        self._reply(commands.Exchange.BindOk(), nowait=method.nowait)

    def on_exchange_unbind(self, method: commands.Exchange.Unbind) -> None:
        self.peer.model.unbind(method.source, "exchange", method.destination, method.routing_key)
        self._reply(commands.Exchange.UnbindOk(), nowait=method.nowait)

    def on_queue_declare(self, method: commands.Queue.Declare) -> None:
        model = self.peer.model
        if method.passive:
            queue = model.queue(method.queue, self.peer)
        else:
            owner = self.peer if method.exclusive else None
            wanted = Queue(method.queue, method.durable, owner, method.auto_delete, method.arguments or {})
            queue = model.declare_queue(wanted, self.peer)
        reply = build(
            commands.Queue.DeclareOk,
            queue=queue.name,
            message_count=len(queue.ready),
            consumer_count=len(queue.consumers),
        )
        self._reply(reply, nowait=method.nowait)

    def on_queue_bind(self, method: commands.Queue.Bind) -> None:
        self.peer.model.queue(method.queue, self.peer)
        self.peer.model.bind(method.exchange, "queue", method.queue, method.routing_key)
        self._reply(commands.Queue.BindOk(), nowait=method.nowait)

    def on_queue_unbind(self, method: commands.Queue.Unbind) -> None:
        self.peer.model.unbind(method.exchange, "queue", method.queue, method.routing_key)
        self._reply(commands.Queue.UnbindOk())

    def on_queue_purge(self, method: commands.Queue.Purge) -> None:
        queue = self.peer.model.queue(method.queue, self.peer)
        count = len(queue.ready)
        queue.ready.clear()
        self._reply(commands.Queue.PurgeOk(count), nowait=method.nowait)

    def on_queue_delete(self, method: commands.Queue.Delete) -> None:
        count = 0
        if method.queue in self.peer.model.queues:
            queue = self.peer.model.queue(method.queue, self.peer)
            count = self.peer.model.delete_queue(queue, if_unused=method.if_unused, if_empty=method.if_empty)
        self._reply(commands.Queue.DeleteOk(count), nowait=method.nowait)

    def on_qos(self, method: commands.Basic.Qos) -> None:
        self._prefetch = method.prefetch_count
        self._reply(commands.Basic.QosOk())

    def on_consume(self, method: commands.Basic.Consume) -> None:
        queue = self.peer.model.queue(method.queue, self.peer)
        tag = method.consumer_tag or f"amq.ctag-{self.number}-{len(self.consumers) + 1}"
        if tag in self.consumers:
            raise NotAllowed(f"NOT_ALLOWED - attempt to reuse consumer tag '{tag}'")
        if queue.has_exclusive_consumer or (method.exclusive and queue.consumers):
            raise AccessRefused(f"ACCESS_REFUSED - queue '{queue.name}' in vhost '/' in exclusive use")
        consumer = Consumer(self, tag, queue, no_ack=method.no_ack, prefetch=self._prefetch)
        self.consumers[tag] = consumer
        queue.consumers.append(consumer)
        queue.has_exclusive_consumer = method.exclusive
        self._reply(commands.Basic.ConsumeOk(tag), nowait=method.nowait)
        queue.pump()

    def on_cancel(self, method: commands.Basic.Cancel) -> None:
        consumer = self.consumers.pop(method.consumer_tag or "", None)
        if consumer is not None:
            self._remove(consumer)
        self._reply(commands.Basic.CancelOk(method.consumer_tag), nowait=method.nowait)

    def on_get(self, method: commands.Basic.Get) -> None:
        queue = self.peer.model.queue(method.queue, self.peer)
        if not queue.ready:
            self._reply(commands.Basic.GetEmpty())
            return
        entry = queue.ready.popleft()
        tag = self.hand_out(queue, entry, None, no_ack=method.no_ack)
        reply = commands.Basic.GetOk(tag, entry.redelivered, entry.exchange, entry.routing_key, len(queue.ready))
        self.peer.write_content(self.number, reply, entry)

    def on_ack(self, method: commands.Basic.Ack) -> None:
        self._settle(method.delivery_tag or 0, multiple=method.multiple, requeue=None)

    def on_nack(self, method: commands.Basic.Nack) -> None:
        self._settle(method.delivery_tag or 0, multiple=method.multiple, requeue=method.requeue)

    def on_reject(self, method: commands.Basic.Reject) -> None:
        self._settle(method.delivery_tag or 0, multiple=False, requeue=method.requeue)

    def on_recover(self, _: commands.Basic.Recover) -> None:
        self._settle(0, multiple=True, requeue=True)
        self._reply(commands.Basic.RecoverOk())

    def on_select(self, method: commands.Confirm.Select) -> None:
        self._confirms = True
        self._reply(commands.Confirm.SelectOk(), nowait=method.nowait)

    def on_flow(self, method: commands.Channel.Flow) -> None:
        if not method.active:
            raise NotImplementedByBroker("NOT_IMPLEMENTED - active=false")
        self._reply(commands.Channel.FlowOk(active=True))

    def on_flow_ok(self, _: commands.Channel.FlowOk) -> None:
        """Nothing follows from it."""


_HANDLERS: dict[type[Method], Callable[..., None]] = {
    commands.Exchange.Declare: Channel.on_exchange_declare,
    commands.Exchange.Delete: Channel.on_exchange_delete,
    commands.Exchange.Bind: Channel.on_exchange_bind,
    commands.Exchange.Unbind: Channel.on_exchange_unbind,
    commands.Queue.Declare: Channel.on_queue_declare,
    commands.Queue.Bind: Channel.on_queue_bind,
    commands.Queue.Unbind: Channel.on_queue_unbind,
    commands.Queue.Purge: Channel.on_queue_purge,
    commands.Queue.Delete: Channel.on_queue_delete,
    commands.Basic.Qos: Channel.on_qos,
    commands.Basic.Consume: Channel.on_consume,
    commands.Basic.Cancel: Channel.on_cancel,
    commands.Basic.Get: Channel.on_get,
    commands.Basic.Ack: Channel.on_ack,
    commands.Basic.Nack: Channel.on_nack,
    commands.Basic.Reject: Channel.on_reject,
    commands.Basic.Recover: Channel.on_recover,
    commands.Confirm.Select: Channel.on_select,
    commands.Channel.Flow: Channel.on_flow,
    commands.Channel.FlowOk: Channel.on_flow_ok,
}


class Peer:
    """The broker's side of a connection.

    Args:
        model: the state it shares with the other connections.
        login: credentials and limits.
        wake: called when there is output.
        now: the present time in seconds, here and below.

    Attributes:
        is_over: nothing more is read; the output goes out, then the transport closes.
        is_graceful: the close handshake was done, so the end of the transport is expected.
        has_published: whether it is one of those that are blocked.
    """

    def __init__(self, model: Model, login: Login, wake: Callable[[], None], now: float) -> None:
        self.model = model
        self.is_over = False
        self.is_graceful = False
        self.is_open = False
        self.has_published = False
        self.is_notified_of_block = False
        self.channels: dict[int, Channel] = {}
        self.name = "unnamed"
        self._login = login
        self._wake = wake
        self._tuning = login.tuning
        self._takes_blocked = False
        self._takes_refusal = False
        self._is_closing = False
        self._decoder = Decoder(login.tuning.frame_max or 2**31, as_server=True)
        self._heartbeat = Heartbeat(0, now)
        self._output: list[bytes] = []
        self._output_size = 0

    # --- the border -------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> None:
        """Take bytes."""
        self._heartbeat.read(now)
        self._decoder.feed(data)
        try:
            for frame in self._decoder.frames():
                self._handle(frame, now)
                if self.is_over:
                    return
        except ReplyError as error:
            self.close(error.code, error.text)
        for channel in self.channels.values():
            channel.send_confirms()

    def output(self, now: float) -> bytes:
        """The bytes to send."""
        data = b"".join(self._output)
        self._output.clear()
        self._output_size = 0
        if data:
            self._heartbeat.wrote(now)
        return data

    def poll(self, now: float) -> float:
        """Send a heartbeat, give up a silent client. Returns when to poll again."""
        verdict = self._heartbeat.poll(now)
        if verdict.dead:
            self.is_over = self.is_graceful = True
        elif verdict.send:
            self._append(HEARTBEAT_FRAME)
        return verdict.wake_at

    def slept(self, now: float) -> None:
        """The broker was frozen: the client is not to blame for the silence."""
        self._heartbeat.read(now)

    def has_room(self) -> bool:
        """Whether it takes deliveries."""
        return self._output_size < OUTPUT_BOUND and not self.is_over

    def pump(self) -> None:
        """Room was made: take what waits."""
        for channel in list(self.channels.values()):
            for consumer in list(channel.consumers.values()):
                consumer.queue.pump()

    def gone(self) -> None:
        """The transport is gone."""
        self.is_over = True
        channels, self.channels = self.channels, {}
        for channel in channels.values():
            channel.leave()
        for queue in [queue for queue in self.model.queues.values() if queue.owner is self]:
            self.model.delete_queue(queue)

    def close(self, code: int, text: str) -> None:
        """Send connection.close."""
        if not self._is_closing and not self.is_over:
            self._is_closing = True
            self.write(0, commands.Connection.Close(code, text[:255], 0, 0))

    def close_channel(self, channel: Channel, code: int, text: str, method: Method | None = None) -> None:
        """Send channel.close, once; its consumers and deliveries are gone at once."""
        if channel.is_closing:
            return
        class_id, method_id = (0, 0) if method is None else divmod(method.index, 1 << 16)
        channel.send_confirms()
        channel.is_closing = True
        channel.leave()
        self.write(channel.number, commands.Channel.Close(code, text[:255], class_id, method_id))

    def set_blocked(self, reason: str | None) -> None:
        """Tell a publishing client that the broker takes no more, or does again."""
        if reason is None and self.is_notified_of_block:
            self.is_notified_of_block = False
            self.write(0, commands.Connection.Unblocked())
        elif reason is not None and self.has_published and not self.is_notified_of_block and self._takes_blocked:
            self.is_notified_of_block = True
            self.write(0, commands.Connection.Blocked(reason))

    def write(self, number: int, method: Method) -> None:
        """Append a method to the output."""
        self._append(encode_method(number, method))

    def write_content(self, number: int, method: Method, entry: Entry) -> None:
        """Append a method with content to the output."""
        for frame in encode_content(number, method, entry.message, self._tuning.frame_max):
            self._append(frame)

    def _append(self, data: bytes) -> None:
        self._output.append(data)
        self._output_size += len(data)
        self._wake()

    # --- frames -----------------------------------------------------------------------------------------------------

    def _handle(self, frame: Frame, now: float) -> None:
        number, payload = frame
        if isinstance(payload, ProtocolHeader):
            start = build(
                commands.Connection.Start,
                version_major=0,
                version_minor=9,
                server_properties=field_table(SERVER_PROPERTIES),
                mechanisms="PLAIN",
                locales="en_US",
            )
            self.write(0, start)
        elif number == 0:
            if isinstance(payload, Method):
                self._handle_connection(payload, now)
        elif self._is_closing:
            return
        elif not self.is_open:
            raise ChannelError("CHANNEL_ERROR - connection is not open")
        else:
            self._handle_channel(number, payload)

    def _handle_connection(self, method: Method, now: float) -> None:
        if isinstance(method, commands.Connection.Close):
            self.write(0, commands.Connection.CloseOk())
            self.is_over = self.is_graceful = True
        elif isinstance(method, commands.Connection.CloseOk):
            self.is_over = self.is_graceful = True
        elif self._is_closing:
            return
        elif isinstance(method, commands.Connection.StartOk):
            self._log_in(method)
        elif isinstance(method, commands.Connection.TuneOk):
            self._tune(method, now)
        elif isinstance(method, commands.Connection.Open):
            if method.virtual_host != "/":
                raise NotAllowed(f"NOT_ALLOWED - vhost {method.virtual_host} not found")
            self.is_open = True
            self.write(0, commands.Connection.OpenOk())
        else:
            raise CommandInvalid(f"COMMAND_INVALID - {method.name}")

    def _log_in(self, method: commands.Connection.StartOk) -> None:
        properties = method.client_properties
        capabilities = properties.get("capabilities")
        if isinstance(capabilities, dict):
            self._takes_blocked = bool(capabilities.get("connection.blocked"))
            self._takes_refusal = bool(capabilities.get("authentication_failure_close"))
        self.name = str(properties.get("connection_name", "unnamed"))
        if self._login.check_credentials(method.response):
            self.write(0, commands.Connection.Tune(*self._tuning))
            return
        if self._takes_refusal:
            text = (
                "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. "
                "For details see the broker logfile."
            )
            self.close(LoginRefused.code, text)
        else:
            self.is_over = True
        self.is_graceful = True

    def _tune(self, method: commands.Connection.TuneOk, now: float) -> None:
        for name in ("channel_max", "frame_max"):
            ours, theirs = getattr(self._tuning, name), getattr(method, name)
            if ours and (theirs == 0 or theirs > ours):
                raise NotAllowed(
                    f"NOT_ALLOWED - negotiated {name} = {theirs} is higher than the maximum allowed {ours}"
                )
        if 0 < method.frame_max < FRAME_MIN_SIZE:
            raise NotAllowed(f"NOT_ALLOWED - negotiated frame_max = {method.frame_max} is lower than {FRAME_MIN_SIZE}")
        self._tuning = Tuning(method.channel_max, method.frame_max, method.heartbeat)
        self._decoder.max_frame_size = method.frame_max or 2**31
        self._heartbeat = Heartbeat(method.heartbeat, now)

    def _handle_channel(self, number: int, payload: Payload) -> None:
        channel = self.channels.get(number)
        if isinstance(payload, commands.Channel.Open):
            if channel is not None:
                raise ChannelError("CHANNEL_ERROR - second 'channel.open' seen")
            if self._tuning.channel_max and number > self._tuning.channel_max:
                raise NotAllowed(
                    f"NOT_ALLOWED - number of channels opened ({number}) has reached the negotiated maximum"
                )
            self.channels[number] = Channel(self, number)
            self.write(number, commands.Channel.OpenOk())
        elif channel is None:
            raise ChannelError(f"CHANNEL_ERROR - expected 'channel.open' on channel {number}")
        elif isinstance(payload, commands.Channel.Close):
            channel.send_confirms()
            channel.leave()
            if not channel.is_closing:  # else the two closes cross, and the client's close-ok is still to come
                del self.channels[number]
            self.write(number, commands.Channel.CloseOk())
        elif isinstance(payload, commands.Channel.CloseOk):
            del self.channels[number]
        elif not channel.is_closing:
            try:
                channel.receive(payload)
            except ReplyError as error:
                if error.hard:
                    raise
                self.close_channel(channel, error.code, error.text, payload if isinstance(payload, Method) else None)
