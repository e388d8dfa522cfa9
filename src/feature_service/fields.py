"""JSON objects from the network, read field by field.

Any fault of a body ends in :class:`BadBody`, which names the field, and in no other error. The fields that are read are
checked strictly; the others are ignored.

Reading a body is bounded work:

=========================================================  ==============================================
a body                                                     1 MiB (``MAX_BODY``)
values in one body, counted as its ``[``, ``{`` and ``,``   32,768 (``MOST_VALUES``)
objects in one list                                        1,024 (``MOST_OBJECTS``)
a number or a time, written as a string                    64 characters
a number other than 0                                      from 1e-18 to 1e18, or the same below 0
an integer                                                 from 0 to 2^63 - 1
a time                                                     from 1970 to 9999
a symbol                                                   64 characters of ASCII, printable, no spaces
a name                                                     64 printable characters
an id                                                      256 printable characters
=========================================================  ==============================================
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import Final, Never, cast

MAX_BODY: Final = 1024 * 1024
MOST_VALUES: Final = 32_768
MOST_OBJECTS: Final = 1024
LONGEST_NAME: Final = 64
LONGEST_ID: Final = 256

SMALLEST: Final = 1e-18
_LARGEST: Final = 1e18
"""Beyond these limits no price or size is real, and within them no product or sum of theirs overflows."""
_LONGEST_NUMBER: Final = 64
"""Characters of a number or a time. Nothing longer is given to a regular expression or a converter."""
_LAST_SECOND: Final = 253402300799.0
"""9999-12-31T23:59:59Z, the end of the calendar."""
_MAX_INTEGER: Final = 2**63 - 1

_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_INTEGER: Final = re.compile(r"[0-9]{1,19}")


class BadBody(ValueError):
    """A message body cannot be read.

    Attributes:
        field: the path of the fault, such as ``payload.b[2][0]``; ``body`` for the body as a whole.
        problem: the fault.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.field} {self.problem}"


