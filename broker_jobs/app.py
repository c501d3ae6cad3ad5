"""BrokerJobs: the object of a program. It makes functions jobs, enqueues them, and runs worker, coordinator and beat.

Creating one reads no settings and connects to nothing, so a program may be imported anywhere. The first enqueue or
start() reads the settings and connects; dashboard() reads the settings, for a login. The file is over 300 lines, as the
public methods with their docstrings take most of it.
"""

from __future__ import annotations

import importlib
import logging
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, TypeAlias, TypeVar, Unpack

from broker_jobs.broker.factory import broker_for
from broker_jobs.broker.interface import Broker
from broker_jobs.clock import Clock, Seconds, as_seconds
from broker_jobs.errors import BrokerJobsError, OptionError, UsageError
from broker_jobs.extras import require
from broker_jobs.function.definition import Names
from broker_jobs.function.option_checks import check_id
from broker_jobs.function.options import NO_OPTIONS, PublishOptions, publish_options
from broker_jobs.function.registry import Function, Registry, loader_of
from broker_jobs.messages.envelope import End
from broker_jobs.producer.admin import Limits, Queues
from broker_jobs.producer.asyncio_support import in_thread, warn_if_blocking
from broker_jobs.producer.batch import Batch
from broker_jobs.producer.connection import Connection
from broker_jobs.producer.enqueue_many import enqueue_many, enqueue_many_async
from broker_jobs.producer.group import Jobs
from broker_jobs.producer.group_members import GroupMembers, Root
from broker_jobs.producer.job import Call
from broker_jobs.producer.process_lock import Claim, ProcessLock
from broker_jobs.producer.pubsub import publish, publish_async
from broker_jobs.producer.receipt import Receipt
from broker_jobs.producer.requests import RequestClient
from broker_jobs.producer.with_options import WithOptions
from broker_jobs.service_name import why_no_service_name

if TYPE_CHECKING:
    from broker_jobs.dashboard.app import Dashboard
    from broker_jobs.dashboard.auth import Authorize
    from broker_jobs.processes.health import Health
    from broker_jobs.processes.program import Program
    from broker_jobs.settings import Settings
    from broker_jobs.store import Store

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A", bound=Callable[[], Iterator[None]] | Callable[[], AsyncIterator[None]])
ProcessRole: TypeAlias = Literal["worker", "coordinator", "beat"]
ROLES: tuple[ProcessRole, ...] = ("worker", "coordinator", "beat")


