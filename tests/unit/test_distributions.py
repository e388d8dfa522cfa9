"""The wheels of the two distributions: their files and their dependencies."""

from __future__ import annotations

import re
import subprocess
import sys
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]

BLOCKED = ("hypercorn", "trio", "pytest", "httpx")
"""Of the extras that ``make demo`` does not install."""

IMPORT_WITHOUT_EXTRAS = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
import feature_service.__main__
import feature_service.demo
"""


class Wheel:
    """A built wheel.

    Attributes:
        files: the paths of the files in it.
        metadata: its core metadata.
        entry_points: its entry_points.txt.
    """

    def __init__(self, project: Path, folder: Path) -> None:
        build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
        subprocess.run(build, cwd=project, check=True, capture_output=True)  # noqa: S603 - our own project
        (path,) = folder.glob("*.whl")
        with ZipFile(path) as wheel:
            self.files: frozenset[str] = frozenset(wheel.namelist())
            self.metadata: Message = HeaderParser().parsestr(self._text(wheel, "METADATA"))
            self.entry_points: str = self._text(wheel, "entry_points.txt")

    def packages(self) -> set[str]:
        """The folders at the top of the wheel, its metadata left out."""
        folders = {file.partition("/")[0] for file in self.files}
        return {folder for folder in folders if not folder.endswith(".dist-info")}

    def needs(self) -> set[str]:
        """The names of the dependencies outside the extras."""
        needs: list[str] = self.metadata.get_all("Requires-Dist") or []
        return {re.split(r"[^\w.-]", need)[0] for need in needs if "extra ==" not in need}

    def _text(self, wheel: ZipFile, name: str) -> str:
        (path,) = (file for file in self.files if file.endswith(f".dist-info/{name}"))
        return wheel.read(path).decode()


@pytest.fixture(scope="module")
def anyamqp(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    return Wheel(ROOT, tmp_path_factory.mktemp("anyamqp"))


@pytest.fixture(scope="module")
def feature_service(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    return Wheel(ROOT / "src" / "feature_service", tmp_path_factory.mktemp("feature-service"))


def sources(package: str) -> set[str]:
    """The modules of a package, as paths in its wheel."""
    folder = ROOT / "src"
    return {path.relative_to(folder).as_posix() for path in (folder / package).rglob("*.py")}


def test_anyamqp_brings_itself_alone(anyamqp: Wheel) -> None:
    assert anyamqp.metadata["Name"] == "anyamqp"
    assert anyamqp.packages() == {"anyamqp"}
    assert sources("anyamqp") <= anyamqp.files
    assert "anyamqp/py.typed" in anyamqp.files


def test_anyamqp_has_its_command(anyamqp: Wheel) -> None:
    assert "anyamqp = anyamqp.cli:main" in anyamqp.entry_points.splitlines()


def test_the_service_brings_its_package_alone(feature_service: Wheel) -> None:
    assert feature_service.metadata["Name"] == "feature-service"
    assert feature_service.packages() == {"feature_service"}
    wanted = sources("feature_service") | {"feature_service/py.typed"}
    assert {file for file in feature_service.files if file.startswith("feature_service/")} == wanted


def test_the_service_has_its_command_and_needs_anyamqp(feature_service: Wheel) -> None:
    assert "feature-service = feature_service.__main__:main" in feature_service.entry_points.splitlines()
    assert "anyamqp" in feature_service.needs()


def test_the_demo_needs_no_other_extra_than_its_own() -> None:
    subprocess.run([sys.executable, "-c", IMPORT_WITHOUT_EXTRAS], check=True)  # noqa: S603 - a constant
