"""The declaring half of a recovery, stepped without an event loop: what is sent when, on which lane, and what waits."""

from __future__ import annotations

import pytest

from anyamqp.errors import AnyamqpError, InternalError, InvalidArgument, NotFound, PreconditionFailed, ResourceLocked
from anyamqp.protocol.lanes import PATIENCE
from support.declarations import Declarations

LOCKED = ResourceLocked("cannot obtain exclusive access to locked queue")
DOWN = NotFound("home node 'rabbit-3' of durable queue is down or inaccessible", method="queue.declare")
GONE = NotFound("no exchange", method="queue.bind")
OTHER = PreconditionFailed("inequivalent arg")
UNEXPLAINED = InternalError("INTERNAL_ERROR")


def failed(case: Declarations) -> list[tuple[str, AnyamqpError]]:
    return case.failed


# --- the normal case --------------------------------------------------------------------------------------------------


def test_exchanges_queues_and_bindings_go_out_in_three_parts_on_one_lane() -> None:
    case = Declarations()
    case.exchange("x", "y")
    case.queue("q", "r")
    case.bind("q", "x")
    case.bind("r", "y")
    case.begin()
    assert case.sent == ["x", "y"]
    case.answer(1, 2)
    assert case.sent == ["x", "y", "q", "r"]
    case.answer(1)
    assert not case.declaring.is_settled
    case.answer(1)
    assert case.sent == ["x", "y", "q", "r", "x->q", "y->r"]
    case.answer(1, 2)
    assert case.declaring.is_complete
    assert case.declaring.is_settled
    assert not case.lanes
    assert case.declaring.deadline == float("inf")


def test_nothing_to_declare_is_complete_at_once() -> None:
    case = Declarations()
    case.begin()
    assert case.declaring.is_complete
    assert case.declaring.is_settled


# --- late -------------------------------------------------------------------------------------------------------------


def test_what_stands_behind_a_late_queue_is_sent_on_another_lane() -> None:
    case = Declarations()
    case.queue("dead", "well", "too")
    case.begin()
    case.pass_time(PATIENCE - 0.01)
    assert not case.declaring.is_settled
    assert len(case.lanes) == 1
    case.pass_time(0.01)
    assert case.sent == ["dead", "well", "too", "well", "too"]
    case.answer(2)
    case.answer(3)
    assert case.declaring.is_settled
    assert not case.declaring.is_complete
    assert case.pending() == {"dead": "the broker does not answer"}
    assert case.lanes.keys() == {1}
    assert case.declaring.holds("dead")
    assert not case.declaring.holds("well")


def test_an_answer_on_a_lane_is_progress() -> None:
    case = Declarations()
    case.queue("q", "r", "s")
    case.begin()
    for _ in range(3):
        case.pass_time(0.9 * PATIENCE)
        case.answer(1)
    assert case.sent == ["q", "r", "s"]
    assert case.declaring.is_complete


def test_a_late_queue_that_is_answered_after_all_completes_the_recovery() -> None:
    case = Declarations()
    case.queue("dead", "well")
    case.begin()
    case.pass_time(PATIENCE)
    case.answer(2)
    case.pass_time(60)
    case.answer(1)
    assert case.declaring.is_complete
    case.answer(1)
    assert not case.lanes


def test_an_answer_on_the_first_lane_counts_before_that_on_the_second() -> None:
    case = Declarations()
    case.queue("slow", "well")
    case.begin()
    case.pass_time(PATIENCE)
    case.answer(1, 2)
    assert case.declaring.is_complete
    case.answer(2)
    assert case.declaring.is_complete
    assert not case.lanes


def test_a_binding_waits_for_its_own_ends_only() -> None:
    case = Declarations()
    case.exchange("x")
    case.queue("dead", "well")
    case.bind("dead", "x")
    case.bind("well", "x")
    case.begin()
    case.answer(1)
    case.pass_time(PATIENCE)
    case.answer(2)
    assert list(case.lanes[2]) == ["x->well"]
    case.answer(2)
    assert case.declaring.is_settled
    assert case.pending() == {"dead": "the broker does not answer", "x->dead": "waits for queue 'dead'"}
    case.answer(1)
    assert case.sent[-1] == "x->dead"
    case.answer_all()
    assert case.declaring.is_complete


def test_a_thousand_queues_of_a_dead_node_delay_the_last_one_by_seconds() -> None:
    case = Declarations()
    case.queue(*(f"dead{number}" for number in range(1000)), "well")
    case.begin(most_lanes=2000)
    began = case.now
    while "well" in case.pending():
        case.pass_time(PATIENCE)
        for lane, names in list(case.lanes.items()):
            if names and names[0] == "well":
                case.answer(lane)
    assert case.now - began < 15
    assert len(case.pending()) == 1000
    assert len(case.sent) < 20_000


