"""A broker to measure against."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from benchmarks.pages import ROOT


class Killable(Protocol):
    """A broker of one's own."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...

    @property
    def url(self) -> str: ...

    def start(self) -> None:
        """Start it on its port; returns when it speaks AMQP."""
        ...

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        ...


@contextmanager
def killable_broker() -> Generator[Killable, None, None]:
    """A broker that is started here, may be killed and started again, and ends with the block."""
    sys.path.insert(0, str(ROOT / "tests"))
    from support.rabbitmq import Node

    with tempfile.TemporaryDirectory() as folder, closing(Node(Path(folder), name="benchmark")) as node:
        node.start()
        yield node


@contextmanager
def running_broker(url: str | None = None) -> Generator[str, None, None]:
    """The URL of a broker: one that runs already, or one that is started here and ends with the block."""
    if url is not None:
        yield url
        return
    with killable_broker() as node:
        yield node.url
