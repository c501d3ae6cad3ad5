"""docker-compose.yml and Dockerfile: what can be tried without an engine is tried, and the commands are run."""

from __future__ import annotations

import base64
import fnmatch
import json
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker_jobs.settings import PREFIX, Settings
from tests.acceptance.conftest import TERM
from tests.conftest import made
from tests.deploy.stage import APP_FOLDER, BIN, Part, Stage, dotenv, interpolated
from tests.support.process import ServerMissingError
from tests.support.shipped import ROOT, VHOST, definitions

FILE = ROOT / "docker-compose.yml"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
EXAMPLE = dotenv(ROOT / ".env.example")
PARTS = ("coordinator", "beat", "worker", "dashboard")


def services() -> dict[str, dict[str, Any]]:
    """The services, with the variables of .env.example filled in."""
    text = "\n".join(line for line in FILE.read_text().splitlines() if not line.lstrip().startswith("#"))
    loaded: dict[str, dict[str, Any]] = yaml.safe_load(interpolated(text, EXAMPLE))["services"]
    return loaded


def image_environment() -> dict[str, str]:
    """What the Dockerfile sets for processes."""
    lines = re.findall(r"(?m)^ENV (.+)$", DOCKERFILE)
    pairs = dict(pair.split("=", 1) for line in lines for pair in line.split())
    return {name: value for name, value in pairs.items() if name.startswith(PREFIX)}


def docker_compose() -> str:
    """The program's path."""

    def find() -> str:
        if (found := shutil.which("docker-compose")) is None:
            raise ServerMissingError("docker-compose is not installed; on Debian: sudo apt-get install docker-compose")
        return found

    return made(find)