def test_with_one_channel_everything_behind_a_late_queue_waits() -> None:
    case = Declarations()
    case.queue("dead", "well")
    case.begin(most_lanes=1)
    case.pass_time(60)
    assert case.sent == ["dead", "well"]
    assert case.declaring.is_settled
    assert case.pending() == {"dead": "the broker does not answer", "well": "waits for its turn"}
    case.answer(1, 2)
    assert case.declaring.is_complete
    assert not case.lanes


def test_a_lane_without_a_number_is_done_without() -> None:
    case = Declarations()
    case.queue("dead", "well")
    case.numbers = 1
    case.begin()
    case.pass_time(PATIENCE)
    assert case.declaring.is_settled
    case.answer(1, 2)
    assert case.declaring.is_complete


def test_the_first_lane_waits_for_a_number() -> None:
    case = Declarations()
    case.queue("q")
    case.numbers = 0
    case.begin()
    case.pass_time(0.09)
    case.numbers = 1
    assert not case.sent
    case.pass_time(0.01)
    assert case.sent == ["q"]


def test_a_queue_that_the_broker_names_is_sent_once_and_behind_no_other() -> None:
    case = Declarations()
    case.queue("dead", "well")
    first, second = case.named(), case.named()
    case.begin()
    assert case.sent == [first, second, "dead", "well"]
    case.pass_time(PATIENCE)
    assert case.sent == [first, second, "dead", "well", "dead", "well"]
    assert case.pending().keys() == {first, second, "dead", "well"}
    case.pass_time(60)
    assert [case.sent.count(name) for name in (first, second)] == [1, 1]
    case.answer_all()
    assert case.declaring.is_complete
    assert case.topology.current_name(first) != first


# --- put aside --------------------------------------------------------------------------------------------------------


def test_a_locked_queue_is_tried_again_with_growing_pauses_while_others_go_on() -> None:
    case = Declarations()
    case.exchange("x")
    case.queue("locked", "well")
    case.bind("locked", "x")
    case.bind("well", "x")
    case.begin(grace=10)
    case.answer(1)
    case.refuse(1, LOCKED)
    case.answer_all()
    assert case.declaring.is_settled
    assert case.pending() == {
        "locked": "405 cannot obtain exclusive access to locked queue",
        "x->locked": "waits for queue 'locked'",
    }
    tries: list[float] = []
    began = case.now
    while case.now < began + 9:
        case.pass_time(max(0.0, case.declaring.deadline - case.now))
        tries.append(round(case.now - began, 3))
        case.refuse(max(case.lanes), LOCKED)
    assert tries == [0.1, 0.3, 0.7, 1.5, 3.1, 5.1, 7.1, 9.1]
    case.pass_time(0.85)
    case.answer_all()
    assert not case.declaring.is_complete
    case.pass_time(2)
    case.answer_all()
    assert case.declaring.is_complete
    assert not failed(case)


def test_a_lock_that_outlasts_the_grace_is_somebody_elses() -> None:
    case = Declarations()
    case.queue("locked")
    case.begin(grace=1)
    for _ in range(5):
        case.refuse(max(case.lanes), LOCKED)
        case.pass_time(2)
        if failed(case):
            break
    assert failed(case) == [("locked", LOCKED)]
    assert case.declaring.is_complete
    assert not case.declaring.will_declare("locked", case.now)


def test_when_one_lock_is_gone_the_others_are_tried_at_once() -> None:
    case = Declarations()
    names = [f"locked{number}" for number in range(40)]
    case.queue(*names)
    case.begin(grace=100)
    while not case.declaring.is_settled:
        case.refuse(max(case.lanes), LOCKED)
    assert len(case.pending()) == 40
    case.pass_time(0.1)
    assert len(case.lanes[max(case.lanes)]) == 16
    case.answer_all()
    assert case.declaring.is_complete
    assert set(case.sent[-40:]) == set(names)


def test_a_queue_whose_node_is_down_is_tried_until_the_node_is_back() -> None:
    case = Declarations()
    case.queue("dead")
    case.begin()
    for _ in range(30):
        case.refuse(max(case.lanes), DOWN)
        assert case.declaring.is_settled
        case.pass_time(max(0.0, case.declaring.deadline - case.now))
    assert not failed(case)
    began = case.now
    case.refuse(max(case.lanes), DOWN)
    assert case.declaring.deadline == began + 10
    case.pass_time(10)
    case.answer_all()
    assert case.declaring.is_complete