class Fields:
    """A JSON object from the network. Each method checks the field that it reads, and names it in its error.

    ``null`` and the empty string count as absent: the exchange sends both for values that it does not have.
    """

    __slots__ = ("_path", "_values")

    def __init__(self, values: dict[str, object], path: str = "") -> None:
        self._values = values
        self._path = path

    @classmethod
    def decode(cls, body: bytes) -> Fields:
        """Read a body, one JSON object in UTF-8.

        Raises:
            BadBody: it is not one, or is larger than the limits allow.
        """
        if len(body) > MAX_BODY:
            raise BadBody("body", f"has {len(body)} bytes, more than {MAX_BODY}")
        values = body.count(b"[") + body.count(b"{") + body.count(b",")
        if values > MOST_VALUES:
            raise BadBody("body", f"has {values} values, more than {MOST_VALUES}")
        try:
            value: object = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
        except UnicodeDecodeError:
            raise BadBody("body", "is not UTF-8") from None
        except RecursionError:
            raise BadBody("body", "is nested too deeply") from None
        except ValueError as error:
            raise BadBody("body", f"is not JSON: {error}") from None
        return cls(_object(value, "body"))

    @property
    def path(self) -> str:
        """The path of the object itself, for messages; empty for the whole body."""
        return self._path

    def where(self, key: str) -> str:
        """The path of a field, for messages."""
        return f"{self._path}.{key}" if self._path else key

    def get(self, key: str) -> object:
        """The value, unchecked; None if it is absent."""
        value = self._values.get(key)
        return None if value == "" else value

    def names(self) -> list[str]:
        """The keys, in their order."""
        return list(self._values)

    def missing(self, key: str) -> BadBody:
        """The error for a field that must be there."""
        return BadBody(self.where(key), "is missing")

    def child(self, key: str) -> Fields:
        """The object under `key`, which must be there."""
        value = self.get(key)
        if value is None:
            raise self.missing(key)
        return Fields(_object(value, self.where(key)), self.where(key))

    def items(self, key: str) -> list[Fields]:
        """The object under `key`, or the list of at most ``MOST_OBJECTS`` objects; without that key, this object."""
        value = self.get(key)
        path = self.where(key)
        if value is None:
            return [self]
        if isinstance(value, list):
            entries = cast("list[object]", value)
            if len(entries) > MOST_OBJECTS:
                raise BadBody(path, f"has {len(entries)} entries, more than {MOST_OBJECTS}")
            return [Fields(_object(entry, f"{path}[{i}]"), f"{path}[{i}]") for i, entry in enumerate(entries)]
        return [Fields(_object(value, path), path)]

    def length(self, key: str) -> int:
        """The length of the list under `key`; 0 if there is no list."""
        value = self.get(key)
        return len(cast("list[object]", value)) if isinstance(value, list) else 0

    def optional_text(self, key: str, longest: int = LONGEST_NAME) -> str | None:
        """A printable string of at most `longest` characters."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise BadBody(self.where(key), f"must be a string, not {type(value).__name__}")
        if len(value) > longest or not value.isprintable():
            raise BadBody(self.where(key), f"must be at most {longest} printable characters")
        return value

    def optional_symbol(self, key: str) -> str | None:
        """A market's symbol: printable ASCII without spaces."""
        value = self.optional_text(key)
        return None if value is None else checked_symbol(value, self.where(key))

    def text(self, key: str, longest: int = LONGEST_NAME) -> str:
        """A printable string of at most `longest` characters, which must be there."""
        value = self.optional_text(key, longest)
        if value is None:
            raise self.missing(key)
        return value

    def optional_number(self, key: str, least: float = -_LARGEST) -> float | None:
        """A number of at least `least`."""
        value = self.get(key)
        return None if value is None else read_number(value, self.where(key), least)

    def number(self, key: str, least: float = -_LARGEST) -> float:
        """A number of at least `least`, which must be there."""
        value = self.optional_number(key, least)
        if value is None:
            raise self.missing(key)
        return value

    def optional_integer(self, key: str) -> int | None:
        """An integer from 0 to 2^63 - 1, or a string of its digits."""
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, str) and _INTEGER.fullmatch(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_INTEGER:
            raise BadBody(self.where(key), "must be an integer from 0 to 2^63 - 1")
        return value

    def optional_time(self, key: str) -> float | None:
        """A time in seconds: from milliseconds since the epoch, or from ISO 8601, in UTC if that has no offset."""
        value = self.get(key)
        return None if value is None else read_time(value, self.where(key))


def read_number(value: object, field: str, least: float = -_LARGEST) -> float:
    """Read a number from a JSON number or a string.

    Raises:
        BadBody: it is not a number, not finite, below `least`, or out of range.
    """
    if isinstance(value, str):
        if len(value) > _LONGEST_NUMBER or not _NUMBER.fullmatch(value):
            raise BadBody(field, f"is not a number: {value[:20]!r}")
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise BadBody(field, f"must be a number, not {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if number != 0 and not SMALLEST <= abs(number) <= _LARGEST:
        raise BadBody(field, "is out of range")
    if number < least:
        raise BadBody(field, "must not be negative" if least == 0 else "is too small")
    return number


def read_time(value: object, field: str) -> float:
    """Read a time, from milliseconds since the epoch or from ISO 8601, as seconds since the epoch.

    Raises:
        BadBody: it is neither, or it lies before 1970 or after 9999.
    """
    if isinstance(value, str) and len(value) > _LONGEST_NUMBER:
        raise BadBody(field, f"is not a time: {value[:40]!r}")
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        try:
            moment = datetime.fromisoformat(value)
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            raise BadBody(field, f"is not a time: {value[:40]!r}") from None
    else:
        seconds = read_number(value, field) / 1000
    if not 0 <= seconds <= _LAST_SECOND:
        raise BadBody(field, "is not a time between 1970 and 9999")
    return seconds


def checked_symbol(symbol: str, field: str) -> str:
    """A symbol, checked.

    Raises:
        BadBody: it is too long, or has other characters than printable ASCII without spaces.
    """
    # The symbol is part of the vector's message id, which AMQP limits to 255 bytes.
    if len(symbol) > LONGEST_NAME or not symbol.isascii() or not symbol.isprintable() or " " in symbol:
        raise BadBody(field, f"must be at most {LONGEST_NAME} printable ASCII characters without spaces")
    return symbol


def _object(value: object, path: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise BadBody(path, f"must be an object, not {type(value).__name__}")
    return cast("dict[str, object]", value)


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is not a JSON value")
