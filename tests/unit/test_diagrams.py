"""The diagrams are complete, up to date, and readable for any table."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from enum import Enum
from itertools import combinations, pairwise
from pathlib import Path
from typing import NamedTuple, Never, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyamqp.mermaid import DIAGRAMS, Arrow, Diagram, describe, mermaid
from anyamqp.protocol.lifecycle import CHANNEL, CONNECTION, LINK
from anyamqp.protocol.lifecycle.caller import CALLER
from anyamqp.protocol.lifecycle.consumer import CONSUMER
from anyamqp.protocol.lifecycle.entity import ENTITY
from anyamqp.protocol.lifecycle.pool import POOL
from anyamqp.protocol.lifecycle.publish import PUBLISH
from anyamqp.protocol.lifecycle.publisher import PUBLISHER
from anyamqp.protocol.lifecycle.table import E, F, Row, S, Table
from anyamqp.protocol.lifecycle.transaction import TRANSACTION
from tools import diagrams
from tools.diagrams import svg

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "diagrams"
FILES = tuple(f"{name}.{kind}" for name in DIAGRAMS for kind in ("mmd", "svg"))
SVG = "{http://www.w3.org/2000/svg}"
NEAR = 12
"""Pixels within which a label plainly belongs to a line."""
CLEARANCE = 0.62
"""A character's width in parts of the font's size: a little more than that of the fonts that the pictures name."""
SIZES = {"title": 19, "name": 13, "label": 12}


def rows(table: Table[S, E, F]) -> set[tuple[str, str, str]]:
    return {(row.event.value, source.name, row.target.name) for row in table.rows for source in row.sources}


def rows_of(diagram: Diagram) -> set[tuple[str, str, str]]:
    return {(arrow.event, source, arrow.target) for arrow in diagram.arrows for source in arrow.sources}


class Public(Enum):
    """The states that a user of the nested machine below sees."""

    AWAY = "away"
    OPEN = "open"
    CLOSED = "closed"


class Inner(Enum):
    """Its real states."""

    AWAY_WAITING = "away_waiting"
    AWAY_DIALING = "away_dialing"
    OPEN = "open"
    CLOSED = "closed"

    @property
    def public(self) -> Public:
        return Public.AWAY if self in (Inner.AWAY_WAITING, Inner.AWAY_DIALING) else Public[self.name]


class Happening(Enum):
    """Its events."""

    DUE = "due"
    REFUSED = "refused"
    OPENED = "opened"
    LOST = "lost"
    CLOSE = "close"
    PAID = "paid"


NESTED: Table[Inner, Happening, Never] = Table(
    "thing",
    Inner.AWAY_DIALING,
    Row(Happening.DUE, (Inner.AWAY_WAITING,), Inner.AWAY_DIALING),
    Row(Happening.REFUSED, (Inner.AWAY_DIALING,), Inner.AWAY_WAITING),
    Row(Happening.OPENED, (Inner.AWAY_DIALING,), Inner.OPEN),
    Row(Happening.LOST, (Inner.OPEN,), Inner.AWAY_WAITING),
    Row(Happening.PAID, (Inner.OPEN,), Inner.OPEN),
    Row(Happening.CLOSE, (Inner.AWAY_WAITING, Inner.AWAY_DIALING, Inner.OPEN), Inner.CLOSED),
)
PICTURES = {**DIAGRAMS, "nested": describe("The life of a thing", NESTED)}


class Text(NamedTuple):
    """A piece of text in a picture, and the room it takes."""

    words: str
    kind: str
    left: float
    top: float
    right: float
    bottom: float


class Rectangle(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float


Shape: TypeAlias = Text | Rectangle


class Segment(NamedTuple):
    """A straight piece of a line, from its lower to its higher coordinates."""

    x1: float
    y1: float
    x2: float
    y2: float


class Picture:
    """An SVG file, read back."""

    def __init__(self, diagram: Diagram) -> None:
        self.root = ET.fromstring(svg(diagram))  # noqa: S314 - our own file
        self.groups = [group for group in self._all("g") if "data-events" in group.attrib]
        self.texts = [self._text(element) for element in self._all("text")]
        self.states = [self._rectangle(element) for element in self._all("rect") if element.get("class") == "state"]
        self.frames = [self._rectangle(element) for element in self._all("rect") if element.get("class") == "frame"]
        self.segments = self.lines_in(self.root)

    @property
    def labels(self) -> list[Text]:
        return [text for text in self.texts if text.kind == "label"]

    @property
    def size(self) -> tuple[float, float]:
        return float(self.root.attrib["width"]), float(self.root.attrib["height"])

    @property
    def rows(self) -> set[tuple[str, str, str]]:
        """All that the arrows say, by event, source and target."""
        return {
            (event, source, group.attrib["data-target"])
            for group in self.groups
            for event in group.attrib["data-events"].split(", ")
            for source in group.attrib["data-sources"].split()
        }

    def lines_in(self, element: ET.Element) -> list[Segment]:
        return [segment for path in element.iter(f"{SVG}path") for segment in self._segments(path)]

    def labels_in(self, element: ET.Element) -> list[Text]:
        return [self._text(text) for text in element.iter(f"{SVG}text")]

    def marks(self, kind: str) -> int:
        """How many shapes are of a class."""
        return sum(kind in element.get("class", "").split() for element in self.root.iter())

    def _all(self, tag: str) -> Iterator[ET.Element]:
        return self.root.iter(f"{SVG}{tag}")

    def _text(self, element: ET.Element) -> Text:
        words, kind = element.text or "", element.attrib["class"].split()[0]
        size = SIZES[kind]
        width = len(words) * size * CLEARANCE
        x, y = float(element.attrib["x"]), float(element.attrib["y"])
        left = x - {"start": 0.0, "middle": width / 2, "end": width}[element.get("text-anchor", "start")]
        return Text(words, kind, left, y - 0.8 * size, left + width, y + 0.25 * size)

    def _rectangle(self, element: ET.Element) -> Rectangle:
        x, y, width, height = (float(element.attrib[name]) for name in ("x", "y", "width", "height"))
        return Rectangle(x, y, x + width, y + height)

    def _segments(self, element: ET.Element) -> Iterator[Segment]:
        """The path's corners, joined; a round corner counts as the sharp one that contains it."""
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", element.attrib["d"])]
        for (x1, y1), (x2, y2) in pairwise(zip(numbers[::2], numbers[1::2], strict=True)):
            yield Segment(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))