def test_a_queue_that_was_deleted_while_it_was_put_aside_is_forgotten() -> None:
    case = Declarations()
    case.exchange("x")
    case.queue("locked")
    case.bind("locked", "x")
    case.begin(grace=10)
    case.answer(1)
    case.refuse(1, LOCKED)
    case.delete("locked")
    case.pass_time(0.1)
    assert case.sent == ["x", "locked"]
    assert case.declaring.is_complete


# --- repeated ---------------------------------------------------------------------------------------------------------


def test_a_binding_whose_end_has_vanished_repeats_the_pass_a_few_times() -> None:
    case = Declarations()
    case.exchange("x")
    case.queue("q")
    case.bind("q", "x")
    case.begin()
    passes: list[float] = []
    began = case.now
    while not failed(case):
        case.answer(max(case.lanes), 2)
        passes.append(round(case.now - began, 3))
        case.refuse(max(case.lanes), GONE)
        if not failed(case):
            assert not case.declaring.is_settled
            case.pass_time(max(0.0, case.declaring.deadline - case.now))
    assert passes == [0.0, 0.0, 0.1, 0.3]
    assert failed(case) == [("x->q", GONE)]
    assert case.sent == 4 * ["x", "q", "x->q"]
    assert case.declaring.is_complete


def test_a_missing_queue_is_declared_once_more_when_a_consumer_asks() -> None:
    case = Declarations()
    case.queue("q")
    own = case.named()
    case.begin()
    assert case.declaring.will_declare("q", case.now)
    case.answer_all()
    assert case.declaring.is_complete
    assert case.declaring.will_declare("q", case.now)
    assert not case.declaring.is_complete
    assert not case.declaring.is_settled
    case.pass_time(0)
    assert case.sent == [own, "q", "q"]
    case.answer_all()
    assert not case.declaring.will_declare(own, case.now)
    assert not case.declaring.will_declare("unknown", case.now)


# --- refused ----------------------------------------------------------------------------------------------------------


def test_a_refused_queue_fails_and_the_rest_goes_on_with_few_at_a_time() -> None:
    case = Declarations()
    names = [f"q{number}" for number in range(100)]
    case.queue(*names)
    case.begin()
    case.answer(1)
    case.refuse(1, OTHER)
    assert failed(case) == [("q1", OTHER)]
    sizes: list[int] = []
    while case.lanes:
        sizes.append(len(case.lanes[2]))
        case.answer(2, sizes[-1])
    assert sizes == [16, 32, 50]
    assert case.declaring.is_complete


def test_an_entity_that_cannot_be_sent_fails_alone() -> None:
    case = Declarations()
    case.exchange("x", "odd")
    case.queue("q")
    case.unsendable = {"odd", "q"}
    case.begin()
    case.answer_all()
    assert [name for name, _ in failed(case)] == ["odd", "q"]
    assert all(isinstance(error, InvalidArgument) for _, error in failed(case))
    assert case.declaring.is_complete
    assert not case.lanes


# --- careful ----------------------------------------------------------------------------------------------------------


def test_after_an_unexplained_close_one_request_is_sent_at_a_time_with_full_patience() -> None:
    case = Declarations()
    case.queue("q", "deadly", "r")
    case.begin()
    case.lose(UNEXPLAINED)
    assert case.is_careful
    assert not failed(case)
    case.begin(is_careful=True)
    assert case.sent == ["q"]
    case.pass_time(50)
    case.answer(1)
    assert case.sent == ["q", "deadly"]
    case.lose(UNEXPLAINED)
    assert failed(case) == [("deadly", UNEXPLAINED)]


DEADLY = InternalError("deprecated", method="queue.declare")


def test_a_request_that_costs_the_link_fails() -> None:
    case = Declarations()
    case.exchange("x")
    case.queue("deadly", "q")
    case.bind("q", "x")
    case.begin()
    case.answer(1)
    case.lose(DEADLY)
    assert failed(case) == [("deadly", DEADLY)]
    assert not case.is_careful


def test_where_two_lanes_wait_for_an_answer_none_is_blamed_at_once() -> None:
    case = Declarations()
    case.queue("late", "deadly")
    case.begin()
    case.pass_time(PATIENCE)
    case.lose(DEADLY)
    assert not failed(case)
    assert case.is_careful


@pytest.mark.parametrize("error", [OTHER, AnyamqpError("reset")])
def test_an_explained_end_makes_nobody_suspicious(error: AnyamqpError) -> None:
    case = Declarations()
    case.queue("q")
    case.begin()
    case.lose(error)
    assert not case.is_careful


def test_a_close_when_all_was_answered_makes_nobody_suspicious() -> None:
    case = Declarations()
    case.queue("q")
    case.begin()
    case.answer_all()
    case.lose(UNEXPLAINED)
    assert not case.is_careful
