"""Helpful errors for calls with wrong arguments, or with the keywords of other clients.

A correct call pays one frame for this, and only in functions that are not called per message. The functions that are
called per message declare ``*surplus: Never`` instead, which type checkers refuse and which costs nothing at run time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import wraps
from inspect import Parameter, iscoroutinefunction, signature
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar, cast

from anyamqp.errors import InvalidUse

F = TypeVar("F", bound=Callable[..., object])
T = TypeVar("T")

_URL: Final = "part of the URL, amqp://user:password@host:5672/virtual-host"
_RECONNECT: Final = "in anyamqp it is reconnect=ReconnectPolicy(...)"

_ELSEWHERE: Final[Mapping[str, str]] = {
    "host": f"the host is {_URL}",
    "hostname": f"the host is {_URL}",
    "port": f"the port is {_URL}",
    "login": f"the user is {_URL}, or comes with credentials=Credentials(user, password)",
    "user": f"the user is {_URL}, or comes with credentials=Credentials(user, password)",
    "username": f"the user is {_URL}, or comes with credentials=Credentials(user, password)",
    "userid": f"the user is {_URL}, or comes with credentials=Credentials(user, password)",
    "password": f"the password is {_URL}, or comes with credentials=Credentials(user, password)",
    "virtualhost": "the virtual host is the URL's path: amqp://localhost/virtual-host",
    "virtual_host": "the virtual host is the URL's path: amqp://localhost/virtual-host",
    "vhost": "the virtual host is the URL's path: amqp://localhost/virtual-host",
    "url": "the URL is the first argument, urls",
    "ssl": "the URL begins with amqps://, or tls=TLS(...) or an SSLContext says how",
    "ssl_context": "in anyamqp it is tls=",
    "ssl_options": "in anyamqp it is tls=TLS(...) or an SSLContext",
    "timeout": "connect_timeout= is for one attempt, ready_timeout= for the first connection with all its attempts",
    "socket_timeout": "in anyamqp it is connect_timeout=",
    "connection_attempts": _RECONNECT,
    "retry_delay": _RECONNECT,
    "reconnect_interval": _RECONNECT,
    "blocked_connection_timeout": "in anyamqp it is blocked_timeout= of connection.publisher()",
    "client_properties": "in anyamqp they are part of Settings",
    "loop": "anyamqp runs on the event loop that runs",
    "publisher_confirms": "connection.publisher() always confirms, channel.publish() never does",
    "on_return_raises": "connection.publisher() raises Unroutable unless mandatory=False",
    "prefetch_count": "in anyamqp it is prefetch=",
    "auto_ack": "in anyamqp it is no_ack=",
    "queue_name": "in anyamqp it is queue=",
    "callback": "a consumer is iterated over, or has consumer.process(handler)",
    "on_message_callback": "a consumer is iterated over, or has consumer.process(handler)",
    "exchange_type": "in anyamqp it is type=",
    "exchange_name": "in anyamqp it is exchange=",
    "robust": "everything declared is declared again, as topology_recovery= of connect() says",
    "max_retries": "in anyamqp it is max_attempts=",
    "cafile": "in anyamqp it is ca_file=",
    "ca_certs": "in anyamqp it is ca_file=",
    "certfile": "in anyamqp it is certificate_file=",
    "keyfile": "in anyamqp it is key_file=",
    "delivery_mode": "in anyamqp it is persistent=True for 2, persistent=False for 1",
}
"""The keywords of aio-pika, pika and amqp, and their counterparts here."""


class Entered(ABC):
    """An object that works inside its ``async with`` block, which is entered once.

    A class that inherits from it calls :meth:`_check_new` in ``__aenter__`` before it changes anything, and
    :meth:`_check_entered` in its other methods. Whether the block has begun is read from the object's own state.
    """

    _kind: ClassVar[str]
    """The name that errors use, with its article: "a publisher"."""
    _block: ClassVar[str]
    """How the block begins: "async with connection.publisher() as publisher"."""

    @property
    @abstractmethod
    def _is_new(self) -> bool:
        """Whether the block has not begun."""

    if not TYPE_CHECKING:  # type checkers refuse to await it

        def __await__(self) -> None:
            raise InvalidUse(f"{type(self).__name__} is entered and not awaited: {self._block}")

    def _check_new(self) -> None:
        """Refuse to enter the block again.

        Raises:
            InvalidUse: it began before.
        """
        if not self._is_new:
            maker = self._block.split()[2].replace("(...)", "()")
            raise InvalidUse(f"{self._kind} is entered once; make a new one with {maker}")

    def _check_entered(self) -> None:
        """Refuse a call before the block.

        Raises:
            InvalidUse: the block was not entered.
        """
        if self._is_new:
            raise self._outside_error()

    def _outside_error(self) -> InvalidUse:
        """The error of a call outside the block."""
        return InvalidUse(f"{self._kind} works inside its block: {self._block}")


def explained(call: F) -> F:
    """Have a function refuse unknown arguments by an :class:`InvalidUse` that names the known ones."""

    @wraps(call)
    def explaining(*args: object, **named: object) -> object:
        try:
            return call(*args, **named)
        except TypeError:
            problem = _problem(call, len(args), named)
            if problem is None:
                raise
        raise InvalidUse(problem)

    @wraps(call)
    async def explaining_async(*args: object, **named: object) -> object:
        return await cast("Any", explaining(*args, **named))

    return cast("F", explaining_async if iscoroutinefunction(call) else explaining)


def explained_class(cls: type[T]) -> type[T]:
    """Have a class refuse unknown arguments as :func:`explained` functions do.

    It goes above ``@dataclass``. It adds a frame per object, so it is not for objects that are made per message.
    """
    type.__setattr__(cls, "__init__", explained(cast("Callable[..., None]", vars(cls)["__init__"])))
    return cls


def surplus_error(call: Callable[..., object]) -> InvalidUse:
    """The error of a method that got too many positional arguments."""
    return InvalidUse(_surplus_problem(call, _parameters(call)))


def unknown_error(name: str, argument: str, known: tuple[str, ...]) -> InvalidUse:
    """The error of a function that was given an unknown argument."""
    elsewhere = _ELSEWHERE.get(argument)
    says = f": {elsewhere}" if elsewhere else f"; it has {', '.join(known)}"
    return InvalidUse(f"{name}() has no argument {argument!r}{says}")


def _problem(call: Callable[..., object], positional: int, named: Mapping[str, object]) -> str | None:
    parameters = _parameters(call)
    known = tuple(parameters)
    if not any(one.kind is Parameter.VAR_KEYWORD for one in parameters.values()):
        for argument in named:
            if argument not in parameters:
                return str(unknown_error(_shown(call), argument, known))
    own = len(signature(call).parameters) - len(parameters)
    by_position = _by_position(parameters)
    if positional - own > len(by_position):
        return _surplus_problem(call, parameters)
    given = {*by_position[: positional - own], *named}
    missing = [
        one.name
        for one in parameters.values()
        if one.default is one.empty and one.kind is not one.VAR_KEYWORD and one.name not in given
    ]
    return f"{_shown(call)}() needs {', '.join(missing)}" if missing else None


def _surplus_problem(call: Callable[..., object], parameters: Mapping[str, Parameter]) -> str:
    by_position = _by_position(parameters)
    by_name = [one.name for one in parameters.values() if one.kind is Parameter.KEYWORD_ONLY]
    takes = f"only {', '.join(by_position)}" if by_position else "nothing"
    more = f"; by name it takes {', '.join(by_name)}" if by_name else ""
    return f"{_shown(call)}() takes {takes} by position{more}"


def _shown(call: Callable[..., object]) -> str:
    return call.__qualname__.removesuffix(".__init__")


def _by_position(parameters: Mapping[str, Parameter]) -> list[str]:
    return [one.name for one in parameters.values() if one.kind is Parameter.POSITIONAL_OR_KEYWORD]


def _parameters(call: Callable[..., object]) -> dict[str, Parameter]:
    return {name: one for name, one in signature(call).parameters.items() if name != "self"}
