"""Our methods against pamqp's definitions, and as values."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from typing import Any, Final

import pytest
from pamqp import base, commands

from anyamqp.wire import methods
from anyamqp.wire.methods import Method

THEIRS: Final[Mapping[int, type[base.Frame]]] = commands.INDEX_MAPPING

PYTHON_TYPES: Final = {
    "bit": "bool",
    "octet": "int",
    "short": "int",
    "long": "int",
    "longlong": "int",
    "shortstr": "str",
    "longstr": "str",
    "table": "FieldTable",
}
ZEROS: Final[dict[str, object]] = {
    "bit": False,
    "octet": 0,
    "short": 0,
    "long": 0,
    "longlong": 0,
    "shortstr": "",
    "longstr": "",
    "table": {},
}

every_method = pytest.mark.parametrize("index", THEIRS, ids=lambda index: THEIRS[index].name)

SECRET = "hunter2"


# --- the definitions ------------------------------------------------------------------------------------------------


def test_every_method_that_pamqp_knows_is_ours_too() -> None:
    assert methods.INDEX_MAPPING.keys() == THEIRS.keys()


@every_method
def test_numbers_names_and_replies_are_pamqps(index: int) -> None:
    ours, theirs = methods.INDEX_MAPPING[index], THEIRS[index]
    assert (ours.index, ours.name, list(ours.valid_responses)) == (index, theirs.name, theirs.valid_responses)
    assert ours.__qualname__ == theirs.__qualname__


@every_method
def test_arguments_and_their_amqp_types_are_pamqps(index: int) -> None:
    ours, theirs = methods.INDEX_MAPPING[index], THEIRS[index]
    assert ours.parameters == tuple((name, theirs.amqp_type(name)) for name in theirs.attributes())


@every_method
def test_arguments_are_declared_in_their_order_with_the_python_type_of_the_amqp_type(index: int) -> None:
    ours, theirs = methods.INDEX_MAPPING[index], THEIRS[index]
    wanted = {name: PYTHON_TYPES[theirs.amqp_type(name)] for name in theirs.attributes()}
    assert list(ours.__annotations__.items()) == list(wanted.items())


@every_method
def test_defaults_are_pamqps_or_zero_where_pamqp_has_none(index: int) -> None:
    ours, theirs = methods.INDEX_MAPPING[index], THEIRS[index]
    parameters = inspect.signature(theirs).parameters
    for name in theirs.attributes():
        default = parameters[name].default
        wanted = ZEROS[theirs.amqp_type(name)] if default is None else default
        got = getattr(ours(), name)
        assert (got, type(got)) == (wanted, type(wanted)) or (got == wanted == {} and isinstance(got, Mapping))


def test_classes_of_methods_are_plain_ones() -> None:
    """``isinstance`` takes longer with classes of a metaclass, and every message passes several."""
    assert {type(kind) for kind in methods.INDEX_MAPPING.values()} == {type}


# --- the values -----------------------------------------------------------------------------------------------------


def test_arguments_are_given_by_position_and_by_name() -> None:
    deliver = methods.Basic.Deliver("c", 7, exchange="x", routing_key="r")
    assert (deliver.consumer_tag, deliver.delivery_tag, deliver.redelivered) == ("c", 7, False)
    assert (deliver.exchange, deliver.routing_key) == ("x", "r")


def test_one_argument_too_many_is_refused() -> None:
    wrong: Any = methods.Basic.Ack
    with pytest.raises(TypeError, match=r"Basic\.Ack takes delivery_tag, multiple"):
        wrong(1, True, False)


def test_an_unknown_argument_is_refused() -> None:
    wrong: Any = methods.Tx.Select
    with pytest.raises(TypeError, match=r"Tx\.Select takes no arguments"):
        wrong(nowait=True)


def test_methods_are_equal_by_value() -> None:
    assert methods.Queue.Declare(queue="q", arguments={"a": [1]}) == methods.Queue.Declare(
        queue="q", arguments={"a": [1]}
    )
    assert methods.Queue.Declare(queue="q") != methods.Queue.Declare(queue="q", durable=True)


def test_methods_of_two_kinds_are_not_equal() -> None:
    assert methods.Tx.Commit() != methods.Tx.Rollback()
    assert methods.Basic.CancelOk("c") != methods.Basic.ConsumeOk("c")


def test_equal_methods_have_one_hash() -> None:
    assert len({methods.Basic.Ack(1), methods.Basic.Ack(1), methods.Basic.Ack(2), methods.Basic.Nack(1)}) == 3


@every_method
def test_nothing_can_be_assigned_or_deleted(index: int) -> None:
    method = methods.INDEX_MAPPING[index]()
    for name in (*method.defaults, "index", "other"):
        with pytest.raises(FrozenInstanceError):
            setattr(method, name, None)
        with pytest.raises(FrozenInstanceError):
            delattr(method, name)
    assert not hasattr(method, "__dict__")


def test_replacing_copies() -> None:
    bind = methods.Queue.Bind(queue="q", exchange="x", arguments={"a": 1})
    renamed = bind.replace(queue="other")
    assert renamed == methods.Queue.Bind(queue="other", exchange="x", arguments={"a": 1})
    assert bind.queue == "q"


def test_replacing_an_unknown_argument_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Basic\.Ack takes delivery_tag, multiple"):
        methods.Basic.Ack(1).replace(requeue=True)


def test_the_default_table_cannot_be_changed() -> None:
    table: Any = methods.Queue.Declare().arguments
    with pytest.raises(TypeError):
        table["x-max-length"] = 1


def test_patterns_match_by_position() -> None:
    method: Method = methods.Basic.Nack(7, multiple=True)
    match method:
        case methods.Basic.Nack(tag, multiple):
            assert (tag, multiple) == (7, True)
        case _:
            pytest.fail("no match")


@pytest.mark.parametrize(
    ("method", "shown"),
    [
        (methods.Basic.Ack(7, multiple=True), "Basic.Ack(delivery_tag=7, multiple=True)"),
        (methods.Queue.Declare(queue="q", durable=True), "Queue.Declare(queue='q', durable=True)"),
        (methods.Tx.SelectOk(), "Tx.SelectOk()"),
    ],
)
def test_a_repr_shows_the_arguments_that_are_not_default(method: Method, shown: str) -> None:
    assert repr(method) == shown


@pytest.mark.parametrize(
    "method",
    [
        methods.Connection.StartOk({"product": "p"}, "PLAIN", f"\0guest\0{SECRET}"),
        methods.Connection.SecureOk(SECRET),
        methods.Connection.UpdateSecret(SECRET, "renewed"),
    ],
    ids=lambda method: method.name,
)
def test_a_repr_shows_no_secret(method: Method) -> None:
    assert SECRET not in repr(method)
    assert "<hidden>" in repr(method)
