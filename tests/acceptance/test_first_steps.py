"""What a newcomer does first, and the mistakes he makes."""

import json

import pytest

from tests.acceptance.conftest import INT, Terminal
from tests.support.rabbitmq import Vhost

pytestmark = [pytest.mark.acceptance]


def test_run_on_memory_runs_recurring_jobs_and_leaves_at_ctrl_c(terminal: Terminal) -> None:
    running = terminal.start("run", "app:jobs")
    terminal.marked("hello every second")
    running.signal(INT)
    assert running.exit_code() == 0
    assert "Traceback" not in running.log


@pytest.mark.rabbitmq
def test_run_on_rabbitmq_needs_nothing_but_the_address(terminal: Terminal, vhost: Vhost) -> None:
    running = terminal.start("run", "app:jobs", "--store", terminal.store, BROKER_JOBS_URL=vhost.url)
    terminal.marked("hello every second")
    running.signal(INT)
    assert running.exit_code() == 0
    assert "Traceback" not in running.log


def test_memory_is_refused_where_it_cannot_be_shared(terminal: Terminal) -> None:
    for command in (["worker", "app:jobs"], ["coordinator"], ["beat", "app:jobs"]):
        done = terminal.call(*command)
        assert done.returncode == 2
        assert done.stderr.startswith(
            "error: memory:// lives inside one process and cannot be shared: use broker-jobs run"
        )


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("ap:jobs", "did you mean 'app:jobs'?"),
        ("app:jbos", "did you mean app:jobs?"),
        ("app", "did you mean app:jobs?"),
        ("app:hello", "app:hello is a SyncJob, not a BrokerJobs; did you mean app:jobs?"),
        ("app.py:jobs", "write app:jobs, not a file"),
        ("broken:jobs", "module broken cannot be imported: ZeroDivisionError: division by zero"),
        ("needs:jobs", "module needs cannot be imported: ModuleNotFoundError: No module named 'nothing_of_that_name'"),
    ],
)
def test_a_wrong_target_is_one_line_that_names_the_right_one(terminal: Terminal, target: str, says: str) -> None:
    (terminal.folder / "broken.py").write_text("1 / 0\n")
    (terminal.folder / "needs.py").write_text("import nothing_of_that_name\n")
    done = terminal.call("run", target)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_mistyped_option_names_the_nearest(terminal: Terminal) -> None:
    done = terminal.call("run", "app:jobs", "--metrcs-port", "0")
    assert done.returncode == 2
    assert "--metrics-port" in done.stderr


def test_a_mistyped_setting_and_a_mistyped_variable_name_the_nearest(terminal: Terminal) -> None:
    done = terminal.call("run", "app:jobs", "--set", "prefetch-mx=3")
    assert done.returncode == 2
    assert "there is no setting 'prefetch_mx'; did you mean 'prefetch_max'?" in done.stderr
    running = terminal.start("run", "app:jobs", BROKER_JOBS_CONCURENCY="3")
    running.said("environment variable BROKER_JOBS_CONCURENCY is not a setting; did you mean")


@pytest.mark.parametrize("written", ["mail,sms", " mail , sms,", '["mail", "sms"]'])
def test_a_list_is_written_with_commas_or_as_json(terminal: Terminal, written: str) -> None:
    for queues in (
        terminal.output("topology", "show", BROKER_JOBS_QUEUES=written),
        terminal.output("topology", "show", "-Q", written),
    ):
        assert "jobs.v1.work.mail" in queues
        assert "jobs.v1.work.sms" in queues


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ('["mail", ', "is not a list; separate the values by commas: one,two"),
        ("", "name at least one queue, such as default"),
        ("my mail", "'my mail' is not a queue name: use"),
    ],
)
def test_a_wrong_list_is_one_line_that_names_the_variable(terminal: Terminal, written: str, says: str) -> None:
    done = terminal.call("topology", "show", BROKER_JOBS_QUEUES=written)
    assert done.returncode == 2
    assert done.stderr.startswith("error: setting queues (environment BROKER_JOBS_QUEUES): ")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.rabbitmq
def test_a_wrong_password_ends_the_process_at_once_and_is_not_printed(terminal: Terminal, vhost: Vhost) -> None:
    scheme, _, rest = vhost.url.partition("://")
    wrong = f"{scheme}://guest:hunter2@{rest.rpartition('@')[2]}"
    for command in (["worker", "app:jobs"], ["coordinator", "--store", terminal.store], ["beat", "app:jobs"]):
        done = terminal.call(*command, "--url", wrong)
        assert done.returncode == 2
        assert "refused the user name or password" in done.stderr
        assert "hunter2" not in done.stderr + done.stdout


@pytest.mark.rabbitmq
def test_a_missing_vhost_ends_the_process_at_once(terminal: Terminal, vhost: Vhost) -> None:
    done = terminal.call("worker", "app:jobs", "--url", f"{vhost.url}-gone")
    assert done.returncode == 2
    assert "virtual host" in done.stderr


def test_a_broker_that_is_not_there_is_waited_for(terminal: Terminal) -> None:
    running = terminal.start("worker", "app:jobs", "--url", "amqp://guest:hunter2@127.0.0.1:1/", "--metrics-port", "0")
    running.said("trying again in")
    assert running.healthz()[0] == 503
    running.signal(INT)
    assert running.exit_code() == 0
    assert "hunter2" not in running.log


def test_version_and_schema_are_printed(terminal: Terminal) -> None:
    assert terminal.output("--version").startswith("broker-jobs ")
    assert '"properties"' in terminal.output("schema")


def test_the_topology_can_be_read_by_programs(terminal: Terminal) -> None:
    definitions = json.loads(terminal.output("topology", "show", "-Q", "mail,sms", "--json"))
    queues = {queue["name"] for queue in definitions["queues"]}
    assert {"jobs.v1.log", "jobs.v1.work.mail", "jobs.v1.work.sms"} <= queues


def test_what_needs_the_store_says_where_it_is_missing(terminal: Terminal) -> None:
    for command in (["jobs", "list"], ["recurring", "list"], ["store", "show"], ["dead-letters"]):
        done = terminal.call(*command, "--store", terminal.store)
        assert done.returncode == 2
        assert done.stderr.startswith("error: no store at sqlite:///")
    assert not (terminal.folder / "store.db").exists(), "looking makes no store"
