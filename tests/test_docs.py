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
from broker_jobs.coordinator import precise_timer, records, state_machine
from broker_jobs.function.options import JobOptions
from broker_jobs.messages.batch import BatchCommit, Chunk
from broker_jobs.messages.envelope import Envelope, schema
from broker_jobs.messages.published import PublishedEvent
from broker_jobs.messages.state import State
from broker_jobs.settings import PREFIX, Settings
from tests.support.rabbitmq import Vhost

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")
WIRE_FORMAT = (ROOT / "docs" / "reference" / "wire-format.md").read_text(encoding="utf-8")
MADE = {"benchmarks/results/"}
"""What `make bench` makes."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_HEAD = re.compile(r"# (\w+\.py)\n")


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language, in order."""
    return [body for of, body in FENCE.findall(text) if of == language]


def files(text: str) -> dict[str, str]:
    """The Python blocks that begin with the name of a file."""
    return {head.group(1): body for body in blocks(text, "python") if (head := FILE_HEAD.match(body))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of the README."""
    for name, body in files(README).items():
        (tmp_path / name).write_text(body, encoding="utf-8")
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


def test_the_first_program_prints_what_the_readme_says(folder: Path) -> None:
    assert run(folder, "app.py") == "hello world\n"
    assert "$ python app.py\nhello world\n" in README


def test_the_guide_runs_from_top_to_bottom(folder: Path) -> None:
    pieces = [body for body in blocks(README, "python") if FILE_HEAD.match(body) is None]
    assert len(pieces) > 8
    # The jobs have to run somewhere for their results; a module of its own, as annotations are read there.
    started = ["from app import jobs", "jobs.start()", *pieces, "jobs.stop()"]
    (folder / "guide.py").write_text("\n\n".join(started), encoding="utf-8")
    printed = run(folder, "-W", "error", "-c", "import guide")
    said = re.findall(r"  # -> (.+)$", "\n".join(pieces), re.MULTILINE)
    assert len(said) > 5
    for line in ("welcome 42", "3", "mail to 42", *said):
        assert line in printed.splitlines()


def test_the_readmes_tests_pass(folder: Path) -> None:
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


@pytest.mark.parametrize("name", sorted(name.removesuffix(".py") for name in files(README) if name.startswith("with_")))
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
            assert run(folder, "-c", shown, **given) == "hello world\n"
        finally:
            elsewhere.terminate()
    assert elsewhere.returncode == 0


@pytest.mark.rabbitmq
def test_a_foreign_producer_as_documented_has_its_job_run(folder: Path, vhost: Vhost) -> None:
    (producer,) = (body for body in blocks(WIRE_FORMAT, "python") if "import pika" in body)
    (folder / "producer.py").write_text(producer, encoding="utf-8")
    store = f"sqlite:///{folder / 'store.db'}"
    given = {"BROKER_JOBS_URL": vhost.url, "BROKER_JOBS_STORE": store}
    run(folder, "-c", "from app import jobs; jobs.start(); jobs.stop()", **given)  # somebody has declared the queues
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
def test_every_link_within_a_document_has_its_heading(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    found = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    headings = {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in found}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= headings


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
        assert path, f"no command {words}"
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


def test_every_setting_is_in_the_table_as_it_is() -> None:
    rows = ["| setting | default | means |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = (
            json.dumps(field.default).strip('"') if not isinstance(field.default, tuple) else ",".join(field.default)
        )
        rows.append(f"| `{name}` | {f'`{default}`' if default not in ('', 'null') else 'none'} | {field.description} |")
    table = "\n".join(rows)
    assert f"-->\n{table}\n<!-- end of settings -->" in README, f"the table is to be:\n{table}"


def test_every_error_is_in_the_table_and_no_other() -> None:
    mine = {
        name
        for name, value in ((name, getattr(broker_jobs, name)) for name in dir(broker_jobs))
        if isinstance(value, type) and issubclass(value, errors.BrokerJobsError)
    } - {"BrokerJobsError"}
    section = README.partition("## Errors")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)) == mine


def test_every_option_of_a_job_is_in_the_table() -> None:
    section = README.partition("### Define")[2].partition("\n### ")[0]
    assert set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)) | {"isolation"} == set(JobOptions.__annotations__)


# --- the law and the wire ---


def test_the_law_has_a_column_for_every_state_and_its_numbers() -> None:
    law = (ROOT / "docs" / "internals" / "transitions.md").read_text(encoding="utf-8")
    for state in State:
        assert f"`{state.value}`" in law
    for text in (
        f"{state_machine.GRACE_SECONDS:g} seconds of log time",
        f"{state_machine.UNKNOWN_JOB_SECONDS:g} seconds",
        f"after {state_machine.MAX_CRASHES} crashes",
        f"after {state_machine.MAX_UNKNOWN} such",
        f"{precise_timer.AHEAD_SECONDS * 1_000:g} milliseconds",
    ):
        assert text in law, text


def test_the_law_has_a_row_for_every_record() -> None:
    law = (ROOT / "docs" / "internals" / "transitions.md").read_text(encoding="utf-8")
    kinds = {kind.__name__ for kind in records.JobRecord.__args__} - {"FromWorker"}
    for name in sorted(kinds):
        assert re.search(rf"^\| `{name}`", law, re.MULTILINE), f"docs/internals/transitions.md says nothing of {name}"


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
    """What an example is: a part of a batch, an event or a job."""
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
