"""The diagrams: that they are complete, up to date, and readable."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import pytest

from anyamqp import diagrams
from anyamqp.diagrams import DIAGRAMS, Arrow, Box, Diagram, Frame, Leg, Look, Place, Point, Port
from anyamqp.protocol.lifecycle import CHANNEL, CONNECTION, LINK
from anyamqp.protocol.lifecycle.table import E, F, S, Table

FOLDER = Path(__file__).parents[2] / "diagrams"
NAMES = ("connection", "channel", "link")
FILES = tuple(f"{name}.{kind}" for name in NAMES for kind in ("mmd", "svg"))
SVG = "{http://www.w3.org/2000/svg}"
NEAR = 12
"""Pixels within which a label plainly belongs to a line."""
CLEARANCE = 0.62
"""A character's width in parts of the font's size: a little more than that of the fonts that the pictures name."""


def rows(table: Table[S, E, F]) -> list[tuple[str, list[str], str]]:
    return [(row.event.value, [source.name for source in row.sources], row.target.name) for row in table.rows]


ROWS = {"connection": rows(CONNECTION), "channel": rows(CHANNEL), "link": rows(LINK)}


class Text(NamedTuple):
    """A piece of text in a picture, and the room it takes."""

    words: str
    is_label: bool
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

    def __init__(self, source: str) -> None:
        self.root = ET.fromstring(source)  # noqa: S314 - our own file
        self.groups = [group for group in self._all("g") if "data-event" in group.attrib]
        self.texts = [self._text(element) for element in self._all("text")]
        self.states = [self._rectangle(element) for element in self._all("rect") if element.get("class") == "state"]
        self.frames = [self._rectangle(element) for element in self._all("rect") if element.get("class") == "frame"]
        self.segments = self.lines_in(self.root)

    @property
    def labels(self) -> list[Text]:
        return [text for text in self.texts if text.is_label]

    @property
    def size(self) -> tuple[float, float]:
        return float(self.root.attrib["width"]), float(self.root.attrib["height"])

    def lines_in(self, element: ET.Element) -> list[Segment]:
        return [segment for path in element.iter(f"{SVG}path") for segment in self._segments(path)]

    def labels_in(self, element: ET.Element) -> list[Text]:
        return [self._text(text) for text in element.iter(f"{SVG}text")]

    def marks(self, kind: str) -> int:
        """How many circles are of a class."""
        return sum(circle.get("class") == kind for circle in self._all("circle"))

    def _all(self, tag: str) -> Iterator[ET.Element]:
        return self.root.iter(f"{SVG}{tag}")

    def _text(self, element: ET.Element) -> Text:
        words = element.text or ""
        size = float(element.attrib["font-size"])
        width = len(words) * size * CLEARANCE
        x, y = float(element.attrib["x"]), float(element.attrib["y"])
        left = x - {"start": 0.0, "middle": width / 2, "end": width}[element.get("text-anchor", "start")]
        return Text(words, element.get("class") == "label", left, y - 0.8 * size, left + width, y + 0.25 * size)

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


def cross(one: Segment, other: Segment) -> bool:
    """Whether two segments cross; to touch is not to cross."""
    flat, steep = (one, other) if one.y1 == one.y2 else (other, one)
    return flat.x1 < steep.x1 < flat.x2 and steep.y1 < flat.y1 < steep.y2 and steep.x1 == steep.x2


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """Each diagram in turn."""
    given: str = request.param
    return given


@pytest.fixture
def picture(name: str) -> Picture:
    return Picture(diagrams.svg(name))


@pytest.fixture
def change(monkeypatch: pytest.MonkeyPatch) -> Callable[[Diagram], None]:
    """Puts a changed diagram in the place of the connection's."""

    def change(changed: Diagram) -> None:
        monkeypatch.setattr(diagrams, "DIAGRAMS", MappingProxyType({**DIAGRAMS, "connection": changed}))

    return change


def with_route(event: str, target: str, *legs: Leg) -> Diagram:
    """The connection's diagram with another route for one row."""
    diagram = DIAGRAMS["connection"]
    routes: Mapping[tuple[str, str], tuple[Leg, ...]] = {**diagram.layout.routes, (event, target): legs}
    return replace(diagram, layout=replace(diagram.layout, routes=routes))


def test_checked_in_files_are_what_the_tables_give() -> None:
    outdated = diagrams.stale(FOLDER)
    assert not outdated, f"{', '.join(path.name for path in outdated)}: stale; run `make diagrams`"


def test_folder_holds_nothing_else() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(FILES)


def test_every_row_is_in_mermaid_once_for_each_source(name: str) -> None:
    lines = [line.strip() for line in diagrams.mermaid(name).splitlines()]
    expected = [f"{source} --> {target}: {event}" for event, sources, target in ROWS[name] for source in sources]
    assert [line for line in lines if "-->" in line and "[*]" not in line] == expected


