"""Runs the fast tests on a copy of the project in which one bug is planted."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

from tools.planted.bugs import Bug

ROOT: Final = Path(__file__).parents[2]
FAST: Final = ("tests/unit", "tests/state", "tests/simulation", "tests/extras", "tests/service")
"""The tests that start no RabbitMQ."""

_LEFT_OUT: Final = tuple(f"tests/unit/test_{name}.py" for name in ("benchmarks", "distributions", "planted", "types"))
"""Tests of no behaviour. Where a bug is planted already, the one that plants each fails for that alone."""

_SKIPPED: Final = (".git", ".venv*", "build", "*cache*", ".hypothesis")
_LIMIT: Final = 1800
"""Seconds for the tests of one bug."""


class Fate(NamedTuple):
    """What became of a bug.

    Attributes:
        bug: the bug; None for the sources as they are.
        found_by: the first test that failed; None if none did.
        seconds: the time until then.
    """

    bug: Bug | None
    found_by: str | None
    seconds: float


def run(bug: Bug | None) -> Fate:
    """Plant a bug and run the fast tests until one fails.

    Args:
        bug: the bug; None for the sources as they are.

    Raises:
        ValueError: the file does not contain the bug's piece, or more than once.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*_SKIPPED))
        if bug is not None:
            plant(bug, copy)
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no"]
        environment = {**os.environ, "PYTHONPATH": f"{copy / 'src'}{os.pathsep}{copy}"}
        done = subprocess.run(  # noqa: S603 - the command is ours
            [*command, *(f"--ignore={file}" for file in _LEFT_OUT), *FAST],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_LIMIT,
            check=False,
        )
    return Fate(bug, _finder(done), time.monotonic() - began)


def _finder(done: subprocess.CompletedProcess[str]) -> str | None:
    """The test that failed, or that came to no end; None if all passed."""
    if done.returncode == 0:
        return None
    if failed := re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE):
        return failed[1]
    # pytest-timeout ends the process, and shows the stack of each thread; tests/conftest.py names one after the test.
    hung = re.search(r"Stack of (tests/\S.*?) \(\d+\)", done.stdout + done.stderr)
    return f"{hung[1]} (no end)" if hung else "the tests do not run"


def plant(bug: Bug, root: Path) -> None:
    """Write a bug into a copy of the project.

    Raises:
        ValueError: the file does not contain the bug's piece, or more than once.
    """
    file = root / "src" / "anyamqp" / bug.path
    source = file.read_text()
    if source.count(bug.right) != 1:
        raise ValueError(f"{bug.name}: {bug.path} contains the piece {source.count(bug.right)} times: {bug.right!r}")
    file.write_text(source.replace(bug.right, bug.wrong))
