"""Random AMQP streams for property tests: whole, split and damaged."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from hypothesis import strategies as st
from pamqp import commands

from anyamqp.wire import methods
from anyamqp.wire.methods import Method
from support.amqp import HEARTBEAT, any_method, body, frame, header

METHODS: Final = tuple(methods.INDEX_MAPPING.values())
"""Every method."""

short_texts: st.SearchStrategy[str] = st.text(st.characters(codec="utf-8"), max_size=60)
"""At most 240 bytes: fits a short string."""

_keys = st.text(st.characters(codec="utf-8"), max_size=30)
_whole_seconds = st.integers(0, 2**32 - 1).map(lambda second: datetime.fromtimestamp(second, UTC))
_scalars: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(width=32, allow_nan=False)
    | short_texts
    | st.binary(max_size=20).map(bytearray)
    | _whole_seconds
)


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=3)


tables: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    _keys, st.recursive(_scalars, _nested, max_leaves=5), max_size=4
)
"""Tables that come back from the wire as they were."""

_VALUES: Final[dict[str, st.SearchStrategy[Any]]] = {
    "bit": st.booleans(),
    "octet": st.integers(0, 255),
    "short": st.integers(0, 2**16 - 1),
    "long": st.integers(0, 2**32 - 1),
    "longlong": st.integers(0, 2**64 - 1),
    "shortstr": short_texts,
    "longstr": short_texts,
    "table": tables,
    "timestamp": _whole_seconds,
}

channels: st.SearchStrategy[int] = st.integers(0, 2**16 - 1)


@st.composite
def any_methods(draw: st.DrawFn, kinds: tuple[type[Method], ...] = METHODS) -> Method:
    """A method with any arguments that AMQP can carry."""
    kind: type[Method] = draw(st.sampled_from(kinds))
    return kind(*(draw(_VALUES[domain]) for _, domain in kind.parameters))


@st.composite
def properties(draw: st.DrawFn) -> bytes:
    """Flags and values of a content header."""
    blank = commands.Basic.Properties()
    chosen = draw(st.lists(st.sampled_from(list(blank.flags)), unique=True, max_size=4))
    flags = 0
    parts: list[bytes] = []
    for name, flag in blank.flags.items():
        if name in chosen:
            flags |= flag
            parts.append(blank.encode_property(name, draw(_VALUES[blank.amqp_type(name)])))
    return flags.to_bytes(2, "big") + b"".join(parts)


_method_frames = st.builds(any_method, channels, any_methods())


@st.composite
def _header_frames(draw: st.DrawFn) -> bytes:
    return header(draw(channels), draw(st.integers(0, 2**64 - 1)), properties=draw(properties()))


_body_frames = st.builds(body, channels, st.binary(max_size=200))
frames: st.SearchStrategy[bytes] = _method_frames | _header_frames() | _body_frames | st.just(frame(HEARTBEAT, 0, b""))
"""Any one frame that AMQP allows, with its bytes."""

streams: st.SearchStrategy[bytes] = st.lists(frames, max_size=6).map(b"".join)
"""Any stream of frames, after the protocol header."""


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes] = streams) -> bytes:
    """A stream in which some bytes were replaced, dropped or added."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        gone = draw(st.integers(0, 8))
        data[at : at + gone] = draw(st.binary(min_size=0 if gone else 1, max_size=8))
    return bytes(data)


@st.composite
def split(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The same bytes in chunks of any sizes."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
