"""The users, permissions and virtual hosts of the embedded broker, as an administrator sees them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from anyamqp.errors import ConnectionForced, InvalidArgument
from anyamqp.testing.embedded.conditions import Conditions
from anyamqp.testing.embedded.model import Model
from anyamqp.testing.embedded.transport import Served
from anyamqp.testing.embedded.users import Permissions, TopicPermissions, User, Users, credentials
from anyamqp.testing.views import Observed


class Administered(Observed):
    """A broker whose users and virtual hosts can be changed. Its first user may do everything in each of them.

    Args:
        conditions: the state that the connections share.
        served: the connections, oldest first.
        first: the first user.
    """

    def __init__(self, conditions: Conditions, served: Mapping[Served, None], first: User) -> None:
        super().__init__(conditions, served)
        self._users = Users(first)

    def add_virtual_host(self, name: str) -> Model:
        """Add a virtual host, which only the first user may open; one that is there stays as it is.

        Returns:
            Its entities.
        """
        return self._conditions.hosts.add(name)

    def remove_virtual_host(self, name: str) -> None:
        """Remove a virtual host with all its entities and permissions. Its connections are closed (320).

        Raises:
            InvalidArgument: there is no such virtual host.
        """
        host = self._host(name)
        self._conditions.hosts.remove(name)
        self._users.remove_host(name)
        for connection in list(self._served):
            if connection.peer.is_open and connection.peer.model is host:
                text = f"CONNECTION_FORCED - vhost '{name}' is deleted"
                connection.peer.close(ConnectionForced.code, text)

    def add_user(self, name: str, password: str, *, tags: Iterable[str] = ()) -> None:
        """Add a user, who may open no virtual host yet.

        Args:
            name: its name.
            password: its password.
            tags: its tags. ``impersonator`` lets it publish with any ``user_id``; all others are without effect.

        Raises:
            InvalidArgument: there is a user of that name.
        """
        self._users.add(User(name, password, tags=tags))

    def remove_user(self, name: str) -> None:
        """Remove a user. Its connections are closed (320).

        Raises:
            InvalidArgument: there is no such user.
        """
        user = self._users[name]
        self._users.remove(name)
        for connection in list(self._served):
            if connection.peer.is_open and connection.peer.user is user:
                text = f"CONNECTION_FORCED - user '{name}' is deleted"
                connection.peer.close(ConnectionForced.code, text)

    def set_permissions(
        self, user: str, host: str = "/", *, configure: str = ".*", write: str = ".*", read: str = ".*"
    ) -> None:
        """Let a user open a virtual host, and use the entities whose names match.

        Args:
            user: the user's name.
            host: the virtual host's name.
            configure: a pattern for the names of queues and exchanges that it may declare and delete.
            write: those that it may publish to, and bind.
            read: those that it may consume and purge, and bind to.

        Raises:
            InvalidArgument: there is no such user or virtual host.
        """
        self._host(host)
        self._users[user].permissions[host] = Permissions(configure, write, read)

    def set_topic_permissions(
        self, user: str, exchange: str, host: str = "/", *, write: str = ".*", read: str = ".*"
    ) -> None:
        """Limit the routing keys that a user may use at a topic exchange.

        Args:
            user: the user's name.
            exchange: the exchange's name.
            host: the virtual host's name.
            write: a pattern for the keys that it may publish with.
            read: a pattern for the keys that it may bind with.

        Raises:
            InvalidArgument: there is no such user or virtual host.
        """
        self._host(host)
        self._users[user].topics[host, exchange] = TopicPermissions(write, read)

    # --- logins -----------------------------------------------------------------------------------------------------

    def log_in(self, mechanism: str, response: str) -> User | None:
        """The user that logs in; None if the login is refused.

        Raises:
            CommandInvalid: the broker does not offer the mechanism.
            CommandSyntaxError: the response cannot be read.
        """
        name, password = credentials(mechanism, response, self._conditions.hosts.rules)
        if not self.check_credentials(f"\0{name}\0{password}"):
            return None
        return self._users[name] if name in self._users else User(name, elsewhere=Permissions())

    def check_credentials(self, response: str) -> bool:
        """Whether user and password are right, in the form of a response of PLAIN.

        A subclass may decide otherwise. A user that only the subclass knows may do everything.
        """
        _, name, password = response.split("\0")
        return self._users.check(name, password)

    def _host(self, name: str) -> Model:
        host = self._conditions.hosts.get(name)
        if host is None:
            raise InvalidArgument(f"virtual host: there is no {name!r}")
        return host
