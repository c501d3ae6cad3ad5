"""Runs a private RabbitMQ node that tests may kill, freeze, restart and starve.

It has its own ports, its own epmd, its own cookie and its own folder, on loopback only, so it meets no other broker of
the machine. Which version runs is chosen by BROKER_JOBS_TEST_RABBITMQ:

    3.10   (default) what this machine has installed; Debian 12 has RabbitMQ 3.10.8
    4.0    the one that `make test-rabbitmq40` builds in .cache/rabbitmq-4.0; needs root, as it is run by chroot
"""

import base64
import contextlib
import http.client
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import pika
from pika import spec
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker, ConnectionClosedByBroker, ProbableAccessDeniedError

from tests.support.process import Lodging, ServerFailedError, ServerMissingError, end_of, free_port, freeze
from tests.support.wait import eventually

logger = logging.getLogger(__name__)

SETTLED_SECONDS = 3.0

VERSION_SETTING = "BROKER_JOBS_TEST_RABBITMQ"
CHROOT_40 = Path(__file__).parents[2] / ".cache" / "rabbitmq-4.0"
NODE = "test@localhost"
COOKIE = "broker-jobs-tests"
USER, PASSWORD = "guest", "guest"

CONFIG = """\
listeners.tcp.1 = 127.0.0.1:{amqp_port}
management.tcp.ip = 127.0.0.1
management.tcp.port = {http_port}
management.rates_mode = none
collect_statistics_interval = 500
vm_memory_high_watermark.absolute = {memory}
# Asks Erlang, not /proc, which a chroot lacks.
vm_memory_calculation_strategy = allocated
disk_free_limit.absolute = 50MB
cluster_partition_handling = pause_minority
log.console = false
log.file.level = info
"""
# How often a quorum queue tells its length (default: 5 s), and how often the consumer timeout is looked at (60 s).
# rabbitmq.conf has no names for them.
ADVANCED_CONFIG = "[{rabbit, [{quorum_tick_interval, 250}, {channel_tick_interval, 1000}]}].\n"
MEMORY = "2GB"
NEEDED_PLUGINS = {
    "rabbitmq_management",
    "rabbitmq_management_agent",
    "rabbitmq_prelaunch",
    "rabbitmq_prometheus",
    "rabbitmq_web_dispatch",
}
RAISED = "lists:any(fun(A) -> element(2, element(1, A)) =:= memory end, rabbit_alarm:get_alarms())."
CONSUMER_TIMEOUT_MS = 1_800_000  # RabbitMQ's default
SOUND = "is_pid(whereis(rabbit_fifo_dlx_sup))."
# Asking each of these processes for its state waits until it has begun: until then it does not answer.
DEAD_LETTERING = """\
AskedLine = length([Q || Q <- rabbit_amqqueue:list(),
    lists:keymember(<<"at-least-once">>, 3, amqqueue:get_arguments(Q))]),
Begun = length([Pid || whereis(rabbit_fifo_dlx_sup) =/= undefined,
    {_, Pid, _, _} <- supervisor:which_children(rabbit_fifo_dlx_sup),
    is_pid(Pid), element(1, catch sys:get_state(Pid)) =:= state]),
whereis(rabbit_fifo_dlx_sup) =:= undefined orelse Begun >= AskedLine.
"""


@dataclass(frozen=True)
class _Installation:
    """Where a RabbitMQ's programs are, and how to run them."""

    prefix: tuple[str, ...]  # put before each command
    root: Path  # the folder that the programs see as /
    home: Path  # the server's folder, as the programs see it
    path: str  # PATH of the programs

    def inside(self, path: Path) -> Path:
        """Translate a path of this machine into what the programs call it."""
        return Path("/") / path.relative_to(self.root)


def chosen_version() -> str:
    """Return the version that the environment asks for: "3.10" or "4.0"."""
    version = os.environ.get(VERSION_SETTING) or "3.10"
    if version not in {"3.10", "4.0"}:
        raise ValueError(f"{VERSION_SETTING} is 3.10 or 4.0, not {version!r}")
    return version


