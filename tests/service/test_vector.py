"""The feature vector and its JSON form."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_service.fields import BadBody
from feature_service.vector import FeatureVector
from support.market import T0, body

VECTOR = FeatureVector(T0 + 0.25, "BTCUSDT", {"mid_price": 100.5, "volume_3s": 0.0}, "1", "f3a1")
FIELDS: dict[str, object] = {
    "timestamp": "2025-11-23T10:00:00.250000+00:00",
    "symbol": "BTCUSDT",
    "features": {"mid_price": 100.5, "volume_3s": 0.0},
    "feature_registry_version": "1",
    "trace_id": "f3a1",
}


def test_json_form() -> None:
    assert json.loads(VECTOR.to_json()) == FIELDS


def test_whole_seconds_are_written_with_microseconds_too() -> None:
    assert json.loads(FeatureVector(T0, "X", {}, "1").to_json())["timestamp"] == "2025-11-23T10:00:00.000000+00:00"


def test_trace_id_is_left_out_when_there_is_none() -> None:
    assert "trace_id" not in json.loads(FeatureVector(T0, "X", {}, "1").to_json())


def test_reading_back_gives_the_same_vector() -> None:
    assert FeatureVector.from_json(VECTOR.to_json()) == VECTOR


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_vector_refuses_what_json_cannot_carry(value: float) -> None:
    with pytest.raises(ValueError, match="feature mid_price is"):
        FeatureVector(T0, "BTCUSDT", {"mid_price": value}, "1")


@pytest.mark.parametrize("timestamp", [math.nan, math.inf, 1e18])
def test_vector_refuses_a_timestamp_outside_the_calendar(timestamp: float) -> None:
    with pytest.raises(ValueError, match="timestamp"):
        FeatureVector(timestamp, "BTCUSDT", {}, "1")


def test_vector_does_not_change_with_the_dictionary_it_came_from() -> None:
    features = {"mid_price": 1.0}
    vector = FeatureVector(T0, "BTCUSDT", features, "1")
    features["mid_price"] = math.nan
    assert vector.features == {"mid_price": 1.0}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"timestamp": None}, "timestamp"),
        ({"timestamp": "then"}, "timestamp"),
        ({"timestamp": 5}, "timestamp"),
        ({"symbol": None}, "symbol"),
        ({"symbol": 7}, "symbol"),
        ({"features": None}, "features"),
        ({"features": []}, "features"),
        ({"features": {"mid_price": "100"}}, "features.mid_price"),
        ({"features": {"mid_price": True}}, "features.mid_price"),
        ({"features": {"mid_price": None}}, "features.mid_price"),
        ({"features": {"mid_price": 10**400}}, "features.mid_price"),
        ({"feature_registry_version": 1}, "feature_registry_version"),
        ({"feature_registry_version": None}, "feature_registry_version"),
        ({"trace_id": 1}, "trace_id"),
    ],
)
def test_reading_names_the_field_at_fault(changes: dict[str, object], field: str) -> None:
    with pytest.raises(BadBody) as caught:
        FeatureVector.from_json(body(**FIELDS | changes))
    assert caught.value.field == field


def test_reading_refuses_a_number_that_is_infinite_as_a_float() -> None:
    with pytest.raises(BadBody, match=r"features\.mid_price is out of range"):
        FeatureVector.from_json(VECTOR.to_json().replace(b"100.5", b"1e999"))


def test_reading_refuses_nan() -> None:
    with pytest.raises(BadBody, match="NaN"):
        FeatureVector.from_json(VECTOR.to_json().replace(b"100.5", b"NaN"))


FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(st.integers(0, 4 * 10**15), st.dictionaries(st.text(max_size=20), FINITE, max_size=5), st.none() | st.just("t"))
def test_every_vector_survives_the_way_there_and_back(
    microseconds: int, features: dict[str, float], trace_id: str | None
) -> None:
    vector = FeatureVector(microseconds / 1e6, "BTCUSDT", features, "1", trace_id)
    back = FeatureVector.from_json(vector.to_json())
    assert back.timestamp == pytest.approx(vector.timestamp, abs=1e-6)
    assert (back.symbol, back.features, back.trace_id) == (vector.symbol, vector.features, trace_id)


@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(message: bytes) -> None:
    with pytest.raises(BadBody):
        FeatureVector.from_json(message)
