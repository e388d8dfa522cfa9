"""The tables, the tests that run the objects that follow them, and the survivors that make no difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from anyamqp.protocol.lifecycle import LINK
from anyamqp.protocol.lifecycle.caller import CALLER
from anyamqp.protocol.lifecycle.channel import CHANNEL
from anyamqp.protocol.lifecycle.connection import CONNECTION
from anyamqp.protocol.lifecycle.consumer import CONSUMER
from anyamqp.protocol.lifecycle.entity import ENTITY
from anyamqp.protocol.lifecycle.pool import POOL
from anyamqp.protocol.lifecycle.publish import PUBLISH
from anyamqp.protocol.lifecycle.publisher import PUBLISHER
from anyamqp.protocol.lifecycle.recovery import RECOVERY
from anyamqp.protocol.lifecycle.transaction import TRANSACTION
from tools.law.mutants import AnyTable


class Suite(NamedTuple):
    """A table and its tests.

    Attributes:
        name: of the table.
        table: the table itself.
        tests: files or tests, each of which runs real objects that follow the table.
        equivalent: why some mutants make no difference, by patterns of their names (:mod:`fnmatch`).
        slow_tests: more of them, which a sample does without.
    """

    name: str
    table: AnyTable
    tests: Sequence[str]
    equivalent: Mapping[str, str]
    slow_tests: Sequence[str] = ()


_LEFT = "effects of the caller's come back only when the core has carried out its own, whatever their order in the row"
_NO_REQUESTS = "on no link there are no requests, and nothing reads the reason of the end before the owner is told"
_APART = "a session's output and its events are taken apart from each other, so their order shows nowhere"

_WALK = "tests/state/test_subscription_steps.py::test_every_order_of_events_stays_in_the_table_and_keeps_its_promises"
_AT_ONCE = "DROP, END, FAIL, PAUSE and GIVE_BACK_LATER are done inside the subscription, before the shell does the rest"

SUITES = (
    Suite(
        "connection",
        CONNECTION,
        ("tests/state/test_connection_law.py",),
        {
            "*: * before LEAVE_CHANNELS": _LEFT,
            "*: * before FAIL_CHANNELS": _LEFT,
            "*: WAIT before LOSE_LINK": _LEFT,
            "*: TELL_UNBLOCKED before CLOSE_LINK": _LEFT,
            "*: REPEAT_BLOCK before COUNT_RECONNECT": "the count is of no interest to those who are told of a block",
        },
    ),
    Suite(
        "channel",
        CHANNEL,
        ("tests/state/test_channel_law.py",),
        {
            "*, LEAVE: COMPLETE_CLOSE before FAIL_REQUESTS": _NO_REQUESTS,
            "*, FAILED: FORGET before FAIL_REQUESTS": _NO_REQUESTS,
        },
    ),
    Suite(
        "link",
        LINK,
        ("tests/unit/test_session.py", "tests/state/test_refusals_law.py"),
        {
            "*, THEIR_CLOSE: TELL_* before CONFIRM_CLOSE": _APART,
            "OPEN, BROKEN: TELL_ENDED before NAME_FAULT": _APART,
            "OPEN, CHANNEL_FRAME: absent": "an open session hands frames to the channels without asking the table",
            "CLOSED, *: absent": ("in CLOSED a refusal becomes BROKEN, and CLOSED ignores BROKEN"),
        },
        slow_tests=("tests/unit/test_session_channels.py", "tests/state/test_session_steps.py"),
    ),
    Suite("publisher", PUBLISHER, ("tests/unit/test_publisher_table.py", "tests/unit/test_outbox.py"), {}),
    Suite("publish", PUBLISH, ("tests/unit/test_publish_table.py",), {}),
    Suite(
        "consumer",
        CONSUMER,
        (
            "tests/unit/test_subscription.py",
            "tests/state/test_refusals_law.py",
            "tests/state/test_subscription_law.py",
        ),
        {
            "*: * before DROP": _AT_ONCE,
            "*: * before END": _AT_ONCE,
            "*: * before FAIL": _AT_ONCE,
            "*: * before FAIL_CANCELLED": _AT_ONCE,
            "*: PAUSE before *": _AT_ONCE,
            "*: GIVE_BACK_LATER before TELL_ENDED": _AT_ONCE,
            "*: CANCEL before GIVE_BACK_LATER": _AT_ONCE,
            "*: CLOSE_CHANNEL before TELL_ENDED": "the topology, which is told, knows nothing of the channel",
            "*: GIVE_BACK before LOG_CANCELLED": "the log line says nothing of the deliveries",
        },
        slow_tests=tuple(f"{_WALK}[{block}]" for block in range(2)),
    ),
    Suite("RPC client", CALLER, ("tests/unit/test_caller_table.py", "tests/unit/test_calls.py"), {}),
    Suite(
        "recovery",
        RECOVERY,
        ("tests/unit/test_recovery_table.py", "tests/unit/test_recovering.py"),
        {"LATECOMERS, ALL_BACK: TELL_BACK before FORGET": "the user is told nothing of the things that are forgotten"},
    ),
    Suite(
        "entity",
        ENTITY,
        ("tests/unit/test_entity_table.py", "tests/unit/test_declaring.py"),
        {"*, REFUSED: FREE before TELL_FAILED": "the lives free the bindings before the declaring tells of anything"},
        slow_tests=("tests/state/test_declaring_properties.py",),
    ),
    Suite("pool", POOL, ("tests/unit/test_pool_table.py", "tests/simulation/test_pool.py"), {}),
    Suite(
        "transaction",
        TRANSACTION,
        ("tests/unit/test_transaction_table.py", "tests/simulation/test_transactions.py"),
        {},
    ),
)