def overlap(one: Shape, other: Shape) -> bool:
    return one.left < other.right and other.left < one.right and one.top < other.bottom and other.top < one.bottom


def inside(one: Shape, other: Shape) -> bool:
    return other.left <= one.left and one.right <= other.right and other.top <= one.top and one.bottom <= other.bottom


def runs_through(segment: Segment, shape: Shape) -> bool:
    """Whether a segment comes into a shape; to end at its edge is not to come in."""
    return segment.x1 < shape.right and segment.x2 > shape.left and segment.y1 < shape.bottom and segment.y2 > shape.top


def lie_on_each_other(one: Segment, other: Segment) -> bool:
    """Whether two segments share more than a point."""
    return (
        min(one.x2, other.x2) - max(one.x1, other.x1) + min(one.y2, other.y2) - max(one.y1, other.y1) > 0
        and one.x1 <= other.x2
        and other.x1 <= one.x2
        and one.y1 <= other.y2
        and other.y1 <= one.y2
        and ((one.x1 == one.x2) == (other.x1 == other.x2))
    )


# --- every picture --------------------------------------------------------------------------------------------------


def rows_are_drawn(diagram: Diagram, picture: Picture) -> None:
    assert picture.rows == rows_of(diagram)
    assert sum(len(group.attrib["data-events"].split(", ")) for group in picture.groups) <= len(rows_of(diagram))
    for group in picture.groups:
        assert group.find(f"{SVG}path") is not None
        assert group.find(f"{SVG}polygon") is not None
        words = " ".join(text.text or "" for text in reversed([*group.iter(f"{SVG}text")]))
        assert words == group.attrib["data-events"]


def states_are_drawn(diagram: Diagram, picture: Picture) -> None:
    assert len(picture.states) == len(diagram.states)
    assert len(picture.frames) == len(diagram.groups)
    assert (picture.marks("initial"), picture.marks("inner")) == (1, len(diagram.final))
    for box in picture.states:
        names = [text for text in picture.texts if text.kind == "name" and inside(text, box)]
        assert len(names) == 1


