"""Three RabbitMQ nodes that form a cluster, private to the test run."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from support.rabbitmq import Node

_NAMES = ("first", "second", "third")


@contextmanager
def cluster(folder: Path) -> Generator[list[Node]]:
    """Nodes of one cluster, all started. The first one must stay: the others share its epmd."""
    config = {
        "cluster_partition_handling": "pause_minority",
        "cluster_formation.peer_discovery_backend": "classic_config",
        "cluster_formation.randomized_startup_delay_range.min": "0",
        "cluster_formation.randomized_startup_delay_range.max": "1",
        **{f"cluster_formation.classic_config.nodes.{at}": f"{name}@localhost" for at, name in enumerate(_NAMES, 1)},
    }
    with ExitStack() as opened:
        nodes: list[Node] = []
        for name in _NAMES:
            node = Node(folder / name, config=config, name=name, neighbour=nodes[0] if nodes else None)
            nodes.append(opened.enter_context(closing(node)))
        with ThreadPoolExecutor() as threads:
            list(threads.map(Node.start, nodes))
        nodes[0].ctl("await_online_nodes", str(len(nodes)))
        yield nodes
