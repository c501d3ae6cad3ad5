"""The documents are true: their programs run, their commands and options exist, and so do the files they name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

import broker_jobs
from broker_jobs import errors, metrics
from broker_jobs.cli.commands import app as command_line
from broker_jobs.coordinator import precise_timer, records
from broker_jobs.coordinator.conditions import known
from broker_jobs.coordinator.state_machine import envelopes, workers
from broker_jobs.function.options import JobOptions
from broker_jobs.messages.batch import BatchCommit, Chunk
from broker_jobs.messages.envelope import Envelope, schema
from broker_jobs.messages.published import PublishedEvent
from broker_jobs.messages.state import State
from broker_jobs.settings import PREFIX
from tests.support.rabbitmq import Vhost

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = ROOT / "docs"
WIRE_FORMAT = (DOCS / "reference" / "wire-format.md").read_text(encoding="utf-8")
TRANSITIONS = (DOCS / "internals" / "transitions.md").read_text(encoding="utf-8")
MADE = {"benchmarks/results/"}
"""What `make bench` makes."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_HEAD = re.compile(r"# (\w+\.py)\n")


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language, in order."""
    return [body for of, body in FENCE.findall(text) if of == language]


def files() -> dict[str, str]:
    """The Python blocks of all pages that begin with the name of a file."""
    found: dict[str, str] = {}
    for document in DOCUMENTS:
        for body in blocks(document.read_text(encoding="utf-8"), "python"):
            if head := FILE_HEAD.match(body):
                assert found.setdefault(head.group(1), body) == body, f"{document} has another {head.group(1)}"
    return found


FILES = files()
PIECES = {
    document: pieces
    for document in DOCUMENTS
    if document.name != "wire-format.md"  # its producer is run below, on RabbitMQ
    if (
        pieces := [
            body for body in blocks(document.read_text(encoding="utf-8"), "python") if FILE_HEAD.match(body) is None
        ]
    )
}
"""Page -> its pieces of code that are no files of their own."""


def patient(code: str) -> str:
    """The code with the time that a machine needs which does much other work."""
    return code.replace("timeout=10)", "timeout=60)")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of the pages."""
    for name, body in FILES.items():
        (tmp_path / name).write_text(patient(body), encoding="utf-8")
    return tmp_path


def run(folder: Path, *arguments: str, **environment: str) -> str:
    """Run Python in the folder, and return what it prints."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    env |= environment | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- programs ---


PRINTED = re.findall(
    r"^\$ python (\w+\.py)\n((?:[^$\n].*\n)+)",
    "\n".join(body for document in DOCUMENTS for body in blocks(document.read_text(encoding="utf-8"), "console")),
    re.MULTILINE,
)
"""The programs that consoles on the pages run, and what they print."""


@pytest.mark.parametrize(("program", "printed"), PRINTED, ids=[program for program, _ in PRINTED])
def test_a_program_prints_what_its_page_says(program: str, printed: str, folder: Path) -> None:
    assert run(folder, program) == printed


def test_the_first_programs_are_among_them() -> None:
    assert {"app.py", "shop.py"} <= {program for program, _ in PRINTED}


@pytest.mark.parametrize("page", sorted(PIECES), ids=lambda path: path.stem)
def test_a_page_runs_from_top_to_bottom(page: Path, folder: Path) -> None:
    pieces = PIECES[page]
    # The jobs have to run somewhere for their results; a module of its own, as annotations are read there.
    started = ["from app import jobs", "jobs.start()", *pieces, "jobs.stop()"]
    (folder / "page.py").write_text(patient("\n\n".join(started)), encoding="utf-8")
    printed = run(folder, "-W", "error", "-c", "import page").splitlines()
    for line in re.findall(r"  # -> (.+)$", "\n".join(pieces), re.MULTILINE):
        assert line in printed, f"{line!r} was not printed, but:\n" + "\n".join(printed)


def test_every_page_of_the_guide_has_code_that_runs_and_prints() -> None:
    assert set((DOCS / "guide").glob("*.md")) <= set(PIECES)
    assert sum("# -> " in piece for pieces in PIECES.values() for piece in pieces) > 15


def test_the_tests_of_the_page_on_testing_pass(folder: Path) -> None:
    assert "3 passed" in run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_app.py")


WIRING = {
    "with_fastapi": """
from fastapi.testclient import TestClient
with TestClient(module.app) as client:
    print(module.jobs.receipt(client.post("/greet/Ann").json()["job"]).result(timeout=20))
""",
    "with_flask": """
with module.jobs:
    client = module.app.test_client()
    print(module.jobs.receipt(client.post("/greet/Ann").json["job"]).result(timeout=20))
    assert b"broker_jobs_jobs_total" in client.get("/metrics").data