@pytest.mark.parametrize(
    ("name", "initial"), [("connection", "CONNECTING"), ("channel", "CONNECTING"), ("link", "AWAITING_START")]
)
def test_mermaid_marks_the_initial_and_the_final_state(name: str, initial: str) -> None:
    lines = [line.strip() for line in diagrams.mermaid(name).splitlines()]
    assert [line for line in lines if "[*]" in line] == [f"[*] --> {initial}", "CLOSED --> [*]"]


def test_every_row_is_in_the_picture(name: str, picture: Picture) -> None:
    drawn = [
        (group.attrib["data-event"], group.attrib["data-sources"].split(), group.attrib["data-target"])
        for group in picture.groups
    ]
    assert drawn == ROWS[name]


def test_every_row_in_the_picture_has_an_arrow_and_its_label(picture: Picture) -> None:
    for group in picture.groups:
        assert group.find(f"{SVG}path") is not None
        assert group.find(f"{SVG}polygon") is not None
        assert {text.text for text in group.iter(f"{SVG}text")} == {group.attrib["data-event"]}


def test_every_line_starts_and_ends_on_an_edge(name: str) -> None:
    layout = DIAGRAMS[name].layout
    ports = [port for route in layout.routes.values() for leg in route for port in (leg.start, leg.end)]
    for port in ports:
        if isinstance(port, Port):
            box, point = layout.box(port.of), layout.point(port)
            assert box.holds(Box(point.x, point.y, point.x, point.y)), port


def test_every_line_is_horizontal_or_vertical(picture: Picture) -> None:
    assert picture.segments
    assert [line for line in picture.segments if line.x1 != line.x2 and line.y1 != line.y2] == []


def test_every_state_is_in_the_picture_once(name: str, picture: Picture) -> None:
    words = [text.words for text in picture.texts]
    assert [state for state in words if state in DIAGRAMS[name].states] == list(DIAGRAMS[name].states)


def test_names_of_states_fit_into_their_boxes(name: str, picture: Picture) -> None:
    states = [text for text in picture.texts if text.words in DIAGRAMS[name].states]
    assert all(any(inside(text, box) for box in picture.states) for text in states)


def test_initial_and_final_state_are_marked_once(picture: Picture) -> None:
    assert (picture.marks("initial"), picture.marks("final")) == (1, 1)


def test_no_two_texts_overlap(picture: Picture) -> None:
    assert [pair for pair in combinations(picture.texts, 2) if overlap(*pair)] == []


def test_no_label_touches_a_state(picture: Picture) -> None:
    assert [(label, box) for label in picture.labels for box in picture.states if overlap(label, box)] == []


def test_no_label_lies_on_a_line(picture: Picture) -> None:
    assert [(text, line) for text in picture.texts for line in picture.segments if runs_through(line, text)] == []


def test_every_label_lies_by_a_line_of_its_row(picture: Picture) -> None:
    for group in picture.groups:
        for label in picture.labels_in(group):
            wide = Rectangle(label.left - NEAR, label.top - NEAR, label.right + NEAR, label.bottom + NEAR)
            assert any(runs_through(line, wide) for line in picture.lines_in(group)), label


def test_no_label_lies_on_the_edge_of_a_frame(picture: Picture) -> None:
    pairs = [(label, frame) for label in picture.labels for frame in picture.frames]
    assert [pair for pair in pairs if overlap(*pair) and not inside(*pair)] == []


def test_no_line_runs_through_a_state(picture: Picture) -> None:
    assert [(line, box) for line in picture.segments for box in picture.states if runs_through(line, box)] == []


def test_no_two_lines_cross(picture: Picture) -> None:
    assert [pair for pair in combinations(picture.segments, 2) if cross(*pair)] == []


def test_everything_lies_on_the_paper(picture: Picture) -> None:
    width, height = picture.size
    paper = Rectangle(0, 0, width, height)
    lines = [Rectangle(*line) for line in picture.segments]
    shapes: list[Shape] = [*picture.texts, *picture.states, *picture.frames, *lines]
    assert [shape for shape in shapes if not inside(shape, paper)] == []


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("connection", ["CONNECTING", "OPEN", "CLOSING", "CLOSED"]),
        ("channel", ["CONNECTING", "OPEN", "CLOSING", "CLOSED"]),
        ("link", ["AWAITING_START", "AWAITING_TUNE", "AWAITING_OPEN_OK", "OPEN", "CLOSING", "CLOSED"]),
    ],
)
def test_everyday_path_is_one_line_from_left_to_right(name: str, path: list[str]) -> None:
    layout = DIAGRAMS[name].layout
    legs = [leg for route in layout.routes.values() for leg in route if leg.look is Look.EVERYDAY]
    assert {point.y for leg in legs for point in layout.line(leg)} == {layout.places[path[0]].y}
    ends = [layout.places[leg.end.of] for leg in legs if isinstance(leg.end, Port)]
    assert [layout.places[state] for state in path[1:]] == sorted(ends)


