"""Intervals as the arguments of streams name them, such as ``1h``. No I/O."""

from __future__ import annotations

import re
from typing import Final

from anyamqp.message import FieldValue

_SECONDS: Final = {"Y": 31_536_000, "M": 2_592_000, "D": 86_400, "h": 3600, "m": 60, "s": 1}
_INTERVAL: Final = re.compile(r"([0-9]+)([YMDhms])")


def interval(text: str) -> int | None:
    """The seconds of an interval; None if it is not one."""
    found = _INTERVAL.fullmatch(text)
    return None if found is None else int(found[1]) * _SECONDS[found[2]]


def milliseconds(value: FieldValue) -> FieldValue:
    """An interval in milliseconds; a value that is not one as it is."""
    seconds = interval(value) if isinstance(value, str) else None
    return value if seconds is None else seconds * 1000
