"""The layout of a diagram: where its states, frames, arrows and labels stand.

All states stand in one column, in the order of their definition, the final ones last; the states that are nested in
one public state stand together in its frame. An arrow to the neighbour is a straight line between the two boxes. All
other arrows to one target join one track: on the right if they lead down, on the left if they lead up. An event is
written where its arrow begins. An arrow that leaves every state of a frame begins at the frame.

Nothing collides, whatever the table: each arrow meets its box at a height of its own, labels stand between the boxes
and the tracks, and two tracks of the same place have no height in common.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Final, Literal, NamedTuple, TypeAlias

from anyamqp.mermaid import Diagram, short_name

Side: TypeAlias = Literal["left", "right"]

# All lengths are in pixels.
_CHARACTER: Final = 8
"""Width of a character of the labels and names, a little more than the widest of the fonts needs."""
LINE: Final = 15
PADDING: Final = 28
_GAP: Final = 30
_HEADER: Final = 34
_INSET: Final = 16
_BOX: Final = 40
_TRACK: Final = 16
_ARRIVAL: Final = 18
_WRAP: Final = 24
"""Characters after which a label goes on in a new line."""


class Exit(NamedTuple):
    """All that leads from one state, or from all states of a frame, to one target."""

    holder: str
    sources: tuple[str, ...]
    target: str
    events: tuple[str, ...]

    @property
    def leaves_frame(self) -> bool:
        """Whether it leaves all states of a frame."""
        return len(self.sources) > 1

    @property
    def lines(self) -> list[str]:
        """The events, as the lines of a label."""
        lines = [""]
        for position, event in enumerate(self.events):
            word = event + ("," if position + 1 < len(self.events) else "")
            if lines[-1] and len(lines[-1]) + 1 + len(word) > _WRAP:
                lines.append("")
            lines[-1] = f"{lines[-1]} {word}".strip()
        return lines

    @property
    def width(self) -> int:
        """The width of the label."""
        return max(map(len, self.lines)) * _CHARACTER


class Point(NamedTuple):
    """A place, from the picture's upper left corner."""

    x: int
    y: int


