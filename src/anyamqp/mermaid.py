"""The tables of :mod:`anyamqp.protocol.lifecycle` as Mermaid state diagrams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final, NamedTuple

from anyamqp.protocol.lifecycle import CHANNEL, CONNECTION, LINK
from anyamqp.protocol.lifecycle.caller import CALLER
from anyamqp.protocol.lifecycle.consumer import CONSUMER
from anyamqp.protocol.lifecycle.entity import ENTITY
from anyamqp.protocol.lifecycle.pool import POOL
from anyamqp.protocol.lifecycle.publish import PUBLISH
from anyamqp.protocol.lifecycle.publisher import PUBLISHER
from anyamqp.protocol.lifecycle.recovery import RECOVERY
from anyamqp.protocol.lifecycle.table import E, F, S, Table
from anyamqp.protocol.lifecycle.transaction import TRANSACTION


class Arrow(NamedTuple):
    """The names in a row of a table."""

    event: str
    sources: tuple[str, ...]
    target: str


class Diagram(NamedTuple):
    """The names in a table.

    Attributes:
        title: its heading.
        initial: the initial state.
        states: all states, in the order of their definition.
        groups: the nested states of each public state that has more than one.
        arrows: the rows, in the order of the table.
    """

    title: str
    initial: str
    states: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]
    arrows: tuple[Arrow, ...]

    @property
    def final(self) -> tuple[str, ...]:
        """The states without an arrow to another state."""
        left = {source for arrow in self.arrows for source in arrow.sources if source != arrow.target}
        return tuple(state for state in self.states if state not in left)


def describe(title: str, table: Table[S, E, F]) -> Diagram:
    """The names in a table.

    A state with an attribute ``public``, which is itself a state, is nested in that state.
    """
    states = tuple(type(table.initial))
    public: dict[str, list[str]] = {}
    for state in states:
        outer: object = getattr(state, "public", None)
        if isinstance(outer, Enum):
            public.setdefault(outer.name, []).append(state.name)
    return Diagram(
        title,
        table.initial.name,
        tuple(state.name for state in states),
        {name: tuple(nested) for name, nested in public.items() if len(nested) > 1},
        tuple(
            Arrow(row.event.value, tuple(state.name for state in row.sources), row.target.name) for row in table.rows
        ),
    )


DIAGRAMS: Final[Mapping[str, Diagram]] = MappingProxyType(
    {
        "connection": describe("The life of a connection", CONNECTION),
        "channel": describe("The life of a channel", CHANNEL),
        "link": describe("The life of a link", LINK),
        "consumer": describe("The life of a consumer", CONSUMER),
        "publisher": describe("The life of a publisher", PUBLISHER),
        "publish": describe("The life of one publish", PUBLISH),
        "rpc_client": describe("The life of an RPC client", CALLER),
        "transaction": describe("The life of a transaction", TRANSACTION),
        "pool": describe("The life of a channel pool", POOL),
        "recovery": describe("The recovery of a connection", RECOVERY),
        "entity": describe("The recovery of an entity on one link", ENTITY),
    }
)


def mermaid(diagram: Diagram) -> str:
    """The text of a Mermaid state diagram; a row becomes one line for each of its sources."""
    return "\n".join(_lines(diagram)) + "\n"


def short_name(state: str, group: str) -> str:
    """The name of a nested state inside its public one: WAITING for RECONNECTING_WAITING in RECONNECTING."""
    return state.removeprefix(f"{group}_")


def _lines(diagram: Diagram) -> Iterator[str]:
    yield "%% Drawn from anyamqp/protocol/lifecycle; change the table, then run: make diagrams"
    yield "stateDiagram-v2"
    yield "    direction LR"
    for group, nested in diagram.groups.items():
        # A composite state may not have the name of a state inside it.
        yield f'    state "{group}" as {group}_states {{'
        yield from (f'        state "{short_name(state, group)}" as {state}' for state in nested)
        yield "    }"
    yield f"    [*] --> {diagram.initial}"
    for arrow in diagram.arrows:
        yield from (f"    {source} --> {arrow.target}: {arrow.event}" for source in arrow.sources)
    yield from (f"    {state} --> [*]" for state in diagram.final)
