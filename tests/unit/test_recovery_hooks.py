"""The user's hooks of the topology's recovery: an exception of a hook is no fault of the connection."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from anyamqp import ConnectionLost, TopologyRecovery
from anyamqp.core.recovery_hooks import RecoveryHooks

pytestmark = pytest.mark.anyio


def interrupt(*_: object) -> bool:
    raise KeyboardInterrupt


def fail(*_: object) -> bool:
    raise LookupError("no idea")


async def test_interrupt_in_a_hook_is_raised() -> None:
    hooks = RecoveryHooks(TopologyRecovery(wanted=interrupt, on_error=interrupt), Mock(), Mock())
    with pytest.raises(KeyboardInterrupt):
        hooks.wanted(Mock())
    with pytest.raises(KeyboardInterrupt):
        hooks.failed(Mock(), ConnectionLost("lost"))


async def test_error_in_a_hook_is_logged_and_the_entity_is_wanted() -> None:
    connection, journal = Mock(), Mock()
    hooks = RecoveryHooks(TopologyRecovery(wanted=fail, on_error=fail), connection, journal)
    assert hooks.wanted(Mock())
    hooks.failed(Mock(), ConnectionLost("lost"))
    assert connection.entity_failed.call_count == 1
    assert [call.args[0] for call in journal.hook_failed.call_args_list] == [
        "topology_recovery.wanted",
        "topology_recovery.on_error",
    ]


async def test_without_hooks_every_entity_is_wanted() -> None:
    assert RecoveryHooks(TopologyRecovery(), Mock(), Mock()).wanted(Mock())
