"""Whatever a broker answers, and however late: what it declares in the end is declared, and nothing is left over."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from anyamqp.errors import NotFound, PreconditionFailed, ReplyError, ResourceLocked
from support.declarations import Declarations

ERRORS = (
    ResourceLocked("locked"),
    NotFound("no exchange 'x'"),
    PreconditionFailed("inequivalent arg"),
)
LANES = (1, 2, 3, 64)


class Broker:
    """Draws what happens next, until it is tired of that and answers everything."""

    def __init__(self, data: st.DataObject) -> None:
        self.case = Declarations()
        self._data = data

    def draw(self, low: int, high: int) -> int:
        return self._data.draw(st.integers(low, high))

    def set_up(self) -> None:
        case = self.case
        exchanges = [f"x{number}" for number in range(self.draw(0, 3))]
        queues = [f"q{number}" for number in range(self.draw(0, 4))]
        case.exchange(*exchanges)
        case.queue(*queues)
        queues += [case.named() for _ in range(self.draw(0, 2))]
        for queue in queues:
            for exchange in exchanges:
                if self.draw(0, 1):
                    case.bind(queue, exchange)
        case.numbers = LANES[self.draw(0, len(LANES) - 1)]
        case.begin(
            most_lanes=LANES[self.draw(0, len(LANES) - 1)],
            grace=float(self.draw(0, 5)),
            is_careful=self.draw(0, 4) == 0,
        )

    def error(self) -> ReplyError:
        return ERRORS[self.draw(0, len(ERRORS) - 1)]

    def step(self) -> None:
        case = self.case
        busy = [lane for lane, names in case.lanes.items() if names]
        kind = self.draw(0, 9)
        if busy and kind <= 4:
            case.answer(busy[self.draw(0, len(busy) - 1)])
        elif busy and kind <= 6:
            case.refuse(busy[self.draw(0, len(busy) - 1)], self.error())
        elif kind == 7:
            case.declaring.will_declare(f"q{self.draw(0, 4)}", case.now)
        elif kind == 8 and self.draw(0, 4) == 0:
            case.delete(f"q{self.draw(0, 4)}")
        else:
            case.pass_time(self.draw(0, 8) / 10)


@given(st.data())
def test_what_the_broker_declares_in_the_end_is_declared(data: st.DataObject) -> None:
    broker = Broker(data)
    broker.set_up()
    case = broker.case
    everything = set(case.pending())
    for _ in range(broker.draw(0, 30)):
        broker.step()
        assert case.declaring.is_settled or case.lanes or case.declaring.deadline < math.inf
    for _ in range(100):
        case.answer_all()
        case.pass_time(10)
    assert case.declaring.is_complete
    assert case.declaring.is_settled
    assert not case.lanes
    assert case.declaring.deadline == math.inf
    failed = {name for name, _ in case.failed}
    assert len(failed) == len(case.failed), "told twice"
    deleted = {name for name in everything if name not in case.sent and not case.is_recorded(name)}
    assert everything == failed | deleted | {name for name in everything if name in case.sent}
