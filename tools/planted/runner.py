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
FAST: Final = ("tests/unit", "tests/state", "tests/simulation", "tests/service")
"""The tests that start no RabbitMQ."""

_LEFT_OUT: Final = tuple(f"tests/unit/test_{name}.py" for name in ("benchmarks", "distributions", "planted", "types"))
"""Tests of no behaviour. Where a bug is planted already, the one that plants each fails for that alone."""

_SKIPPED: Final = (".git", ".venv", "build", "*cache*", ".hypothesis")
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
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    found_by = failed[1] if failed else None if done.returncode == 0 else "the tests do not run"
    return Fate(bug, found_by, time.monotonic() - began)


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
