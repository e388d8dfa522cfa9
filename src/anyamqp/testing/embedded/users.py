"""The users of the embedded broker: how they log in, and their permissions. No I/O.

The mechanisms are RabbitMQ's: PLAIN, AMQPLAIN, and since 4.0 ANONYMOUS, which is the user guest with its own password.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from anyamqp.errors import CommandInvalid, CommandSyntaxError, InvalidArgument
from anyamqp.message import FieldTable
from anyamqp.testing.embedded.versions import Rules
from anyamqp.wire import fields
from anyamqp.wire.fields import Malformed, Reader

_ANONYMOUS = ("guest", "guest")


class Permissions(NamedTuple):
    """Patterns for the names of the entities of a virtual host that a user may use.

    Attributes:
        configure: of those that it may declare and delete.
        write: of those that it may publish to, and bind.
        read: of those that it may consume and purge, and bind to.
    """

    configure: str = ".*"
    write: str = ".*"
    read: str = ".*"


class TopicPermissions(NamedTuple):
    """Patterns for the routing keys of a topic exchange that a user may use.

    Attributes:
        write: of those that it may publish with.
        read: of those that it may bind with.
    """

    write: str
    read: str


class User:
    """A user.

    Args:
        name: its name.
        password: its password.
        tags: its tags; ``impersonator`` lets it publish with any ``user_id``.
        elsewhere: its permissions in virtual hosts in which none were set; None if it may not open them.

    Attributes:
        permissions: its permissions, by the name of the virtual host.
        topics: its topic permissions, by the names of the virtual host and the exchange.
    """

    def __init__(
        self, name: str, password: str = "", *, tags: Iterable[str] = (), elsewhere: Permissions | None = None
    ) -> None:
        self.name: str = name
        self.password: str = password
        self.tags: frozenset[str] = frozenset(tags)
        self.permissions: dict[str, Permissions] = {}
        self.topics: dict[tuple[str, str], TopicPermissions] = {}
        self._elsewhere = elsewhere

    def permissions_in(self, host: str) -> Permissions | None:
        """Its permissions in a virtual host; None if it may not open it."""
        return self.permissions.get(host, self._elsewhere)


class Users:
    """The users of a broker.

    Args:
        first: the user that may do everything in every virtual host.
    """

    def __init__(self, first: User) -> None:
        self._users: dict[str, User] = {first.name: first}

    def __contains__(self, name: object) -> bool:
        return name in self._users

    def __getitem__(self, name: str) -> User:
        """The user of that name.

        Raises:
            InvalidArgument: there is none.
        """
        if name not in self._users:
            raise InvalidArgument(f"user: there is no {name!r}, only {', '.join(map(repr, self._users))}")
        return self._users[name]

    def add(self, user: User) -> None:
        """Add a user.

        Raises:
            InvalidArgument: there is one of that name.
        """
        if user.name in self._users:
            raise InvalidArgument(f"user: there is a user {user.name!r} already")
        self._users[user.name] = user

    def remove(self, name: str) -> None:
        """Remove a user.

        Raises:
            InvalidArgument: there is no such user.
        """
        del self._users[self[name].name]

    def check(self, name: str, password: str) -> bool:
        """Whether there is such a user with that password."""
        return name in self._users and self._users[name].password == password

    def remove_host(self, host: str) -> None:
        """Remove all permissions in a virtual host."""
        for user in self._users.values():
            user.permissions.pop(host, None)
            user.topics = {key: topics for key, topics in user.topics.items() if key[0] != host}


def credentials(mechanism: str, response: str, rules: Rules) -> tuple[str, str]:
    """The name and password in the response of a SASL mechanism (connection.start-ok).

    Raises:
        CommandInvalid: the broker does not offer the mechanism.
        CommandSyntaxError: the response cannot be read.
    """
    if mechanism not in rules.mechanisms:
        raise CommandInvalid(f"COMMAND_INVALID - unknown authentication mechanism '{mechanism}'")
    if mechanism == "ANONYMOUS":
        return _ANONYMOUS
    return _of_plain(response) if mechanism == "PLAIN" else _of_amqplain(response)


def _of_plain(response: str) -> tuple[str, str]:
    parts = response.split("\0")
    if len(parts) != 3 or parts[0]:
        raise CommandSyntaxError("SYNTAX_ERROR - the response of PLAIN is not NUL, user name, NUL, password")
    return parts[1], parts[2]


def _of_amqplain(response: str) -> tuple[str, str]:
    encoded = response.encode("utf-8", "surrogateescape")
    try:
        told: FieldTable = Reader(fields.long("response", len(encoded)) + encoded).table()
    except Malformed:
        raise CommandSyntaxError("SYNTAX_ERROR - the response of AMQPLAIN is not a table") from None
    if "LOGIN" not in told or "PASSWORD" not in told:
        raise CommandSyntaxError("SYNTAX_ERROR - the response of AMQPLAIN is missing LOGIN or PASSWORD")
    return str(told["LOGIN"]), str(told["PASSWORD"])
