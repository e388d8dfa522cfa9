"""The two distributions as users get them: files, dependencies, metadata, and that they work when installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
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

    def __init__(self, path: Path) -> None:
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


class Built:
    """Both distributions, which ``scripts/check-distributions`` built, installed and tried.

    Attributes:
        folder: the folder of the wheels and source distributions.
        said: the output of the script.
    """

    def __init__(self, folder: Path) -> None:
        command = [str(ROOT / "scripts" / "check-distributions"), str(folder)]
        environment = {**os.environ, "BUILD_PYTHON": sys.executable}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - ours
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        self.folder: Path = folder
        self.said: str = done.stdout

    def wheel(self, name: str) -> Wheel:
        (path,) = self.folder.glob(f"{name}-*.whl")
        return Wheel(path)

    def source_files(self, name: str) -> set[str]:
        (path,) = self.folder.glob(f"{name}-*.tar.gz")
        with tarfile.open(path) as archive:
            return {member.partition("/")[2] for member in archive.getnames()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def anyamqp(built: Built) -> Wheel:
    return built.wheel("anyamqp")


@pytest.fixture(scope="module")
def feature_service(built: Built) -> Wheel:
    return built.wheel("feature_service")


def sources(package: str) -> set[str]:
    """The modules of a package, as paths in its wheel."""
    folder = ROOT / "src"
    return {path.relative_to(folder).as_posix() for path in (folder / package).rglob("*.py")}


def test_both_install_in_a_clean_environment_and_work_with_warnings_as_errors(built: Built) -> None:
    assert re.search(r"^anyamqp [\d.]+: \d+ modules, asyncio, trio: works$", built.said, re.MULTILINE)


@pytest.mark.parametrize("name", ["anyamqp", "feature_service"])
def test_the_metadata_names_the_project_and_the_versions_of_python(built: Built, name: str) -> None:
    metadata = built.wheel(name).metadata
    urls = {url.partition(",")[0] for url in metadata.get_all("Project-URL") or []}
    assert urls == {"Changelog", "Documentation", "Homepage", "Issues", "Source"}
    classifiers = metadata.get_all("Classifier") or []
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)} <= set(classifiers)
    assert metadata.get_payload()


def test_both_have_the_newest_version_of_the_changelog(built: Built) -> None:
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert {built.wheel(name).metadata["Version"] for name in ("anyamqp", "feature_service")} == {newest[1]}


def test_the_description_on_pypi_has_no_link_into_the_repository_that_leads_nowhere(anyamqp: Wheel) -> None:
    description = str(anyamqp.metadata.get_payload())
    assert "](https://github.com/anyamqp/anyamqp/blob/main/CHANGELOG.md)" in description
    assert re.findall(r"\]\((?!https?:|#)[^)]*\)", description) == []


def test_source_distributions_hold_the_sources_alone(built: Built) -> None:
    common = {".gitignore", "LICENSE", "PKG-INFO", "pyproject.toml"}
    files = built.source_files("anyamqp")
    assert {file for file in files if not file.startswith("src/anyamqp/")} == {
        *common,
        "CHANGELOG.md",
        "README.md",
        "SECURITY.md",
    }
    assert {f"src/{path}" for path in sources("anyamqp")} <= files
    own = {path.partition("/")[2] for path in sources("feature_service")}
    assert built.source_files("feature_service") == {*common, *own, "README.md", "py.typed"}


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