def texts_are_free(picture: Picture) -> None:
    assert [pair for pair in combinations(picture.texts, 2) if overlap(*pair)] == []
    assert [(label, box) for label in picture.labels for box in picture.states if overlap(label, box)] == []
    assert [(text, line) for text in picture.texts for line in picture.segments if runs_through(line, text)] == []
    edges = [(label, frame) for label in picture.labels for frame in picture.frames if overlap(label, frame)]
    assert [pair for pair in edges if not inside(*pair)] == []
    for group in picture.groups:
        labels = picture.labels_in(group)
        near = Rectangle(
            min(label.left for label in labels) - NEAR,
            min(label.top for label in labels) - NEAR,
            max(label.right for label in labels) + NEAR,
            max(label.bottom for label in labels) + NEAR,
        )
        assert any(runs_through(line, near) for line in picture.lines_in(group)), labels


def lines_are_free(picture: Picture) -> None:
    assert [line for line in picture.segments if line.x1 != line.x2 and line.y1 != line.y2] == []
    assert [(line, box) for line in picture.segments for box in picture.states if runs_through(line, box)] == []
    for one, other in combinations(picture.groups, 2):
        if one.attrib["data-target"] != other.attrib["data-target"]:
            pairs = ((a, b) for a in picture.lines_in(one) for b in picture.lines_in(other))
            assert [pair for pair in pairs if lie_on_each_other(*pair)] == []


def boxes_are_free(picture: Picture) -> None:
    assert [pair for pair in combinations(picture.states, 2) if overlap(*pair)] == []
    assert [pair for pair in combinations(picture.frames, 2) if overlap(*pair)] == []
    for frame in picture.frames:
        assert [box for box in picture.states if overlap(box, frame) and not inside(box, frame)] == []
    paper = Rectangle(0, 0, *picture.size)
    shapes: list[Shape] = [*picture.texts, *picture.states, *picture.frames]
    shapes += [Rectangle(*line) for line in picture.segments]
    assert [shape for shape in shapes if not inside(shape, paper)] == []


def is_good(diagram: Diagram) -> None:
    picture = Picture(diagram)
    rows_are_drawn(diagram, picture)
    states_are_drawn(diagram, picture)
    texts_are_free(picture)
    lines_are_free(picture)
    boxes_are_free(picture)


@pytest.mark.parametrize("name", PICTURES)
def test_picture_is_complete_and_nothing_collides(name: str) -> None:
    is_good(PICTURES[name])


@st.composite
def any_diagram(draw: st.DrawFn) -> Diagram:
    """A diagram as no table will ever have it."""
    count = draw(st.integers(2, 9))
    groups = draw(st.lists(st.sampled_from(["", "G", "RECONNECTING"]), min_size=count, max_size=count))
    states = tuple(f"{group}_S{number}" if group else f"S{number}" for number, group in enumerate(groups))
    nested = {
        group: members
        for group in ("G", "RECONNECTING")
        if len(members := tuple(state for state, own in zip(states, groups, strict=True) if own == group)) > 1
    }
    events = st.sampled_from(["e", "lost", "close_ok", "a_rather_long_event_name", "x", "y", "z"])
    some = st.lists(st.sampled_from(states), min_size=1, unique=True).map(tuple)
    arrows = draw(st.lists(st.builds(Arrow, events, some, st.sampled_from(states)), max_size=10))
    rows_by_cell: dict[tuple[str, str], str] = {}
    for arrow in arrows:
        for source in arrow.sources:
            rows_by_cell.setdefault((arrow.event, source), arrow.target)
    rows = tuple(Arrow(event, (source,), target) for (event, source), target in rows_by_cell.items())
    return Diagram("The life of a thing", draw(st.sampled_from(states)), states, nested, rows)


@given(any_diagram())
def test_picture_of_any_table_is_complete_and_nothing_collides(diagram: Diagram) -> None:
    is_good(diagram)


@given(any_diagram())
def test_picture_of_a_table_is_always_the_same(diagram: Diagram) -> None:
    assert svg(diagram) == svg(diagram)


def test_arrow_from_all_nested_states_leaves_their_frame_once() -> None:
    picture = Picture(PICTURES["nested"])
    sources = [group.attrib["data-sources"] for group in picture.groups if group.attrib["data-events"] == "close"]
    assert sorted(sources) == ["AWAY_WAITING AWAY_DIALING", "OPEN"]


