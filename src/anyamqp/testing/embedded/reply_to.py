"""Direct reply-to (RabbitMQ, "Direct Reply-to"): replies go to a channel without a queue. No I/O.

A channel that consumes ``amq.rabbitmq.reply-to`` has an address, with which the broker replaces that name in the
``reply_to`` of its requests. A message that is published to the address goes to the channel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from anyamqp.errors import PreconditionFailed
from anyamqp.message import Message
from anyamqp.testing.embedded.contents import Content
from anyamqp.testing.embedded.ready import Entry
from anyamqp.wire.basic import Received

REPLY_TO: Final = "amq.rabbitmq.reply-to"
_ENCODED: Final = REPLY_TO.encode()


def is_reply_address(queue: str) -> bool:
    """Whether the name of a queue is that of the replies, or an address for them."""
    return queue == REPLY_TO or queue.startswith(f"{REPLY_TO}.")


class ReplyAddresses:
    """The addresses of one virtual host.

    Args:
        new_name: makes a new name from a prefix.
    """

    def __init__(self, new_name: Callable[[str], str]) -> None:
        self._new_name = new_name
        self._takers: dict[str, Callable[[Entry], None]] = {}
        self._issued: set[str] = set()

    def issue(self, take: Callable[[Entry], None]) -> str:
        """A new address. ``take`` is called with each message to it."""
        address = f"{self._new_name(f'{REPLY_TO}.channel')}.key"
        self._issued.add(address)
        self._takers[address] = take
        return address

    def withdraw(self, address: str) -> None:
        """Deliver nothing more to an address."""
        self._takers.pop(address, None)

    def is_served(self, queue: str) -> bool:
        """Whether a name may be declared: there is a consumer behind it, or it is the name of the replies."""
        return queue == REPLY_TO or queue in self._takers

    def was_issued(self, address: str) -> bool:
        """Whether there was ever such an address."""
        return address in self._issued

    def deliver(self, message: Message, address: str) -> None:
        """Deliver a message to an address. Without a consumer it is dropped."""
        take = self._takers.get(address)
        if take is not None:
            take(Entry(message, "", address, 0))


class Replies:
    """The replies to one channel.

    Args:
        addresses: those of the virtual host.
        take: called with each reply.

    Attributes:
        tag: the tag of the channel's consumer of replies; None if it has none.
    """

    def __init__(self, addresses: ReplyAddresses, take: Callable[[str, Entry], None]) -> None:
        self.tag: str | None = None
        self._addresses = addresses
        self._take = take
        self._address = ""

    def consume(self, tag: str, *, no_ack: bool) -> None:
        """Begin to consume replies.

        Raises:
            PreconditionFailed: with acknowledgements, or the channel does so already.
        """
        if self.tag is not None:
            raise PreconditionFailed("PRECONDITION_FAILED - reply consumer already set")
        if not no_ack:
            raise PreconditionFailed("PRECONDITION_FAILED - reply consumer cannot acknowledge")
        self.tag = tag
        self._address = self._addresses.issue(lambda entry: self._take(tag, entry))

    def cancel(self) -> None:
        """Consume no more."""
        self._addresses.withdraw(self._address)
        self.tag = None

    def addressed(self, message: Received) -> Received:
        """A request, with the channel's address as its ``reply_to`` if it asks for direct replies.

        Raises:
            PreconditionFailed: it does, and the channel does not consume replies.
        """
        if _ENCODED not in message.encoded or message.reply_to != REPLY_TO:
            return message
        if self.tag is None:
            raise PreconditionFailed("PRECONDITION_FAILED - fast reply consumer does not exist")
        content = Content(message)
        content.set_reply_to(self._address)
        return content.message()