""",
    "with_login": """
from starlette.testclient import TestClient
with module.jobs:
    client = TestClient(module.dashboard)
    assert client.get("/queues").status_code == 403
    client.cookies["user"] = "Ann"
    assert "Ann" in client.get("/queues").text
print("hello Ann")
""",
    "with_django": """
from app import jobs
from django.test import RequestFactory
with jobs:
    print(module.signup(RequestFactory().post("/signup")).content.decode())
""",
}


@pytest.mark.parametrize("name", sorted(name.removesuffix(".py") for name in FILES if name.startswith("with_")))
def test_the_wiring_in_other_programs_works(folder: Path, name: str) -> None:
    databases = "{'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}}"
    setup = f"from django.conf import settings; settings.configure(DATABASES={databases})\n" if "django" in name else ""
    printed = run(folder, "-c", f"{setup}import {name} as module\n{WIRING[name]}")
    assert printed.strip() == ("welcome" if "django" in name else "hello Ann")


@pytest.mark.rabbitmq
def test_the_same_program_runs_on_rabbitmq_by_the_environment(folder: Path, vhost: Vhost) -> None:
    (shown,) = re.findall(r"\$ python -c '(.+)'\nhello world", README)
    given = {"BROKER_JOBS_URL": vhost.url, "BROKER_JOBS_STORE": f"sqlite:///{folder / 'store.db'}"}
    command = [sys.executable, "-m", "broker_jobs.cli", "run", "app:jobs"]
    env = os.environ | given | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.DEVNULL) as elsewhere:
        try:
            assert run(folder, "-c", patient(shown), **given) == "hello world\n"
        finally:
            elsewhere.terminate()
    assert elsewhere.returncode == 0


@pytest.mark.rabbitmq
def test_a_foreign_producer_as_documented_has_its_job_run(folder: Path, vhost: Vhost) -> None:
    (producer,) = (body for body in blocks(WIRE_FORMAT, "python") if "import pika" in body)
    (folder / "producer.py").write_text(producer, encoding="utf-8")
    store = f"sqlite:///{folder / 'store.db'}"
    given = {"BROKER_JOBS_URL": vhost.url, "BROKER_JOBS_STORE": store}
    run(folder, "-c", "from app import jobs; jobs.start(); jobs.stop()", **given)  # declares the queues
    job_id = run(folder, "producer.py", **given)
    (folder / "wait.py").write_text(
        f"from app import greet, jobs\nwith jobs:\n    print(greet.receipt({job_id.strip()!r}).result(timeout=30))\n"
    )
    assert run(folder, "wait.py", **given) == "hello Ann\n"


# --- what exists ---


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_a_document_names_is_there(document: Path) -> None:
    text = FENCE.sub("", document.read_text(encoding="utf-8"))
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if link and not (document.parent / link).exists()]
    named = re.findall(r"`((?:broker_jobs|tests|docs|tools|benchmarks)/[\w/.]+)`", text)
    missing += [name for name in named if not (ROOT / name).exists() and name not in MADE]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_heading_has_its_heading(document: Path) -> None:
    text = FENCE.sub("", document.read_text(encoding="utf-8"))
    for path, heading in re.findall(r"\]\(([^)\s#]*)#([^)]+)\)", text):
        if "://" not in path:
            assert heading in _headings(document.parent / path if path else document), f"{path}#{heading}"


def _headings(document: Path) -> set[str]:
    """The headings of a page, as links name them."""
    found = re.findall(r"^#+ (.+)$", FENCE.sub("", document.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in found}


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in re.findall(r"\]\(([^)\s]+)\)", index)}
    assert set(DOCS.rglob("*.md")) - {DOCS / "index.md"} <= linked


def test_the_glossary_has_each_word_once_in_order() -> None:
    glossary = (DOCS / "internals" / "glossary.md").read_text(encoding="utf-8")
    words = [word.lower() for word in re.findall(r"^\| ([\w -]+) \|", glossary, re.MULTILINE) if word != "word"]
    assert len(words) > 60
    assert words == sorted(set(words))


def test_the_readme_is_short() -> None:
    assert 100 <= len(README.splitlines()) <= 150


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, (*path, name))


COMMANDS: dict[tuple[str, ...], Any] = dict(_commands(typer.main.get_command(command_line)))


def _used() -> list[list[str]]:
    """Every use of `broker-jobs` in a document: in consoles, and between back-quotes."""
    used = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        lines = [line for body in blocks(text, "console") for line in body.splitlines()]
        lines += re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
        for line in lines:
            words = line.removeprefix("$ ").partition("  ")[0].removesuffix(" &").split()
            if words and words[0] == "broker-jobs":
                used.append(words[1:])
    return used


def test_every_command_and_option_named_exists() -> None:
    assert len(_used()) > 12
    for words in _used():
        path: tuple[str, ...] = ()
        while len(words) > len(path) and (*path, words[len(path)]) in COMMANDS:
            path = (*path, words[len(path)])
        assert path or words in ([], ["--help"], ["--version"]), f"no command {words}"
        options = {option for parameter in COMMANDS[path].params for option in parameter.opts} | {"--help"}
        wrong = [word for word in words[len(path) :] if word.startswith("-") and word not in options]
        assert not wrong, f"broker-jobs {' '.join(words)}: no {wrong}"


def test_every_make_target_named_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        named = re.findall(r"(?:`|\$ )make ([\w-]+)", document.read_text(encoding="utf-8"))
        assert set(named) <= targets


def test_every_metric_named_exists() -> None:
    known = {metrics.PREFIX + family.name for family in metrics.FAMILIES}
    for document in DOCUMENTS:
        named = set(re.findall(r"`(broker_jobs_\w+)`", document.read_text(encoding="utf-8")))
        assert named <= known, named - known


def test_every_error_is_in_the_table_and_no_other() -> None:
    mine = {
        name
        for name, value in ((name, getattr(broker_jobs, name)) for name in dir(broker_jobs))
        if isinstance(value, type) and issubclass(value, errors.BrokerJobsError)
    } - {"BrokerJobsError"}
    page = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE)) == mine


def test_every_text_quoted_as_a_symptom_is_in_the_code() -> None:
    page = (DOCS / "how-to" / "troubleshooting.md").read_text(encoding="utf-8")
    code = "".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / "broker_jobs").rglob("*.py")))
    quoted = [text for row in re.findall(r"^\| (.+?) \|", page, re.MULTILINE) for text in re.findall(r'"([^"]+)"', row)]
    assert len(quoted) > 3
    assert not [text for text in quoted if text not in code]


def test_every_option_of_a_job_is_in_the_table() -> None:
    section = (DOCS / "guide" / "jobs.md").read_text(encoding="utf-8").partition("## Options")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)) == set(JobOptions.__annotations__)


# --- the states and the wire ---


def test_the_transitions_have_a_column_for_every_state_and_their_numbers() -> None:
    for state in State:
        assert f"`{state.value}`" in TRANSITIONS
    for text in (
        f"{envelopes.GRACE_SECONDS:g} seconds of log time",
        f"after {workers.MAX_CRASHES} crashes",
        f"{known.MOST_PAUSE_SECONDS:g} seconds",
        f"{precise_timer.AHEAD_SECONDS * 1_000:g} milliseconds",
    ):
        assert text in TRANSITIONS, text


def test_the_transitions_have_a_row_for_every_record() -> None:
    kinds = {kind.__name__ for kind in records.JobRecord.__args__} - {"FromWorker"}
    for name in sorted(kinds):
        assert re.search(rf"^\| `{name}`", TRANSITIONS, re.MULTILINE), f"no row for {name}"


def test_every_field_of_the_envelope_is_described() -> None:
    described = set(re.findall(r"^\| `(\w+)`", WIRE_FORMAT, re.MULTILINE))
    assert set(Envelope.model_fields) <= described
    for part in schema()["$defs"].values():
        assert set(part["properties"]) <= described


def test_every_field_of_a_batch_and_of_an_event_is_described() -> None:
    described = {
        name
        for line in re.findall(r"^\| (`.+?) \|", WIRE_FORMAT, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", line)
    }
    for model in (Chunk, BatchCommit, PublishedEvent):
        assert set(model.model_fields) <= described


def test_the_example_envelopes_are_valid() -> None:
    examples = blocks(WIRE_FORMAT, "json")
    assert examples
    for example in examples:
        _model_of(example).model_validate_json(example)


def _model_of(example: str) -> type[BaseModel]:
    """The model of an example: a part of a batch, an event or a job."""
    kinds: dict[str, type[BaseModel]] = {"jobs": Chunk, "chunks": BatchCommit, "event": PublishedEvent}
    for field, model in kinds.items():
        if field in json.loads(example):
            return model
    return Envelope


def test_the_jobs_in_the_example_of_a_chunk_are_valid() -> None:
    (chunk,) = (Chunk.model_validate_json(each) for each in blocks(WIRE_FORMAT, "json") if _model_of(each) is Chunk)
    for job in chunk.jobs:
        assert Envelope.model_validate_json(job).batch == chunk.batch


def test_what_is_made_from_the_code_is_up_to_date() -> None:
    """Each file's sentence, and the tables of the reference. `make docs` writes them."""
    command = [sys.executable, "tools/docs.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
