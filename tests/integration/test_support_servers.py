"""The servers that tests rely on do what their levers say."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pika
import pika.exceptions
import prometheus_client
import psutil
import pytest
import sqlalchemy

from tests.conftest import PrometheusFactory
from tests.support import parallel
from tests.support.postgres import Postgres
from tests.support.process import ServerFailedError, free_port
from tests.support.proxy import TcpProxy
from tests.support.rabbitmq import Broker, Vhost
from tests.support.wait import eventually, while_it_moves

QUORUM = {"x-queue-type": "quorum"}


@contextlib.contextmanager
def connected(url: str) -> Iterator[pika.BlockingConnection]:
    parameters = pika.URLParameters(url)
    parameters.blocked_connection_timeout = 1
    connection = pika.BlockingConnection(parameters)
    try:
        yield connection
    finally:
        if connection.is_open:
            connection.close()


def ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # dead, and its parent has not looked yet
    except psutil.NoSuchProcess:
        return True


def declare(vhost: Vhost, queue: str) -> None:
    with vhost.channel() as channel:
        channel.queue_declare(queue, durable=True, arguments=QUORUM)


@pytest.mark.rabbitmq
class TestRabbitmq:
    def test_the_version_is_the_one_asked_for(self, broker: Broker) -> None:
        version = broker.ctl("version").strip()
        if broker.version == "4.0":
            assert version.startswith("4.0.")
        else:
            assert version == broker.eval("rabbit_misc:version().").strip('"')

    def test_a_message_published_is_there_once(self, vhost: Vhost) -> None:
        declare(vhost, "q")
        vhost.publish_raw("", "q", b"hello", pika.BasicProperties(message_id="7"))
        assert vhost.ready("q") == 1
        eventually(lambda: vhost.queue("q").get("messages") == 1, what="the management API counts the message")
        assert [queue["name"] for queue in vhost.queues()] == ["q"]
        answer = vhost.get("q")
        assert answer is not None
        assert answer[0] == b"hello"
        assert answer[1].message_id == "7"
        assert vhost.get("q") is None
        assert vhost.queue("no such") == {}
        assert (vhost.ready("no such"), vhost.consumers("no such")) == (0, 0)

    def test_a_confirmed_message_survives_kill9(self, broker: Broker, vhost: Vhost) -> None:
        declare(vhost, "q")
        # A quorum queue declared within a second or so before RabbitMQ 3.10 dies does not come back; see `acknowledge`.
        broker.wait_for_young_queues()
        vhost.publish_raw("", "q", b"kept")
        broker.kill9()
        assert not broker.is_running()
        with pytest.raises(pika.exceptions.AMQPConnectionError), connected(vhost.url):
            pass
        broker.start()
        eventually(lambda: vhost.ready("q") == 1, what="the message is there again")
        assert vhost.drain("q") == [b"kept"]

    def test_a_restart_in_order_keeps_messages_and_tells_clients(self, broker: Broker, vhost: Vhost) -> None:
        declare(vhost, "q")
        vhost.publish_raw("", "q", b"kept")
        with connected(vhost.url) as connection:
            broker.restart()
            with pytest.raises(pika.exceptions.ConnectionClosedByBroker, match="CONNECTION_FORCED"):
                connection.process_data_events(time_limit=10)
        eventually(lambda: vhost.drain("q") == [b"kept"], what="the message is there again")

    def test_a_frozen_node_answers_nothing_until_thawed(self, broker: Broker, vhost: Vhost) -> None:
        declare(vhost, "q")
        with connected(vhost.url) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            published = threading.Event()

            def publish() -> None:
                channel.basic_publish("", "q", b"x")
                published.set()

            broker.freeze()
            thread = threading.Thread(target=publish)
            thread.start()
            assert not published.wait(0.5)
            assert broker.is_running()
            broker.thaw()
            assert published.wait(20)
            thread.join()

    def test_an_alarm_blocks_publishers_until_cleared(self, broker: Broker, vhost: Vhost) -> None:
        declare(vhost, "q")
        broker.alarm(memory=True)
        with connected(vhost.url) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            with pytest.raises(pika.exceptions.ConnectionBlockedTimeout):
                channel.basic_publish("", "q", b"x")
        broker.alarm(memory=False)
        eventually(lambda: vhost.ready("q") == 1, what="what was published during the alarm is let in")
        vhost.publish_raw("", "q", b"y")

    def test_the_next_test_finds_the_node_healed(self, broker: Broker, vhost: Vhost) -> None:
        broker.alarm(memory=True)
        broker.freeze()
        broker.heal()
        declare(vhost, "q")
        vhost.publish_raw("", "q", b"x")
        broker.kill9()
        broker.heal()
        assert broker.is_running()

    def test_a_delivery_held_longer_than_the_timeout_closes_its_channel(self, broker: Broker, vhost: Vhost) -> None:
        declare(vhost, "q")
        vhost.publish_raw("", "q", b"x")
        broker.set_consumer_timeout(100)
        with connected(vhost.url) as connection:
            channel = connection.channel()
            channel.basic_consume("q", lambda *_: None)

            def channel_closed() -> bool:
                connection.process_data_events(time_limit=0.1)
                return channel.is_closed

            eventually(channel_closed, what="RabbitMQ closes the channel")

    def test_connections_of_one_vhost_are_closed_and_no_others(self, broker: Broker, vhost: Vhost) -> None:
        other = broker.vhost()
        try:
            with connected(vhost.url) as closed, connected(other.url) as spared:
                assert vhost.connections() == 1
                assert vhost.close_connections() == 1
                with pytest.raises(pika.exceptions.ConnectionClosedByBroker, match="CONNECTION_FORCED"):
                    closed.process_data_events(time_limit=10)
                spared.channel()
        finally:
            other.delete()

    def test_a_user_may_do_what_was_granted_and_no_more(self, vhost: Vhost) -> None:
        declare(vhost, "mine")
        declare(vhost, "yours")
        url = vhost.add_user("bob", "a/b:c@d", configure="", write="", read="mine")
        with connected(url) as connection:
            connection.channel().basic_get("mine")
            with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
                connection.channel().basic_get("yours")

    def test_a_virtual_host_is_made_quickly_and_is_gone_when_deleted(self, broker: Broker) -> None:
        began = time.perf_counter()
        vhost = broker.vhost()
        assert time.perf_counter() - began < 1, "a test's own virtual host must stay cheap"
        vhost.delete()
        with pytest.raises(pika.exceptions.AMQPConnectionError), connected(vhost.url):
            pass

    def test_nothing_outlives_a_test_run_that_was_killed(self) -> None:
        program = (
            "from tests.support.rabbitmq import Broker; import time\n"
            "broker = Broker(); broker.start(); print(broker._node.pid, broker._epmd.pid, broker._folder, flush=True)\n"
            "time.sleep(600)"
        )
        here = Path(__file__).parents[2]
        with subprocess.Popen([sys.executable, "-c", program], cwd=here, stdout=subprocess.PIPE, text=True) as run:
            try:
                assert run.stdout is not None
                node, epmd, folder = run.stdout.readline().split()
                assert not ended(int(node))
            finally:
                run.kill()
        eventually(lambda: ended(int(node)), what="the node is gone")
        eventually(lambda: ended(int(epmd)), what="epmd is gone")
        eventually(lambda: not Path(folder).exists(), what="the folder is gone")


@pytest.mark.rabbitmq
class TestProxy:
    @pytest.fixture
    def proxy(self, broker: Broker) -> Iterator[TcpProxy]:
        with TcpProxy(broker.amqp_port) as proxy:
            yield proxy

    def test_it_forwards(self, proxy: TcpProxy, vhost: Vhost) -> None:
        declare(vhost, "q")
        body = os.urandom(1_000_000)
        with connected(vhost.url_through(proxy.port)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.basic_publish("", "q", body)
            assert channel.basic_get("q", auto_ack=True)[2] == body
            assert proxy.open_connections == 1
        eventually(lambda: proxy.open_connections == 0, what="the connection is forgotten")
        assert proxy.accepted == 1

    def test_a_drop_breaks_connections_and_lets_new_ones_in(self, proxy: TcpProxy, vhost: Vhost) -> None:
        with connected(vhost.url_through(proxy.port)) as connection:
            assert proxy.drop() == 1
            with pytest.raises(pika.exceptions.AMQPConnectionError):
                connection.process_data_events(time_limit=10)
        with connected(vhost.url_through(proxy.port)) as connection:
            connection.channel()
        eventually(lambda: vhost.connections() == 0, what="RabbitMQ saw both go")

    def test_refusing_keeps_clients_out_until_it_behaves(self, proxy: TcpProxy, vhost: Vhost) -> None:
        proxy.refuse()
        # pika says ValueError where it is refused between the connect and the question who the peer is.
        with (
            pytest.raises((pika.exceptions.AMQPConnectionError, ValueError)),
            connected(vhost.url_through(proxy.port)),
        ):
            pass
        proxy.behave()
        with connected(vhost.url_through(proxy.port)) as connection:
            connection.channel()

    def test_a_delay_is_felt_in_both_directions(self, proxy: TcpProxy, vhost: Vhost) -> None:
        with connected(vhost.url_through(proxy.port)) as connection:
            proxy.delay(0.2)
            began = time.monotonic()
            connection.channel()
            assert time.monotonic() - began >= 0.4

    def test_a_half_open_connection_is_silent_and_stays_open(self, proxy: TcpProxy, vhost: Vhost) -> None:
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            proxy.half_open()
            client.sendall(b"AMQP\x00\x00\x09\x01")
            client.settimeout(0.5)
            with pytest.raises(TimeoutError):
                client.recv(1)
            proxy.behave()
            client.settimeout(10)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""
        with connected(vhost.url_through(proxy.port)) as connection:
            connection.channel()

    def test_a_cut_lets_exactly_so_many_bytes_through(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server, TcpProxy(server.getsockname()[1]) as proxy:
            proxy.cut_after(5)
            with socket.create_connection(("127.0.0.1", proxy.port)) as client:
                connection, _ = server.accept()
                with connection:
                    connection.settimeout(10)
                    client.sendall(b"abc")
                    assert connection.recv(100) == b"abc"
                    client.sendall(b"defghi")
                    received = b""
                    with contextlib.suppress(ConnectionResetError):
                        while piece := connection.recv(100):
                            received += piece
                    # A reset may overtake the last bytes, but nothing beyond the cut ever passes.
                    assert b"de".startswith(received)


@pytest.mark.postgres
class TestPostgres:
    def test_each_test_has_an_empty_database_with_full_durability(self, postgres_url: str) -> None:
        engine = sqlalchemy.create_engine(postgres_url)
        with engine.begin() as connection:
            assert connection.execute(sqlalchemy.text("SHOW fsync")).scalar_one() == "on"
            assert connection.execute(sqlalchemy.text("SHOW synchronous_commit")).scalar_one() == "on"
            tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'"
            assert connection.execute(sqlalchemy.text(tables)).scalar_one() == 0
            connection.execute(sqlalchemy.text("CREATE TABLE t (x int)"))
        engine.dispose()

    def test_what_was_committed_survives_kill9(self, postgres: Postgres, postgres_url: str) -> None:
        engine = sqlalchemy.create_engine(postgres_url)
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("CREATE TABLE t AS SELECT 7 AS x"))
        postgres.kill9()
        postgres.start()
        engine.dispose()
        with engine.begin() as connection:
            assert connection.execute(sqlalchemy.text("SELECT x FROM t")).scalar_one() == 7
        engine.dispose()


@pytest.mark.rabbitmq
def test_a_node_answers_several_who_ask_at_once(broker: Broker) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda n: broker.eval(f"{n}."), range(24))) == [str(n) for n in range(24)]


@pytest.mark.prometheus
def test_prometheus_answers_with_what_it_scraped(prometheus: PrometheusFactory) -> None:
    registry = prometheus_client.CollectorRegistry()
    prometheus_client.Gauge("answer", "of everything", registry=registry).set(42)
    port = free_port()
    server, thread = prometheus_client.start_http_server(port, addr="127.0.0.1", registry=registry)
    try:
        watching = prometheus([{"job_name": "test", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}])
        eventually(lambda: watching.value("answer") == 42, what="Prometheus knows the answer")
        assert [target["health"] for target in watching.targets()] == ["up"]
        assert watching.query("no_such_metric") == []
        assert watching.alerts() == []
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_port_is_handed_out_once_among_all_processes_until_its_process_ends() -> None:
    among = sorted(free_port() for _ in range(2))
    # Both are this process's until its end, for itself too.
    with pytest.raises(ServerFailedError, match="no port is free"):
        free_port(among)
    program = (
        "import sys; from tests.support.process import ServerFailedError, free_port\n"
        "try: free_port([int(word) for word in sys.argv[1:]])\n"
        "except ServerFailedError: print('taken', flush=True)\n"
        "print(free_port(), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, *map(str, among)]
    here = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=here, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "taken\n"
        theirs = int(other.stdout.readline())
        with pytest.raises(ServerFailedError):
            free_port([theirs])
        other.kill()
    assert free_port([theirs]) == theirs


def test_every_group_of_tests_goes_out_once_and_what_is_shared_stays_together() -> None:
    tests = [
        "tests/unit/messages/test_codec.py::test_a",
        "tests/unit/messages/test_codec.py::test_b",
        "tests/browser/test_pages.py::test_a",
        "tests/browser/test_actions.py::test_b",
        "tests/deploy/test_nginx.py::test_a",
        "tests/deploy/test_alerts.py::test_a",
        "tests/integration/test_limits.py::test_a",
        "tests/integration/test_limits.py::test_b",
        "tests/test_map.py::test_a",
        "tests/acceptance/test_install.py::test_a",
        "tests/acceptance/test_install.py::test_b",
        "tests/acceptance/conditions/test_conditions_limits.py::test_a[one-rabbitmq]",
        "tests/acceptance/conditions/test_conditions_limits.py::test_b[rabbitmq-two]",
        "tests/acceptance/conditions/test_conditions_limits.py::test_b[rabbitmq+killed-two]",
        "tests/acceptance/conditions/test_conditions_unique.py::test_a[rabbitmq]",
    ]
    groups = [parallel.group_of(test) for test in tests]
    assert groups[0] == groups[1]
    assert groups[2] == groups[3]
    assert groups[6] != groups[7]
    assert groups[9] == groups[10]
    assert groups[11] == groups[12]
    assert len(set(groups[11:])) == 3
    in_order = parallel.order(dict.fromkeys(groups))
    assert sorted(in_order) == sorted(set(groups))
    assert in_order.index("tests/browser") < in_order.index("tests/integration/test_limits.py::test_a")


def test_a_test_that_ends_its_process_fails_alone_and_leaves_nothing_running(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_xdist_make_scheduler\n")
    (tmp_path / "test_it.py").write_text(
        "import os\nfrom pathlib import Path\nfrom tests.support.process import Lodging\n"
        "def test_a(): pass\n"
        "def test_b():\n"
        "    lodging = Lodging('lost')\n"
        "    process = lodging.start(['sleep', '600'], log=lodging.folder / 'log')\n"
        f"    Path({str(tmp_path / 'left')!r}).write_text(f'{{process.pid}} {{lodging.folder}}')\n"
        "    os._exit(1)\n"
        "def test_c(): pass\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "2",
        "-p",
        "no:cacheprovider",
        f"--rootdir={tmp_path}",
        str(tmp_path),
    ]
    here = Path(__file__).parents[2]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env["PYTHONPATH"] = str(here)
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert re.search(r"= 1 failed, 2 passed in .* =", done.stdout), done.stdout + done.stderr
    assert re.search(r"FAILED \S*test_it\.py::test_b - worker '\w+' crashed", done.stdout)
    pid, folder = (tmp_path / "left").read_text().split()
    eventually(lambda: ended(int(pid)), what="its process is gone")
    eventually(lambda: not Path(folder).exists(), what="its folder is gone")


def test_a_wait_says_what_it_waited_for_and_what_it_saw() -> None:
    with pytest.raises(AssertionError, match=r"the moon: not within 0\.15 s; last seen: \[\]"):
        eventually(list, timeout=0.05, what="the moon")


def test_a_wait_takes_failed_assertions_as_not_yet() -> None:
    calls: list[int] = []

    def third_time() -> bool:
        calls.append(1)
        assert len(calls) == 3
        return True

    assert eventually(third_time)


def test_a_stopped_process_group_is_killed_too(tmp_path: Path) -> None:
    from tests.support.process import Lodging

    lodging = Lodging("test")
    process = lodging.start(["sh", "-c", "sleep 600 & wait"], log=tmp_path / "log")
    os.killpg(process.pid, signal.SIGSTOP)
    lodging.close()
    assert process.poll() == -signal.SIGKILL
    assert not lodging.folder.exists()


def test_a_wait_for_what_moves_takes_as_long_as_it_moves() -> None:
    steps = iter(range(20))

    def look() -> int:
        return next(steps)

    began = time.monotonic()
    assert while_it_moves(look, lambda seen: seen == 19, still=0.1, poll=0.02) == 19
    assert time.monotonic() > began + 0.1


def test_a_wait_for_what_moves_ends_where_nothing_moves() -> None:
    with pytest.raises(AssertionError, match=r"the moon: nothing has moved for 0\.15 s; last seen: 7"):
        while_it_moves(lambda: 7, lambda seen: seen == 8, still=0.05, what="the moon", poll=0.01)


def test_a_file_answers_for_what_its_tests_left_unclosed_and_no_later_one(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_runtest_teardown\n")
    (tmp_path / "test_a.py").write_text(
        "import gc, socket\ndef test_leaves():\n    gc.disable()\n    ring = [socket.socket()]\n    ring.append(ring)\n"
    )
    (tmp_path / "test_b.py").write_text(
        "import ast, gc\n"
        "def test_parses():\n"
        "    gc.set_threshold(1)\n"
        "    gc.enable()\n"
        "    ast.parse('x = ' + '(' * 50 + '1' + ',)' * 50)\n"
    )
    command = [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", f"--rootdir={tmp_path}"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [*command, str(tmp_path)], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100, check=False
    )
    assert re.search(r"= 2 passed, 1 error in .* =", done.stdout), done.stdout + done.stderr
    assert "ERROR at teardown of test_leaves" in done.stdout
    assert "test_a.py has left unclosed" in done.stdout
    assert "ResourceWarning: unclosed <socket.socket" in done.stdout
