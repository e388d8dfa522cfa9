"""Draw the tables of ``anyamqp.protocol.lifecycle`` as SVG, and write their Mermaid texts beside the pictures.

``python -m tools.diagrams [folder]`` writes the files; with ``--check`` it names those that are stale and exits 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Final

from anyamqp.mermaid import DIAGRAMS, Diagram, mermaid, short_name
from tools.layout import LINE, PADDING, Exit, Holder, Layout, Point

_CORNER: Final = 8
_HEAD: Final = 9
_COLOURS: Final = ("#3b82f6", "#d97706", "#16a34a", "#a855f7", "#0d9488", "#db2777", "#ef4444", "#64748b")

_STYLE: Final = """\
.paper { fill: #ffffff } .ink { fill: #1f2937 } .title { font: bold 19px DejaVu Sans, Helvetica, Arial, sans-serif }
.state { fill: #f1f5f9; stroke: #475569; stroke-width: 1.5 } .inner { fill: none; stroke: #475569 }
.frame { fill: #64748b; fill-opacity: 0.08; stroke: #94a3b8 } .line { fill: none; stroke-width: 2 }
.name { font: bold 13px DejaVu Sans Mono, Menlo, Consolas, monospace }
.label { font: 12px DejaVu Sans Mono, Menlo, Consolas, monospace }
@media (prefers-color-scheme: dark) {
.paper { fill: #0d1117 } .ink { fill: #e6edf3 } .state { fill: #1c2532; stroke: #8b9bb0 } .inner { stroke: #8b9bb0 }
}"""


def svg(diagram: Diagram) -> str:
    """A diagram as an SVG picture, for light and dark pages."""
    layout = Layout(diagram)
    size = f'width="{layout.width}" height="{layout.height}"'
    view = f'viewBox="0 0 {layout.width} {layout.height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {view} {size} role="img">',
        "<!-- Drawn from anyamqp/protocol/lifecycle; change the table, then run: make diagrams -->",
        f"<title>{escape(diagram.title)}</title>",
        f"<style>\n{_STYLE}\n</style>",
        f'<rect {size} rx="12" class="paper"/>',
        f'<text x="{PADDING}" y="40" class="title ink">{escape(diagram.title)}</text>',
    ]
    for group, frame in layout.frames.items():
        lines.append(_rectangle(frame, "frame", 14))
        lines.append(f'<text x="{frame.left + 12}" y="{frame.top + 20}" class="name ink">{escape(group)}</text>')
    lines += _beginning(layout)
    for state in layout.order:
        lines += _state(layout, state)
    for holder in layout.holders:
        for one in (*holder.exits["left"], *holder.exits["right"]):
            lines += _arrow(one, _track_way(layout, one), *_track_label(layout, one), _colour(layout, one))
        for one in holder.loops:
            lines += _loop(layout, one)
    for one in layout.straight:
        lines += _straight(layout, one)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _colour(layout: Layout, one: Exit) -> str:
    return _COLOURS[layout.place[one.target] % len(_COLOURS)]


def _beginning(layout: Layout) -> Iterator[str]:
    box = layout.states[layout.order[0]]
    x = (box.left + box.right) // 2
    yield f'<circle class="initial ink" cx="{x}" cy="66" r="7"/>'
    yield from _line([Point(x, 73), Point(x, box.top)], "#64748b")


def _state(layout: Layout, state: str) -> Iterator[str]:
    box = layout.states[state]
    yield _rectangle(box, "state", 8)
    if state in layout.diagram.final:
        x, y, width, height = box.left + 4, box.top + 4, box.right - box.left - 8, box.bottom - box.top - 8
        yield f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" class="inner"/>'
    x, y = (box.left + box.right) // 2, (box.top + box.bottom) // 2 + 5
    name = escape(short_name(state, layout.group_of.get(state, "")))
    yield f'<text x="{x}" y="{y}" text-anchor="middle" class="name ink">{name}</text>'


def _track_way(layout: Layout, one: Exit) -> list[Point]:
    side, holder, target = layout.side_of(one), layout.holder_of(one), layout.states[one.target]
    x, start, end = layout.tracks[side, one.target], holder.leaving[one.target], target.arriving[side]
    edges = (holder.right, target.right) if side == "right" else (holder.left, target.left)
    return [Point(edges[0], start), Point(x, start), Point(x, end), Point(edges[1], end)]


def _track_label(layout: Layout, one: Exit) -> tuple[Point, str]:
    side, y = layout.side_of(one), layout.holder_of(one).leaving[one.target] - 5
    outer = layout.frames.get(layout.group_of.get(one.sources[0], ""), layout.states[one.sources[0]])
    return (Point(outer.right + 8, y), "start") if side == "right" else (Point(outer.left - 8, y), "end")


def _straight(layout: Layout, one: Exit) -> Iterator[str]:
    source, target = layout.states[one.holder], layout.states[one.target]
    is_down = target.top > source.top
    upper, lower = (source, target) if is_down else (target, source)
    is_pair = all(layout.straights(upper.name, lower.name))
    is_left = is_pair and is_down
    x = (source.left + source.right) // 2 + (0 if not is_pair else -18 if is_down else 18)
    edges = (source.bottom, target.top) if is_down else (source.top, target.bottom)
    way = [Point(x, edge) for edge in edges]
    label = Point(x - 9 if is_left else x + 9, _label_base(layout, upper, lower, len(one.lines)))
    yield from _arrow(one, way, label, "end" if is_left else "start", _colour(layout, one))


def _label_base(layout: Layout, upper: Holder, lower: Holder, lines: int) -> int:
    """The last line of a label in the gap between two boxes, outside of the frames' headers."""
    groups = layout.group_of.get(upper.name), layout.group_of.get(lower.name)
    top, bottom = upper.bottom, lower.top
    if groups[0] != groups[1]:
        top = layout.frames[groups[0]].bottom if groups[0] is not None else top
        bottom = layout.frames[groups[1]].top if groups[1] is not None else bottom
    return (top + bottom) // 2 + 4 + (lines - 1) * LINE // 2


def _loop(layout: Layout, one: Exit) -> Iterator[str]:
    holder = layout.states[one.holder]
    y, out = holder.leaving[one.target], layout.frames.get(layout.group_of.get(one.holder, ""), holder).right + 18
    way = [Point(holder.right, y - 16), Point(out, y - 16), Point(out, y), Point(holder.right, y)]
    base = y - 4 + (len(one.lines) - 1) * LINE // 2
    yield from _arrow(one, way, Point(out + 8, base), "start", _colour(layout, one))


def _arrow(one: Exit, way: Sequence[Point], label: Point, anchor: str, colour: str) -> Iterator[str]:
    events, sources = escape(", ".join(one.events)), " ".join(one.sources)
    yield f'<g data-events="{events}" data-sources="{sources}" data-target="{one.target}">'
    yield f"<title>{escape(', '.join(one.events))}: {', '.join(one.sources)} → {one.target}</title>"
    yield from _line(way, colour)
    for back, text in enumerate(reversed(one.lines)):
        y = label.y - back * LINE
        yield f'<text x="{label.x}" y="{y}" text-anchor="{anchor}" class="label ink">{escape(text)}</text>'
    yield "</g>"


def _line(way: Sequence[Point], colour: str) -> Iterator[str]:
    """An arrow with round corners; the line ends inside the head, so that it does not blunt the tip."""
    tip, before_tip = way[-1], way[-2]
    points = [*way[:-1], _towards(tip, before_tip, _HEAD - 2)]
    path = [f"M{points[0].x} {points[0].y}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        into, out = _towards(corner, before, _CORNER), _towards(corner, after, _CORNER)
        path.append(f"L{into.x} {into.y} Q{corner.x} {corner.y} {out.x} {out.y}")
    path.append(f"L{points[-1].x} {points[-1].y}")
    yield f'<path d="{" ".join(path)}" class="line" stroke="{colour}"/>'
    back = _towards(tip, before_tip, _HEAD)
    across = Point((tip.y - back.y) // 2, (back.x - tip.x) // 2)
    corners = (tip, Point(back.x + across.x, back.y + across.y), Point(back.x - across.x, back.y - across.y))
    yield f'<polygon points="{" ".join(f"{x},{y}" for x, y in corners)}" fill="{colour}"/>'


def _towards(start: Point, goal: Point, distance: int) -> Point:
    """``distance`` away from ``start``, along the horizontal or vertical way to ``goal``."""
    step_x = (goal.x > start.x) - (goal.x < start.x)
    step_y = (goal.y > start.y) - (goal.y < start.y)
    return Point(start.x + step_x * distance, start.y + step_y * distance)


def _rectangle(holder: Holder, kind: str, radius: int) -> str:
    size = f'width="{holder.right - holder.left}" height="{holder.bottom - holder.top}"'
    return f'<rect x="{holder.left}" y="{holder.top}" {size} rx="{radius}" class="{kind}"/>'


def _files() -> dict[str, str]:
    return {
        f"{name}.{kind}": draw(diagram)
        for name, diagram in DIAGRAMS.items()
        for kind, draw in (("mmd", mermaid), ("svg", svg))
    }


def write(folder: Path) -> list[Path]:
    """Write all diagrams into ``folder``, which is made if need be, and return the files in the order of writing."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {folder / name: text for name, text in _files().items()}
    for path, text in paths.items():
        path.write_text(text, encoding="utf-8")
    return list(paths)


def stale(folder: Path) -> list[Path]:
    """The files in ``folder`` that are missing or differ from the tables."""
    paths = {folder / name: text for name, text in _files().items()}
    return [path for path, text in paths.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``python -m tools.diagrams``."""
    parser = argparse.ArgumentParser(prog="python -m tools.diagrams", description="Draw the life cycles.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("diagrams"), help="default: %(default)s")
    parser.add_argument("--check", action="store_true", help="write nothing; name stale files and exit 1")
    options = parser.parse_args(arguments)
    found = stale(options.folder) if options.check else write(options.folder)
    sys.stdout.writelines(f"{'stale' if options.check else 'wrote'} {path}\n" for path in found)
    return int(bool(options.check and found))


if __name__ == "__main__":
    sys.exit(main())
