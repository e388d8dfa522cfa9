"""The output of the embedded broker on one connection: frames that wait for the transport. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from anyamqp.testing.embedded.ready import Entry
from anyamqp.wire import methods
from anyamqp.wire.basic import Received, content_parts, encode_properties
from anyamqp.wire.frames import encode_method
from anyamqp.wire.methods import Method

OUTPUT_BOUND = 1024 * 1024
"""A connection with more bytes of output gets no deliveries; with more bytes of answers, the broker reads no more."""


class Outgoing(NamedTuple):
    """A frame to be sent, or a method with the frames of its content.

    Attributes:
        channel: its channel's number.
        method: the method; None for other frames.
        data: the bytes.
        since: when it was appended, on the broker's clock in seconds.
        confirmed: the tags that a confirm settles.
    """

    channel: int
    method: Method | None
    data: bytes
    since: float
    confirmed: range = range(0)


class Output:
    """The frames to be sent on a connection.

    Args:
        wake: called when there are some.
        clock: the time in seconds.

    Attributes:
        frame_max: the largest frame, in bytes; 0 for no limit.
    """

    def __init__(self, wake: Callable[[], None], clock: Callable[[], float], frame_max: int) -> None:
        self.frame_max: int = frame_max
        self._wake = wake
        self._clock = clock
        self._waiting: list[Outgoing] = []
        self._size = 0
        self._delivered_size = 0
        self._last_confirmed: dict[int, int] = {}

    def append(self, data: bytes, number: int = 0, method: Method | None = None) -> None:
        """Append a frame, or a method with the frames of its content."""
        self._waiting.append(Outgoing(number, method, data, self._clock(), self._confirmed_by(number, method)))
        self._size += len(data)
        self._wake()

    def write(self, number: int, method: Method) -> None:
        """Append a method."""
        self.append(encode_method(number, method), number, method)

    def write_content(self, number: int, method: Method, entry: Entry) -> None:
        """Append a method with content.

        Raises:
            InvalidArgument: the message's properties are larger than this client's frames.
        """
        message = entry.message
        encoded = message.encoded if isinstance(message, Received) else encode_properties(message.properties)
        frame = encode_method(number, method)
        data = b"".join(content_parts(frame, number, encoded, message.body, self.frame_max))
        if isinstance(method, methods.Basic.Deliver):
            self._delivered_size += len(data)
        self.append(data, number, method)

    def take(self) -> list[Outgoing]:
        """Take all frames."""
        taken, self._waiting = self._waiting, []
        self._size = self._delivered_size = 0
        return taken

    def _confirmed_by(self, number: int, method: Method | None) -> range:
        if isinstance(method, methods.Channel.OpenOk):
            self._last_confirmed.pop(number, None)
        if not isinstance(method, methods.Basic.Ack | methods.Basic.Nack):
            return range(0)
        first = self._last_confirmed.get(number, 0) + 1
        self._last_confirmed[number] = method.delivery_tag
        return range(first, method.delivery_tag + 1)

    def has_room(self) -> bool:
        """Whether there is room for deliveries."""
        return self._size < OUTPUT_BOUND

    def has_room_for_answers(self) -> bool:
        """Whether there is room for answers. Deliveries do not count."""
        return self._size - self._delivered_size < OUTPUT_BOUND
