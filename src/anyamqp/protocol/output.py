"""The frames of a session that have not been sent yet.

Answers that the broker's own traffic demands (replies to its methods, settlements of its deliveries) are counted until
they leave: a broker that sends without reading must not make them pile up (invariant 11).
"""

from __future__ import annotations

from itertools import accumulate
from typing import Final

from anyamqp.errors import InvalidArgument
from anyamqp.wire.frames import PROTOCOL_HEADER, encode_method, method_name
from anyamqp.wire.methods import Method

_CHUNK: Final = 256 * 1024
"""Bytes after which output that is joined is cut, between two parts."""

_GATHERED_CHUNK: Final = 1024 * 1024
"""Bytes after which output is cut if most of it is not copied."""

_LARGE: Final = 16 * 1024
"""A part of at least this many bytes is sent as it is: many small parts are cheaper to join, a large one is not."""


class Output:
    """Frames in the order in which they leave, behind the protocol header.

    Args:
        frame_max: the largest method frame in bytes; 0 for no limit.

    Attributes:
        frame_max: the same; it changes at connection.tune.
        size: bytes that wait.
        bytes_taken: bytes that :meth:`take` has returned.
        frames_written: frames so far, the waiting ones included.
    """

    __slots__ = ("_has_large", "_owed", "_owed_until", "_parts", "bytes_taken", "frame_max", "frames_written", "size")

    def __init__(self, frame_max: int) -> None:
        self.frame_max: int = frame_max
        self.size: int = len(PROTOCOL_HEADER)
        self.bytes_taken: int = 0
        self.frames_written: int = 0
        self._parts: list[bytes | memoryview] = [PROTOCOL_HEADER]
        self._has_large = False
        """Whether a waiting part may be large."""
        self._owed = 0
        """Bytes of answers written since all answers had left."""
        self._owed_until = 0
        """The position behind the last answer, counted from the first byte of the session."""

    @property
    def owed(self) -> int:
        """Bytes of answers to the broker of which some still wait."""
        return self._owed

    def send(self, number: int, method: Method) -> None:
        """Write a method.

        Args:
            number: the channel's number.
            method: the method.

        Raises:
            InvalidArgument: AMQP cannot carry an argument, or the frame is too large; nothing was written.
        """
        frame = encode_method(number, method)
        if self.frame_max and len(frame) > self.frame_max:
            text = f"{method_name(method)}: {len(frame)} bytes do not fit a frame of {self.frame_max}"
            raise InvalidArgument(text)
        self.write(frame)

    def answer(self, number: int, method: Method) -> None:
        """Write a method that the broker's own traffic demands.

        Raises:
            InvalidArgument: as :meth:`send`.
        """
        before = self.size
        self.send(number, method)
        self._owe(self.size - before)

    def answer_with(self, frame: bytes) -> None:
        """Write an encoded frame that the broker's own traffic demands."""
        self.write(frame)
        self._owe(len(frame))

    def write(self, frame: bytes) -> None:
        """Write an encoded frame."""
        self._parts.append(frame)
        self.size += len(frame)
        self.frames_written += 1

    def write_content(self, parts: list[bytes | memoryview], body_size: int) -> None:
        """Write the parts of a method with its content, as :func:`~anyamqp.wire.basic.content_parts` returns them.

        Args:
            parts: the parts.
            body_size: the size of the body, in bytes.
        """
        self._parts += parts
        count = len(parts)
        if count == 3:
            self.frames_written += 3
            self.size += len(parts[0]) + body_size + 1
        else:
            self.frames_written += 2 + (count - 1) // 2
            self.size += sum(map(len, parts))
        if body_size >= _LARGE:
            self._has_large = True

    def take(self) -> list[bytes | memoryview]:
        """The next pieces to send, which count as sent: about 1 MiB at most, unless one frame is larger."""
        parts, size = self._parts, self.size
        if not parts:
            return []
        most = _GATHERED_CHUNK if self._has_large else _CHUNK
        if size <= most:
            self._parts = []
        else:
            sizes = enumerate(accumulate(map(len, parts)), start=1)
            count, size = next(reached for reached in sizes if reached[1] >= most)
            parts, self._parts = parts[:count], parts[count:]
        self.size -= size
        self.bytes_taken += size
        if self.bytes_taken >= self._owed_until:
            self._owed = 0
        if not self._has_large:
            return [b"".join(parts)]
        self._has_large = bool(self._parts)
        return _gathered(parts)

    def __bool__(self) -> bool:
        return bool(self._parts)

    def _owe(self, size: int) -> None:
        self._owed += size
        self._owed_until = self.bytes_taken + self.size


def _gathered(parts: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """The parts, with adjacent small ones joined."""
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
