"""Checks of arguments: a wrong value raises an error at once, and the error names the argument."""

from __future__ import annotations

import math
from inspect import iscoroutinefunction

from anyamqp.errors import InvalidArgument, SettingsError

_Error = type[InvalidArgument] | type[SettingsError]


def check_kind(
    name: str, value: object, kind: type[object], advice: str = "", *, error: _Error = InvalidArgument
) -> None:
    """Refuse anything but an object of a class.

    Args:
        name: the argument's name.
        value: its value.
        kind: the class.
        advice: an example of a right value.
        error: the class of the error to raise, as in all functions below.

    Raises:
        InvalidArgument: the value is wrong; or ``error`` instead, as in all functions below.
    """
    if not isinstance(value, kind):
        shown = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
        raise error(f"{name}: {shown} is no {kind.__name__}" + (f", such as {advice}" if advice else ""))


def check_flag(name: str, value: object, *, error: _Error = InvalidArgument) -> bool:
    """Refuse anything but True and False, and return it."""
    if not isinstance(value, bool):
        raise error(f"{name}: {value!r} is neither True nor False")
    return value


def check_text(name: str, value: object, *, error: _Error = InvalidArgument) -> str:
    """Refuse anything but text, and return it. The value stays out of the error: it may be a password."""
    if not isinstance(value, str):
        raise error(f"{name}: {type(value).__name__} instead of text")
    return value


def check_whole(
    name: str,
    value: object,
    low: int,
    high: int | None = None,
    *,
    unit: str | None = None,
    error: _Error = InvalidArgument,
) -> int:
    """Refuse anything but an int from ``low`` to ``high``, where None means no limit, and return it."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        wanted = f"a whole number of {unit}" if unit else "a whole number"
        to = "up" if high is None else f"to {high}"
        raise error(f"{name}: {value!r} is not {wanted} from {low} {to}")
    return value


def check_seconds(
    name: str,
    value: object,
    *,
    positive: bool = False,
    finite: bool = False,
    none: str | None = None,
    error: _Error = InvalidArgument,
) -> None:
    """Refuse anything but a number of seconds.

    Args:
        name: the argument's name.
        value: its value.
        positive: whether 0 is refused.
        finite: whether infinity is refused.
        none: the meaning of None, such as "no limit"; without one, None is refused.
        error: the class of the error to raise.
    """
    if value is None and none is not None:
        return
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not (value > 0 if positive else value >= 0)
        or (finite and math.isinf(value))
    ):
        wanted = "a positive number of seconds" if positive else "a number of seconds from 0 up"
        raise error(f"{name}: {value!r} is not {wanted}" + (f"; None means {none}" if none is not None else ""))


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """Refuse anything but one of a few words, and return it."""
    if not isinstance(value, str) or value not in choices:
        raise InvalidArgument(f"{name}: {value!r} is none of {', '.join(choices)}")
    return value


def check_hook(name: str, value: object, *, error: _Error = InvalidArgument) -> None:
    """Refuse anything but None or a plain function: it is called without an await."""
    if value is not None and not callable(value):
        raise error(f"{name}: {type(value).__name__} is not a function")
    if iscoroutinefunction(value):
        raise error(f"{name}: an async function, but it is called without await; a plain function is needed")
