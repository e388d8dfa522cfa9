"""The planted bugs fit the sources, and each changes its file into another program."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tools.planted.bugs import BUGS, Bug
from tools.planted.runner import ROOT, plant


def test_there_are_fifty() -> None:
    assert len({bug.name for bug in BUGS}) == 50


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_bug_can_be_planted(bug: Bug, tmp_path: Path) -> None:
    file = tmp_path / "src" / "anyamqp" / bug.path
    file.parent.mkdir(parents=True)
    source = (ROOT / "src" / "anyamqp" / bug.path).read_text()
    file.write_text(source)
    plant(bug, tmp_path)
    assert ast.dump(ast.parse(file.read_text())) != ast.dump(ast.parse(source))


def test_bug_that_no_longer_fits_is_named(tmp_path: Path) -> None:
    file = tmp_path / "src" / "anyamqp" / BUGS[0].path
    file.parent.mkdir(parents=True)
    file.write_text("")
    with pytest.raises(ValueError, match=BUGS[0].name):
        plant(BUGS[0], tmp_path)
