"""What is distributed is whole: the source holds all that its tests need, and both say what they are."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
HOME = "https://github.com/broker-jobs/broker-jobs"
MADE_BY_THE_BUILD = {"PKG-INFO"}
SECONDS = 200

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]


def run(*command: str | Path, folder: Path = ROOT) -> str:
    """What a program prints that must succeed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with what builds and checks distributions."""
    folder = tmp_path_factory.mktemp("tools")
    venv.create(folder)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    # With the pip of this test run. What a tool imports is compiled when it does: most of it never is.
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-compile"]
    run(*pip, "build>=1.2", "hatchling>=1.27", "twine>=6.1")
    return python


@pytest.fixture(scope="module")
def dist(tool: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with source and wheel; the wheel is built from the source, as `python -m build` does."""
    folder = tmp_path_factory.mktemp("dist")
    run(tool, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def source(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source, unpacked."""
    folder = tmp_path_factory.mktemp("source")
    (packed,) = dist.glob("*.tar.gz")
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    return unpacked


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Iterator[zipfile.ZipFile]:
    (packed,) = dist.glob("*.whl")
    with zipfile.ZipFile(packed) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(wheel.read(name))


def test_both_are_what_an_index_takes(tool: Path, dist: Path) -> None:
    packed = sorted(dist.iterdir())
    assert len(packed) == 2
    assert run(tool, "-m", "twine", "check", "--strict", *packed).count("PASSED") == 2


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not in a repository: there is no list to compare with")
def test_the_source_is_what_the_repository_holds(source: Path) -> None:
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    held = {name for name in listed if (ROOT / name).exists()}
    found = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    assert found - held == MADE_BY_THE_BUILD
    assert held - found == set()


def test_tests_pass_from_the_source(source: Path) -> None:
    """Those that read the files of the whole project."""
    options = ["-q", "-p", "no:cacheprovider", "-m", "not rabbitmq and not postgres", "-k", "map or exist or names"]
    named = [
        "tests/test_map.py",
        "tests/test_docs.py",
        "tests/deploy/test_compose.py",
        "tests/deploy/test_kubernetes.py",
    ]
    printed = run(sys.executable, "-m", "pytest", *options, *named, folder=source)
    assert " passed" in printed


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    here = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "broker_jobs").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = {name for name in wheel.namelist() if not PurePosixPath(name).parts[0].endswith(".dist-info")}
    assert names == here


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile, metadata: Message) -> None:
    assert metadata["Name"] == "broker-jobs"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload(decode=True).decode().strip() == (ROOT / "README.md").read_text("utf-8").strip()  # type: ignore[union-attr]
    urls = dict(url.split(", ") for url in metadata.get_all("Project-URL", []))
    assert urls["Homepage"] == HOME
    assert all(url.startswith(HOME) for url in urls.values())
    assert any(line.replace(" ", "") == "croniter>=6.2" for line in metadata.get_all("Requires-Dist", []))
    assert metadata["License-Expression"] == "MIT"
    assert any(name.endswith("/licenses/LICENSE") for name in wheel.namelist())
