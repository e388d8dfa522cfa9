"""Copies of worlds.

Measured on a world with everything open, CPU time: a path of 14 moves played again 3.6 ms, ``copy.deepcopy`` 1.8 ms,
pickled 0.8 ms once and 0.5 ms for each copy.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Final, cast

from anyamqp import errors
from anyamqp.protocol.lifecycle import CHANNEL, CONNECTION, LINK
from anyamqp.protocol.lifecycle.consumer import CONSUMER
from anyamqp.protocol.lifecycle.publisher import PUBLISHER
from anyamqp.protocol.lifecycle.recovery import RECOVERY
from anyamqp.protocol.lifecycle.table import Table
from anyamqp.wire import methods
from anyamqp.wire.methods import Method
from tools.explore.world import World

TABLES: Final[dict[str, Table[Any, Any, Any]]] = {
    table.kind: table for table in (CONNECTION, RECOVERY, LINK, CHANNEL, PUBLISHER, CONSUMER)
}
"""The tables that the real objects of a world follow, by kind."""


def _table(kind: str) -> Table[Any, Any, Any]:
    return TABLES[kind]


def _reduce_table(table: Table[Any, Any, Any]) -> tuple[Callable[[str], object], tuple[str]]:
    return _table, (table.kind,)


def _reduce_proxy(proxy: MappingProxyType[str, object]) -> tuple[Any, ...]:
    return _proxy, (dict(proxy),)


def _proxy(mapping: dict[str, object]) -> MappingProxyType[str, object]:
    return MappingProxyType(mapping)


def _reduce_method(method: Method) -> tuple[Any, ...]:
    return _method, (method.index, *(getattr(method, name) for name in method.defaults))


def _method(index: int, *given: object) -> Method:
    return methods.INDEX_MAPPING[index](*given)


def _error(kind: type[BaseException], arguments: tuple[object, ...], cause: BaseException | None) -> BaseException:
    """An error that is made without its constructor, which may want other arguments."""
    error = kind.__new__(kind, *arguments)
    error.__cause__ = cause
    return error


def _reduce_error(error: BaseException) -> tuple[Any, ...]:
    return _error, (type(error), error.args, error.__cause__), error.__dict__


_REDUCERS: dict[type, Callable[[Any], Any]] = {
    **copyreg.dispatch_table,
    Table: _reduce_table,
    MappingProxyType: _reduce_proxy,
    **dict.fromkeys(methods.INDEX_MAPPING.values(), _reduce_method),
    **{
        kind: _reduce_error
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, BaseException)
    },
}


def freeze(world: World) -> bytes:
    """A copy, to be thawed any number of times."""
    out = io.BytesIO()
    pickler = pickle.Pickler(out, pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = _REDUCERS
    pickler.dump(world)
    return out.getvalue()


def thaw(frozen: bytes) -> World:
    """Another world like the frozen one."""
    return cast("World", pickle.loads(frozen))  # noqa: S301 - our own bytes
