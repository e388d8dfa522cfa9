"""The service's time, which is robust against steps of the system clock.

Windows use *steady* time: the system clock's seconds since the epoch at the start, continued by the monotonic clock.
Steady time never jumps, so no window empties or sticks when the system clock steps. UTC, for the vectors' timestamps
and the exchange's stamps, is steady time plus a shift:

* If the system clock differs from UTC by a second at most (it is being slewed), the shift follows it.
* If it differs by more, it was set. While the stamps of arriving events agree with the old time, the service keeps the
  old time and trusts the exchange. When no such stamp has come for 10 s, the shift follows the system clock.

A stamp agrees if it is within a minute of the old time, and nearer to it than to the system clock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final, NamedTuple

_LOGGER: Final = logging.getLogger("feature_service")

_SLEW: Final = 1.0
_PLAUSIBLE: Final = 60.0
_FRESH: Final = 10.0


class Moment(NamedTuple):
    """One moment.

    Attributes:
        steady: steady time in seconds, which does not go back.
        shift: UTC minus steady time, in seconds.
    """

    steady: float
    shift: float

    @property
    def utc(self) -> float:
        """UTC in seconds since the epoch."""
        return self.steady + self.shift


class Clock:
    """Steady time and UTC.

    Args:
        wall: the system clock, in seconds since the epoch.
        monotonic: a monotonic clock, in seconds.
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._origin = wall() - monotonic()
        self._shift = 0.0
        self._stamp_shift = 0.0
        self._stamped_at = -_FRESH
        """When the last plausible stamp came, in steady time. ``_stamp_shift`` is its shift."""
        self._is_doubtful = False

    def now(self) -> Moment:
        """The current moment."""
        steady = self._origin + self._monotonic()
        wall_shift = self._wall() - steady
        step = wall_shift - self._shift
        if abs(step) > _SLEW:
            if self._is_kept(steady, wall_shift):
                if not self._is_doubtful:
                    _LOGGER.warning(
                        "the system's clock was set by %+.1f s, but the events' stamps agree with the time before, "
                        "which is kept",
                        step,
                    )
                self._is_doubtful = True
                return Moment(steady, self._shift)
            _LOGGER.warning("the system's clock was set by %+.1f s: the vectors' timestamps follow it", step)
        self._is_doubtful = False
        self._shift = wall_shift
        return Moment(steady, wall_shift)

    def heard(self, stamp: float, moment: Moment) -> None:
        """An event with this stamp, in seconds since the epoch, arrived at this moment."""
        shift = stamp - moment.steady
        if abs(shift - self._shift) <= _PLAUSIBLE:
            self._stamp_shift = shift
            self._stamped_at = moment.steady

    def _is_kept(self, steady: float, wall_shift: float) -> bool:
        is_fresh = steady - self._stamped_at <= _FRESH
        return is_fresh and abs(self._stamp_shift - self._shift) < abs(self._stamp_shift - wall_shift)
