"""The tables of the docs name tests; each of these must exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
DOCS = TESTS.parent / "docs"
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")
LATER = "later"


@cache
def functions(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def rows(page: str) -> list[list[str]]:
    """The cells of each row of the page's tables, heads left out."""
    lines = [line for line in (DOCS / page).read_text().splitlines() if line.startswith("|")]
    rules = [number for number, line in enumerate(lines) if set(line) <= set("|-")]
    heads = {number - 1 for number in rules} | set(rules)
    cells = [line.strip("|").split("|") for number, line in enumerate(lines) if number not in heads]
    return [[cell.strip() for cell in row] for row in cells]


@pytest.mark.parametrize(
    "page", ["architecture.md", "features.md", "pains.md", "ru/feature-service.md", "testing-support.md"]
)
def test_every_test_that_a_page_names_is_there(page: str) -> None:
    named = NAMED.findall((DOCS / page).read_text())
    assert named
    assert [f"{file}::{name}" for file, name in named if name not in functions(file)] == []


@pytest.mark.parametrize("page", ["features.md", "pains.md", "testing-support.md"])
def test_every_row_names_a_test_unless_it_says_later(page: str) -> None:
    assert [row[0] for row in rows(page) if not NAMED.search(row[-1]) and LATER not in row] == []
    assert [row[-1] for row in rows(page) if set(NAMED.sub("", row[-1])) - set(", ")] == []
