"""A broker to measure against."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

from benchmarks.runner import ROOT


@contextmanager
def running_broker(url: str | None = None) -> Generator[str, None, None]:
    """The URL of a broker: one that runs already, or one that is started here and ends with the block."""
    if url is not None:
        yield url
        return
    sys.path.insert(0, str(ROOT / "tests"))
    from support.rabbitmq import Node

    with tempfile.TemporaryDirectory() as folder, closing(Node(Path(folder), name="benchmark")) as node:
        node.start()
        yield node.url
