"""Three RabbitMQ nodes that form a cluster, private to the test run."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from support.rabbitmq import Node

_NAMES = ("first", "second", "third")
_FORMATION = """{rabbit, [{cluster_formation, [
    {peer_discovery_backend, rabbit_peer_discovery_classic_config}, {randomized_startup_delay_range, {0, 1}}
]}]}"""
"""RabbitMQ 3.10 waits for up to a minute without the range. 4.3 refuses it in rabbitmq.conf, and ignores it here."""


@contextmanager
def cluster(folder: Path) -> Generator[list[Node]]:
    """Nodes of one cluster, all started. The first one must stay: the others share its epmd."""
    config = {
        "cluster_partition_handling": "pause_minority",
        **{f"cluster_formation.classic_config.nodes.{at}": f"{name}@localhost" for at, name in enumerate(_NAMES, 1)},
    }
    with ExitStack() as opened:
        nodes: list[Node] = []
        for name in _NAMES:
            node = Node(
                folder / name, config=config, advanced=_FORMATION, name=name, neighbour=nodes[0] if nodes else None
            )
            nodes.append(opened.enter_context(closing(node)))
        with ThreadPoolExecutor() as threads:
            list(threads.map(Node.start, nodes))
        nodes[0].ctl("await_online_nodes", str(len(nodes)))
        yield nodes