def _find_installation(version: str) -> _Installation:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    if version == "4.0":
        if not (CHROOT_40 / ".complete").exists():
            raise ServerMissingError("RabbitMQ 4.0 is not built; run: make test-rabbitmq40")
        if os.geteuid() != 0:
            raise ServerMissingError("RabbitMQ 4.0 runs in a chroot, which needs root")
        home = max(CHROOT_40.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*"))
        chroot = shutil.which("chroot", path=path) or "chroot"
        inner_path = "/usr/sbin:/usr/bin:/sbin:/bin"
        return _Installation(
            (chroot, str(CHROOT_40), "/usr/bin/env"), CHROOT_40, Path("/") / home.relative_to(CHROOT_40), inner_path
        )
    # Debian's /usr/sbin/rabbitmq-server changes to the user rabbitmq; the script behind it runs as anybody.
    homes = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"))
    if not homes and (found := shutil.which("rabbitmq-server", path=path)):
        homes = [Path(found).resolve().parent.parent]
    if not homes:
        raise ServerMissingError("RabbitMQ is not installed; on Debian: sudo apt-get install rabbitmq-server")
    return _Installation(("/usr/bin/env",), Path("/"), homes[-1], path)


class Broker:
    """A RabbitMQ node of one's own. `start` and `stop` tolerate twice and never; `dispose` ends it for good.

    Ports stay the same from the first start to `dispose`, so clients find the node again after a restart.
    """

    def __init__(
        self, version: str | None = None, *, beside: "Broker | None" = None, name: str = NODE, boot_seconds: float = 180
    ) -> None:
        """Make a node that is not started.

        Args:
            version: 3.10 or 4.0; None: the chosen one.
            beside: the first node of a cluster; this one is to `join` it, and has its epmd.
            name: what Erlang calls it.
            boot_seconds: how long it may take to start. In a cluster a node waits for the others.
        """
        self.version = version or chosen_version()
        self.name = name
        self._beside = beside
        self._boot_seconds = boot_seconds
        self.amqp_port = 0
        self.http_port = 0
        self.user, self.password = USER, PASSWORD
        self._installation = _find_installation(self.version)
        parent = None if self._installation.root == Path("/") else self._installation.root / "tmp"
        self._lodging = Lodging("rabbitmq", parent)
        self._folder = self._lodging.folder
        self._environment: dict[str, str] = {}
        self._epmd: subprocess.Popen[bytes] | None = None
        self._epmd_port = 0
        self._node: subprocess.Popen[bytes] | None = None
        self._frozen = False
        self._alarmed = False
        self._consumer_timeout_changed = False
        self._vhost_made = float("-inf")
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.dispose()

    # --- life and death ---

    def start(self) -> None:
        """Start the node and wait until it serves AMQP and HTTP. The first start chooses the ports."""
        with self._lock:
            if self.is_running():
                return
            attempts = 1 if self.amqp_port else 3  # a port can be taken between its choice and its use
            for attempt in range(1, attempts + 1):
                if attempt > 1 or not self.amqp_port:
                    self._configure()
                try:
                    self._boot()
                except ServerFailedError:
                    self._kill_all()
                    if attempt == attempts:
                        raise
                else:
                    return

    def join(self, first: "Broker") -> None:
        """Make the node part of the cluster of another one, and forget all that it has."""
        self.ctl("stop_app")
        self.ctl("join_cluster", first.name)
        self.ctl("start_app", timeout=self._boot_seconds)

    def stop(self) -> None:
        """Shut the node down in order, as an operator would. Clients are told."""
        with self._lock:
            if self._node is None or self._node.poll() is not None:
                return
            self.thaw()
            # RabbitMQ 3.10 waits five seconds for this part of the management plugin, which waits for RabbitMQ.
            self.eval("gen_event:delete_handler(rabbit_event, rabbit_mgmt_db_handler, []).")
            os.kill(self._node.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._node.wait(30)
            self._lodging.kill(self._node)
            self._node = None

    def kill9(self) -> None:
        """End the node as a power cut would: nothing more is written, nobody is told."""
        with self._lock:
            self._let_young_queues_settle()
            self._kill_node()

    def restart(self) -> None:
        """Shut down in order and start again, on the same ports."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Stop the node's process (SIGSTOP): connections stay open and nothing answers."""
        with self._lock:
            if self._node is not None and not self._frozen:
                freeze(self._node.pid)
                self._frozen = True

    def thaw(self) -> None:
        """Let a frozen node go on."""
        with self._lock:
            if self._node is not None and self._frozen:
                os.kill(self._node.pid, signal.SIGCONT)
            self._frozen = False

    def heal(self) -> None:
        """Undo whatever a test did to the node: the next one finds it running, thawed, sound and without alarms."""
        with self._lock:
            self.thaw()
            self.start()
            if not self.is_sound():
                logger.warning("the node keeps no at-least-once queue any more; it is started again:\n%s", self.log())
                self.restart()
            if self._alarmed:
                self.alarm(memory=False)
            if self._consumer_timeout_changed:
                self.set_consumer_timeout(CONSUMER_TIMEOUT_MS)

    def dispose(self) -> None:
        """Kill the node and remove all it wrote. May be called twice."""
        with self._lock:
            self._kill_all()
            self._lodging.close()

    def is_sound(self) -> bool:
        """Tell whether the node takes connections and keeps queues that dead-letter at least once.

        A burst of deaths among the processes that do the latter ends their supervisor for good (RabbitMQ's issue 16652,
        3.10.8 to 4.2). From then on each such queue dies when it becomes leader, and whoever declares one loses his
        connection by 541 INTERNAL_ERROR, in any virtual host, until the node is started again. `let_queues_begin` tells
        what brings it about.
        """
        return self._opens() and self.eval(SOUND) == "true"

    def let_queues_begin(self) -> None:
        """Wait until all queues there are have begun after a start, dead-lettering included.

        Who deletes one right after its election, while its dead-lettering begins, kills that twice, and with it all
        dead-lettering of the node (see `is_sound`): a test that ended behind a restart did, with its virtual host.
        """
        with contextlib.suppress(AssertionError):  # a queue that was lost by a kill never begins
            eventually(lambda: self.eval(DEAD_LETTERING) == "true", 10, "all queues have begun", poll=0.05, patience=1)

    def is_running(self) -> bool:
        """Tell whether the node's process lives (frozen or not)."""
        return self._node is not None and self._node.poll() is None

    @property
    def pid(self) -> int:
        """The node's process, for who measures what it uses."""
        assert self._node is not None, "the node does not run"
        return self._node.pid

    def log(self) -> str:
        """Return the end of the node's log."""
        return end_of(self._folder / "log" / f"{self.name}.log", 60)

    # --- levers ---

    def wait_for_young_queues(self) -> None:
        """Wait until the quorum queues declared so far would survive `kill9`.

        RabbitMQ 3.10 writes what it needs to know of a new queue's log about a second later, and tells nobody when; a
        queue that is younger than that at a kill -9 is lost, with its confirmed messages. Hence the one wait here that
        is for seconds: three have been enough in every run seen.
        """
        time.sleep(SETTLED_SECONDS)

    def _let_young_queues_settle(self) -> None:
        """Before the node is killed, give the queues of the newest virtual host their time: see `acknowledge`."""
        if self.is_running() and not self._frozen:
            time.sleep(max(0.0, self._vhost_made + SETTLED_SECONDS - time.monotonic()))

    def alarm(self, memory: bool) -> None:
        """Raise or clear a memory alarm. While it is raised, connections that publish are blocked."""
        # A watermark of 0 is "blocked for good", which is what the documentation advises for tests like these.
        mark = "0" if memory else f'{{absolute, "{MEMORY}"}}'
        self._alarmed = memory
        self.eval(f"vm_memory_monitor:set_vm_memory_high_watermark({mark}).")
        eventually(
            lambda: self.eval(RAISED) == str(memory).lower(),
            what=f"memory alarm {'raised' if memory else 'cleared'}",
        )

    def slow_disk(self, seconds: float) -> None:
        """Let all that is written to quorum queues from now on wait so long, settlements too; returns at once."""
        wait = f"sys:suspend(ra_log_wal), timer:sleep({int(seconds * 1000)}), sys:resume(ra_log_wal)"
        self.eval(f"spawn(fun() -> {wait} end).")

    def set_consumer_timeout(self, ms: int) -> None:
        """Set after how long an unacknowledged delivery closes its channel, for channels opened from now on.

        RabbitMQ looks once a second here (once a minute by default), so a channel lives up to a second longer.
        """
        self.eval(f"application:set_env(rabbit, consumer_timeout, {ms}).")
        self._consumer_timeout_changed = ms != CONSUMER_TIMEOUT_MS

    def ctl(self, *arguments: str, timeout: float = 60) -> str:
        """Run rabbitmqctl and return what it prints. It takes about a second; `eval` and the HTTP API are faster."""
        return self._run([str(self._installation.home / "sbin" / "rabbitmqctl"), "-q", *arguments], "", timeout)

    def eval(self, erlang: str, timeout: float = 30) -> str:
        """Evaluate an Erlang expression, ending in a full stop, on the node; return the result as Erlang writes it."""
        # A name of its own each time: with the same one (-r makes one of the second) the node refuses a second caller
        # while it has not yet seen the end of the first.
        name = f"call{uuid.uuid4().hex[:12]}"
        command = ["erl_call", "-n", self.name, "-c", COOKIE, "-timeout", str(int(timeout)), "-h", name, "-e"]
        answer = self._run(command, erlang + "\n", timeout + 5)
        found = re.fullmatch(r"\{ok, (.*)\}\s*", answer, re.DOTALL)
        if found is None:
            raise ServerFailedError(f"Erlang expression {erlang!r} failed: {answer}")
        return found[1]

    def vhost(self) -> "Vhost":
        """Create a virtual host of a name never used before."""
        name = f"t-{uuid.uuid4().hex[:12]}"
        self.http("PUT", f"/vhosts/{name}")
        self._vhost_made = time.monotonic()
        self.http(
            "PUT", f"/permissions/{name}/{self.user}", {"configure": ".*", "write": ".*", "read": ".*"}
        )  # not granted by itself on every version
        return Vhost(self, name)

    def url(self, vhost: str = "/", user: str = "", password: str = "", port: int | None = None) -> str:
        """Return the address for AMQP clients; `port` may be a proxy's. Without a `user`: who may do everything."""
        user, password = (user, password) if user else (self.user, self.password)
        return (
            f"amqp://{quote(user, safe='')}:{quote(password, safe='')}"
            f"@127.0.0.1:{port or self.amqp_port}/{quote(vhost, safe='')}"
        )

    def http(self, method: str, path: str, body: object = None, timeout: float = 20) -> Any:
        """Call the management API, with a `path` below /api; return the decoded answer, None if it is empty.

        Raises ServerFailedError for any status of 400 and above, with the status and the body.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=timeout)
        token = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        try:
            connection.request(
                method,
                "/api" + path,
                body=None if body is None else json.dumps(body),
                headers={"Authorization": f"Basic {token}", "Content-Type": "application/json"},
            )
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status >= http.HTTPStatus.BAD_REQUEST:
            raise ServerFailedError(f"{method} {path}: {response.status} {content.decode(errors='replace')[:500]}")
        return json.loads(content) if content else None

    # --- inside ---

    def _configure(self) -> None:
        self.amqp_port, self.http_port, dist_port = (free_port() for _ in range(3))
        self._epmd_port = self._beside._epmd_port if self._beside is not None else free_port()
        for name in ("mnesia", "log", "home"):
            (self._folder / name).mkdir(exist_ok=True)
        configuration = CONFIG.format(amqp_port=self.amqp_port, http_port=self.http_port, memory=MEMORY)
        (self._folder / "rabbitmq.conf").write_text(configuration)
        (self._folder / "advanced.config").write_text(ADVANCED_CONFIG)
        (self._folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
        (self._folder / "rabbitmq-env.conf").write_text("")
        cookie = self._folder / "home" / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(COOKIE)
            cookie.chmod(0o400)
        self._link_server()
        here = self._installation.inside(self._folder)
        self._environment = {
            "PATH": self._installation.path,
            "LANG": "C.UTF-8",
            "HOME": str(here / "home"),
            "ERL_CRASH_DUMP_SECONDS": "0",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(dist_port),
            "RABBITMQ_MNESIA_BASE": str(here / "mnesia"),
            "RABBITMQ_LOG_BASE": str(here / "log"),
            "RABBITMQ_PID_FILE": str(here / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(here / "enabled_plugins"),
            "RABBITMQ_CONFIG_FILE": str(here / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(here / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(here / "rabbitmq-env.conf"),
            # Two schedulers that do not spin while idle leave the processors to the tests.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"
            ),
            # Lets the start script become the Erlang machine instead of waiting for it: one process to kill or freeze.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _link_server(self) -> None:
        """Make a server folder with the few plugins we need: Erlang looks for each module in every plugin's folder.

        Starting takes 3.5 s with these and 5.5 s with all.
        """
        home = self._folder / "server"
        if home.exists():
            return
        original = self._installation.root / self._installation.home.relative_to("/")
        shutil.copytree(original / "sbin", home / "sbin")
        (home / "escript").symlink_to(self._installation.home / "escript")
        (home / "plugins").mkdir()
        for plugin in (original / "plugins").iterdir():
            name = plugin.name.partition("-")[0]
            if not name.startswith("rabbitmq_") or name in NEEDED_PLUGINS:
                (home / "plugins" / plugin.name).symlink_to(self._installation.home / "plugins" / plugin.name)

    def _boot(self) -> None:
        if self._beside is None and (self._epmd is None or self._epmd.poll() is not None):
            self._epmd = self._lodging.start(self._command(["epmd"]), log=self._folder / "log" / "epmd", env={})
        console = self._folder / "log" / "console"
        server = str(self._installation.inside(self._folder) / "server" / "sbin" / "rabbitmq-server")
        self._node = self._lodging.start(self._command([server]), log=console, env={})
        self._frozen = self._alarmed = self._consumer_timeout_changed = False
        deadline = time.monotonic() + self._boot_seconds
        while not (self._speaks_amqp() and self._speaks_http() and self._opens()):
            if self._node.poll() is not None or time.monotonic() > deadline:
                late = f"did not come up in {self._boot_seconds:g} s"
                state = late if self._node.poll() is None else f"ended ({self._node.returncode})"
                raise ServerFailedError(f"RabbitMQ {self.version} {state}:\n{end_of(console)}\n{self.log()}")
            time.sleep(0.02)

    def _kill_node(self) -> None:
        if self._node is not None:
            self._lodging.kill(self._node)
        self._node = None
        self._frozen = self._alarmed = self._consumer_timeout_changed = False

    def _kill_all(self) -> None:
        self._kill_node()
        if self._epmd is not None:
            self._lodging.kill(self._epmd)
            self._epmd = None

    def _command(self, command: list[str]) -> list[str]:
        # The environment is given by env(1), inside the chroot if there is one; nothing of ours leaks into it.
        variables = [f"{name}={value}" for name, value in self._environment.items()]
        return [*self._installation.prefix, "-i", *variables, *command]

    def _run(self, command: list[str], text: str, timeout: float) -> str:
        done = subprocess.run(
            self._command(command), input=text, capture_output=True, text=True, timeout=timeout, check=False, cwd="/"
        )
        if done.returncode != 0:
            raise ServerFailedError(f"{command[0]} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def _speaks_amqp(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.amqp_port), timeout=1) as connection:
                connection.settimeout(5)
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return connection.recv(1) == b"\x01"  # a method frame: connection.start
        except OSError:
            return False

    def _opens(self) -> bool:
        try:
            pika.BlockingConnection(pika.URLParameters(self.url())).close()
        except (ConnectionClosedByBroker, ProbableAccessDeniedError) as refused:
            return "541" not in str(refused)  # our user may have no business in the default virtual host
        except (AMQPError, OSError):
            return False
        return True

    def _speaks_http(self) -> bool:
        try:
            self.http("GET", "/whoami", timeout=5)
        except (OSError, http.client.HTTPException, ServerFailedError):
            return False
        return True


class Vhost:
    """A virtual host of a test's own, and a test's view into it."""

    def __init__(self, broker: Broker, name: str) -> None:
        self.broker = broker
        self.name = name
        self._users: list[str] = []

    @property
    def url(self) -> str:
        """The address for AMQP clients, with a user that may do everything here."""
        return self.broker.url(self.name)

    def url_through(self, port: int) -> str:
        """The same through a proxy on that port of loopback."""
        return self.broker.url(self.name, port=port)

    def delete(self) -> None:
        """Remove the virtual host with all its queues and the users made for it; closes its connections."""
        for user in self._users:
            self.broker.http("DELETE", f"/users/{user}")
        self._users.clear()
        self.broker.let_queues_begin()
        self.broker.http("DELETE", f"/vhosts/{self.name}")

    def queues(self) -> list[dict[str, Any]]:
        """Return what the management API knows of all queues.

        `messages`, `messages_ready` and `messages_unacknowledged` are up to 0.3 s old, the rest up to 5 s.
        """
        path = f"/queues/{self.name}"
        fresh: list[dict[str, Any]] = self.broker.http("GET", f"{path}?disable_stats=true&enable_queue_totals=true")
        full = {queue["name"]: queue for queue in self.broker.http("GET", path)}
        return [full.get(queue["name"], {}) | queue for queue in fresh]

    def queue(self, name: str) -> dict[str, Any]:
        """Return what `queues` knows of one queue; nothing if there is none."""
        return next((queue for queue in self.queues() if queue["name"] == name), {})

    def ready(self, queue: str) -> int:
        """Return how many messages of a queue wait for a consumer: exactly, and now; 0 while there is no such queue."""
        return self._declared(queue).message_count

    def consumers(self, queue: str) -> int:
        """Return how many consumers a queue has: exactly, and now; 0 while there is no such queue."""
        return self._declared(queue).consumer_count

    def _declared(self, queue: str) -> spec.Queue.DeclareOk:
        with self.channel() as channel:
            try:
                return channel.queue_declare(queue, passive=True).method
            except ChannelClosedByBroker as error:
                if error.reply_code != 404:
                    raise
                return spec.Queue.DeclareOk(queue, 0, 0)

    def opens(self) -> bool:
        """Whether the node serves this virtual host: a connection can be opened."""
        for _ in range(3):
            try:
                with self.channel():
                    return True
            except (AMQPError, OSError):
                time.sleep(0.5)
        return False

    def add_user(self, name: str, password: str, configure: str, write: str, read: str) -> str:
        """Create a user with these permissions (regular expressions) here and nowhere else; return its address.

        The user is called `name` with the virtual host's name behind it, as users belong to the whole node.
        """
        user = f"{name}-{self.name}"
        self.broker.http("PUT", f"/users/{user}", {"password": password, "tags": ""})
        self._users.append(user)
        permissions = {"configure": configure, "write": write, "read": read}
        self.broker.http("PUT", f"/permissions/{self.name}/{user}", permissions)
        return self.broker.url(self.name, user, password)

    @contextlib.contextmanager
    def channel(self) -> Iterator[BlockingChannel]:
        """Open a connection and a channel with publisher confirms, for a test's own use."""
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        try:
            channel = connection.channel()
            channel.confirm_delivery()
            yield channel
        finally:
            if connection.is_open:
                connection.close()

    def publish_raw(self, exchange: str, key: str, body: bytes, properties: pika.BasicProperties | None = None) -> None:
        """Publish a message as a foreign program would, and wait for the confirm. Persistent unless told otherwise."""
        with self.channel() as channel:
            channel.basic_publish(exchange, key, body, properties or pika.BasicProperties(delivery_mode=2))

    def get(self, queue: str) -> tuple[bytes, pika.BasicProperties] | None:
        """Take one message from a queue for good; None if it is empty."""
        with self.channel() as channel:
            method, properties, body = channel.basic_get(queue, auto_ack=True)
            if method is None or properties is None or body is None:
                return None
            return body, properties

    def drain(self, queue: str) -> list[bytes]:
        """Take all messages that wait in a queue, for good."""
        bodies: list[bytes] = []
        with self.channel() as channel:
            while True:
                method, _, body = channel.basic_get(queue, auto_ack=True)
                if method is None or body is None:
                    return bodies
                bodies.append(body)

    def close_connections(self) -> int:
        """Let RabbitMQ close all client connections of this virtual host (320 CONNECTION_FORCED); return how many."""
        answer = self.broker.eval(
            f'Found = rabbit_connection_tracking:list(<<"{self.name}">>),'
            ' [rabbit_networking:close_connection(element(6, C), <<"closed by a test">>) || C <- Found],'
            " length(Found)."
        )
        return int(answer)

    def connections(self) -> int:
        """Return how many client connections are open here: exactly, and now."""
        return int(self.broker.eval(f'length(rabbit_connection_tracking:list(<<"{self.name}">>)).'))
