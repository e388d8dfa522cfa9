"""The states that users see."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """The states that connection and channel share."""

    CONNECTING = "connecting"
    OPEN = "open"
    BLOCKED = "blocked"
    RECONNECTING = "reconnecting"
    CLOSING = "closing"
    CLOSED = "closed"
