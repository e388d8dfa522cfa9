"""The user's hooks in recovery: they select the entities to declare again, and hear of those that failed."""

from __future__ import annotations

from anyamqp.core.journal import Journal
from anyamqp.core.link_channel import LinkChannel
from anyamqp.entities import Entity, TopologyRecovery
from anyamqp.errors import AnyamqpError
from anyamqp.net.event_loop import failure_of
from anyamqp.protocol.connection import ConnectionCore
from anyamqp.protocol.topology import Recorded


class RecoveryHooks:
    """Calls the user's hooks.

    Args:
        hooks: the hooks.
        connection: ends the channels and consumers that need a missing entity.
        journal: logs the exceptions of hooks.
    """

    def __init__(
        self,
        hooks: TopologyRecovery,
        connection: ConnectionCore[LinkChannel],
        journal: Journal,
    ) -> None:
        self._hooks = hooks
        self._connection = connection
        self._journal = journal

    def wanted(self, entity: Entity) -> bool:
        """Whether to declare an entity again; yes, if the hook raises."""
        wanted = self._hooks.wanted
        try:
            return wanted is None or bool(wanted(entity))
        except BaseException as raised:
            if (failure := failure_of(raised)) is None:
                raise
            self._journal.hook_failed("topology_recovery.wanted", failure)
            return True

    def failed(self, recorded: Recorded, error: AnyamqpError) -> None:
        """An entity could not be declared again."""
        self._journal.entity_failed(str(recorded.entity), error)
        self._connection.entity_failed(recorded, error)
        if (on_error := self._hooks.on_error) is not None:
            try:
                on_error(recorded.entity, error)
            except BaseException as raised:
                if (failure := failure_of(raised)) is None:
                    raise
                self._journal.hook_failed("topology_recovery.on_error", failure)