def test_state_without_a_place_is_an_error(change: Callable[[Diagram], None]) -> None:
    diagram = DIAGRAMS["connection"]
    change(replace(diagram, states=(*diagram.states, "PAUSED")))
    with pytest.raises(ValueError, match="connection: the layout has no place for state PAUSED"):
        diagrams.svg("connection")


def test_place_without_a_state_is_an_error(change: Callable[[Diagram], None]) -> None:
    diagram = DIAGRAMS["connection"]
    places = {**diagram.layout.places, "PAUSED": Place(900, 100)}
    change(replace(diagram, layout=replace(diagram.layout, places=places)))
    with pytest.raises(ValueError, match="place for PAUSED, which is no state"):
        diagrams.svg("connection")


def test_row_without_a_route_is_an_error(change: Callable[[Diagram], None]) -> None:
    diagram = DIAGRAMS["connection"]
    change(replace(diagram, arrows=(*diagram.arrows, Arrow("paused", ("OPEN",), "BLOCKED"))))
    with pytest.raises(ValueError, match="no route for 'paused' to BLOCKED"):
        diagrams.svg("connection")


def test_route_without_a_row_is_an_error(change: Callable[[Diagram], None]) -> None:
    diagram = DIAGRAMS["connection"]
    change(replace(diagram, arrows=tuple(arrow for arrow in diagram.arrows if arrow.event != "failed")))
    with pytest.raises(ValueError, match="route for 'failed' to CLOSED, which is no row"):
        diagrams.svg("connection")


def test_source_that_no_leg_starts_at_is_an_error(change: Callable[[Diagram], None]) -> None:
    change(with_route("opened", "OPEN", *DIAGRAMS["connection"].layout.routes["opened", "OPEN"][:1]))
    with pytest.raises(ValueError, match="route of 'opened' to OPEN does not start at RECONNECTING"):
        diagrams.svg("connection")


def test_leg_from_a_state_that_is_no_source_is_an_error(change: Callable[[Diagram], None]) -> None:
    leg = DIAGRAMS["connection"].layout.routes["closed", "CLOSED"][0]
    change(with_route("closed", "CLOSED", leg, leg._replace(start=Port("OPEN", "right"))))
    with pytest.raises(ValueError, match="starts at OPEN, which is none of its sources"):
        diagrams.svg("connection")


def test_leg_to_another_state_than_the_target_is_an_error(change: Callable[[Diagram], None]) -> None:
    leg = DIAGRAMS["connection"].layout.routes["closed", "CLOSED"][0]
    change(with_route("closed", "CLOSED", leg._replace(end=Port("OPEN", "right"))))
    with pytest.raises(ValueError, match="ends at OPEN"):
        diagrams.svg("connection")


def test_leg_that_joins_nothing_is_an_error(change: Callable[[Diagram], None]) -> None:
    legs = DIAGRAMS["connection"].layout.routes["close", "CLOSING"]
    change(with_route("close", "CLOSING", legs[0], legs[1]._replace(end=Point(572, 300))))
    with pytest.raises(ValueError, match="ends at 572, 300, where no other leg passes"):
        diagrams.svg("connection")


def test_route_without_a_label_is_an_error(change: Callable[[Diagram], None]) -> None:
    leg = DIAGRAMS["connection"].layout.routes["closed", "CLOSED"][0]
    change(with_route("closed", "CLOSED", leg._replace(label=None)))
    with pytest.raises(ValueError, match="has no label"):
        diagrams.svg("connection")


@pytest.mark.parametrize(
    "box",
    [
        pytest.param(Box(322, 98, 548, 460), id="holds-another-state"),
        pytest.param(Box(322, 200, 548, 320), id="leaves-one-out"),
        pytest.param(Box(322, 98, 548, 400), id="cuts-another-state"),
    ],
)
def test_frame_that_is_not_around_its_states_is_an_error(box: Box, change: Callable[[Diagram], None]) -> None:
    diagram = DIAGRAMS["connection"]
    frames = {**diagram.layout.frames, "attached": Frame(("OPEN", "BLOCKED"), box)}
    change(replace(diagram, layout=replace(diagram.layout, frames=frames)))
    with pytest.raises(ValueError, match="frame 'attached' is not around OPEN, BLOCKED alone"):
        diagrams.svg("connection")


def test_write_makes_the_folder_and_returns_what_it_wrote(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert diagrams.write(folder) == [folder / file for file in FILES]
    assert (folder / "link.svg").read_text(encoding="utf-8") == diagrams.svg("link")


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


def test_module_runs_as_a_command_and_writes_to_diagrams_by_default(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "anyamqp.diagrams"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)  # noqa: S603 - our own module
    assert sorted(path.name for path in (tmp_path / "diagrams").iterdir()) == sorted(FILES)
