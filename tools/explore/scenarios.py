"""Where the explorations begin, and how deep they go."""

from __future__ import annotations

from typing import Final

from tools.explore.search import Path, Scenario
from tools.explore.world import Parts

_CHANNEL: Final = Parts(publishes=0, consumer=False)
_PUBLISHER: Final = Parts(channel=False, consumer=False, closes=2)
_STOPPED: Final = Parts(channel=False, consumer=False, losses=1, refusals=0, closes=2, blocks=2)
_CONSUMER: Final = Parts(channel=False, publishes=0)
_PATIENT: Final = Parts(channel=False, publishes=0, losses=1, refusals=0, closes=2, blocks=0, on_cancel="resubscribe")
_ALL: Final = Parts()

_LINK: Final[Path] = (
    "clock: time passes",
    "network: dialed",
    "broker: connection.start and tune",
    "broker: connection.open-ok",
)
_PUBLISHER_UP: Final[Path] = (
    "user: enter the publisher",
    *_LINK,
    "broker: answer on channel 1",
    "broker: answer on channel 1",
)
_CONSUMER_UP: Final[Path] = (
    "user: enter the consumer",
    *_LINK,
    "broker: answer on channel 1",
    "broker: answer on channel 1",
    "broker: answer on channel 1",
)
_ALL_UP: Final[Path] = (
    "user: open the channel",
    "user: enter the publisher",
    "user: enter the consumer",
    *_LINK,
    "broker: answer on channel 1",
    "broker: answer on channel 2",
    "broker: answer on channel 2",
    "broker: answer on channel 3",
    "broker: answer on channel 3",
    "broker: answer on channel 3",
)
_BOTH_SENT: Final[Path] = (*_PUBLISHER_UP, "user: publish 1", "user: publish 2")
_ONE_READ: Final[Path] = (*_BOTH_SENT, "network: the link dies, 1 publishes read", *_LINK)
_NONE_READ: Final[Path] = (*_BOTH_SENT, "network: the link dies, 0 publishes read", *_LINK)

DEEP: Final = (
    Scenario("a channel, from the first dial", _CHANNEL, (), 40),
    Scenario("a publisher, from the first dial", _PUBLISHER, (), 12),
    Scenario("a publisher, once it is open", _STOPPED, _PUBLISHER_UP, 5),
    Scenario("a publisher on its second link", _PUBLISHER, _ONE_READ, 6),
    Scenario("a consumer, from the first dial", _CONSUMER, (), 14),
    Scenario("a consumer that waits for its queue", _PATIENT, _CONSUMER_UP, 9),
    Scenario("all of them, from the first dial", _ALL, (), 9),
    Scenario("all of them, once everything is open", _ALL, _ALL_UP, 5),
)
"""The scenarios of ``make explore``."""

SHALLOW: Final = tuple(
    scenario._replace(depth=depth) for scenario, depth in zip(DEEP, (7, 7, 2, 3, 7, 4, 5, 2), strict=True)
)
"""The same, as far as ``make test`` can afford."""

FIRST_DIAL: Final = Scenario("a channel, from the first dial", _CHANNEL, (), 6)
PUBLISHER_UP: Final = Scenario("a publisher, open", _PUBLISHER._replace(publishes=1), _PUBLISHER_UP, 6)
LINK_STAYS: Final = PUBLISHER_UP._replace(
    name="a publisher with a publish, on a link that stays",
    parts=_PUBLISHER._replace(publishes=1, losses=0, closes=1, blocks=0),
    begins=(*_PUBLISHER_UP, "user: publish 1"),
)
PUBLISHER_LOST: Final = Scenario("a publisher, on its second link", _PUBLISHER, _NONE_READ, 6)
CONSUMER_UP: Final = Scenario("a consumer, consuming", _CONSUMER, _CONSUMER_UP, 6)
