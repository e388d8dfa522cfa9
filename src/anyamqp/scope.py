"""The block of a connection: its task group, and waiting for the states of the connection."""

from __future__ import annotations

import anyio
import anyio.abc

from anyamqp.core.supervisor import Supervisor
from anyamqp.errors import AnyamqpError, ConnectionBlocked, ConnectionClosed, ReadyTimeout
from anyamqp.net.event_loop import interrupt_as_itself
from anyamqp.protocol.lifecycle import ConnectionState, State


class ConnectionScope:
    """Runs a supervisor from the beginning of a block to its end.

    Args:
        supervisor: keeps the connection.
    """

    _tasks: anyio.abc.TaskGroup
    """The connection's tasks; made when the block begins."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    @property
    def is_new(self) -> bool:
        """Whether the block has not begun."""
        return self._supervisor.host.core.state is ConnectionState.CONNECTING_NEW

    async def begin(self) -> None:
        """Start to connect."""
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._supervisor.start(self._tasks)

    async def end(self) -> None:
        """Close the connection, and wait for its tasks."""
        try:
            await self._supervisor.close()
        finally:
            # Without the block's exception, which would leave it in an exception group.
            with interrupt_as_itself():
                await self._tasks.__aexit__(None, None, None)

    async def wait_first_ready(self, timeout: float | None) -> None:
        """Wait until the connection is OPEN or BLOCKED for the first time.

        Raises:
            ReadyTimeout: it was not ready within ``timeout`` seconds.
            AnyamqpError: the error that the first connect failed for.
        """
        try:
            await self.wait_ready(timeout)
        except ConnectionClosed:
            failure = self._supervisor.host.core.failure
            if isinstance(failure, AnyamqpError):
                raise failure from failure.__cause__
            raise

    async def wait_ready(self, timeout: float | None) -> None:
        """Wait until the connection is OPEN or BLOCKED, and everything on it is back.

        Raises:
            ReadyTimeout: it was not ready within ``timeout`` seconds.
            ConnectionClosed: it is closed.
        """
        with anyio.move_on_after(timeout):
            await self._supervisor.wait_ready()
            return
        raise self._not_ready(timeout)

    async def wait_for(self, *states: State, timeout: float | None) -> None:
        """Wait until the connection is in one of the states.

        Raises:
            ConnectionBlocked: the broker has blocked it for all of ``timeout``, and that is none of the states.
            ReadyTimeout: it is in none of them after ``timeout`` seconds, for another reason.
            ConnectionClosed: it is closed.
        """
        supervisor = self._supervisor
        with anyio.move_on_after(timeout):
            await supervisor.wait_for(*states)
            return
        if State.BLOCKED not in states and (block := supervisor.host.block) is not None:
            raise ConnectionBlocked(block.reason)
        raise self._not_ready(timeout)

    def _not_ready(self, timeout: float | None) -> ReadyTimeout:
        supervisor = self._supervisor
        error = ReadyTimeout(f"not ready within {timeout} s, still {supervisor.state.name}: {supervisor.host.progress}")
        error.__cause__ = supervisor.host.journal.last_error
        return error