def test_events_between_the_same_two_states_share_an_arrow() -> None:
    arrows = (Arrow("closed", ("A",), "B"), Arrow("died", ("A",), "B"))
    picture = Picture(Diagram("Two", "A", ("A", "B"), {}, arrows))
    assert [group.attrib["data-events"] for group in picture.groups] == ["closed, died"]


# --- Mermaid --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("connection", CONNECTION),
        ("channel", CHANNEL),
        ("link", LINK),
        ("consumer", CONSUMER),
        ("publisher", PUBLISHER),
        ("publish", PUBLISH),
        ("rpc_client", CALLER),
        ("transaction", TRANSACTION),
        ("pool", POOL),
        ("entity", ENTITY),
    ],
)
def test_diagram_has_every_row_of_its_table(name: str, table: Table[S, E, F]) -> None:
    assert rows_of(DIAGRAMS[name]) == rows(table)
    assert DIAGRAMS[name].states == tuple(state.name for state in type(table.initial))


@pytest.mark.parametrize("name", PICTURES)
def test_every_row_is_in_mermaid_once_for_each_source(name: str) -> None:
    lines = [line.strip() for line in mermaid(PICTURES[name]).splitlines()]
    expected = [
        f"{source} --> {arrow.target}: {arrow.event}" for arrow in PICTURES[name].arrows for source in arrow.sources
    ]
    assert [line for line in lines if "-->" in line and "[*]" not in line] == expected


@pytest.mark.parametrize("name", PICTURES)
def test_mermaid_marks_the_initial_and_the_final_states(name: str) -> None:
    diagram = PICTURES[name]
    lines = [line.strip() for line in mermaid(diagram).splitlines()]
    assert [line for line in lines if "[*]" in line] == [
        f"[*] --> {diagram.initial}",
        *(f"{state} --> [*]" for state in diagram.final),
    ]


def test_mermaid_nests_the_states_of_a_public_one() -> None:
    assert PICTURES["nested"].groups == {"AWAY": ("AWAY_WAITING", "AWAY_DIALING")}
    assert """    state "AWAY" as AWAY_states {
        state "WAITING" as AWAY_WAITING
        state "DIALING" as AWAY_DIALING
    }
""" in mermaid(PICTURES["nested"])


# --- files and command ----------------------------------------------------------------------------------------------


def test_checked_in_files_are_what_the_tables_give() -> None:
    outdated = diagrams.stale(FOLDER)
    assert not outdated, f"{', '.join(path.name for path in outdated)}: stale; run `make diagrams`"


def test_folder_holds_nothing_else() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(FILES)


def test_write_makes_the_folder_and_returns_what_it_wrote(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert diagrams.write(folder) == [folder / file for file in FILES]
    assert (folder / "link.svg").read_text(encoding="utf-8") == svg(DIAGRAMS["link"])


def test_stale_names_a_missing_and_a_changed_file(tmp_path: Path) -> None:
    diagrams.write(tmp_path)
    (tmp_path / "connection.svg").unlink()
    (tmp_path / "link.mmd").write_text("stateDiagram-v2\n", encoding="utf-8")
    assert diagrams.stale(tmp_path) == [tmp_path / "connection.svg", tmp_path / "link.mmd"]


def test_main_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert diagrams.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"wrote {tmp_path / file}" for file in FILES]


def test_main_check_names_what_is_stale_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diagrams.write(tmp_path)
    (tmp_path / "link.svg").unlink()
    assert diagrams.main([str(tmp_path), "--check"]) == 1
    assert capsys.readouterr().out == f"stale {tmp_path / 'link.svg'}\n"
    assert not (tmp_path / "link.svg").exists()


def test_main_check_is_content_with_fresh_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diagrams.write(tmp_path)
    assert diagrams.main([str(tmp_path), "--check"]) == 0
    assert capsys.readouterr().out == ""


def test_module_runs_as_a_command_and_writes_to_diagrams_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-m", "tools.diagrams"]
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'src'}")
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)  # noqa: S603 - our own module
    assert sorted(path.name for path in (tmp_path / "diagrams").iterdir()) == sorted(FILES)
