"""Writes docs/reference/errors.md: each error with its meaning, whose fault it is, and whether a retry can help.

python -m tools.errors_page
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import anyamqp
from anyamqp import AnyamqpError, Blame, Cure

PAGE: Final = Path(__file__).parents[1] / "docs" / "reference" / "errors.md"
_BLAME: Final = {
    Blame.CALLER: "the program",
    Blame.LIBRARY: "anyamqp",
    Blame.BROKER: "the broker",
    Blame.NETWORK: "the network",
}
_CURE: Final = {Cure.RETRY: "a retry may help", Cure.CHANGE: "something must change first"}


def classes(root: type[AnyamqpError] = AnyamqpError, depth: int = 0) -> Iterator[tuple[int, type[AnyamqpError]]]:
    """The public errors, each below its base, with their depth in the tree."""
    yield depth, root
    for child in root.__subclasses__():
        if child.__name__ in anyamqp.__all__:
            yield from classes(child, depth + 1)


def page() -> str:
    """The page as Markdown."""
    lines = [
        "# Errors",
        "",
        "Every error that anyamqp raises is an `AnyamqpError`. `error.blame` says whose fault it is, and `error.cure`",
        "whether the same thing may succeed when it is tried again. `python -m tools.errors_page` writes this page",
        "from the classes.",
        "",
    ]
    for depth, one in classes():
        summary, _, rest = inspect.cleandoc(one.__doc__ or "").partition("\n\n")
        code = getattr(one, "code", None)
        title = f"{one.__name__} {code}" if isinstance(code, int) and one is not anyamqp.ReplyError else one.__name__
        lines += [f"{'#' * min(2 + max(depth - 1, 0), 4)} {title}", "", " ".join(summary.split()), ""]
        prose = rest.partition("Attributes:")[0].strip()
        if prose:
            lines += [prose.replace("``", "`"), ""]
        lines += [f"Fault: {_BLAME[one.blame]}. Cure: {_CURE[one.cure]}.", ""]
    lines += ["## What errors are made of", ""]
    lines += [
        line for name in ("Blame", "Cure", "CloseFacts", "CloseFrame", "Side") for line in (f"::: anyamqp.{name}", "")
    ]
    return "\n".join(lines).replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(page())
