"""Counts work instead of time, so that the result is the same on every machine and in every run."""

from __future__ import annotations

import sys
from types import FrameType, TracebackType
from typing import Any, Self


class Work:
    """Counts the steps of Python in a ``with`` block: function calls, built-in ones too, and lines run.

    A call of a built-in function is one step, however long its argument.

    Attributes:
        steps: how many steps there were.
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
