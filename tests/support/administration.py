"""Users and virtual hosts of a broker under test, embedded or RabbitMQ."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Protocol

import anyio
import anyio.lowlevel

from anyamqp.testing import Broker
from anyamqp.testing.embedded.users import Permissions
from support.queues import unique
from support.rabbitmq import Node


class Commands(Protocol):
    """The commands of an administrator."""

    async def add_user(self, name: str, tags: Iterable[str]) -> None:
        """Add a user, whose password is its name."""
        ...

    async def remove_user(self, name: str) -> None: ...

    async def set_permissions(self, user: str, host: str, permissions: Permissions) -> None: ...

    async def set_topic_permissions(self, user: str, exchange: str, write: str, read: str) -> None: ...

    async def add_virtual_host(self, name: str) -> None: ...

    async def remove_virtual_host(self, name: str) -> None: ...


class EmbeddedCommands:
    """Those of the embedded broker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def add_user(self, name: str, tags: Iterable[str]) -> None:
        await anyio.lowlevel.checkpoint()
        self._broker.add_user(name, name, tags=tags)

    async def remove_user(self, name: str) -> None:
        await anyio.lowlevel.checkpoint()
        self._broker.remove_user(name)

    async def set_permissions(self, user: str, host: str, permissions: Permissions) -> None:
        await anyio.lowlevel.checkpoint()
        configure, write, read = permissions
        self._broker.set_permissions(user, host, configure=configure, write=write, read=read)

    async def set_topic_permissions(self, user: str, exchange: str, write: str, read: str) -> None:
        await anyio.lowlevel.checkpoint()
        self._broker.set_topic_permissions(user, exchange, write=write, read=read)

    async def add_virtual_host(self, name: str) -> None:
        await anyio.lowlevel.checkpoint()
        self._broker.add_virtual_host(name)

    async def remove_virtual_host(self, name: str) -> None:
        await anyio.lowlevel.checkpoint()
        self._broker.remove_virtual_host(name)


class NodeCommands:
    """Those of RabbitMQ."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def add_user(self, name: str, tags: Iterable[str]) -> None:
        await self._run("rabbit_auth_backend_internal:add_user", name, name)
        if tags:
            named = ",".join(tags)
            await self._eval(f'rabbit_auth_backend_internal:set_tags(<<"{name}">>, [{named}], <<"tests">>)')

    async def remove_user(self, name: str) -> None:
        await self._run("rabbit_auth_backend_internal:delete_user", name)

    async def set_permissions(self, user: str, host: str, permissions: Permissions) -> None:
        await self._run("rabbit_auth_backend_internal:set_permissions", user, host, *permissions)

    async def set_topic_permissions(self, user: str, exchange: str, write: str, read: str) -> None:
        await self._run("rabbit_auth_backend_internal:set_topic_permissions", user, "/", exchange, write, read)

    async def add_virtual_host(self, name: str) -> None:
        await self._run("rabbit_vhost:add", name)
        await self.set_permissions("guest", name, Permissions())

    async def remove_virtual_host(self, name: str) -> None:
        await self._run("rabbit_vhost:delete", name)

    async def _run(self, function: str, *arguments: str) -> None:
        """Call a function, whose last argument is the name of the one who calls it."""
        told = ", ".join(f'<<"{argument}">>' for argument in (*arguments, "tests"))
        await self._eval(f"{function}({told})")

    async def _eval(self, expression: str) -> None:
        await anyio.to_thread.run_sync(self._node.eval, expression)


class Administrator:
    """Adds users and virtual hosts for the time of a test.

    Args:
        commands: those of the broker.

    Attributes:
        commands: the same.
    """

    def __init__(self, commands: Commands) -> None:
        self.commands: Commands = commands

    @asynccontextmanager
    async def user(
        self, permissions: Permissions | None = None, *, tags: Iterable[str] = ()
    ) -> AsyncGenerator[str, None]:
        """A user, whose password is its name.

        Args:
            permissions: its permissions in the virtual host ``/``; None if it may not open it.
            tags: its tags.
        """
        name = unique("user")
        await self.commands.add_user(name, tags)
        try:
            if permissions is not None:
                await self.commands.set_permissions(name, "/", permissions)
            yield name
        finally:
            with anyio.CancelScope(shield=True):
                await self.commands.remove_user(name)

    @asynccontextmanager
    async def virtual_host(self) -> AsyncGenerator[str, None]:
        """A virtual host in which guest may do everything."""
        name = unique("host")
        await self.commands.add_virtual_host(name)
        try:
            yield name
        finally:
            with anyio.CancelScope(shield=True):
                await self.commands.remove_virtual_host(name)
