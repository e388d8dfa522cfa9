"""The topology to recover, against a naive model that searches everything each time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from hypothesis import given
from hypothesis import strategies as st

from anyamqp.entities import RecoveryMode
from anyamqp.errors import AnyamqpError
from anyamqp.protocol.topology import Binding, Topology
from anyamqp.wire import methods
from anyamqp.wire.frames import build

QUEUES = ("q0", "q1", "q2")
EXCHANGES = ("x0", "x1", "x2")


class Declarer:
    """A channel that declares."""

    def fail(self, error: AnyamqpError) -> None:
        """Nothing is asked of it."""


class DeclareQueue(NamedTuple):
    name: str


class DeclareExchange(NamedTuple):
    name: str
    auto_delete: bool


class DeleteQueue(NamedTuple):
    name: str


class DeleteExchange(NamedTuple):
    name: str


class Bind(NamedTuple):
    kind: str
    destination: str
    source: str
    key: str


class Unbind(NamedTuple):
    kind: str
    destination: str
    source: str
    key: str


Step: TypeAlias = DeclareQueue | DeclareExchange | DeleteQueue | DeleteExchange | Bind | Unbind

queues, exchanges, keys = st.sampled_from(QUEUES), st.sampled_from(EXCHANGES), st.sampled_from(("", "k"))
ends = st.one_of(
    st.tuples(st.just("queue"), queues, exchanges, keys), st.tuples(st.just("exchange"), exchanges, exchanges, keys)
)
steps = st.one_of(
    queues.map(DeclareQueue),
    st.builds(DeclareExchange, exchanges, st.booleans()),
    queues.map(DeleteQueue),
    exchanges.map(DeleteExchange),
    ends.map(lambda one: Bind(*one)),
    ends.map(lambda one: Unbind(*one)),
)


@dataclass
class Model:
    """What is there, and what goes with what: AMQP 0-9-1, exchange.delete, queue.delete and auto-delete."""

    queues: list[str] = field(default_factory=list[str])
    exchanges: dict[str, bool] = field(default_factory=dict[str, bool])
    bindings: list[Bind] = field(default_factory=list[Bind])

    def take(self, step: Step) -> None:
        if isinstance(step, DeclareQueue):
            if step.name not in self.queues:
                self.queues.append(step.name)
        elif isinstance(step, DeclareExchange):
            self.exchanges[step.name] = step.auto_delete
        elif isinstance(step, DeleteQueue):
            self.queues = [name for name in self.queues if name != step.name]
            self.unbind([one for one in self.bindings if (one.kind, one.destination) == ("queue", step.name)])
        elif isinstance(step, DeleteExchange):
            self.delete_exchange(step.name)
        elif isinstance(step, Bind):
            if step not in self.bindings:
                self.bindings.append(step)
        else:
            self.unbind([one for one in self.bindings if tuple(one) == tuple(step)])

    def delete_exchange(self, name: str) -> None:
        self.exchanges.pop(name, None)
        into = [one for one in self.bindings if (one.kind, one.destination) == ("exchange", name)]
        self.unbind(into + [one for one in self.bindings if one.source == name and one not in into])

    def unbind(self, gone: list[Bind]) -> None:
        for one in gone:
            if one not in self.bindings:
                continue
            self.bindings.remove(one)
            if self.exchanges.get(one.source) and not any(left.source == one.source for left in self.bindings):
                self.delete_exchange(one.source)


def record(topology: Topology, step: Step) -> None:
    channel = Declarer()
    if isinstance(step, DeclareQueue):
        request = build(methods.Queue.Declare, queue=step.name)
        topology.record(channel, request, methods.Queue.DeclareOk(step.name, 0, 0))
    elif isinstance(step, DeclareExchange):
        declare = build(methods.Exchange.Declare, exchange=step.name, auto_delete=step.auto_delete)
        topology.record(channel, declare, methods.Exchange.DeclareOk())
    elif isinstance(step, DeleteQueue):
        topology.record(channel, build(methods.Queue.Delete, queue=step.name), methods.Queue.DeleteOk(0))
    elif isinstance(step, DeleteExchange):
        topology.record(channel, build(methods.Exchange.Delete, exchange=step.name), methods.Exchange.DeleteOk())
    else:
        topology.record(channel, binding(step), methods.Queue.BindOk())


def binding(step: Bind | Unbind) -> Binding:
    _, destination, source, key = step
    if step.kind == "queue":
        bind = methods.Queue.Bind if isinstance(step, Bind) else methods.Queue.Unbind
        return bind(queue=destination, exchange=source, routing_key=key)
    between = methods.Exchange.Bind if isinstance(step, Bind) else methods.Exchange.Unbind
    return between(destination=destination, source=source, routing_key=key)


def bound(request: object) -> Bind:
    if isinstance(request, methods.Queue.Bind):
        return Bind("queue", request.queue, request.exchange, request.routing_key)
    assert isinstance(request, methods.Exchange.Bind)
    return Bind("exchange", request.destination, request.source, request.routing_key)


def assert_same(topology: Topology, model: Model) -> None:
    assert {one.entity.name for one in topology.queues()} == set(model.queues)
    assert {one.entity.name: one.entity.auto_delete for one in topology.exchanges()} == model.exchanges
    assert {bound(one.request) for one in topology.bindings()} == set(model.bindings)


@given(st.lists(steps, max_size=40))
def test_what_is_recorded_is_what_is_there(taken: list[Step]) -> None:
    topology, model = Topology(RecoveryMode.EVERYTHING), Model()
    for step in taken:
        record(topology, step)
        model.take(step)
        assert_same(topology, model)


@given(st.lists(steps, max_size=20), st.data())
def test_forgotten_entities_are_not_declared_again(taken: list[Step], data: st.DataObject) -> None:
    topology = Topology(RecoveryMode.EVERYTHING)
    for step in taken:
        record(topology, step)
    recorded = [*topology.exchanges(), *topology.queues(), *topology.bindings()]
    for one in data.draw(st.lists(st.sampled_from(recorded)) if recorded else st.just([])):
        topology.forget(one)
        recorded = [other for other in recorded if other is not one]
    assert [*topology.exchanges(), *topology.queues(), *topology.bindings()] == recorded
