"""Which messages a binding of a headers exchange matches. No I/O.

The rules are those of RabbitMQ's ``rabbit_exchange_type_headers``. Values are compared as Erlang terms: a string equals
the same bytes, a time its seconds, an empty table an empty array; in tables and arrays the types count as well, and
the order of a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal

from anyamqp.message import FieldTable, FieldValue
from anyamqp.testing.embedded.typed import amqp_type
from anyamqp.testing.embedded.versions import Rules

MODES = ("all", "any", "all-with-x", "any-with-x")
"""The values of a binding's ``x-match``; without it, ``all`` holds."""


def headers_match(arguments: FieldTable, headers: FieldTable, rules: Rules) -> bool:
    """Whether a binding matches a message.

    Args:
        arguments: the binding's.
        headers: the message's.
        rules: how the version of RabbitMQ behaves that the broker follows.
    """
    mode = arguments.get("x-match", "all")
    matched = [
        key in headers and (value is None or _are_equal(value, headers[key], rules))
        for key, value in arguments.items()
        if key != "x-match" and (mode in ("all-with-x", "any-with-x") or not key.startswith("x-"))
    ]
    return any(matched) if mode in ("any", "any-with-x") else all(matched)


def _are_equal(wanted: FieldValue, sent: FieldValue, rules: Rules) -> bool:
    one, other = _term(wanted), _term(sent)
    if rules.headers_exchange_compares_numbers:
        return one == other
    if isinstance(sent, datetime):
        other = int(sent.timestamp()) * 1000
    return one == other and isinstance(one, float) is isinstance(other, float)


def _term(value: FieldValue) -> object:
    """A value such that two are equal if their Erlang terms are."""
    if isinstance(value, bool) or value is None:
        return str(value)  # an atom, unlike a text, which is bytes
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, datetime):
        return int(value.timestamp())
    if isinstance(value, Decimal):
        return value.as_tuple()
    if isinstance(value, Mapping):
        return tuple((key, amqp_type(one), _term(one)) for key, one in value.items())
    if isinstance(value, list | tuple):
        return tuple((amqp_type(one), _term(one)) for one in value)
    return value
