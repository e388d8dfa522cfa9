"""The methods of AMQP 0-9-1 and of RabbitMQ's extensions as frozen values. Only this module imports pamqp.

``pamqp.commands`` defines them: each class takes its number, the order and AMQP types of its arguments, and its replies
from there. This module declares the Python types and the defaults, because pamqp's own objects are mutable, compare
by identity, allow None almost everywhere and refuse names that RabbitMQ accepts. Where pamqp's default is None, the
default here is AMQP's zero. The unit tests compare all declarations with pamqp's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from types import MappingProxyType
from typing import Any, ClassVar, Final, NoReturn, Self, dataclass_transform

from pamqp import base, commands

from anyamqp.message import FieldTable

__all__ = ["INDEX_MAPPING", "Basic", "Channel", "Confirm", "Connection", "Exchange", "Method", "Queue", "Tx"]

NO_TABLE: Final[FieldTable] = MappingProxyType({})
"""The default of tables; shared, hence read-only."""

_BY_INDEX: Final[Mapping[int, type[base.Frame]]] = commands.INDEX_MAPPING
_DEFINITIONS: Final = {definition.name: definition for definition in _BY_INDEX.values()}
_SECRETS: Final = frozenset({"new_secret", "response"})
"""Arguments that carry credentials; no repr shows them."""


class Method:
    """A method with its arguments, which are given by position or by name.

    A method does not check its arguments; :func:`anyamqp.wire.frames.build` checks those that users pass.
    """

    __slots__ = ()

    index: ClassVar[int] = 0
    """Class id and method id, of 16 bits each."""
    name: ClassVar[str] = ""
    """pamqp's name, such as ``Queue.DeclareOk``."""
    valid_responses: ClassVar[tuple[str, ...]] = ()
    """The names of the methods that may answer this one."""
    parameters: ClassVar[tuple[tuple[str, str], ...]] = ()
    """The name and the AMQP type of each argument, in the order of the wire."""
    defaults: ClassVar[dict[str, Any]] = {}
    """The default of each argument, in the same order."""

    def __init__(self, *given: Any, **named: Any) -> None:
        defaults = self.defaults
        if len(given) > len(defaults) or not named.keys() <= defaults.keys():
            raise TypeError(f"{self.name} takes {', '.join(defaults) or 'no arguments'}")
        for name, value in (defaults | dict(zip(defaults, given, strict=False)) | named).items():
            object.__setattr__(self, name, value)

    def replace(self, **changes: Any) -> Self:
        """The same method with other values for some of its arguments."""
        return type(self)(**{name: getattr(self, name) for name in self.defaults} | changes)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise FrozenInstanceError(f"{self.name} is frozen: cannot assign {name}")

    def __delattr__(self, name: str) -> NoReturn:
        raise FrozenInstanceError(f"{self.name} is frozen: cannot delete {name}")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and all(getattr(self, name) == getattr(other, name) for name in self.defaults)

    def __hash__(self) -> int:
        return hash((self.index, *(getattr(self, name) for name in self.defaults)))

    def __repr__(self) -> str:
        shown = (
            f"{name}={'<hidden>' if name in _SECRETS else repr(value)}"
            for name, default in self.defaults.items()
            if (value := getattr(self, name)) != default
        )
        return f"{self.name}({', '.join(shown)})"


@dataclass_transform(frozen_default=True)
class _Defining(type):
    """Makes a class of methods: slots for the arguments, and the rest of the definition from pamqp.

    The new class is a subclass of :class:`Method` without this metaclass, with which ``isinstance`` would take longer.
    """

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
        if bases == (Method,):
            return super().__new__(cls, name, bases, namespace)
        definition = _DEFINITIONS[namespace["__qualname__"]]
        names = tuple(definition.attributes())
        namespace |= {
            "__slots__": names,
            "__match_args__": names,
            "index": definition.index,
            "name": definition.name,
            "valid_responses": tuple(definition.valid_responses),
            "parameters": tuple((argument, definition.amqp_type(argument)) for argument in names),
            "defaults": {argument: namespace.pop(argument) for argument in names},
        }
        return type(name, (Method,), namespace)


class _Defined(Method, metaclass=_Defining):
    __slots__ = ()


class Connection:  # with RabbitMQ's Blocked, Unblocked and UpdateSecret
    class Start(_Defined):
        version_major: int = 0
        version_minor: int = 9
        server_properties: FieldTable = NO_TABLE
        mechanisms: str = "PLAIN"
        locales: str = "en_US"

    class StartOk(_Defined):
        client_properties: FieldTable = NO_TABLE
        mechanism: str = "PLAIN"
        response: str = ""
        locale: str = "en_US"

    class Secure(_Defined):
        challenge: str = ""

    class SecureOk(_Defined):
        response: str = ""

    class Tune(_Defined):
        channel_max: int = 0
        frame_max: int = 0
        heartbeat: int = 0

    class TuneOk(_Defined):
        channel_max: int = 0
        frame_max: int = 0
        heartbeat: int = 0

    class Open(_Defined):
        virtual_host: str = "/"
        capabilities: str = ""
        insist: bool = False

    class OpenOk(_Defined):
        known_hosts: str = ""

    class Close(_Defined):
        reply_code: int = 0
        reply_text: str = ""
        class_id: int = 0
        method_id: int = 0

    class CloseOk(_Defined): ...

    class Blocked(_Defined):
        reason: str = ""

    class Unblocked(_Defined): ...

    class UpdateSecret(_Defined):
        new_secret: str = ""
        reason: str = ""

    class UpdateSecretOk(_Defined): ...