@dataclass(slots=True)
class Holder:
    """A state or a frame: its place, and the heights at which arrows leave and reach it."""

    name: str
    exits: dict[Side, list[Exit]] = field(default_factory=lambda: {"left": [], "right": []})
    loops: list[Exit] = field(default_factory=list[Exit])
    arrivals: set[Side] = field(default_factory=set[Side])
    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0
    leaving: dict[str, int] = field(default_factory=dict[str, int])
    arriving: dict[Side, int] = field(default_factory=dict[Side, int])

    def height(self) -> int:
        """The height that its arrows need."""
        return max(sum(height for _, _, height in self._rows(side)) for side in ("left", "right")) + 8

    def place_rows(self, top: int) -> None:
        """Give each arrow its height, from ``top`` down."""
        for side in ("left", "right"):
            y = top + 4
            for kind, target, height in self._rows(side):
                y += height
                if kind == "arrival":
                    self.arriving[side] = y - 6
                else:
                    self.leaving[target] = y - (4 if kind == "exit" else height // 2 - 8)

    def _rows(self, side: Side) -> list[tuple[str, str, int]]:
        """Kind, target and height of what meets a side, from above: arrows come from above at the right."""
        leaving = [("exit", one.target, len(one.lines) * LINE + 6) for one in self.exits[side]]
        if side == "right":
            leaving += [("loop", one.target, max(2, len(one.lines)) * LINE + 6) for one in self.loops]
        arriving = [("arrival", "", _ARRIVAL)] if side in self.arrivals else []
        return [*arriving, *leaving] if side == "right" else [*leaving, *arriving]


class Layout:
    """Where everything of a diagram stands."""

    def __init__(self, diagram: Diagram) -> None:
        self.diagram = diagram
        self.group_of: Mapping[str, str] = {
            state: group for group, nested in diagram.groups.items() for state in nested
        }
        self.order: tuple[str, ...] = tuple(self._ordered())
        self.place: Mapping[str, int] = {state: position for position, state in enumerate(self.order)}
        self.straight: list[Exit] = []
        """The arrows to a neighbour."""
        self.states: dict[str, Holder] = {state: Holder(state) for state in self.order}
        self.frames: dict[str, Holder] = {group: Holder(group) for group in diagram.groups}
        self._share(exits_of(diagram, self.group_of))
        self.tracks: dict[tuple[Side, str], int] = {}
        """The x of each track."""
        self.width, self.height = self._stand()

    def _ordered(self) -> Iterator[str]:
        """The states of a public state together, the initial state first, the final ones last."""
        first, final = self.diagram.initial, set(self.diagram.final)
        states = sorted(self.diagram.states, key=lambda state: (state != first, state in final))
        groups = dict.fromkeys(self.group_of.get(state, state) for state in states)
        for group in groups:
            yield from (state for state in states if self.group_of.get(state, state) == group)

    def _share(self, exits: Iterable[Exit]) -> None:
        """Give each arrow to the side of its box, or to the gap, that it leaves through."""
        for one in exits:
            holder = self.holder_of(one)
            distance = self.place[one.target] - self.place[one.sources[0]]
            if not distance:
                holder.loops.append(one)
            elif abs(distance) == 1 and not one.leaves_frame:
                self.straight.append(one)
            else:
                side: Side = "right" if distance > 0 else "left"
                holder.exits[side].append(one)
                self.states[one.target].arrivals.add(side)
        for holder in self.holders:
            for exits in holder.exits.values():
                # The longer way leaves higher at the right and lower at the left, so that the two do not cross.
                exits.sort(key=lambda one: -self.place[one.target])

    @property
    def holders(self) -> tuple[Holder, ...]:
        """All frames and states."""
        return (*self.frames.values(), *self.states.values())

    def side_of(self, one: Exit) -> Side:
        """The side at which an arrow leaves, if it is not straight."""
        return "right" if self.place[one.target] > self.place[one.sources[0]] else "left"

    def holder_of(self, one: Exit) -> Holder:
        """The state or frame that an arrow leaves."""
        return self.frames[one.holder] if one.leaves_frame else self.states[one.holder]

    def straights(self, upper: str, lower: str) -> tuple[Exit | None, Exit | None]:
        """The arrows down and up between two neighbours."""
        ways = {(one.holder, one.target): one for one in self.straight}
        return ways.get((upper, lower)), ways.get((lower, upper))

    def _stand(self) -> tuple[int, int]:
        names = [short_name(state, self.group_of.get(state, "")) for state in self.order]
        inset = _INSET if self.frames else 0
        column = max(200, *(len(name) * _CHARACTER + 40 for name in names)) + 2 * inset
        # Two arrows pass beside a frame's name.
        column = max([column, *(2 * (len(group) * _CHARACTER + 36) for group in self.frames)])
        # A label inside a frame does not cross its edge.
        nested = [one for one in self.straight if one.holder in self.group_of]
        column = max([column, *(2 * (one.width + 36) for one in nested)])
        bottom = self._stack()
        spans = self._spans()
        room = {side: self._label_room(side, column) for side in ("left", "right")}
        levels = _levels(spans)
        count = {side: max((level + 1 for (at, _), level in levels.items() if at == side), default=0) for side in room}
        left = PADDING + count["left"] * _TRACK + room["left"]
        right = left + column
        for frame in self.frames.values():
            frame.left, frame.right = left, right
        for name, state in self.states.items():
            inset = _INSET if name in self.group_of else 0
            state.left, state.right = left + inset, right - inset
        for (side, target), level in levels.items():
            distance = room[side] + level * _TRACK + _TRACK // 2
            self.tracks[side, target] = right + distance if side == "right" else left - distance
        title = 2 * PADDING + len(self.diagram.title) * 12
        return max(title, right + room["right"] + count["right"] * _TRACK + PADDING), bottom + PADDING

    def _stack(self) -> int:
        """Place everything from above; returns the lower edge."""
        y = 96
        for group, members in groupby(self.order, key=self.group_of.get):
            states = list(members)
            frame = self.frames[group] if group is not None else None
            if frame is not None:
                y += 4
                frame.top = y
                frame.place_rows(y)
                y += max(_HEADER, frame.height())
            for state in states:
                holder = self.states[state]
                holder.top, holder.bottom = y, y + max(_BOX, holder.height())
                holder.place_rows(y + (holder.bottom - y - holder.height()) // 2)
                y = holder.bottom
                if frame is not None and state == states[-1]:
                    y += _INSET
                    frame.bottom = y
                y += self._gap_below(state)
        return self._bottom()

    def _gap_below(self, state: str) -> int:
        position = self.place[state]
        if position + 1 == len(self.order):
            return 0
        both = self.straights(state, self.order[position + 1])
        lines = max((len(one.lines) for one in both if one), default=0)
        return _GAP + lines * LINE if lines else _GAP // 2 + 4

    def _bottom(self) -> int:
        return max(holder.bottom for holder in self.holders)

    def _spans(self) -> dict[tuple[Side, str], tuple[int, int]]:
        """The heights that each track reaches from and to."""
        spans: dict[tuple[Side, str], tuple[int, int]] = {}
        for holder in self.holders:
            for side, exits in holder.exits.items():
                for one in exits:
                    start, end = holder.leaving[one.target], self.states[one.target].arriving[side]
                    low, high = spans.get((side, one.target), (end, end))
                    spans[side, one.target] = min(low, start), max(high, start)
        return spans

    def _label_room(self, side: Side, column: int) -> int:
        """The width between the boxes and the tracks of a side."""
        widths = [one.width + 14 for holder in self.holders for one in holder.exits[side]]
        if side == "right":
            widths += [one.width + 36 for holder in self.states.values() for one in holder.loops]
        for upper, lower in pairwise(self.order):
            down, up = self.straights(upper, lower)
            one = (down if up else None) if side == "left" else (up or down)
            if one:
                widths.append(one.width + 30 - column // 2)
        return max([*widths, 0]) + (_TRACK // 2 if widths else 0)


def exits_of(diagram: Diagram, group_of: Mapping[str, str]) -> list[Exit]:
    """The arrows of a diagram, joined where source and target are the same, and where they leave a whole frame."""
    events: dict[tuple[str, str], list[str]] = {}
    for arrow in diagram.arrows:
        for source in arrow.sources:
            events.setdefault((source, arrow.target), []).append(arrow.event)
    exits: list[Exit] = []
    for group, nested in diagram.groups.items():
        for target in diagram.states:
            first = events.get((nested[0], target), ())
            shared = [event for event in first if all(event in events.get((state, target), ()) for state in nested)]
            if group_of.get(target) == group or not shared:
                continue
            exits.append(Exit(group, nested, target, tuple(shared)))
            for state in nested:
                events[state, target] = [event for event in events[state, target] if event not in shared]
    exits += [Exit(source, (source,), target, tuple(names)) for (source, target), names in events.items() if names]
    return exits


def _levels(spans: Mapping[tuple[Side, str], tuple[int, int]]) -> dict[tuple[Side, str], int]:
    """How far outside each track runs: the shortest first, each as far inside as there is room."""
    levels: dict[tuple[Side, str], int] = {}
    for key, (low, high) in sorted(spans.items(), key=lambda item: (item[1][1] - item[1][0], item[0])):
        taken = {
            level
            for other, level in levels.items()
            if other[0] == key[0] and spans[other][0] - 12 < high and low < spans[other][1] + 12
        }
        levels[key] = next(level for level in range(len(spans)) if level not in taken)
    return levels