class BrokerJobs(Jobs):
    """The background jobs of one program.

    jobs = BrokerJobs("amqp://guest:guest@localhost/", modules=["shop.mail"], service="shop")

    Args:
        url: amqp://…, several of them separated by commas, or memory:// (this process alone). None: BROKER_JOBS_URL,
            else memory://.
        store: the coordinator's database, sqlite:///path or postgresql+psycopg://…. None: BROKER_JOBS_STORE.
        modules: the names of modules that define jobs. start() and the command line import them, so that they may
            import the module of this object.
        names: how a job is named that has no option `name`: "function", or "module", as "shop.mail.welcome". The names
            of a group are its own.
        service: the name of the program, as OpenTelemetry's service.name: 1 to 100 letters, digits, dots, hyphens and
            underscores. Its recurring jobs, subscriptions and functions belong to it, so all processes of one program
            have one name, and two programs have two. On RabbitMQ a worker or beat of a program with recurring jobs or
            subscriptions does not start without one. None: BROKER_JOBS_SERVICE, else no name.

    Raises:
        UsageError: `modules` is a str.
        OptionError: `names` is neither, or `service` is no name of a program.
    """

    queues: Queues
    limits: Limits

    def __init__(
        self,
        url: str | None = None,
        *,
        store: str | None = None,
        modules: Sequence[str] = (),
        names: Names = "function",
        service: str | None = None,
    ) -> None:
        super().__init__(names=names)
        if isinstance(modules, str):
            raise UsageError(f"modules is a list of names; write modules=[{modules!r}]")
        wrong = why_no_service_name(service or "")
        if wrong is not None:
            raise OptionError(f"BrokerJobs(service=…): {wrong}")
        self.registry = Registry()
        self._modules = tuple(modules)
        self._given: dict[str, Any] = {"url": url, "store": store, "service": service}
        self._connection = Connection(self._load_settings, lambda settings: broker_for(settings, _shown_name(settings)))
        self._requests = RequestClient(self._connection)
        self._has(
            GroupMembers(
                Root(self._requests, self.registry, self._function_added, self._recurring_declared, self._subscribed)
            )
        )
        self.registry.batch_of = lambda id: Batch(self._requests, id=id)
        self._program: Program | None = None
        self._stopping: Program | None = None
        self._stop_lock = ProcessLock()
        self._dashboards: weakref.WeakSet[Dashboard] = weakref.WeakSet()
        self.queues = Queues(self._requests)
        self.limits = Limits(self._requests)

    @property
    def settings(self) -> Settings:
        """The settings, read from arguments and environment on first use. Raises OptionError."""
        return self._connection.settings

    @property
    def service(self) -> str:
        """The name of this program, from `BrokerJobs(service=…)` or BROKER_JOBS_SERVICE; empty: it has none.

        A beat removes the recurring jobs that its program declared before and that are no longer in the code; worker
        and beat do so with subscriptions. If you rename a program, remove what it declared under the old name:
        `broker-jobs recurring remove`.

        Raises:
            OptionError: a setting is wrong.
        """
        return self.settings.service

    # --- enqueueing ---

    def receipt(self, id: str, /) -> Receipt[Any]:
        """The receipt of a job by its id. `welcome.receipt(id)` also knows the type of the result.

        Raises:
            OptionError: this is no id of a job.
        """
        return Receipt(check_id(id, "the id of a job"), self._requests)

    def batch_receipt(self, id: str, /) -> Batch:
        """A batch by its id (`batch.id`): to read its state, to wait for it, or to add jobs to it.

        Raises:
            OptionError: this is no id of a batch.
        """
        return Batch(self._requests, id=id)

    def enqueue_many(self, calls: Iterable[Call[R]], /) -> list[Receipt[R]]:
        """Enqueue many calls much faster than one by one. All are checked before the first one is published.

        receipts = jobs.enqueue_many(welcome.bind(user_id) for user_id in user_ids)

        This is not a batch: the jobs have nothing in common, and some may be enqueued although others fail.

        Returns:
            The receipts, in the order of the calls.

        Raises:
            ArgumentsError: something is no call, or its arguments do not fit.
            EnqueueManyError: some jobs were not enqueued; it lists them as enqueued, not enqueued and unknown.
        """
        warn_if_blocking("enqueue_many()", "enqueue_many_async(…)")
        return enqueue_many(self._requests, calls)

    async def enqueue_many_async(self, calls: Iterable[Call[R]], /) -> list[Receipt[R]]:
        """As `enqueue_many`, without blocking the event loop."""
        return await enqueue_many_async(self._requests, calls)

    def publish(self, event: str, /, *args: Any, **kwargs: Any) -> str:
        """Publish an event. It returns when RabbitMQ has confirmed it; each subscription then gets a job for it.

        jobs.publish("user.registered", 42)

        Args:
            event: its name, 1 to 200 characters.
            args, kwargs: the arguments of the subscribed jobs; anything that has a JSON form.

        Returns:
            The id of the event. Its jobs have it as `parent`.

        Raises:
            ArgumentsError: the name is wrong, or an argument has no JSON form.
            EnqueueError: not published, or (as the text then says) published without a confirm.
        """
        warn_if_blocking("publish()", "publish_async(…)")
        return publish(self._connection, self._connection.publishing(), event, args, kwargs)

    async def publish_async(self, event: str, /, *args: Any, **kwargs: Any) -> str:
        """As `publish`, without blocking the event loop."""
        return await publish_async(self._connection, self._connection.publishing(), event, args, kwargs)

    def batch(
        self,
        title: str = "",
        /,
        *,
        after: Receipt[object] | Batch | Iterable[Receipt[object] | Batch] = (),
        on: End = "succeeded",
    ) -> Batch:
        """A batch. Add jobs to it in a `with` block: they start when the block has ended; if it raises, none starts.

        with jobs.batch("import") as batch:
            for row in rows:
                batch.enqueue(load, row)
        summary.after(batch).enqueue()

        Args:
            title: the name in the dashboard, at most 200 characters.
            after: receipts and batches that must end before it starts, at most 1,000.
            on: how they must end: "succeeded", "failed", or "finished" (succeeded, failed or deleted).

        Raises:
            ArgumentsError: the title is too long, or `after` is no receipt and no batch.
        """
        return WithOptions(self._requests, NO_OPTIONS).batch(title, after=after, on=on)

    def using(self, /, **options: Unpack[PublishOptions]) -> WithOptions:
        """`enqueue_many`, `publish` and `batch` with options for one call. It publishes nothing.

        jobs.using(publish_timeout=2, fail_fast=True).publish("user.registered", 42)

        For `enqueue` and `schedule` write `job.using(publish_timeout=2)`.

        Args:
            publish_timeout: how long to wait for RabbitMQ's confirm, in seconds or as a timedelta, at most 600 seconds.
            fail_fast: raise at once while RabbitMQ is known to be unreachable or to block publishing.

        Raises:
            OptionError: an option is unknown or out of range.
        """
        return WithOptions(self._requests, publish_options(options))

    # --- running ---

    def configure(self, given: Mapping[str, Any]) -> None:
        """Override settings of the code and the environment, as the command line does. Connects to nothing.

        Args:
            given: settings by name.

        Raises:
            UsageError: the program has connected already.
            OptionError: a setting is unknown or out of range.
        """
        if self._connection.used:
            raise UsageError("settings cannot change once a job was enqueued or start() was called")
        self._given |= given
        self._connection.reload()

    def load_modules(self) -> None:
        """Import `modules`. A second call does nothing.

        Raises:
            UsageError: one of them cannot be imported; the cause is chained.
        """
        for module in self._modules:
            try:
                importlib.import_module(module)
            except BrokerJobsError:
                raise
            except Exception as error:
                raise UsageError(
                    f"module {module!r} of BrokerJobs(modules=…) cannot be imported: {type(error).__name__}: {error}"
                ) from error

    def start(
        self,
        *,
        roles: Collection[ProcessRole] = ROLES,
        queues: Sequence[str] | Mapping[str, int] | None = None,
        queue_limits: Mapping[str, int] | None = None,
        concurrency: int | None = None,
    ) -> None:
        """Run worker, coordinator and beat (or some of them) in threads of this program. A second call does nothing.

        jobs.start(roles=["worker"], queues=["mail", "default"], concurrency=20)

        Args:
            roles: the parts to run. The others must run elsewhere.
            queues: the queues that the worker serves, the preferred one first; with weights `{"mail": 3, "bulk": 1}`,
                which are their shares of the starts while each has jobs; None: the setting, and without it all queues
                that the code declares, in equal shares.
            queue_limits: how many jobs of a queue the worker runs at once: `{"bulk": 2}`; None: the setting.
            concurrency: how many jobs the worker runs at once, of all kinds and queues together; None: the setting.

        Raises:
            UsageError: a role is unknown, a module cannot be imported, the program was started before a fork, an
                argument is for a worker and none is to run, or it has recurring jobs or subscriptions and no name
                (`service`) on RabbitMQ.
            MissingExtra: the libraries of a role are not installed: `pip install 'broker-jobs[worker,coordinator]'`.
            DefinitionError: a job's annotations cannot be read.
            BrokerError: RabbitMQ refuses or cannot be reached.
            StoreError: the store cannot be used.
        """
        # A producer needs no database, so only start() imports what worker, coordinator and beat need.
        import multiprocessing  # noqa: PLC0415  # nor does it start processes

        from broker_jobs.processes.program import Program  # noqa: PLC0415

        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise UsageError(
                "start() was called while a child process imports this program: put it under "
                "if __name__ == '__main__': as every program that starts processes does"
            )
        self._connection.check_fork()
        if self._program is not None:
            return
        here = {"queues": queues, "queue_limits": queue_limits, "concurrency": concurrency}
        if "worker" not in roles and (unused := [name for name, value in here.items() if value is not None]):
            raise UsageError(f"{unused[0]} is for a worker, which is not among roles={list(roles)}: leave it out")
        self.load_modules()
        for function in self.registry:
            function.signature.check()
        settings = self._load_settings(**{name: value for name, value in here.items() if value is not None})
        schedules = self.recurring.declared(settings.declared_by) if {"beat", "worker"} & {*roles} else []
        program = Program(
            self.registry,
            settings,
            self._connection.broker(),
            schedules,
            subscriptions=self.subscriptions.declared(),
            roles=roles,
            load=loader_of(self.registry, self._modules),
            all_queues=True,
        )
        program.start()
        self._program = program
        self._connection.mark_started(started=True)

    def stop(self, timeout: Seconds | None = None) -> None:
        """Stop what start() started, and close all connections, also those of the dashboards to the store.

        A second call waits for the first; in a signal handler that interrupts the first it returns at once. The next
        use connects again.

        Args:
            timeout: how long running jobs may go on, in seconds or as a timedelta; None: the setting shutdown_timeout.
                Jobs that have not ended by then are interrupted: a coroutine gets CancelledError, a plain function
                JobCancelled, and the job runs again, which costs no retry. One that is in a call of C goes on until
                that returns or the program ends.
        """
        if self._connection.forked:
            return  # the started parts run in the parent process
        if self._stop_lock.held_here:
            return
        meant = self._program or self._stopping
        claim = Claim()
        try:
            self._stop_lock.take(claim)
            if meant is not None and self._program is not meant:
                return  # another call has stopped it; what runs now was started later
            program, self._program = self._program, None
            self._stopping = program
            try:
                if program is not None:
                    program.stop(None if timeout is None else as_seconds(timeout))
            finally:
                self._stopping = None
                self._connection.mark_started(started=False)
                for dashboard in list(self._dashboards):
                    dashboard.close()
                self._requests.close()
                self._connection.close()
        finally:
            claim.over = True

    def metrics(self) -> tuple[bytes, str]:
        """The metrics of the parts that run here, in Prometheus' text format, and the content type: for your own route.

        Raises:
            UsageError: start() was not called.
        """
        return self._running("metrics").expose()

    def health(self) -> Health:
        """The health of the parts that run here, of all (`ok`) and of each (`parts`): for your own route.

        Raises:
            UsageError: start() was not called.
        """
        return self._running("health").health()

    def dashboard(
        self,
        *,
        read_only: bool | None = None,
        authorize: Authorize | None = None,
        local: bool = False,
        title: str | None = None,
    ) -> Dashboard:
        """The dashboard with its JSON API, as an ASGI application to mount. For WSGI mount its `.wsgi`.

        app.mount("/jobs", jobs.dashboard(authorize=role_of))

        It reads the store, and sends commands to the coordinator. The coordinator may run anywhere; with memory:// it
        must run in this program. Access needs `authorize`, a token or user and password in the settings, or
        `local=True`.

        Args:
            read_only: refuse all changes; None: the setting.
            authorize: returns, for a request, what the user may do: a Role, a Visitor (a role with a name for the
                audit), or None to refuse. May be async.
            local: if the settings have no login, requests from this machine (a loopback address, localhost as Host, no
                header of a proxy) get the administrator's role, and all others are refused. Do not use it behind a
                proxy: if the proxy adds no header, its requests look like requests from this machine.
            title: the title of the pages; None: the setting.

        Raises:
            UsageError: there is no login, `authorize` or `local`, or both `authorize` and `local` are given.
            OptionError: a setting is wrong.
            MissingExtra: its libraries are not installed: `pip install 'broker-jobs[dashboard]'`.
        """
        require("jobs.dashboard()", "dashboard")
        # A producer needs no web framework, so only this method imports it.
        from broker_jobs.dashboard.app import Dashboard, require_login  # noqa: PLC0415

        if authorize is None and not local:
            require_login(self._load_settings())

        def own_store() -> Store | None:
            return self._program.store if self._program is not None else None

        dashboard = Dashboard(
            lambda: self.settings,
            self._requests,
            self._connection.clock,
            own_store=own_store,
            read_only=read_only,
            authorize=authorize,
            local=local,
            title=title,
        )
        self._dashboards.add(dashboard)
        return dashboard

    def _load_settings(self, **given: Any) -> Settings:
        # Importing a program reads no settings, so this import is late.
        from broker_jobs.settings import Settings  # noqa: PLC0415

        return Settings.load(**self._given | given)

    def _running(self, method: str) -> Program:
        if self._program is None:
            raise UsageError(f"{method}() describes the parts that run in this program: call start() first")
        return self._program

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await in_thread(self.start)
        return self

    async def __aexit__(self, *error: object) -> None:
        await in_thread(self.stop)

    def lifespan(self, app: object = None, /) -> AbstractAsyncContextManager[None]:
        """Call start() and stop() with an ASGI application: `FastAPI(lifespan=jobs.lifespan)`."""
        del app

        @asynccontextmanager
        async def running() -> AsyncIterator[None]:
            async with self:
                yield

        return running()

    @contextmanager
    def replaced(self, broker: Broker, clock: Clock) -> Iterator[None]:
        """Use another broker and clock inside the block; for `testing.Tester`.

        Raises:
            UsageError: the program is running.
        """
        if self._program is not None:
            raise UsageError("the program is running: call stop() before you open a Tester")
        self._requests.close()
        with self._connection.replaced(broker, clock):
            try:
                yield
            finally:
                self._requests.close()

    def _function_added(self, function: Function) -> None:
        worker = self._program.worker if self._program is not None else None
        if worker is not None and function.options.queue not in worker.serves.queues.names:
            logger.warning(
                "%s was defined after the worker started, which does not serve its queue %s: define it before start(), "
                "or name the queue there",
                function.name,
                function.options.queue,
            )

    def _recurring_declared(self) -> None:
        """Pass a declaration on to a beat that runs here. At import there is none."""
        program = self._program
        if program is not None and program.beat is not None:
            program.declare_recurring(self.recurring.declared(self.settings.declared_by))
        elif self._connection.used:
            logger.warning(
                "a recurring job was declared after the program connected, and no beat runs in it: the declaration is "
                "not sent before a beat starts with this code; to add one at run time write jobs.recurring.put(…)"
            )

    def _subscribed(self) -> None:
        """Pass a subscription on to the parts that run here. At import there are none."""
        if self._program is not None:
            self._program.subscribe(self.subscriptions.declared())


def _shown_name(settings: Settings) -> str:
    """The name by which RabbitMQ's management pages show the connections of this program."""
    main = sys.modules.get("__main__")
    return settings.service or Path(getattr(main, "__file__", None) or "interactive").stem
