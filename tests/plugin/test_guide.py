"""The code in docs/testing.md is taken from the examples, which are run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "testing.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
SOURCES = [path.read_text() for path in sorted((ROOT / "examples" / "testing").glob("*.py"))]
SCRIPT = BLOCKS.pop()
"""The last block, which is a script without a test."""


@pytest.mark.parametrize("block", BLOCKS)
def test_code_is_that_of_an_example(block: str) -> None:
    assert any(block in source for source in SOURCES)


@pytest.mark.anyio
async def test_script_works() -> None:
    body = "".join(f"    {line}\n" for line in SCRIPT.splitlines())
    names: dict[str, Any] = {}
    exec(f"import anyamqp\nfrom anyamqp.testing import Broker\nasync def script():\n{body}", names)  # noqa: S102
    await names["script"]()


def test_links_of_the_guide_lead_somewhere() -> None:
    links = re.findall(r"\]\((\.\./[^)]+)\)", GUIDE)
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).resolve().exists()] == []
