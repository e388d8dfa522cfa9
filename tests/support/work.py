"""Counting work instead of time: what is counted is the same on every machine and at every run."""

from __future__ import annotations

import sys
from types import FrameType, TracebackType
from typing import Any, Self


class Work:
    """What Python does in a ``with`` block: functions called, its own and built-in ones, and lines run in them.

    What a built-in function does inside is not seen: that it is called is one step, however long its argument.

    Attributes:
        steps: how many of those there were.
    """

    def __init__(self) -> None:
        self.steps = 0

    def __enter__(self) -> Self:
        self._previous = sys.gettrace(), sys.getprofile()
        sys.settrace(self._trace)
        sys.setprofile(self._profile)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        trace, profile = self._previous
        sys.setprofile(profile)
        sys.settrace(trace)

    def _trace(self, _frame: FrameType, _event: str, _argument: Any) -> Any:
        self.steps += 1
        return self._trace

    def _profile(self, _frame: FrameType, event: str, _argument: Any) -> None:
        self.steps += event == "c_call"
