"""The tables of :mod:`anyamqp.protocol.lifecycle`, drawn: as Mermaid, and as SVG with a layout made by hand.

``python -m anyamqp.diagrams [folder]`` writes the files; with ``--check`` it names those that are stale and exits 1.

What may follow what comes from the tables alone. A layout only says where things stand, and is checked against its
table before anything is drawn: a state without a place or a row without a route is an error, never a gap.

A *frame* is drawn around several states when a row leaves all of them: one arrow from its edge speaks for all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeAlias

from anyamqp.protocol.lifecycle import (
    CHANNEL,
    CONNECTION,
    LINK,
    LinkState,
    State,
)
from anyamqp.protocol.lifecycle.table import E, F, S, Table

Side: TypeAlias = Literal["left", "right", "top", "bottom"]
Align: TypeAlias = Literal["start", "middle", "end"]


class Point(NamedTuple):
    """A place in the picture, in pixels from its upper left corner."""

    x: int
    y: int


class Place(NamedTuple):
    """Where a state stands: its centre, and its width."""

    x: int
    y: int
    width: int = 140


class Box(NamedTuple):
    """A rectangle, by its edges."""

    left: int
    top: int
    right: int
    bottom: int

    def holds(self, other: Box) -> bool:
        return (
            self.left <= other.left
            and self.top <= other.top
            and self.right >= other.right
            and self.bottom >= other.bottom
        )

    def meets(self, other: Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


class Port(NamedTuple):
    """Where an arrow leaves or reaches a state or a frame: the middle of a side, or ``at`` an x or y along it."""

    of: str
    side: Side
    at: int | None = None


class Look(Enum):
    """How an arrow looks, by what it tells."""

    EVERYDAY = "everyday"
    ASIDE = "aside"
    FAILURE = "failure"


class Leg(NamedTuple):
    """One line of a row's route: from a port to the row's target, or to a point of another leg that goes there."""

    start: Port
    end: Port | Point
    look: Look
    bends: tuple[Point, ...] = ()
    label: Point | None = None
    align: Align = "middle"


class Frame(NamedTuple):
    """A line around ``states``, so that one arrow can leave them all."""

    states: tuple[str, ...]
    box: Box


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything of one diagram stands. ``routes`` are keyed by event and target."""

    size: Point
    places: Mapping[str, Place]
    frames: Mapping[str, Frame]
    routes: Mapping[tuple[str, str], tuple[Leg, ...]]

    def box(self, name: str) -> Box:
        """The rectangle of a state or a frame."""
        if name in self.frames:
            return self.frames[name].box
        x, y, width = self.places[name]
        return Box(x - width // 2, y - _BOX_HEIGHT // 2, x + width // 2, y + _BOX_HEIGHT // 2)

    def point(self, port: Port) -> Point:
        """Where a port is."""
        box = self.box(port.of)
        if port.side in ("left", "right"):
            y = (box.top + box.bottom) // 2 if port.at is None else port.at
            return Point(box.left if port.side == "left" else box.right, y)
        x = (box.left + box.right) // 2 if port.at is None else port.at
        return Point(x, box.top if port.side == "top" else box.bottom)

    def line(self, leg: Leg) -> tuple[Point, ...]:
        """The corners of a leg, its ends included."""
        end = self.point(leg.end) if isinstance(leg.end, Port) else leg.end
        return (self.point(leg.start), *leg.bends, end)

    def sources(self, leg: Leg) -> tuple[str, ...]:
        """The states that a leg speaks for."""
        name = leg.start.of
        return self.frames[name].states if name in self.frames else (name,)


class Arrow(NamedTuple):
    """A row of a table, by names."""

    event: str
    sources: tuple[str, ...]
    target: str


@dataclass(frozen=True, slots=True)
class Diagram:
    """One table and how to draw it."""

    title: str
    states: tuple[str, ...]
    initial: str
    arrows: tuple[Arrow, ...]
    layout: Layout

    @property
    def final(self) -> tuple[str, ...]:
        """The states that nothing leaves."""
        left = {source for arrow in self.arrows for source in arrow.sources}
        return tuple(state for state in self.states if state not in left)


_BOX_HEIGHT: Final = 44
_CORNER: Final = 10
_HEAD: Final = 10
_MARK_DISTANCE: Final = 42
_LABEL_SIZE: Final = 13
_CHARACTER: Final = 8
"""Width of a label's character: the widest of the fonts below, at the label's size."""

_SVG: Final = "http://www.w3.org/2000/svg"
_MONO: Final = "DejaVu Sans Mono, Menlo, Consolas, monospace"
_SANS: Final = "DejaVu Sans, Helvetica, Arial, sans-serif"
_PAPER: Final = "#ffffff"
_INK: Final = "#1f2937"
_STROKES: Final = {
    Look.EVERYDAY: 'stroke="#1d4ed8" stroke-width="3"',
    Look.ASIDE: 'stroke="#4b5563" stroke-width="1.5"',
    Look.FAILURE: 'stroke="#c2261c" stroke-width="2" stroke-dasharray="7 4"',
}
_COLOURS: Final = {Look.EVERYDAY: "#1d4ed8", Look.ASIDE: "#4b5563", Look.FAILURE: "#c2261c"}
_FRAME_STYLE: Final = 'fill="#64748b" fill-opacity="0.07" stroke="#94a3b8"'
_LEGEND: Final = {Look.EVERYDAY: "everyday path", Look.ASIDE: "other step", Look.FAILURE: "failure"}
_FRAME_LEGEND: Final = "from every state in the frame"

_ORIGIN: Final = "Drawn from anyamqp/protocol/lifecycle; change the table, then run: make diagrams"


def _names(table: Table[S, E, F]) -> tuple[Arrow, ...]:
    return tuple(
        Arrow(row.event.value, tuple(state.name for state in row.sources), row.target.name) for row in table.rows
    )


_PLACES: Final = {
    "CONNECTING": Place(168, 276),
    "OPEN": Place(432, 276),
    "BLOCKED": Place(432, 142),
    "RECONNECTING": Place(432, 410),
    "CLOSING": Place(736, 276),
    "CLOSED": Place(958, 276),
}
_UNFINISHED: Final = Frame(("CONNECTING", "OPEN", "BLOCKED", "RECONNECTING"), Box(72, 74, 572, 474))

_BOTH: Final[dict[tuple[str, str], tuple[Leg, ...]]] = {
    ("opened", "OPEN"): (
        Leg(Port("CONNECTING", "right"), Port("OPEN", "left"), Look.EVERYDAY, label=Point(276, 267)),
        Leg(
            Port("RECONNECTING", "top", 450),
            Port("OPEN", "bottom", 450),
            Look.ASIDE,
            label=Point(459, 356),
            align="start",
        ),
    ),
    ("blocked", "BLOCKED"): (
        Leg(Port("OPEN", "top", 414), Port("BLOCKED", "bottom", 414), Look.ASIDE, label=Point(405, 214), align="end"),
    ),
    ("unblocked", "OPEN"): (
        Leg(Port("BLOCKED", "bottom", 450), Port("OPEN", "top", 450), Look.ASIDE, label=Point(459, 214), align="start"),
    ),
    ("lost", "RECONNECTING"): (
        Leg(
            Port("attached", "bottom", 414),
            Port("RECONNECTING", "top", 414),
            Look.FAILURE,
            label=Point(405, 356),
            align="end",
        ),
    ),
    ("close", "CLOSING"): (
        Leg(Port("unfinished", "right", 276), Port("CLOSING", "left"), Look.EVERYDAY, label=Point(617, 267)),
        Leg(Port("OPEN", "right"), Point(572, 276), Look.EVERYDAY),
    ),
    ("closed", "CLOSED"): (
        Leg(Port("CLOSING", "right"), Port("CLOSED", "left"), Look.EVERYDAY, label=Point(845, 267)),
    ),
}

_CONNECTION_LAYOUT: Final = Layout(
    size=Point(1098, 552),
    places=_PLACES,
    frames={"unfinished": _UNFINISHED, "attached": Frame(("OPEN", "BLOCKED"), Box(322, 98, 548, 320))},
    routes={
        **_BOTH,
        ("failed", "CLOSED"): (
            Leg(
                Port("CONNECTING", "bottom"),
                Port("CLOSED", "bottom"),
                Look.FAILURE,
                bends=(Point(168, 453), Point(958, 453)),
                label=Point(736, 444),
            ),
            Leg(Port("RECONNECTING", "bottom"), Point(432, 453), Look.FAILURE),
        ),
    },
)

_CHANNEL_LAYOUT: Final = Layout(
    size=Point(1098, 532),
    places=_PLACES,
    frames={
        "unfinished": Frame(_UNFINISHED.states, Box(66, 74, 572, 454)),
        "attached": Frame(("CONNECTING", "OPEN", "BLOCKED"), Box(82, 98, 548, 320)),
    },
    routes={
        **_BOTH,
        ("failed", "CLOSED"): (
            Leg(
                Port("unfinished", "right", 410),
                Port("CLOSED", "bottom"),
                Look.FAILURE,
                bends=(Point(958, 410),),
                label=Point(736, 401),
            ),
        ),
    },
)

_LINK_LAYOUT: Final = Layout(
    size=Point(1330, 368),
    places={
        "AWAITING_START": Place(168, 186, 148),
        "AWAITING_TUNE": Place(392, 186, 140),
        "AWAITING_OPEN_OK": Place(622, 186, 160),
        "OPEN": Place(830, 186, 96),
        "CLOSING": Place(1006, 186, 96),
        "CLOSED": Place(1204, 186, 96),
    },
    frames={
        "alive": Frame(
            ("AWAITING_START", "AWAITING_TUNE", "AWAITING_OPEN_OK", "OPEN", "CLOSING"), Box(72, 80, 1076, 230)
        )
    },
    routes={
        ("started", "AWAITING_TUNE"): (
            Leg(Port("AWAITING_START", "right"), Port("AWAITING_TUNE", "left"), Look.EVERYDAY, label=Point(279, 177)),
        ),
        ("secured", "AWAITING_TUNE"): (
            Leg(
                Port("AWAITING_TUNE", "top", 364),
                Port("AWAITING_TUNE", "top", 420),
                Look.ASIDE,
                bends=(Point(364, 126), Point(420, 126)),
                label=Point(392, 116),
            ),
        ),
        ("tuned", "AWAITING_OPEN_OK"): (
            Leg(Port("AWAITING_TUNE", "right"), Port("AWAITING_OPEN_OK", "left"), Look.EVERYDAY, label=Point(499, 177)),
        ),
        ("opened", "OPEN"): (
            Leg(Port("AWAITING_OPEN_OK", "right"), Port("OPEN", "left"), Look.EVERYDAY, label=Point(739, 177)),
        ),
        ("close", "CLOSING"): (
            Leg(Port("OPEN", "right"), Port("CLOSING", "left"), Look.EVERYDAY, label=Point(915, 177)),
        ),
        ("closed", "CLOSED"): (
            Leg(Port("alive", "right", 186), Port("CLOSED", "left"), Look.EVERYDAY, label=Point(1113, 177)),
            Leg(Port("CLOSING", "right"), Point(1076, 186), Look.EVERYDAY),
        ),
        ("died", "CLOSED"): (
            Leg(
                Port("alive", "bottom", 918),
                Port("CLOSED", "bottom"),
                Look.FAILURE,
                bends=(Point(918, 280), Point(1204, 280)),
                label=Point(1061, 271),
            ),
        ),
    },
)

DIAGRAMS: Final[Mapping[str, Diagram]] = MappingProxyType(
    {
        "connection": Diagram(
            "The life of a connection",
            tuple(State.__members__),
            CONNECTION.initial.name,
            _names(CONNECTION),
            _CONNECTION_LAYOUT,
        ),
        "channel": Diagram(
            "The life of a channel",
            tuple(State.__members__),
            CHANNEL.initial.name,
            _names(CHANNEL),
            _CHANNEL_LAYOUT,
        ),
        "link": Diagram(
            "The life of a link", tuple(LinkState.__members__), LINK.initial.name, _names(LINK), _LINK_LAYOUT
        ),
    }
)


def mermaid(name: str) -> str:
    """A table as a Mermaid state diagram; a row becomes one line for each of its sources."""
    diagram = DIAGRAMS[name]
    lines = [f"%% {_ORIGIN}", "stateDiagram-v2", "    direction LR", f"    [*] --> {diagram.initial}"]
    for arrow in diagram.arrows:
        lines += [f"    {source} --> {arrow.target}: {arrow.event}" for source in arrow.sources]
    lines += [f"    {state} --> [*]" for state in diagram.final]
    return "\n".join(lines) + "\n"


def svg(name: str) -> str:
    """A table as an SVG picture.

    Raises:
        ValueError: the layout and the table do not fit together; the text says where.
    """
    diagram = DIAGRAMS[name]
    problem = next(_problems(diagram), None)
    if problem:
        raise ValueError(f"{name}: {problem}")
    width, height = diagram.layout.size
    lines = [
        f'<svg xmlns="{_SVG}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">',
        f"<!-- {_ORIGIN} -->",
        f"<title>{diagram.title}</title>",
        f'<rect width="{width}" height="{height}" rx="12" fill="{_PAPER}"/>',
        _text(Point(28, 42), diagram.title, f'font-family="{_SANS}" font-size="19" font-weight="bold" fill="{_INK}"'),
        *(_rectangle(frame.box, 16, f'class="frame" {_FRAME_STYLE}') for frame in diagram.layout.frames.values()),
        *_marks(diagram),
    ]
    for state in diagram.states:
        lines += _state(diagram, state)
    for arrow in diagram.arrows:
        lines += _row(diagram.layout, arrow)
    lines += [*_legend(diagram.layout), "</svg>"]
    return "\n".join(lines) + "\n"


def _files() -> dict[str, str]:
    return {f"{name}.{kind}": draw(name) for name in DIAGRAMS for kind, draw in (("mmd", mermaid), ("svg", svg))}


def write(folder: Path) -> list[Path]:
    """Write all diagrams into ``folder``, which is made if need be.

    Returns:
        The files, in the order of writing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name, text in _files().items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def stale(folder: Path) -> list[Path]:
    """The files in ``folder`` that are missing or are not what the tables give."""
    paths = {folder / name: text for name, text in _files().items()}
    return [path for path, text in paths.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``python -m anyamqp.diagrams``."""
    parser = argparse.ArgumentParser(prog="python -m anyamqp.diagrams", description="Draw the life cycles.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("diagrams"), help="default: %(default)s")
    parser.add_argument("--check", action="store_true", help="write nothing; name stale files and exit 1")
    options = parser.parse_args(arguments)
    found = stale(options.folder) if options.check else write(options.folder)
    sys.stdout.writelines(f"{'stale' if options.check else 'wrote'} {path}\n" for path in found)
    return int(bool(options.check and found))


def _problems(diagram: Diagram) -> Iterator[str]:
    layout = diagram.layout
    for state in diagram.states:
        if state not in layout.places:
            yield f"the layout has no place for state {state}"
    for state in layout.places:
        if state not in diagram.states:
            yield f"the layout has a place for {state}, which is no state"
    for name, frame in layout.frames.items():
        for state in diagram.states:
            inside = frame.box.holds(layout.box(state))
            if inside != (state in frame.states) or (not inside and frame.box.meets(layout.box(state))):
                yield f"frame '{name}' is not around {', '.join(frame.states)} alone: see {state}"
    for arrow in diagram.arrows:
        if (arrow.event, arrow.target) not in layout.routes:
            yield f"the layout has no route for '{arrow.event}' to {arrow.target}"
        else:
            yield from _route_problems(layout, arrow)
    known = {(arrow.event, arrow.target) for arrow in diagram.arrows}
    for event, target in layout.routes:
        if (event, target) not in known:
            yield f"the layout has a route for '{event}' to {target}, which is no row"


def _route_problems(layout: Layout, arrow: Arrow) -> Iterator[str]:
    legs = layout.routes[arrow.event, arrow.target]
    row = f"'{arrow.event}' to {arrow.target}"
    drawn = {state for leg in legs for state in layout.sources(leg)}
    for state in arrow.sources:
        if state not in drawn:
            yield f"the route of {row} does not start at {state}"
    for state in sorted(drawn.difference(arrow.sources)):
        yield f"the route of {row} starts at {state}, which is none of its sources"
    arriving = [layout.line(leg) for leg in legs if isinstance(leg.end, Port)]
    for leg in legs:
        if isinstance(leg.end, Port):
            if leg.end.of != arrow.target:
                yield f"the route of {row} ends at {leg.end.of}"
        elif not any(_is_on(leg.end, line) for line in arriving):
            yield f"a leg of {row} ends at {leg.end.x}, {leg.end.y}, where no other leg passes"
    if not any(leg.label for leg in legs):
        yield f"the route of {row} has no label"


def _is_on(point: Point, line: Sequence[Point]) -> bool:
    return any(
        min(a.x, b.x) <= point.x <= max(a.x, b.x) and min(a.y, b.y) <= point.y <= max(a.y, b.y)
        for a, b in pairwise(line)
    )


def _state(diagram: Diagram, state: str) -> Iterator[str]:
    layout = diagram.layout
    legs = [leg for route in layout.routes.values() for leg in route]
    daily = state in {leg.end.of for leg in legs if leg.look is Look.EVERYDAY and isinstance(leg.end, Port)}
    colour, fill, weight = (
        (_COLOURS[Look.EVERYDAY], "#e8f0fe", 2) if daily or state == diagram.initial else (_INK, "#f8fafc", 1.5)
    )
    yield _rectangle(layout.box(state), 9, f'class="state" fill="{fill}" stroke="{colour}" stroke-width="{weight}"')
    style = f'text-anchor="middle" font-family="{_MONO}" font-size="14" font-weight="bold" fill="{_INK}"'
    yield _text(Point(layout.places[state].x, layout.places[state].y + 5), state, style)


def _row(layout: Layout, arrow: Arrow) -> Iterator[str]:
    sources = " ".join(arrow.sources)
    dots: dict[Point, str] = {}
    yield f'<g data-event="{arrow.event}" data-sources="{sources}" data-target="{arrow.target}">'
    yield f"<title>{arrow.event}: {', '.join(arrow.sources)} → {arrow.target}</title>"
    for leg in layout.routes[arrow.event, arrow.target]:
        line = layout.line(leg)
        colour = _COLOURS[leg.look]
        yield from _line(line, leg.look, head=isinstance(leg.end, Port))
        if isinstance(leg.end, Point) or leg.start.of in layout.frames:
            dots[line[-1] if isinstance(leg.end, Point) else line[0]] = colour
        if leg.label:
            style = f'font-family="{_MONO}" font-size="{_LABEL_SIZE}" fill="{colour}"'
            yield _text(leg.label, arrow.event, f'class="label" text-anchor="{leg.align}" {style}')
    for dot, colour in dots.items():
        yield f'<circle cx="{dot.x}" cy="{dot.y}" r="4.5" fill="{colour}"/>'
    yield "</g>"


def _line(line: Sequence[Point], look: Look, *, head: bool) -> Iterator[str]:
    """A line with round corners; one with a head ends inside it, so that a broad line does not blunt the tip."""
    tip = line[-1]
    if head:
        line = [*line[:-1], _towards(tip, line[-2], _HEAD - 2)]
    path = [f"M{line[0].x} {line[0].y}"]
    for before, corner, after in zip(line, line[1:], line[2:], strict=False):
        into, out = _towards(corner, before, _CORNER), _towards(corner, after, _CORNER)
        path.append(f"L{into.x} {into.y} Q{corner.x} {corner.y} {out.x} {out.y}")
    path.append(f"L{line[-1].x} {line[-1].y}")
    yield f'<path d="{" ".join(path)}" fill="none" {_STROKES[look]}/>'
    if head:
        back = _towards(tip, line[-2], _HEAD)
        across = Point((tip.y - back.y) // 2, (back.x - tip.x) // 2)
        yield (
            f'<polygon points="{tip.x},{tip.y} {back.x + across.x},{back.y + across.y}'
            f' {back.x - across.x},{back.y - across.y}" fill="{_COLOURS[look]}"/>'
        )


def _towards(start: Point, goal: Point, distance: int) -> Point:
    """``distance`` away from ``start``, along the horizontal or vertical way to ``goal``."""
    step_x = (goal.x > start.x) - (goal.x < start.x)
    step_y = (goal.y > start.y) - (goal.y < start.y)
    return Point(start.x + step_x * distance, start.y + step_y * distance)


def _marks(diagram: Diagram) -> Iterator[str]:
    """The beginning, a dot before the initial state, and the end, a ringed dot behind each final one."""
    at = diagram.layout.point(Port(diagram.initial, "left"))
    dot = Point(at.x - _MARK_DISTANCE - 24, at.y)
    yield f'<circle class="initial" cx="{dot.x}" cy="{dot.y}" r="8" fill="{_INK}"/>'
    yield from _line((Point(dot.x + 8, dot.y), at), Look.ASIDE, head=True)
    for state in diagram.final:
        at = diagram.layout.point(Port(state, "right"))
        dot = Point(at.x + _MARK_DISTANCE, at.y)
        yield from _line((at, Point(dot.x - 11, dot.y)), Look.ASIDE, head=True)
        yield f'<circle class="final" cx="{dot.x}" cy="{dot.y}" r="10" fill="none" stroke="{_INK}" stroke-width="1.5"/>'
        yield f'<circle cx="{dot.x}" cy="{dot.y}" r="6" fill="{_INK}"/>'


def _legend(layout: Layout) -> Iterator[str]:
    x, y = 28, layout.size.y - 28
    style = f'font-family="{_SANS}" font-size="{_LABEL_SIZE}" fill="{_INK}"'
    for look, text in _LEGEND.items():
        yield from _line((Point(x, y), Point(x + 44, y)), look, head=True)
        yield _text(Point(x + 54, y + 4), text, style)
        x += 54 + len(text) * _CHARACTER + 24
    yield _rectangle(Box(x, y - 10, x + 24, y + 10), 5, _FRAME_STYLE)
    yield from _line((Point(x + 24, y), Point(x + 52, y)), Look.ASIDE, head=True)
    yield f'<circle cx="{x + 24}" cy="{y}" r="4.5" fill="{_COLOURS[Look.ASIDE]}"/>'
    yield _text(Point(x + 62, y + 4), _FRAME_LEGEND, style)


def _rectangle(box: Box, radius: int, style: str) -> str:
    left, top, right, bottom = box
    return f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" rx="{radius}" {style}/>'


def _text(at: Point, text: str, style: str) -> str:
    return f'<text x="{at.x}" y="{at.y}" {style}>{text}</text>'


if __name__ == "__main__":
    sys.exit(main())
