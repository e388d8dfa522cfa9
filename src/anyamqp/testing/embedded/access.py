"""Checks a user's permissions, for each request as RabbitMQ does. No I/O; error texts are RabbitMQ's."""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

from anyamqp.errors import AccessRefused, PreconditionFailed
from anyamqp.testing.embedded.exchange_arguments import check_type
from anyamqp.testing.embedded.model import NO_LINE_ENDS, Model
from anyamqp.testing.embedded.reply_to import is_reply_address
from anyamqp.testing.embedded.users import Permissions, TopicPermissions, User
from anyamqp.wire import methods
from anyamqp.wire.basic import Received
from anyamqp.wire.methods import Method

_Right: TypeAlias = Literal["configure", "write", "read"]
_Kind: TypeAlias = Literal["exchange", "queue"]

_EVERYTHING = ".*"
_HAS_USER_ID = 1 << 4
"""In the second byte of the property flags. Most messages have none, and need not be decoded."""

_CHECKED = frozenset(
    {
        methods.Exchange.Declare,
        methods.Exchange.Delete,
        methods.Exchange.Bind,
        methods.Exchange.Unbind,
        methods.Queue.Declare,
        methods.Queue.Delete,
        methods.Queue.Bind,
        methods.Queue.Unbind,
        methods.Queue.Purge,
        methods.Basic.Get,
        methods.Basic.Consume,
    }
)
"""The requests that need a permission, beside basic.publish."""


class Access:
    """The permissions of a user in one virtual host.

    Args:
        user: the user.
        model: the virtual host.
    """

    def __init__(self, user: User, model: Model) -> None:
        self._user = user
        self._model = model

    def check(self, method: Method, last_queue: str) -> None:
        """Check that the user may send a request.

        Args:
            method: the request.
            last_queue: the queue that a request without a name is about.

        Raises:
            AccessRefused: the user may not.
            ReplyError: the request has another fault, which RabbitMQ finds before it looks at the permissions.
        """
        if type(method) not in _CHECKED:
            return
        match method:
            case methods.Exchange.Declare():
                self._check_exchange_declare(method)
            case methods.Exchange.Delete() if method.exchange and not method.exchange.startswith("amq."):
                self._require("configure", "exchange", method.exchange)
            case methods.Exchange.Bind() | methods.Exchange.Unbind():
                self._check_binding("exchange", method.destination, method.source, method.routing_key)
            case methods.Queue.Declare():
                self._check_queue_declare(method)
            case methods.Queue.Delete():
                self._require_queue("configure", method.queue or last_queue)
            case methods.Queue.Bind() | methods.Queue.Unbind():
                name = method.queue or last_queue
                self._check_binding("queue", name, method.exchange, method.routing_key)
            case methods.Queue.Purge() | methods.Basic.Get() | methods.Basic.Consume():
                self._require_queue("read", method.queue or last_queue)
            case _:
                pass

    def check_publish(self, method: methods.Basic.Publish) -> None:
        """Check that the user may publish to an exchange, and with a routing key if it is a topic exchange.

        Raises:
            AccessRefused: the user may not.
        """
        self._require("write", "exchange", method.exchange)
        self._require_topic("write", method.exchange, method.routing_key)

    def check_user_id(self, message: Received) -> None:
        """Check that a message names nobody else as its author.

        Raises:
            PreconditionFailed: it does.
        """
        if not message.encoded[1] & _HAS_USER_ID:
            return
        told = message.user_id
        if told is not None and told != self._user.name and "impersonator" not in self._user.tags:
            raise PreconditionFailed(
                f"PRECONDITION_FAILED - user_id property set to '{told}' but authenticated user was '{self._user.name}'"
            )

    # --- requests ---------------------------------------------------------------------------------------------------

    def _check_exchange_declare(self, method: methods.Exchange.Declare) -> None:
        name = method.exchange.translate(NO_LINE_ENDS)
        if method.passive:
            self._check_passive("exchange", name)
            return
        check_type(method.exchange_type, self._model.rules)
        if not name:
            return
        self._require("configure", "exchange", name)
        alternate = method.arguments.get("alternate-exchange")
        if isinstance(alternate, str) and name not in self._model.exchanges:
            self._require("read", "exchange", name)
            self._require("write", "exchange", alternate)

    def _check_queue_declare(self, method: methods.Queue.Declare) -> None:
        name = method.queue.translate(NO_LINE_ENDS)
        if method.passive:
            self._check_passive("queue", name)
            return
        if name.startswith("amq."):
            return
        name = name or self._model.next_name("amq.gen")
        self._require("configure", "queue", name)
        dead_letters = method.arguments.get("x-dead-letter-exchange")
        if isinstance(dead_letters, str) and name not in self._model.queues:
            self._require("read", "queue", name)
            self._require("write", "exchange", dead_letters)

    def _check_passive(self, kind: _Kind, name: str) -> None:
        """Any permission will do; the text of a refusal names the one to configure."""
        if not self._model.rules.passive_needs_permission or (kind == "exchange" and not name):
            return
        if not is_reply_address(name) and not (self._may("read", name) or self._may("write", name)):
            self._require("configure", kind, name)

    def _check_binding(self, kind: _Kind, destination: str, source: str, routing_key: str) -> None:
        if destination:
            self._require("write", kind, destination)
        if source and destination:
            self._require("read", "exchange", source)
            self._require_topic("read", source, routing_key)

    def _require_queue(self, right: _Right, name: str) -> None:
        if name and not is_reply_address(name):
            self._require(right, "queue", name)

    # --- patterns ---------------------------------------------------------------------------------------------------

    def _require(self, right: _Right, kind: _Kind, name: str) -> None:
        shown = name.translate(NO_LINE_ENDS) or "amq.default"
        if not self._may(right, shown):
            raise self._refused(right, f"{kind} '{shown}'")

    def _may(self, right: _Right, name: str) -> bool:
        permissions = self._user.permissions_in(self._model.name) or Permissions("", "", "")
        return _allows(getattr(permissions, right), name)

    def _require_topic(self, right: Literal["write", "read"], exchange: str, routing_key: str) -> None:
        topics = self._user.topics.get((self._model.name, exchange))
        known = self._model.exchanges.get(exchange)
        if topics is None or known is None or known.type != "topic":
            return
        if not _allows(_of(topics, right), routing_key):
            raise self._refused(right, f"topic '{routing_key}' in exchange '{exchange}'")

    def _refused(self, right: _Right, told: str) -> AccessRefused:
        named = f"{right} " if self._model.rules.names_refused_access else ""
        return AccessRefused(
            f"ACCESS_REFUSED - {named}access to {told} in vhost '{self._model.name}' refused for user "
            f"'{self._user.name}'"
        )


def _of(topics: TopicPermissions, right: Literal["write", "read"]) -> str:
    return topics.write if right == "write" else topics.read


def _allows(pattern: str, name: str) -> bool:
    # An empty pattern matches nothing but the empty name (rabbit_auth_backend_internal, check_resource_access).
    return pattern == _EVERYTHING or re.search(pattern or "^$", name) is not None
