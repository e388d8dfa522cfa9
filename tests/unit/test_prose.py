"""The thermometer for prose counts comments and docstrings, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.prose import count, main

SOURCE = '''"""What a module."""

what = "what what"  # What is here.
"""Whatever it is."""


def f(what: str) -> str:
    """Say it."""
    return "what"
'''


def test_only_comments_and_docstrings_count(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(SOURCE)
    counted = count(path)
    assert (counted.words, counted.whats) == (11, 3)
    assert counted.share == pytest.approx(3000 / 11)


def test_table_has_the_worst_file_first_and_the_sum_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.py").write_text('"""Plain."""\n')
    (tmp_path / "b.py").write_text(SOURCE)
    (tmp_path / "c.py").write_text("")
    assert main([str(tmp_path)]) == 0
    _, first, second, third, last = capsys.readouterr().out.splitlines()
    assert first.endswith("b.py")
    assert second.endswith("a.py")
    assert third.split()[:3] == ["0.0", "0", "0"]
    assert last.split() == ["250.0", "3", "12", "all"]
