"""The feature vector that the service publishes, and its JSON form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from types import MappingProxyType

from feature_service.fields import LONGEST_ID, LONGEST_NAME, BadBody, Fields, read_time


@dataclass(frozen=True, slots=True)
class FeatureVector:
    """The features of one symbol at one time.

    Attributes:
        timestamp: seconds since the epoch; the JSON form has ISO 8601 in UTC, to the microsecond.
        symbol: such as ``BTCUSDT``.
        features: values by name, all finite.
        feature_registry_version: the version of the definitions of the features.
        trace_id: the trace id of the latest event; None if unknown.

    Raises:
        ValueError: a feature is NaN or infinite, which JSON cannot represent; or the timestamp is out of range. An
            accepted vector must not fail later, when it is published.
    """

    timestamp: float
    symbol: str
    features: Mapping[str, float]
    feature_registry_version: str
    trace_id: str | None = None

    def __post_init__(self) -> None:
        for name, value in self.features.items():
            if not isfinite(value):
                raise ValueError(f"feature {name} is {value}; leave it out")
        _moment(self.timestamp)
        object.__setattr__(self, "features", MappingProxyType(dict(self.features)))

    def to_json(self) -> bytes:
        """The body to publish: JSON in UTF-8, without ``trace_id`` if there is none."""
        fields: dict[str, object] = {
            "timestamp": _moment(self.timestamp).isoformat(timespec="microseconds"),
            "symbol": self.symbol,
            "features": dict(self.features),
            "feature_registry_version": self.feature_registry_version,
        }
        if self.trace_id is not None:
            fields["trace_id"] = self.trace_id
        return json.dumps(fields, allow_nan=False, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, body: bytes) -> FeatureVector:
        """Read a body from :meth:`to_json`. The timestamp is exact to the microsecond.

        Raises:
            BadBody: the body is not a feature vector; the error names the field.
        """
        fields = Fields.decode(body)
        return cls(
            timestamp=read_time(fields.text("timestamp"), "timestamp"),
            symbol=fields.text("symbol"),
            features=_features(fields.child("features")),
            feature_registry_version=fields.text("feature_registry_version"),
            trace_id=fields.optional_text("trace_id", LONGEST_ID),
        )


def _features(fields: Fields) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in fields.names():
        value = fields.get(name)
        where = fields.where(name[:LONGEST_NAME])
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadBody(where, f"must be a number, not {type(value).__name__}")
        try:
            found[name] = float(value)
        except OverflowError:
            raise BadBody(where, "is out of range") from None
        if not isfinite(found[name]):
            raise BadBody(where, "is out of range")
    return found


def _moment(timestamp: float) -> datetime:
    try:
        return datetime.fromtimestamp(timestamp, UTC)
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"timestamp {timestamp} is not a time between the years 1 and 9999") from None
