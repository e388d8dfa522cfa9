"""Runs the tests of a table for each of its mutants, every mutant in a process of its own.

The tests are collected once; a process is forked for each mutant, which changes the table in place. The first run, with
the table as it is, writes down which cells each test enters. A mutant is met by those tests alone that enter one of the
cells that differ: no other test can tell it from the table, but for one that reads the table instead of running an
object, and such a test must not count.
"""

from __future__ import annotations

import contextlib
import gc
import io
import math
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any, Literal, NamedTuple, TypeAlias

import pytest

from anyamqp.protocol.lifecycle.table import Lifecycle, Table
from tools.law.mutants import AnyTable, Mutant, Place, put_in_place
from tools.law.suites import Suite

_FORK = get_context("fork")
_AT_ONCE = 2
_ARGUMENTS = (
    "-q",
    "--tb=native",
    "--capture=no",
    "--timeout=0",
    "--no-cov",
    "-p",
    "no:cacheprovider",
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
)

AnyLife: TypeAlias = Lifecycle[Any, Any, Any]
Verdict: TypeAlias = Literal["killed", "timed out", "survived"]


class Fate(NamedTuple):
    """What became of a mutant, and the test that killed it, if one did."""

    mutant: Mutant
    verdict: Verdict
    test: str = ""


class Entered(NamedTuple):
    """A test, how long it takes in seconds of CPU time, and the places that it enters."""

    item: pytest.Item
    seconds: float
    places: frozenset[Place]


class _Trial(NamedTuple):
    """A mutant whose tests run.

    Attributes:
        until: when it counts as one that hangs; its CPU time is limited besides.
    """

    mutant: Mutant
    process: ForkProcess
    answers: Connection
    until: float

    def fate(self) -> Fate | None:
        """What became of the mutant; None as long as its tests run."""
        if self.process.is_alive() and time.monotonic() < self.until:
            return None
        self.process.kill()
        self.process.join()
        if self.process.exitcode == 0:
            test: str = self.answers.recv()
            return Fate(self.mutant, "killed" if test else "survived", test)
        if self.process.exitcode in (-signal.SIGKILL, -signal.SIGXCPU):
            return Fate(self.mutant, "timed out")
        raise RuntimeError(f"the tests of the mutant {self.mutant.name!r} did not come to an end")


class _Runner:
    """A plugin of pytest that runs the tests which it collected again and again."""

    def __init__(self, suite: Suite, chosen: Sequence[Mutant]) -> None:
        self.fates: list[Fate] = []
        self.entered: list[Entered] = []
        self._suite = suite
        self._chosen = chosen
        self._failed = ""

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Failed("the tests could not be collected")
        gc.collect()
        gc.freeze()  # a process that is forked copies no page for the collector's sake
        self._walk(session.items)
        self.fates += self._fates()
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self._failed:
            self._failed = report.nodeid

    def _walk(self, items: list[pytest.Item]) -> None:
        """Learn which places each test enters."""
        found: list[tuple[int, float, frozenset[Place]]] = []

        def learn(answer: Connection) -> None:
            places: set[Place] = set()
            trigger: Callable[[AnyTable, AnyLife, Enum], None] = getattr(Table, "trigger")  # noqa: B009 - it has no type

            def watched(table: AnyTable, model: AnyLife, event: Enum) -> None:
                if table is self._suite.table:
                    places.add((model.state, event))
                trigger(table, model, event)

            setattr(Table, "trigger", watched)  # noqa: B010 - a method is replaced
            for index, item in enumerate(items):
                places.clear()
                began = time.process_time()
                if failed := self._run(item):
                    answer.send(failed)
                    return
                answer.send((index, time.process_time() - began, frozenset(places)))
            answer.send(None)

        _, answers = _start(learn)
        while (answer := answers.recv()) is not None:
            if isinstance(answer, str):
                raise pytest.UsageError(f"{answer} fails without a mutant")
            found.append(answer)
        self.entered = sorted(
            (Entered(items[index], seconds, places) for index, seconds, places in found if places),
            key=lambda one: one.seconds,
        )

    def _run(self, item: pytest.Item) -> str:
        """Run a test. Returns its name if it fails."""
        self._failed = ""
        item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
        return self._failed

    def _fates(self) -> Iterator[Fate]:
        chosen = iter(self._chosen)
        running: list[_Trial] = []
        while True:
            while len(running) < _AT_ONCE and (mutant := next(chosen, None)) is not None:
                meets = [one for one in self.entered if not one.places.isdisjoint(mutant.cells)]
                if meets:
                    running.append(self._try(mutant, meets))
                else:
                    yield Fate(mutant, "survived")
            if not running:
                return
            wait([trial.process.sentinel for trial in running], timeout=1)
            for trial in tuple(running):
                if (fate := trial.fate()) is not None:
                    running.remove(trial)
                    yield fate

    def _try(self, mutant: Mutant, meets: list[Entered]) -> _Trial:
        seconds = sum(one.seconds for one in meets)

        def meet(answer: Connection) -> None:
            limit = math.ceil(time.process_time() + 5 + 3 * seconds)
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
            put_in_place(mutant, self._suite.table)
            answer.send(next(filter(None, (self._run(one.item) for one in meets)), ""))

        return _Trial(mutant, *_start(meet), time.monotonic() + 120 + 10 * seconds)


def _start(target: Callable[[Connection], None]) -> tuple[ForkProcess, Connection]:
    """Run a function in a process of its own, which answers through the connection."""
    ours, theirs = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=target, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def run(suite: Suite, chosen: Sequence[Mutant], *, is_sample: bool) -> list[Fate]:
    """Let the tests of a table meet these mutants of it; for a sample, those that are not slow.

    Raises:
        RuntimeError: the tests could not be run, or fail without a mutant.
    """
    runner = _Runner(suite, chosen)
    tests = suite.tests if is_sample else (*suite.tests, *suite.slow_tests)
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        pytest.main([*_ARGUMENTS, *tests], plugins=[runner])
    if len(runner.fates) != len(chosen):
        raise RuntimeError(told.getvalue())
    return runner.fates
