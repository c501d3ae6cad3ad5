"""BrokerJobs: the object a program holds. It decorates functions, enqueues, and runs worker, coordinator and beat.

Making one reads nothing and connects to nothing; a program may be imported anywhere. Settings are read and the broker
is reached by the first enqueue or by start(); dashboard() looks for a login in them.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, TypeAlias, TypeVar, Unpack, overload

from broker_jobs.broker.factory import broker_for
from broker_jobs.broker.interface import Broker
from broker_jobs.clock import Clock, Seconds, as_seconds
from broker_jobs.errors import BrokerJobsError, DefinitionError, UsageError
from broker_jobs.extras import require
from broker_jobs.function.definition import define
from broker_jobs.function.options import JobOptions, check_id, job_options
from broker_jobs.function.registry import Registry
from broker_jobs.messages.envelope import End
from broker_jobs.producer.batch import Batch
from broker_jobs.producer.blocking import in_thread, warn_if_blocking
from broker_jobs.producer.call import Call
from broker_jobs.producer.connection import Connection
from broker_jobs.producer.dependencies import DependencyTarget, joined, parents_of
from broker_jobs.producer.enqueue_many import enqueue_many, enqueue_many_async
from broker_jobs.producer.job import AsyncJob, Job, JobDecorator, SyncJob
from broker_jobs.producer.limits import Limits
from broker_jobs.producer.publish import check_event, publish, publish_async
from broker_jobs.producer.queues import Queues
from broker_jobs.producer.receipt import Receipt
from broker_jobs.producer.recurring import Recurring
from broker_jobs.producer.remote import RemoteJob
from broker_jobs.producer.requests import RequestClient
from broker_jobs.producer.subscribe import Subscriptions

if TYPE_CHECKING:
    from broker_jobs.dashboard.app import Dashboard
    from broker_jobs.dashboard.auth import Authorize
    from broker_jobs.processes.program import Health, Program
    from broker_jobs.settings import Settings
    from broker_jobs.store import Store

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A", bound=Callable[[], Iterator[None]] | Callable[[], AsyncIterator[None]])
Role: TypeAlias = Literal["worker", "coordinator", "beat"]
ROLES: tuple[Role, ...] = ("worker", "coordinator", "beat")


class BrokerJobs:
    """Background jobs of one program.

    Args:
        url: amqp://…, several comma-separated, or memory:// (this process alone). None: BROKER_JOBS_URL, else memory://.
        store: where the coordinator keeps the truth, sqlite:///path or postgresql+psycopg://…. None: BROKER_JOBS_STORE.
        modules: modules that define jobs, by name. They are imported by start() and by the command line, not here, so
            that they may import the module this object lives in.
    """

    recurring: Recurring
    queues: Queues
    limits: Limits

    def __init__(self, url: str | None = None, *, store: str | None = None, modules: Sequence[str] = ()) -> None:
        if isinstance(modules, str):
            raise UsageError(f"modules is a list of names; write modules=[{modules!r}]")
        self.registry = Registry()
        self._modules = tuple(modules)
        self._given: dict[str, Any] = {"url": url, "store": store}
        self._named = ""
        self._connection = Connection(self._load_settings, lambda settings: broker_for(settings, self.origin))
        self._requests = RequestClient(self._connection)
        self.registry.batch_of = lambda id: Batch(self._requests, id=id)
        self._program: Program | None = None
        self._dashboards: weakref.WeakSet[Dashboard] = weakref.WeakSet()
        self.queues = Queues(self._requests)
        self.limits = Limits(self._requests)
        self.subscriptions = Subscriptions(self._requests, self._subscribed)
        self.recurring = Recurring(self._requests, self._recurring_declared)

    @property
    def settings(self) -> Settings:
        """The settings, read from arguments and environment on first use. Raises OptionError."""
        return self._connection.settings

    @property
    def origin(self) -> str:
        """Whose declarations these are: the first of `modules`, or the file name of the running program.

        The beat of an origin removes recurring jobs that its code no longer declares, so two programs on one broker
        must differ here, and one program must keep its own: rename the first module and the old one's schedules stay
        until they are removed by hand.
        """
        if self._modules:
            return self._modules[0]
        if self._named:
            return self._named
        main = sys.modules.get("__main__")
        return Path(getattr(main, "__file__", None) or "interactive").stem

    # --- defining ---

    @overload
    def job(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncJob[P, R]: ...  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
    @overload
    def job(self, fn: Callable[P, R], /) -> SyncJob[P, R]: ...
    @overload
    def job(self, /, **options: Unpack[JobOptions]) -> JobDecorator: ...
    def job(self, fn: Any = None, /, **options: Any) -> Any:
        """Make a function a job: `@jobs.job` or `@jobs.job(queue="mail", retries=10)`. It stays an ordinary function.

        Options: name, queue, retries (runs after the first), backoff (lengths before each retry, the last repeated),
        timeout (when an attempt is asked to stop), expires (while waiting), retry_on (exceptions worth a retry), unique
        (a key of which one job is there), limit (how many of a key run or start), tags, isolation.

        At its timeout a coroutine gets CancelledError at its next await. A plain function runs in a thread, which
        cannot be stopped from outside: it has to ask `current_job().cancelled()`. One that returns late has succeeded,
        and one that hangs keeps its thread until its worker ends. Outliving a timeout is logged as an error.

        Raises:
            DefinitionError: the function cannot be a job, or another has its name.
            OptionError: an option is unknown or out of range.
        """
        if fn is not None:
            return self._define(fn, options)
        job_options(options)  # a wrong option is told where it is written, before there is a function
        return lambda fn: self._define(fn, options)

    def subscribe(self, event: str, /, **options: Unpack[JobOptions]) -> JobDecorator:
        """Make a function a job that is run for each event of this name: `@jobs.subscribe("user.registered")`.

        Its arguments are the event's. A worker or beat that starts with this code declares it; from then on, also while
        this program is down, each event makes one such job. A job may subscribe to several events, one line each. What
        the code of this program (see `origin`) no longer has ends when a worker or beat of it starts; so two programs
        on one broker differ in their origin, and in the queues of their jobs.

        Args:
            event: the name others publish under.
            options: as of `job`; a key of `unique` or `limit` cannot be made of arguments here.

        Raises:
            As `job`; ArgumentsError: no event has such a name.
        """
        check_event(event)
        job_options(options)

        def subscribed(fn: Any) -> Any:
            job = fn if isinstance(fn, Job) and not options else self._define(fn, dict(options))
            self.subscriptions.add(event, job)
            return job

        return subscribed

    def remote(self, name: str, /, *, queue: str | None = None) -> RemoteJob:
        """A job of another service, by its name; as a decorator of a stub function it gets types.

        Args:
            name: of the job over there.
            queue: one its workers serve; None: "default".

        Raises:
            OptionError: the name or the queue cannot be used.
        """
        options: JobOptions = {"name": name} if queue is None else {"name": name, "queue": queue}
        return RemoteJob(name, job_options(options), self._requests)

    def around(self, fn: A, /) -> A:
        """Run a generator function with one yield around each attempt, as for a transaction. The first is outermost.

        Raises:
            DefinitionError: it is no generator function.
        """
        if not (inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn)):
            raise DefinitionError(
                f"{getattr(fn, '__name__', fn)} has no yield: what is around a job stops there for it"
            )
        self.registry.around.append(fn)
        return fn

    def _define(self, fn: Any, options: dict[str, Any]) -> Any:
        function = define(fn, options)
        self.registry.add(function)
        kind = AsyncJob if function.is_async else SyncJob
        return kind(function, self._requests)

    # --- enqueueing ---

    def receipt(self, id: str, /) -> Receipt[Any]:
        """The receipt of a job known by its id; `welcome.receipt(id)` also knows its type."""
        return Receipt(check_id(id, "the id of a job"), self._requests)

    def batch_receipt(self, id: str, /) -> Batch:
        """The batch known by its id (`batch.id`): to ask for its state, wait for it, wait behind it, or add to it."""
        return Batch(self._requests, id=id)

    def enqueue_many(self, calls: Iterable[Call[R]], /) -> list[Receipt[R]]:
        """Enqueue many calls (`welcome.bind(…)`) at the price of few; the receipts in their order.

        Nothing is published before all calls are checked. It is no batch: each job is on its own.

        Raises:
            ArgumentsError: something is no call, or its arguments do not fit.
            EnqueueManyError: some were not enqueued; it lists which were, which were not and which are unknown.
        """
        warn_if_blocking("enqueue_many()", "enqueue_many_async(…)")
        return enqueue_many(self._requests, calls)

    async def enqueue_many_async(self, calls: Iterable[Call[R]], /) -> list[Receipt[R]]:
        """As `enqueue_many`; the event loop goes on meanwhile."""
        return await enqueue_many_async(self._requests, calls)

    def publish(self, event: str, /, *args: Any, **kwargs: Any) -> str:
        """Publish an event; when this returns RabbitMQ has confirmed it, and each subscription gets a job for it.

        Args:
            event: its name, as "user.registered".
            args, kwargs: what the subscribed jobs are called with; anything that has a JSON form.

        Returns:
            The event's id; the jobs made for it have it as `parent`.

        Raises:
            ArgumentsError: the name, or an argument that cannot travel as JSON.
            EnqueueError: not published, or (the text says so) without a confirm.
        """
        warn_if_blocking("publish()", "publish_async(…)")
        return publish(self._connection, event, args, kwargs)

    async def publish_async(self, event: str, /, *args: Any, **kwargs: Any) -> str:
        """As `publish`; the event loop goes on meanwhile."""
        return await publish_async(self._connection, event, args, kwargs)

    def batch(
        self,
        title: str = "",
        /,
        *,
        after: Receipt[object] | Batch | Iterable[Receipt[object] | Batch] = (),
        on: End = "succeeded",
    ) -> Batch:
        """A batch, to be filled in a `with` block; its jobs start together when the block has ended, or none does.

        with jobs.batch("import") as batch:
            for row in rows:
                batch.enqueue(load, row)
        summary.after(batch).enqueue()

        Args:
            title: what people see, at most 200 characters.
            after: receipts and batches that must have ended before it starts.
            on: how they must end; "finished": succeeded, failed or deleted.

        Raises:
            ArgumentsError: the title is too long, or `after` is no receipt or batch.
        """
        given = (after,) if isinstance(after, DependencyTarget | str) or not isinstance(after, Iterable) else after
        return Batch(self._requests, title, parents=joined((), parents_of(given, on, "", "batch(after=…)")))

    # --- running ---

    def configure(self, given: Mapping[str, Any], *, origin: str = "") -> None:
        """Take settings that come before those in code and environment, as a command line's do. Connects to nothing.

        Args:
            given: settings by name.
            origin: of a program without `modules`, whose running file is not its own (see `origin`).

        Raises:
            UsageError: the broker is in use already.
            OptionError: a setting is unknown or does not fit.
        """
        if self._connection.used:
            raise UsageError("settings cannot change once a job was enqueued or start() was called")
        self._given |= given
        self._named = origin
        self._connection.reload()

    def load_modules(self) -> None:
        """Import `modules`. Tolerates twice.

        Raises:
            UsageError: one cannot be imported; the cause is chained.
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
        roles: Collection[Role] = ROLES,
        queues: Sequence[str] | None = None,
        concurrency: int | None = None,
    ) -> None:
        """Run worker, coordinator and beat (or some of them) in threads of this program. Tolerates twice.

        Args:
            roles: which of them; elsewhere the others must run.
            queues: what the worker serves, the preferred first; None: the setting.
            concurrency: jobs the worker runs at once; None: the setting.

        Raises:
            UsageError: an unknown role, a module that cannot be imported, or started before a fork.
            MissingExtra: the libraries of a role are not installed: `pip install 'broker-jobs[worker,coordinator]'`.
            DefinitionError: a job's annotations cannot be read.
            BrokerError: RabbitMQ refuses or cannot be reached.
            StoreError: the store cannot be used.
        """
        # A producer needs no database: what only a running part uses is imported by the one that runs it.
        from broker_jobs.processes.program import Program  # noqa: PLC0415

        self._connection.check_fork()
        if self._program is not None:
            return
        self.load_modules()
        for function in self.registry:
            function.signature.check()
        here = {"queues": None if queues is None else tuple(queues), "concurrency": concurrency}
        settings = self._load_settings(**{name: value for name, value in here.items() if value is not None})
        schedules = self.recurring.declared(self.origin) if "beat" in roles else []
        program = Program(
            self.registry,
            settings,
            self._connection.broker(),
            schedules,
            subscriptions=self.subscriptions.declared(),
            roles=roles,
            origin=self.origin,
        )
        program.start()
        self._program = program
        self._connection.mark_started(started=True)

    def stop(self, timeout: Seconds | None = None) -> None:
        """Stop what start() started and close the connections, those of its dashboards to the store too.

        Tolerates twice and never. What is used afterwards connects anew.

        Args:
            timeout: how long running jobs may go on; None: the setting shutdown_timeout. What has not ended by then is
                interrupted: coroutines are cancelled, and the job runs again, which costs no retry. A plain function
                cannot be stopped: it goes on until it returns or the program ends, unless it asks
                `current_job().cancelled()`.
        """
        if self._connection.forked:
            return  # what was started runs in another process
        program, self._program = self._program, None
        try:
            if program is not None:
                program.stop(None if timeout is None else as_seconds(timeout))
        finally:
            self._connection.mark_started(started=False)
            for dashboard in list(self._dashboards):
                dashboard.close()
            self._requests.close()
            self._connection.close()

    def metrics(self) -> tuple[bytes, str]:
        """What the parts that run here count, as Prometheus reads it, and its content type: for a route of your own.

        Raises:
            UsageError: nothing runs here.
        """
        return self._running("metrics").expose()

    def health(self) -> Health:
        """Whether the parts that run here are well (`ok`), and each of them (`parts`): for a route of your own.

        Raises:
            UsageError: nothing runs here.
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
        """The dashboard and its JSON API, to be mounted: `app.mount("/jobs", jobs.dashboard(authorize=…))`.

        For WSGI mount its `.wsgi`. It reads the store and asks the coordinator, wherever that runs; with memory:// it
        has to be this program. Who may see it is told by `authorize`, by a token or user and password in the settings,
        or by `local=True`; one of them is needed.

        Args:
            read_only: nobody can change anything; None: the setting.
            authorize: tells by a request what the one who asks may do: a Role, a Visitor (a role with a name, which
                stands in the audit) or None. May be async.
            local: without a login in the settings, requests that plainly come from this machine (a loopback address,
                localhost as Host, no header of a proxy) are an administrator's, and all others are refused. Not for a
                program behind a proxy: one that adds no header cannot be told from this machine.
            title: what it calls itself; None: the setting.

        Raises:
            UsageError: nothing says who may see it, or authorize and local both do.
            OptionError: a setting is wrong.
            MissingExtra: its libraries are not installed: `pip install 'broker-jobs[dashboard]'`.
        """
        require("jobs.dashboard()", "dashboard")
        # A producer needs no web framework: only who shows the dashboard imports it.
        from broker_jobs.dashboard.app import Dashboard, refuse_without_login  # noqa: PLC0415

        if authorize is None and not local:
            refuse_without_login(self._load_settings())

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
        # Importing a program reads no settings, so what reads them is imported when they are read.
        from broker_jobs.settings import Settings  # noqa: PLC0415

        return Settings.load(**self._given | given)

    def _running(self, method: str) -> Program:
        if self._program is None:
            raise UsageError(f"{method}() is of the parts that run in this program: call start() first")
        return self._program

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def lifespan(self, app: object = None, /) -> AbstractAsyncContextManager[None]:
        """start() and stop() for an ASGI application: `FastAPI(lifespan=jobs.lifespan)`."""
        del app

        @asynccontextmanager
        async def running() -> AsyncIterator[None]:
            await in_thread(self.start)
            try:
                yield
            finally:
                await in_thread(self.stop)

        return running()

    @contextmanager
    def borrowed(self, broker: Broker, clock: Clock) -> Iterator[None]:
        """Give the program another broker and clock for a while; `testing.Tester` does.

        Raises:
            UsageError: the program has been started.
        """
        if self._program is not None:
            raise UsageError("the program is running: stop() it before a Tester takes it over")
        self._requests.close()
        with self._connection.borrowed(broker, clock):
            try:
                yield
            finally:
                self._requests.close()

    def _recurring_declared(self) -> None:
        """A recurring job was declared: at import nothing is to do; later the beat, if it runs here, has to hear it."""
        beat = self._program.beat if self._program is not None else None
        if beat is not None:
            beat.declare(self.recurring.declared(self.origin))
        elif self._connection.used:
            logger.warning(
                "recurring(…) only declares, and no beat runs in this program to send it; "
                "to add a recurring job at run time write jobs.recurring.put(…)"
            )

    def _subscribed(self) -> None:
        """The code has subscribed to an event: at import nothing is to do; later the parts that run here say so."""
        if self._program is not None:
            self._program.subscribe(self.subscriptions.declared())
