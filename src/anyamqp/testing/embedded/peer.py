"""The embedded broker's side of one connection, without I/O: bytes in, bytes out.

It follows RabbitMQ where AMQP leaves a choice, with one exception: it answers an error in the handshake with
connection.close, where RabbitMQ drops the transport.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from anyamqp.errors import (
    ChannelError,
    CommandInvalid,
    InternalError,
    InvalidArgument,
    LoginRefused,
    NotAllowed,
    ReplyError,
)
from anyamqp.protocol.events import Tuning
from anyamqp.protocol.heartbeat import Heartbeat
from anyamqp.testing.embedded.access import Access
from anyamqp.testing.embedded.assembly import Assembler, Command, decode_on_zero
from anyamqp.testing.embedded.channel import Channel
from anyamqp.testing.embedded.framing import PROTOCOL, Framing, RawFrame
from anyamqp.testing.embedded.handshake import Login, check_tuning, host_for, login_refused, start
from anyamqp.testing.embedded.hosts import Hosts
from anyamqp.testing.embedded.model import Model
from anyamqp.testing.embedded.output import Outgoing, Output
from anyamqp.testing.embedded.ready import Entry
from anyamqp.testing.embedded.users import User
from anyamqp.testing.embedded.violations import Crash, Violation
from anyamqp.wire import methods
from anyamqp.wire.frames import (
    HEARTBEAT_FRAME,
    PROTOCOL_HEADER,
)
from anyamqp.wire.methods import Method


class Watch(Protocol):
    """Sees the methods of the client before and after the broker handles them."""

    def before(self, channel: int, command: Command) -> bool:
        """A method has come. Returns whether the broker is to handle it."""
        ...

    def after(self, channel: int) -> None:
        """The broker has handled the last method of a channel, with its content if it has any."""
        ...


class Peer:
    """The broker's side of a connection.

    Args:
        hosts: the virtual hosts, which it shares with the other connections.
        login: credentials and limits.
        wake: called when there is output.
        now: the current time in seconds, here and in all methods.

    Attributes:
        model: its virtual host.
        user: who has logged in; one without a name before the login.
        access: the user's permissions there.
        is_over: no more input is read; the transport closes after the output is sent.
        is_graceful: the close handshake was done, so the end of the transport is expected.
        is_closing: connection.close was sent; a client that does not answer will be dropped.
        is_open: the handshake is done.
        takes_cancel: whether the client wants to be told of consumers that the broker ends.
        has_published: whether the client has published; the broker blocks only such clients.
        is_notified_of_block: the client is blocked, and its input is not read.
        channels: its channels by number, closing ones included.
        name: the client's name for the connection.
        watch: sees the client's methods; None if nobody does.
    """

    def __init__(self, hosts: Hosts, login: Login, wake: Callable[[], None], now: float) -> None:
        self.model: Model = hosts["/"]
        self.user: User = User("")
        self.access: Access = Access(self.user, self.model)
        self._hosts = hosts
        self.is_over: bool = False
        self.is_graceful: bool = False
        self.is_closing: bool = False
        self.is_open: bool = False
        self.takes_cancel: bool = False
        self.has_published = False
        self.is_notified_of_block: bool = False
        self.channels: dict[int, Channel] = {}
        self.name: str = "unnamed"
        self.watch: Watch | None = None
        self._login = login
        self._tuning = login.tuning
        self._takes_blocked = False
        self._takes_refusal = False
        self._awaited: type[Method] | None = None
        self._framing = Framing(hosts.rules.least_frame_max)
        self._frames: Iterator[RawFrame] = iter(())
        self._assemblers: dict[int, Assembler] = {}
        self._heartbeat = Heartbeat(0, now)
        self._output = Output(wake, hosts.timers.clock, login.tuning.frame_max)

    # --- bytes and time ---------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> None:
        """Handle received bytes."""
        self.feed(data, now)
        while self.step(now):
            pass

    def feed(self, data: bytes, now: float) -> None:
        """Take received bytes; :meth:`step` handles their frames, all of them before the next bytes are taken."""
        self._heartbeat.read(now)
        self._framing.feed(data)
        self._frames = self._framing.frames()

    def step(self, now: float) -> bool:
        """Handle the next frame. Returns whether there was one."""
        if self.is_over:
            return False
        try:
            frame = next(self._frames, None)
            if frame is not None:
                self._handle(frame, now)
                return True
        except Violation as violation:
            if self._awaited is None and not self.is_open:
                self._refuse_protocol()
            else:
                self.close(violation.error.code, violation.error.text, violation.at_fault)
            return True
        except Crash:
            self.is_over = self.is_graceful = True
            return False
        for channel in self.channels.values():
            channel.send_confirms()
        return False

    def take(self, now: float) -> list[Outgoing]:
        """The frames to send."""
        taken = self._output.take()
        if taken:
            self._heartbeat.wrote(now)
        return taken

    def poll(self, now: float) -> float:
        """Send a heartbeat, give up a silent client. Returns when to poll again."""
        if self.is_notified_of_block:
            self._heartbeat.read(now)  # the frames are not looked at
        verdict = self._heartbeat.poll(now)
        if verdict.dead:
            self.is_over = self.is_graceful = True
        elif verdict.send:
            self._output.append(HEARTBEAT_FRAME)
        return verdict.wake_at

    def slept(self, now: float) -> None:
        """End a freeze: the silence was not the client's."""
        self._heartbeat.read(now)

    def has_room(self) -> bool:
        """Whether the output has room for deliveries."""
        return self._output.has_room() and not self.is_over and not self.is_closing

    def takes_requests(self) -> bool:
        """Whether its answers have room.

        Deliveries do not count: a client that leaves them unread for a while must still be heard, heartbeats above all.
        """
        return self._output.has_room_for_answers()

    def pump(self) -> None:
        """Handle the waiting frames: there is room again."""
        for channel in list(self.channels.values()):
            channel.deliveries.pump()

    def gone(self) -> None:
        """End the connection: the transport has ended."""
        self.is_over = True
        self._leave_channels()
        for queue in [queue for queue in self.model.queues.values() if queue.owner is self]:
            self.model.delete_queue(queue)

    def close(self, code: int, text: str, method: Method | type[Method] | None = None) -> None:
        """Send connection.close, and end all channels at once. From now on, the client may close the transport."""
        if not self.is_closing and not self.is_over:
            self.is_closing = self.is_graceful = True
            self.write(0, methods.Connection.Close(code, _cut(text), *_numbers(method)))
            self._leave_channels()

    def close_channel(self, channel: Channel, code: int, text: str, method: Method | None = None) -> None:
        """Send channel.close, once, and end the channel's consumers and deliveries at once."""
        if channel.is_closing:
            return
        channel.send_confirms()
        channel.is_closing = True
        channel.leave()
        self.write(channel.number, methods.Channel.Close(code, _cut(text), *_numbers(method)))

    def set_blocked(self, reason: str | None) -> None:
        """Tell a publishing client that it is blocked, or no longer."""
        if reason is None and self.is_notified_of_block:
            self.is_notified_of_block = False
            self.write(0, methods.Connection.Unblocked())
        elif reason is not None and self.has_published and not self.is_notified_of_block and self._takes_blocked:
            self.is_notified_of_block = True
            self.write(0, methods.Connection.Blocked(_cut(reason)))

    def write(self, number: int, method: Method) -> None:
        """Append a method to the output."""
        self._output.write(number, method)

    def write_content(self, number: int, method: Method, entry: Entry) -> None:
        """Append a method with content to the output."""
        try:
            self._output.write_content(number, method, entry)
        except InvalidArgument as error:
            # The headers are larger than this client's frames. Their publisher did nothing wrong.
            self.close(InternalError.code, f"INTERNAL_ERROR - {error}")

    def _leave_channels(self) -> None:
        channels, self.channels = self.channels, {}
        for channel in channels.values():
            channel.leave()

    def _refuse_protocol(self) -> None:
        self._output.append(PROTOCOL_HEADER)
        self.is_over = self.is_graceful = True

    # --- frames -----------------------------------------------------------------------------------------------------

    def _handle(self, frame: RawFrame, now: float) -> None:
        number = frame.channel
        if frame.kind == PROTOCOL:
            if frame.payload != PROTOCOL_HEADER:
                self._refuse_protocol()
                return
            self._awaited = methods.Connection.StartOk
            self.write(0, start(self._hosts.rules))
        elif number == 0:
            method = decode_on_zero(frame, is_closing=self.is_closing)
            if method is not None:
                self.handle(0, Command(method), now)
        elif self.is_closing:
            return
        elif not self.is_open:
            raise Violation(ChannelError("CHANNEL_ERROR - connection is not open"))
        else:
            assembler = self._assemblers.setdefault(number, Assembler(self.model.rules))
            command = assembler.take(frame)
            if command is not None:
                self.handle(number, command, now)
                if number not in self.channels:
                    self._assemblers.pop(number, None)

    def handle(self, number: int, command: Command, now: float) -> None:
        """Handle a method, between the two looks of the watch."""
        if self.watch is not None and (not self.watch.before(number, command) or self.is_over):
            return
        try:
            if number:
                self._handle_channel(number, command)
            else:
                self._handle_connection(command.method, now)
        except ReplyError as error:
            raise Violation(error, type(command.method)) from error
        if self.watch is not None:
            self.watch.after(number)

    def _handle_connection(self, method: Method, now: float) -> None:
        if isinstance(method, methods.Connection.Close):
            self.write(0, methods.Connection.CloseOk())
            self.is_over = self.is_graceful = True
        elif self.is_closing:
            self.is_over = isinstance(method, methods.Connection.CloseOk)
        elif self.is_open and isinstance(method, methods.Connection.UpdateSecret):
            self._login.update_secret(method.new_secret)
            self.write(0, methods.Connection.UpdateSecretOk())
        elif self._awaited is None or not isinstance(method, self._awaited):
            state = "running" if self.is_open else "starting"
            raise ChannelError(f"CHANNEL_ERROR - unexpected method in connection state {state}")
        elif isinstance(method, methods.Connection.StartOk):
            self._log_in(method)
        elif isinstance(method, methods.Connection.TuneOk):
            self._tune(method, now)
        elif isinstance(method, methods.Connection.Open):
            self.model = host_for(self.user, self._hosts, method.virtual_host)
            self.access = Access(self.user, self.model)
            self._awaited = None
            self.is_open = True
            self.write(0, methods.Connection.OpenOk())

    def _log_in(self, method: methods.Connection.StartOk) -> None:
        properties = method.client_properties
        capabilities = properties.get("capabilities")
        if isinstance(capabilities, dict):
            self._takes_blocked = bool(capabilities.get("connection.blocked"))
            self._takes_refusal = bool(capabilities.get("authentication_failure_close"))
            self.takes_cancel = bool(capabilities.get("consumer_cancel_notify"))
        self.name = str(properties.get("connection_name", "unnamed"))
        user = self._login.log_in(method.mechanism, method.response)
        if user is not None:
            self.user = user
            self._awaited = methods.Connection.TuneOk
            self.write(0, methods.Connection.Tune(*self._tuning))
            return
        if self._takes_refusal:
            self.close(LoginRefused.code, login_refused(method.mechanism))
        else:
            self.is_over = self.is_graceful = True

    def _tune(self, method: methods.Connection.TuneOk, now: float) -> None:
        check_tuning(self._tuning, method, self._hosts.rules)
        self._awaited = methods.Connection.Open
        self._tuning = Tuning(method.channel_max, method.frame_max, method.heartbeat)
        self._output.frame_max = method.frame_max
        self._framing.frame_max = method.frame_max or self.model.rules.message_size + self.model.rules.least_frame_max
        self._heartbeat = Heartbeat(method.heartbeat, now)

    def _handle_channel(self, number: int, command: Command) -> None:
        method = command.method
        channel = self.channels.get(number)
        most = self._tuning.channel_max
        if channel is None and most and len(self.channels) >= most:
            text = f"number of channels opened ({most}) has reached the negotiated channel_max ({most})"
            self.close(NotAllowed.code, f"NOT_ALLOWED - {text}")
        elif isinstance(method, methods.Channel.Open):
            if channel is not None:
                raise ChannelError("CHANNEL_ERROR - second 'channel.open' seen")
            self.channels[number] = Channel(self, number)
            self.write(number, methods.Channel.OpenOk())
        elif channel is None:
            raise ChannelError("CHANNEL_ERROR - expected 'channel.open'")
        elif isinstance(method, methods.Channel.Close):
            channel.send_confirms()
            channel.leave()
            if not channel.is_closing:  # else the two closes cross, and the client's close-ok is still to come
                del self.channels[number]
            self.write(number, methods.Channel.CloseOk())
        elif isinstance(method, methods.Channel.CloseOk):
            if not channel.is_closing:
                raise CommandInvalid("COMMAND_INVALID - unimplemented method")
            del self.channels[number]
        elif not channel.is_closing:
            try:
                channel.receive(command)
            except ReplyError as error:
                if error.hard:
                    raise
                self.close_channel(channel, error.code, error.text, method)


def _numbers(method: Method | type[Method] | None) -> tuple[int, int]:
    """The class and method ids of the method that caused a close; zeros if none did."""
    return (0, 0) if method is None else (method.index >> 16, method.index & 0xFFFF)


def _cut(text: str) -> str:
    """Cut a text to the length of a short string, where RabbitMQ cuts it: between two bytes."""
    encoded = text.encode("utf-8", "surrogateescape")
    return text if len(encoded) <= 255 else encoded[:252].decode("utf-8", "surrogateescape") + "..."
