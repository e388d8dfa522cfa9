"""Real RabbitMQ nodes as fixtures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Protocol

import pytest

from support.rabbitmq import Node

NODE_LIMIT = 300
"""Seconds for a test with the nodes that it starts; nodes take long on a busy machine."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Give each test more time than tests without a node have."""
    if item.get_closest_marker("timeout") is None:
        item.add_marker(pytest.mark.timeout(NODE_LIMIT))


class MakeNode(Protocol):
    """Makes a node for this test alone. It is not started; it is closed when the test ends."""

    def __call__(
        self,
        *,
        config: Mapping[str, str] | Sequence[str] = (),
        advanced: str = "",
        plugins: Sequence[str] = (),
    ) -> Node: ...


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[MakeNode]:
    """A factory of nodes of this test's own."""
    with ExitStack() as nodes:
        made = 0

        def make(
            *,
            config: Mapping[str, str] | Sequence[str] = (),
            advanced: str = "",
            plugins: Sequence[str] = (),
        ) -> Node:
            nonlocal made
            made += 1
            name = f"own{made}"
            return nodes.enter_context(
                closing(Node(tmp_path / name, config=config, advanced=advanced, plugins=plugins, name=name))
            )

        yield make


@pytest.fixture
def own_node(make_node: MakeNode) -> Node:
    """A running node that the test may kill, freeze and restart."""
    node = make_node()
    node.start()
    return node
