"""The reference has every public name, and the page of the errors is current."""

from __future__ import annotations

import re
from pathlib import Path

import anyamqp
from tools.errors_page import PAGE, page

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
MARK = re.compile(r"^::: anyamqp\.(\w+)$", re.MULTILINE)
HEAD = re.compile(r"^#+ (\w+)(?: \d+)?$", re.MULTILINE)


def test_every_public_name_is_in_the_reference() -> None:
    texts = [path.read_text() for path in REFERENCE.glob("*.md")]
    named = {name for text in texts for name in MARK.findall(text)} | set(HEAD.findall(PAGE.read_text()))
    assert set(anyamqp.__all__) - named == {"__version__"}


def test_page_of_the_errors_is_what_their_classes_say() -> None:
    assert PAGE.read_text() == page()
