"""A transport with a gate: it holds the broker's bytes while it is shut, and delivers them in one chunk on opening."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeAlias

import anyio
import anyio.abc

Dial: TypeAlias = Callable[[object], Awaitable[anyio.abc.ByteStream]]
_ENDS = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


class Gate:
    """Puts a gate before a broker: ``async with Gate(broker.dial) as gate: connect(URL, dial=gate.dial)``."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._tasks = anyio.create_task_group()
        self._is_shut = False
        self._changed = anyio.Event()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)  # raise the block's exception unchanged

    async def dial(self, address: object = None) -> anyio.abc.ByteStream:
        """Open a transport; fits ``connect(..., dial=gate.dial)``."""
        stream = _GatedStream(self, await self._dial(address))
        self._tasks.start_soon(stream.fetch)
        return stream

    def shut(self) -> None:
        """Hold everything that the broker sends."""
        self._is_shut = True

    async def open(self) -> None:
        """Deliver everything held, once neither side has more to send."""
        await anyio.wait_all_tasks_blocked()
        self._is_shut = False
        self.announce()

    def announce(self) -> None:
        """Wake the tasks that wait for a condition."""
        self._changed.set()
        self._changed = anyio.Event()

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until the gate is open and the condition holds."""
        while self._is_shut or not condition():
            await self._changed.wait()


class _GatedStream(anyio.abc.ByteStream):
    def __init__(self, gate: Gate, inner: anyio.abc.ByteStream) -> None:
        self._gate = gate
        self._inner = inner
        self._data = b""
        self._end: Exception | None = None

    async def fetch(self) -> None:
        while self._end is None:
            try:
                data = await self._inner.receive()
            except _ENDS as error:
                self._end = error
            else:
                self._data += data
            self._gate.announce()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await self._gate.wait_for(lambda: bool(self._data) or self._end is not None)
        if self._data:
            data, self._data = self._data[:max_bytes], self._data[max_bytes:]
            return data
        raise self._end or anyio.EndOfStream

    async def send(self, item: bytes) -> None:
        await self._inner.send(item)

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        await self._inner.aclose()
