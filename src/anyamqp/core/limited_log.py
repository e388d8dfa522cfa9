"""A log that counts frequent lines instead of writing them.

A broker or a user's function can cause some lines again and again. The log writes 20 lines of each kind in 10 seconds;
at the end of that time, one line gives the number of further ones and shows the latest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import anyio

_PERIOD: Final = 10.0
"""Seconds in which the lines of one kind are counted."""
_MOST_LINES: Final = 20
"""Lines of one kind that are written in a period."""
_NO_FIELDS: Final[Mapping[str, object]] = {}
_MANY_KINDS: Final = 100
"""Number of kinds at which those whose period is over are dropped."""


class _Kind:
    """The lines of one kind in one period."""

    __slots__ = ("arguments", "fields", "level", "logger", "more", "text", "until", "written")

    def __init__(self, logger: logging.Logger, until: float) -> None:
        self.logger: logging.Logger = logger
        self.until: float = until
        self.written: int = 0
        self.more: int = 0
        """Number of lines that were not written; the attributes below belong to these."""
        self.level: int = logging.NOTSET
        """Their highest level."""
        self.text: str = ""
        """The text of the latest one."""
        self.arguments: tuple[object, ...] = ()
        self.fields: Mapping[str, object] = {}


class LimitedLog:
    """The lines of one connection.

    Args:
        name: the connection's name, which begins each line and is the field ``connection``; None for no name.
        later: calls a function after some seconds.
    """

    __slots__ = ("_kinds", "_later", "_name", "prefix")

    def __init__(self, name: str | None, later: Callable[[float, Callable[[], None]], object]) -> None:
        self.prefix: str = f"{name}: " if name else ""
        self._name = name
        self._later = later
        self._kinds: dict[str, _Kind] = {}

    def fields(self, fields: Mapping[str, object]) -> dict[str, object]:
        """The fields of a line, for formatters: these and the connection's name."""
        return {"connection": self._name, **fields}

    def write(
        self,
        kind: str,
        logger: logging.Logger,
        level: int,
        text: str,
        *arguments: object,
        error: BaseException | None = None,
        fields: Mapping[str, object] = _NO_FIELDS,
    ) -> None:
        """Write a line, or count it if there were too many of its kind.

        Args:
            kind: the kind of the line.
            logger: the logger that writes it.
            level: its level.
            text: its text, whose first argument is the prefix.
            arguments: the other arguments.
            error: an exception whose traceback follows the line.
            fields: the line's fields, for formatters.
        """
        if not logger.isEnabledFor(level):
            return
        now = anyio.current_time()
        lines = self._kinds.get(kind)
        if lines is None or (now >= lines.until and not lines.more):
            if len(self._kinds) >= _MANY_KINDS:
                self._kinds = {key: one for key, one in self._kinds.items() if one.more or now < one.until}
            lines = self._kinds[kind] = _Kind(logger, now + _PERIOD)
        if lines.written < _MOST_LINES:
            lines.written += 1
            logger.log(level, text, self.prefix, *arguments, exc_info=error, extra=self.fields(fields))
            return
        if not lines.more:
            self._later(lines.until - now, partial(self._write_count, kind))
        lines.more += 1
        lines.level, lines.text, lines.arguments, lines.fields = max(level, lines.level), text, arguments, fields

    def write_counts(self) -> None:
        """Write the number of lines of each kind that were only counted."""
        for kind in list(self._kinds):
            self._write_count(kind)

    def _write_count(self, kind: str) -> None:
        lines = self._kinds.pop(kind, None)
        if lines is not None and lines.more:
            text = "%s... and %d more like it within %.0f s; the latest: %s"
            latest = lines.text % ("", *lines.arguments)
            extra = self.fields({**lines.fields, "more": lines.more})
            lines.logger.log(lines.level, text, self.prefix, lines.more, _PERIOD, latest, extra=extra)
