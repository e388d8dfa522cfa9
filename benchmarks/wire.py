"""AMQP over a bare blocking socket: what the raw client is made of, and what prepares the queues for all clients."""

from __future__ import annotations

import socket
import struct
import time
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlsplit

from pamqp import base, body, commands, frame, header, heartbeat
from pamqp.common import FieldTable

PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
CHUNK: Final = 120 * 1024
"""Bytes of one read: glibc allocates larger buffers with mmap, and unmaps them after every read."""

FRAME_OVERHEAD: Final = 8
METHOD, HEADER, BODY = 1, 2, 3

PREFIX: Final = struct.Struct(">BHI")
BODY_SIZE: Final = struct.Struct(">Q")
BODY_SIZE_AT: Final = 7 + 4
"""Where the body size stands, from the beginning of a content header's frame."""

_BATCH, _LARGE = 64, 1024 * 1024
_PATIENCE = 15.0

M = TypeVar("M", bound=base.Frame)


class Wire:
    """A connection whose handshake is done, and that says and hears bytes from then on.

    Attributes:
        socket: the socket.
        server: what the broker said of itself.
        frame_max: the agreed limit.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname or "localhost", parts.port or 5672), _PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self.socket.sendall(PROTOCOL_HEADER)
        self.server: dict[str, Any] = self.expect(commands.Connection.Start).server_properties
        response = f"\0{parts.username or 'guest'}\0{parts.password or 'guest'}"
        capabilities: FieldTable = {"publisher_confirms": True, "basic.nack": True, "consumer_cancel_notify": True}
        self.send(0, commands.Connection.StartOk({"capabilities": capabilities}, "PLAIN", response, "en_US"))
        tune = self.expect(commands.Connection.Tune)
        self.frame_max = tune.frame_max or 131072
        self.send(0, commands.Connection.TuneOk(tune.channel_max or 0, self.frame_max, 0))
        self.call(0, commands.Connection.Open(parts.path[1:] or "/"), commands.Connection.OpenOk)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.call(0, commands.Connection.Close(200, "bye", 0, 0), commands.Connection.CloseOk)
        except (OSError, EOFError):
            pass
        finally:
            self.socket.close()

    def send(self, channel: int, *methods: base.Frame) -> None:
        """Send methods."""
        self.socket.sendall(b"".join(frame.marshal(method, channel) for method in methods))

    def call(self, channel: int, method: base.Frame, reply: type[M]) -> M:
        """Send a method and wait for its reply."""
        self.send(channel, method)
        return self.expect(reply)

    def expect(self, kind: type[M]) -> M:
        """The next method of that kind; content and confirms that come before it are passed over."""
        while True:
            bounds, rest = split(self._buffer)
            for start, end in bounds:
                _, _, payload = frame.unmarshal(self._buffer[start:end])
                if isinstance(payload, kind):
                    self._buffer = self._buffer[end:]
                    return payload
                if isinstance(payload, commands.Connection.Close | commands.Channel.Close):
                    raise ConnectionError(f"the broker closes: {payload.reply_code} {payload.reply_text}")
            self._buffer = rest + self.receive()

    def receive(self) -> bytes:
        """What the broker has sent."""
        data = self.socket.recv(CHUNK)
        if not data:
            raise EOFError("the broker ended the connection")
        return data

    def open_channel(self, number: int, *, confirms: bool = False) -> None:
        """Open a channel, for publishing with confirms or for anything else."""
        self.call(number, commands.Channel.Open(), commands.Channel.OpenOk)
        if confirms:
            self.call(number, commands.Confirm.Select(), commands.Confirm.SelectOk)

    def consume(self, number: int, queue: str, *, no_ack: bool, prefetch: int = 0) -> bytes:
        """Open a channel and consume on it; what came behind consume-ok is given back."""
        self.open_channel(number)
        if prefetch:
            self.call(number, commands.Basic.Qos(prefetch_count=prefetch), commands.Basic.QosOk)
        consume = commands.Basic.Consume(queue=queue, consumer_tag=f"raw-{number}", no_ack=no_ack)
        self.call(number, consume, commands.Basic.ConsumeOk)
        return self.rest()

    def cancel(self, number: int, rest: bytes = b"") -> None:
        """End what :meth:`consume` began. ``rest`` is what was received and not used."""
        self._buffer = rest
        self.call(number, commands.Basic.Cancel(f"raw-{number}"), commands.Basic.CancelOk)

    def rest(self) -> bytes:
        """What was received behind the last reply."""
        rest, self._buffer = self._buffer, b""
        return rest

    # --- queues -----------------------------------------------------------------------------------------------------

    def declare(self, *queues: str) -> None:
        """Declare queues of the kind that every client is measured on, on a channel of number 1.

        Transient, so that the broker writes nothing to the disk and confirms at once: what is measured is the client
        and not the disk. Neither exclusive nor auto-delete, because a run fills and uses a queue on two connections.
        """
        for queue in queues:
            self.call(1, commands.Queue.Declare(queue=queue, durable=False), commands.Queue.DeclareOk)

    def delete(self, *queues: str) -> None:
        """Delete queues; one that is not there is as good as deleted."""
        for queue in queues:
            self.call(1, commands.Queue.Delete(queue=queue), commands.Queue.DeleteOk)

    def depth(self, queue: str) -> int:
        """How many messages are ready in a queue."""
        reply = self.call(1, commands.Queue.Declare(queue=queue, passive=True), commands.Queue.DeclareOk)
        return reply.message_count or 0

    def await_depth(self, queue: str, count: int) -> None:
        """Wait until a queue holds so many ready messages.

        RabbitMQ answers a passive declare ahead of what the queue has yet to take in, so one look is not enough.
        """
        limit = time.monotonic() + _PATIENCE
        while (depth := self.depth(queue)) != count:
            if time.monotonic() > limit:
                raise RuntimeError(f"{queue} holds {depth} messages instead of {count}")
            time.sleep(0.005)

    def fill(self, queue: str, count: int, size: int) -> None:
        """Publish so many messages; all are there afterwards."""
        one = self.publication(1, queue, bytes(size))
        many = one * _BATCH if size < _LARGE else one
        step = len(many) // len(one)
        for _ in range(count // step):
            self.socket.sendall(many)
        self.socket.sendall(one * (count % step))
        self.await_depth(queue, count)

    def publication(
        self,
        channel: int,
        queue: str,
        content: bytes,
        *,
        mandatory: bool = False,
        reply_to: str | None = None,
        correlation_id: str | None = None,
    ) -> bytes:
        """The frames of a persistent message to a queue."""
        publish = commands.Basic.Publish(routing_key=queue, mandatory=mandatory)
        properties = commands.Basic.Properties(delivery_mode=2, reply_to=reply_to, correlation_id=correlation_id)
        head = header.ContentHeader(0, len(content), properties)
        step = self.frame_max - FRAME_OVERHEAD
        pieces = (body.ContentBody(content[start : start + step]) for start in range(0, len(content), step))
        parts: list[frame.FrameTypes] = [publish, head, *pieces]
        return b"".join(frame.marshal(part, channel) for part in parts)


def split(data: bytes) -> tuple[list[tuple[int, int]], bytes]:
    """Where each whole frame begins and ends, and what follows the last of them."""
    bounds: list[tuple[int, int]] = []
    position = 0
    while len(data) - position >= PREFIX.size:
        end = position + PREFIX.unpack_from(data, position)[2] + FRAME_OVERHEAD
        if end > len(data):
            break
        bounds.append((position, end))
        position = end
    return bounds, data[position:]


def parse(data: bytes, start: int, end: int) -> base.Frame | header.ContentHeader | body.ContentBody | None:
    """A whole frame; None for a heartbeat."""
    payload = frame.unmarshal(data[start:end])[2]
    if isinstance(payload, heartbeat.Heartbeat | header.ProtocolHeader):
        return None
    return payload