def test_compose_takes_the_file() -> None:
    command = [docker_compose(), "-f", str(FILE), "--env-file", str(ROOT / ".env.example"), "config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    read = yaml.safe_load(done.stdout)["services"]
    assert set(read) == {*PARTS, "definitions", "rabbitmq", "postgres", "prometheus", "grafana"}
    assert read["coordinator"]["deploy"]["replicas"] == read["beat"]["deploy"]["replicas"] == 2


def test_compose_refuses_to_start_without_passwords(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    command = [docker_compose(), "-f", str(FILE), "--env-file", str(tmp_path / "empty"), "config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
    assert done.returncode != 0
    assert "copy .env.example to .env" in done.stderr


def test_no_secret_stands_in_a_file() -> None:
    assert {value for name, value in EXAMPLE.items() if name.startswith("PASSWORD_")} == {"change-me"}
    for service in services().values():
        for name, value in service.get("environment", {}).items():
            for secret in re.findall(r"://[^:]+:([^@]+)@", value) + ([value] if "PASSWORD" in name else []):
                assert secret == "change-me", name
    for file in (ROOT / "deploy").rglob("*"):
        if file.is_file() and file.suffix not in {".json", ".pyc"}:
            for secret in re.findall(r"://[\w-]+:([^@\s]+)@", file.read_text()):
                assert secret in {"change-me", "password", "…"}, file


def test_every_variable_is_used_and_every_one_used_is_in_the_example() -> None:
    assert set(re.findall(r"\$\{(\w+)", FILE.read_text())) == set(EXAMPLE)


def test_every_setting_of_ours_exists() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name, service in services().items():
        ours = {key for key in service.get("environment", {}) if key.startswith(PREFIX)}
        assert ours <= known, name
    assert set(image_environment()) <= known


def test_everything_of_ours_waits_for_what_it_needs_and_says_how_it_is() -> None:
    all_services = services()
    for name, service in all_services.items():
        for needed, how in (service["depends_on"] or {}).items() if service.get("depends_on") else ():
            other = all_services[needed]
            healthy = "healthcheck" in other or other["image"] == "broker-jobs"
            assert how["condition"] == "service_completed_successfully" or healthy, (name, needed)
        if service["image"] != "broker-jobs":
            assert service["healthcheck"]["test"][0] == "CMD", name
    for name in PARTS:
        assert all_services[name]["depends_on"]["rabbitmq"]["condition"] == "service_healthy"
        assert all_services[name]["read_only"]
        assert all_services[name]["cap_drop"] == ["ALL"]


def test_every_file_that_is_mounted_is_there() -> None:
    for name, service in services().items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), name


def test_only_this_host_reaches_the_ports() -> None:
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert len(ports) >= 5
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


# --- the image ---


def test_the_image_runs_as_nobody_special_and_is_checked() -> None:
    user = re.search(r"(?m)^USER (\d+):(\d+)$", DOCKERFILE)
    assert user
    assert int(user[1]) > 1000
    assert len(re.findall(r"(?m)^FROM ", DOCKERFILE)) == 2, "what builds does not stay"
    check = re.search(r"CMD (\[.*healthy.*\])", DOCKERFILE)
    assert check
    assert json.loads(check[1]) == ["python", "/usr/local/lib/broker-jobs/healthy.py"]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignore = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    sources = [
        word
        for line in re.findall(r"(?m)^COPY (.+)$", DOCKERFILE)
        if "--from" not in line
        for word in line.split()[:-1]
    ]
    assert "broker_jobs" in sources
    for source in sources:
        assert (ROOT / source).exists(), source
        kept = False
        for pattern in ignore:
            if fnmatch.fnmatch(source, pattern.removeprefix("!")):
                kept = pattern.startswith("!")
        assert kept, f"{source} is ignored"
    metadata = (ROOT / "pyproject.toml").read_text()
    for name in re.findall(r'license-files = \["(\w+)"\]', metadata):
        assert name in sources


def test_health_is_said_by_an_exit_code() -> None:
    nobody = subprocess.run(
        [sys.executable, str(ROOT / "deploy" / "healthy.py"), "1"], capture_output=True, text=True, check=False
    )
    assert nobody.returncode == 1
    assert "no answer" in nobody.stdout


# --- the commands ---


def started(stage: Stage, name: str) -> Part:
    """A service's process, as it stands."""
    service = services()[name]
    command = [str(BIN / "broker-jobs"), *service["command"]]
    return stage.start(command, image_environment() | service["environment"], dashboard=name == "dashboard")


@pytest.mark.rabbitmq
@pytest.mark.postgres
@pytest.mark.acceptance
@pytest.mark.slow
def test_the_services_run_a_job_together_and_are_healthy(stage: Stage) -> None:
    parts = [started(stage, name) for name in ("coordinator", "coordinator", "beat", "beat", "worker", "worker")]
    board = started(stage, "dashboard")
    for part in (*parts, board):
        part.healthy()
    jobs = stage.producer()
    try:
        receipts = [jobs.remote("greet").using(backoff=[0.1]).enqueue(f"compose {n}") for n in range(3)]
        assert [receipt.result(timeout=120) for receipt in receipts] == [f"hello compose {n}" for n in range(3)]
    finally:
        jobs.stop()
    # It listens to all, so it asks who comes.
    with urllib.request.urlopen(f"http://127.0.0.1:{board.port}/jobs", timeout=20) as page:
        assert "/login?" in page.url
    token = base64.b64encode(b"admin:change-me").decode()
    asked = urllib.request.Request(f"http://127.0.0.1:{board.port}/jobs", headers={"authorization": f"Basic {token}"})
    with urllib.request.urlopen(asked, timeout=20) as page:
        assert "greet" in page.read().decode()
    # The active coordinator leaves; the other takes over, and nobody else notices.
    parts[0].running.signal(TERM)
    assert parts[0].running.exit_code() == 0
    assert parts[0].check().returncode == 1
    for part in (*parts[1:], board):
        part.healthy()
    for part in (*parts[1:], board):
        part.running.signal(TERM)
    assert [part.running.exit_code(60) for part in (*parts[1:], board)] == [0] * 6
    assert not [part for part in parts if "is not a setting" in part.running.log]


@pytest.mark.rabbitmq
@pytest.mark.postgres
def test_the_definitions_are_written_where_rabbitmq_reads_them(stage: Stage) -> None:
    service = services()["definitions"]
    (volume,) = (each.split(":")[1] for each in service["volumes"])
    configuration = (ROOT / "deploy" / "rabbitmq" / "rabbitmq.conf").read_text()
    (mounted,) = (v.split(":")[1] for v in services()["rabbitmq"]["volumes"] if v.startswith("definitions:"))
    target = next(word for word in service["command"] if word.startswith(volume))
    assert f"load_definitions = {target.replace(volume, mounted, 1)}\n" in configuration
    ours = stage.folder / "definitions.json"
    command = [str(ours) if word == target else word for word in service["command"]]
    command = [word.replace("/usr/local/lib/broker-jobs", str(ROOT / "deploy" / "rabbitmq")) for word in command]
    command[0] = sys.executable
    subprocess.run(command, check=True, env=service["environment"], cwd=ROOT, timeout=60)
    written = json.loads(ours.read_text())
    assert all(user["password_hash"] for user in written["users"])
    for user in written["users"]:
        user["password_hash"] = ""
    assert written == json.loads(definitions({}))
    assert written["vhosts"][0]["name"] == VHOST


def test_the_example_application_is_where_the_files_look_for_it() -> None:
    assert EXAMPLE["APP_FOLDER"] == "./" + str(APP_FOLDER.relative_to(ROOT))
    module, _, _ = EXAMPLE["APP"].partition(":")
    assert (APP_FOLDER / f"{module}.py").exists()


def test_prometheus_finds_the_parts_by_the_names_of_their_services() -> None:
    configuration = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    all_services = services()
    for job in configuration["scrape_configs"]:
        for found in job.get("dns_sd_configs", []):
            assert found["port"] == int(image_environment()["BROKER_JOBS_METRICS_PORT"])
            assert set(found["names"]) <= set(all_services)
            assert job["job_name"] == f"broker_jobs_{found['names'][0]}"
