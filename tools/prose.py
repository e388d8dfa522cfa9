"""Count the word "what" in comments and docstrings, file by file, per thousand words.

``python -m tools.prose [path ...]`` prints a table, the files with the most first, and the figure for all of them. Many
of them mean sentences that begin with their object ("What is larger the C library maps anew") instead of the actor.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")


class Count(NamedTuple):
    """The words of a file's comments and docstrings, and how many of them are "what"."""

    path: Path
    words: int
    whats: int

    @property
    def share(self) -> float:
        """How many of a thousand words."""
        return 1000 * self.whats / self.words if self.words else 0.0


def prose(source: str) -> Iterator[str]:
    """The comments and docstrings of a module; a text below an attribute counts as one."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


def count(path: Path) -> Count:
    """Count one file."""
    words = [word.lower() for text in prose(path.read_text(encoding="utf-8")) for word in _WORD.findall(text)]
    return Count(path, len(words), sum(word.removesuffix("'s") in ("what", "whatever") for word in words))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``python -m tools.prose``."""
    parser = argparse.ArgumentParser(prog="python -m tools.prose", description=__doc__)
    parser.add_argument("path", nargs="*", type=Path, default=[Path("src")], help="files and folders; default: src")
    given: list[Path] = parser.parse_args(arguments).path
    files = [file for path in given for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    counts = sorted((count(file) for file in files), key=lambda one: (-one.share, one.path))
    total = Count(Path("all"), sum(one.words for one in counts), sum(one.whats for one in counts))
    sys.stdout.write("  per 1000   what   words  file\n")
    sys.stdout.writelines(f"{one.share:10.1f} {one.whats:6} {one.words:7}  {one.path}\n" for one in (*counts, total))
    return 0


if __name__ == "__main__":
    sys.exit(main())
