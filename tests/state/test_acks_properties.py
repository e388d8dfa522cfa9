"""Merged acks against a naive broker, which is a set of open tags."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from anyamqp.protocol.acks import Acks
from anyamqp.wire import methods
from anyamqp.wire.methods import Method
from support.amqp import Dialogue, content, expect, opened

DELIVERED = 25


class Verb(Enum):
    """What a user does with a delivery, and when the writer looks."""

    ACK = "ack"
    ACK_UP_TO = "ack up to"
    NACK = "nack"
    NACK_UP_TO = "nack up to"
    REJECT = "reject"
    WRITE = "write"


class Act(NamedTuple):
    """One step. ``pick`` chooses among the deliveries that are open when its turn comes."""

    verb: Verb
    pick: int


acts = st.lists(st.builds(Act, st.sampled_from(Verb), st.integers(0, DELIVERED - 1)), max_size=60)


class NaiveBroker:
    """Settles what frames say, and complains as RabbitMQ does: 406, unknown delivery tag."""

    def __init__(self, delivered: int) -> None:
        self.open = set(range(1, delivered + 1))

    def take(self, tag: int, *, multiple: bool) -> set[int]:
        settled = {one for one in self.open if one <= tag} if multiple else self.open & {tag}
        assert settled, f"unknown delivery tag {tag}"
        self.open -= settled
        return settled


class User:
    """Settles each delivery at most once, as :class:`anyamqp.Delivery` makes sure of."""

    def __init__(self, delivered: int) -> None:
        self.open = list(range(1, delivered + 1))
        self.acked: set[int] = set()
        self.nacked: set[int] = set()

    def settle(self, act: Act) -> int | None:
        """The tag that the act is for; None if nothing is open."""
        if not self.open:
            return None
        tag = self.open[act.pick % len(self.open)]
        multiple = act.verb in (Verb.ACK_UP_TO, Verb.NACK_UP_TO)
        settled = {one for one in self.open if one <= tag} if multiple else {tag}
        (self.acked if act.verb in (Verb.ACK, Verb.ACK_UP_TO) else self.nacked).update(settled)
        self.open = [one for one in self.open if one not in settled]
        return tag


@given(acts)
def test_frames_settle_what_was_acknowledged_and_nothing_else(script: list[Act]) -> None:
    acks, user, broker = Acks(), User(DELIVERED), NaiveBroker(DELIVERED)

    def write() -> None:
        frames = acks.take()
        assert sum(multiple for _, multiple in frames) <= 1
        for tag, multiple in frames:
            assert broker.take(tag, multiple=multiple) <= user.acked
        assert len(acks) == 0
        assert broker.open.isdisjoint(user.acked)

    for act in script:
        if act.verb is Verb.WRITE:
            write()
            continue
        if (tag := user.settle(act)) is None:
            break
        if act.verb is Verb.ACK:
            acks.ack(tag)
            continue
        # What has a frame of its own leaves behind the acks that were given before it.
        for one, multiple in acks.take():
            assert broker.take(one, multiple=multiple) <= user.acked
        if act.verb in (Verb.ACK_UP_TO, Verb.NACK_UP_TO):
            broker.take(tag, multiple=True)
            acks.settle_up_to(tag)
        else:
            broker.take(tag, multiple=False)
            acks.settle(tag)
    write()
    assert broker.open == set(user.open)


@given(st.permutations(range(1, DELIVERED + 1)), st.sets(st.integers(0, DELIVERED)))
def test_all_acknowledged_in_any_order_leaves_nothing_to_remember(tags: list[int], writes: set[int]) -> None:
    """Invariant 11."""
    acks, broker = Acks(), NaiveBroker(DELIVERED)
    for number, tag in enumerate(tags):
        acks.ack(tag)
        if number in writes:
            for one, multiple in acks.take():
                broker.take(one, multiple=multiple)
    for one, multiple in acks.take():
        broker.take(one, multiple=multiple)
    assert broker.open == set()
    assert acks._settled == set()  # pyright: ignore[reportPrivateUsage] - memory cannot be seen from outside


# --- at the bytes ---------------------------------------------------------------------------------------------------


def deliver(dialogue: Dialogue, number: int, tag: int) -> None:
    method = methods.Basic.Deliver("c", tag, redelivered=False, exchange="", routing_key="q")
    dialogue.say(content(number, method, b"x"))


def settles(method: Method) -> tuple[str, int, bool]:
    """Which way a frame settles, its tag, and whether it is ``multiple``."""
    if isinstance(method, methods.Basic.Ack):
        return "ack", method.delivery_tag or 0, bool(method.multiple)
    if isinstance(method, methods.Basic.Nack):
        return "nack", method.delivery_tag or 0, bool(method.multiple)
    return "nack", expect(method, methods.Basic.Reject).delivery_tag or 0, False


@given(acts)
def test_through_a_session_each_delivery_is_settled_as_its_user_said_and_nacks_keep_their_order(
    script: list[Act],
) -> None:
    dialogue = opened()
    number = dialogue.open_channel()
    for delivered in range(1, DELIVERED + 1):
        deliver(dialogue, number, delivered)
    user, broker = User(DELIVERED), NaiveBroker(DELIVERED)
    settled: dict[str, set[int]] = {"ack": set(), "nack": set()}
    nacks_given: list[int] = []
    nacks_sent: list[int] = []

    def write() -> None:
        for method in dialogue.sent_methods():
            way, tag, multiple = settles(method)
            settled[way] |= broker.take(tag, multiple=multiple)
            if way == "nack":
                nacks_sent.append(tag)

    for act in script:
        if act.verb is Verb.WRITE:
            write()
            assert (settled["ack"], settled["nack"]) == (user.acked, user.nacked)
            continue
        if (tag := user.settle(act)) is None:
            break
        if act.verb in (Verb.ACK, Verb.ACK_UP_TO):
            dialogue.session.ack(number, tag, multiple=act.verb is Verb.ACK_UP_TO)
            continue
        nacks_given.append(tag)
        if act.verb is Verb.REJECT:
            dialogue.session.nack(number, methods.Basic.Reject(tag, requeue=False))
        else:
            multiple = act.verb is Verb.NACK_UP_TO
            dialogue.session.nack(number, methods.Basic.Nack(tag, multiple, requeue=True))
    write()
    assert (settled["ack"], settled["nack"]) == (user.acked, user.nacked)
    assert broker.open == set(user.open)
    assert nacks_sent == nacks_given