class Channel:
    class Open(_Defined):
        out_of_band: str = "0"

    class OpenOk(_Defined):
        channel_id: str = "0"

    class Flow(_Defined):
        active: bool = False

    class FlowOk(_Defined):
        active: bool = False

    class Close(_Defined):
        reply_code: int = 0
        reply_text: str = ""
        class_id: int = 0
        method_id: int = 0

    class CloseOk(_Defined): ...


class Exchange:  # with RabbitMQ's Bind and Unbind
    class Declare(_Defined):
        ticket: int = 0
        exchange: str = ""
        exchange_type: str = "direct"
        passive: bool = False
        durable: bool = False
        auto_delete: bool = False
        internal: bool = False
        nowait: bool = False
        arguments: FieldTable = NO_TABLE

    class DeclareOk(_Defined): ...

    class Delete(_Defined):
        ticket: int = 0
        exchange: str = ""
        if_unused: bool = False
        nowait: bool = False

    class DeleteOk(_Defined): ...

    class Bind(_Defined):
        ticket: int = 0
        destination: str = ""
        source: str = ""
        routing_key: str = ""
        nowait: bool = False
        arguments: FieldTable = NO_TABLE

    class BindOk(_Defined): ...

    class Unbind(_Defined):
        ticket: int = 0
        destination: str = ""
        source: str = ""
        routing_key: str = ""
        nowait: bool = False
        arguments: FieldTable = NO_TABLE

    class UnbindOk(_Defined): ...


class Queue:
    class Declare(_Defined):
        ticket: int = 0
        queue: str = ""
        passive: bool = False
        durable: bool = False
        exclusive: bool = False
        auto_delete: bool = False
        nowait: bool = False
        arguments: FieldTable = NO_TABLE

    class DeclareOk(_Defined):
        queue: str = ""
        message_count: int = 0
        consumer_count: int = 0

    class Bind(_Defined):
        ticket: int = 0
        queue: str = ""
        exchange: str = ""
        routing_key: str = ""
        nowait: bool = False
        arguments: FieldTable = NO_TABLE

    class BindOk(_Defined): ...

    class Purge(_Defined):
        ticket: int = 0
        queue: str = ""
        nowait: bool = False

    class PurgeOk(_Defined):
        message_count: int = 0

    class Delete(_Defined):
        ticket: int = 0
        queue: str = ""
        if_unused: bool = False
        if_empty: bool = False
        nowait: bool = False

    class DeleteOk(_Defined):
        message_count: int = 0

    class Unbind(_Defined):
        ticket: int = 0
        queue: str = ""
        exchange: str = ""
        routing_key: str = ""
        arguments: FieldTable = NO_TABLE

    class UnbindOk(_Defined): ...


class Basic:  # with RabbitMQ's Nack
    class Qos(_Defined):
        prefetch_size: int = 0
        prefetch_count: int = 0
        global_: bool = False

    class QosOk(_Defined): ...

    class Consume(_Defined):
        ticket: int = 0
        queue: str = ""
        consumer_tag: str = ""
        no_local: bool = False
        no_ack: bool = False
        exclusive: bool = False
        nowait: bool = False
        arguments: FieldTable = NO_TABLE

    class ConsumeOk(_Defined):
        consumer_tag: str = ""

    class Cancel(_Defined):
        consumer_tag: str = ""
        nowait: bool = False

    class CancelOk(_Defined):
        consumer_tag: str = ""

    class Publish(_Defined):
        ticket: int = 0
        exchange: str = ""
        routing_key: str = ""
        mandatory: bool = False
        immediate: bool = False

    class Return(_Defined):
        reply_code: int = 0
        reply_text: str = ""
        exchange: str = ""
        routing_key: str = ""

    class Deliver(_Defined):
        consumer_tag: str = ""
        delivery_tag: int = 0
        redelivered: bool = False
        exchange: str = ""
        routing_key: str = ""

    class Get(_Defined):
        ticket: int = 0
        queue: str = ""
        no_ack: bool = False

    class GetOk(_Defined):
        delivery_tag: int = 0
        redelivered: bool = False
        exchange: str = ""
        routing_key: str = ""
        message_count: int = 0

    class GetEmpty(_Defined):
        cluster_id: str = ""

    class Ack(_Defined):
        delivery_tag: int = 0
        multiple: bool = False

    class Reject(_Defined):
        delivery_tag: int = 0
        requeue: bool = True

    class RecoverAsync(_Defined):
        requeue: bool = False

    class Recover(_Defined):
        requeue: bool = False

    class RecoverOk(_Defined): ...

    class Nack(_Defined):
        delivery_tag: int = 0
        multiple: bool = False
        requeue: bool = True


class Confirm:  # RabbitMQ's
    class Select(_Defined):
        nowait: bool = False

    class SelectOk(_Defined): ...


class Tx:
    class Select(_Defined): ...

    class SelectOk(_Defined): ...

    class Commit(_Defined): ...

    class CommitOk(_Defined): ...

    class Rollback(_Defined): ...

    class RollbackOk(_Defined): ...


INDEX_MAPPING: Final[Mapping[int, type[Method]]] = {kind.index: kind for kind in Method.__subclasses__() if kind.index}
"""Every method by its index."""
