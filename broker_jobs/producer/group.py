"""Groups of jobs: `mail = Jobs(queue="mail")`, `@mail.job`, and `jobs.include(mail)` in the program.

A module declares its jobs in a group of its own and imports no program, so that no imports form a circle. A program is
a group too, the outermost one. The file is over 300 lines, as the public methods with their docstrings take them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, ParamSpec, TypeVar, Unpack, overload

from broker_jobs.errors import DefinitionError, OptionError
from broker_jobs.function.definition import Names, define
from broker_jobs.function.hooks import OnEnqueue, OnFailed, OnStart, OnSuccess, OnWorker, check_around, check_hook
from broker_jobs.function.options import JobOptions, job_options
from broker_jobs.messages.priority import NORMAL, Priority
from broker_jobs.producer.group_members import GroupMembers
from broker_jobs.producer.job import AsyncJob, Job, JobDecorator, SyncJob
from broker_jobs.producer.pubsub import Subscriptions, check_event_name
from broker_jobs.producer.recurring import Recurring
from broker_jobs.producer.remote import RemoteJob

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A", bound=Callable[[], Iterator[None]] | Callable[[], AsyncIterator[None]])
E = TypeVar("E", bound=OnEnqueue)
S = TypeVar("S", bound=OnStart)
U = TypeVar("U", bound=OnSuccess)
F = TypeVar("F", bound=OnFailed)
W = TypeVar("W", bound=OnWorker)


class Jobs:
    """A group of jobs, which a program includes.

    # mail.py
    mail = Jobs(queue="mail", retries=3)

    @mail.job
    def welcome(user_id: int) -> str: ...

    # app.py
    jobs = BrokerJobs()
    jobs.include(mail)

    Its jobs can be enqueued once a program includes it. A group belongs to one program, and may include other groups.

    Args:
        names: how a job is named that has no option `name`: "function", or "module", as "shop.mail.welcome".
        defaults: options of its jobs, all but `name`. What a job declares itself counts instead.

    Raises:
        OptionError: an option is unknown or out of range.
    """

    def __init__(self, *, names: Names = "function", **defaults: Unpack[JobOptions]) -> None:
        if names not in {"function", "module"}:
            raise OptionError(f"names must be 'function' or 'module', not {names!r}")
        if "name" in defaults:
            raise OptionError("name belongs to one function: write @….job(name=…)")
        job_options(defaults)
        self._names: Names = names
        self._defaults: dict[str, Any] = dict(defaults)
        self._has(GroupMembers())

    def _has(self, members: GroupMembers) -> None:
        self.members = members
        self.subscriptions: Subscriptions = members.subscriptions
        self.recurring: Recurring = members.recurring

    # --- defining ---

    @overload
    def job(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncJob[P, R]: ...  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
    @overload
    def job(self, fn: Callable[P, R], /) -> SyncJob[P, R]: ...
    @overload
    def job(self, /, **options: Unpack[JobOptions]) -> JobDecorator: ...
    def job(self, fn: Any = None, /, **options: Any) -> Any:
        """Make a function a job. It stays an ordinary function.

        @jobs.job(queue="mail", retries=10, timeout=30)
        def welcome(user_id: int) -> str: ...

        Args:
            name: the name in messages, 1 to 200 characters; default: the function's name.
            queue: the queue whose workers run it; default "default".
            retries: runs after the first one, 0 to 1,000,000; default 10.
            backoff: the pauses before the retries, in seconds or as timedeltas, the last one is repeated; or
                Backoff(…), which grows. Default before the n-th retry: (n-1)^4 + 15 + a random number from 0 to 29
                times n seconds, at most a day.
            retry_on: the exceptions after which it is retried; default Exception.
            never_retry: the exceptions after which it fails at once; default: none.
            timeout: how long an attempt may run, in seconds or as a timedelta; default: without limit.
            expires: how long the job may wait to start; then it fails with the error Expired. Default: without limit.
            keep, keep_result: how long the job, and its result, is kept after its end; default: as the settings say.
            unique: a key, or Unique(…): only one job with this key exists at a time.
            limit: Concurrency(…), RateLimit(…), Ordered(…) or several of them.
            tags: words to find the job by, at most 50 of at most 100 characters.
            isolation: "process": each attempt runs in a child process, which is killed at the timeout and when the job
                is deleted. A crash of it fails this job alone. Default "thread".
            memory_limit: bytes that an attempt may take, with isolation="process"; default: without limit.

        At its timeout a coroutine gets CancelledError at its next await, and a plain function JobTimedOut at the next
        step of its Python code. If it returns nevertheless, it has succeeded. Running past a timeout is logged as an
        error; after `timeout_grace` the worker process leaves.

        Raises:
            DefinitionError: the function cannot be a job, or another job has its name.
            OptionError: an option is unknown or out of range.
        """
        if fn is not None:
            return self._define(fn, options)
        job_options(self._defaults | options)  # raises on the line of the wrong option, before there is a function
        return lambda fn: self._define(fn, options)

    def subscribe(self, event: str, /, **options: Unpack[JobOptions]) -> JobDecorator:
        """Make a function a job that runs once for each event with this name. The arguments are those of the event.

        @jobs.subscribe("user.registered", queue="mail")
        def greet(user_id: int) -> None: ...

        A worker or beat declares the subscription when it starts. From then on each event makes one job, also while
        this program is down. A job may subscribe to several events, one decorator each. A subscription that is no
        longer in the code of this program (see `service`) ends when a worker or beat of it starts. So two programs on
        one broker must have different names, and should have different queues.

        Args:
            event: the name of the event, 1 to 200 characters.
            options: as of `job`. A key of `unique` or `limit` cannot be made of arguments here.

        Raises:
            As `job`; also ArgumentsError: this is no name of an event.
        """
        check_event_name(event)
        job_options(self._defaults | options)

        def subscribed(fn: Any) -> Any:
            job = fn if isinstance(fn, Job) and not options else self._define(fn, dict(options))
            self.subscriptions.add(event, job)
            return job

        return subscribed

    def remote(self, name: str, /, *, queue: str | None = None, priority: Priority = NORMAL) -> RemoteJob:
        """A job that runs in another service. It is also a decorator: a stub function gives the job its types.

        @jobs.remote("billing.charge", queue="billing")
        def charge(order_id: int) -> str: raise NotImplementedError

        Args:
            name: the name of the job in that service.
            queue: a queue that its workers serve; None: "default".
            priority: "high", "normal" or "low" within that queue, as the option of a job.

        Raises:
            OptionError: the name, the queue or the priority is out of range.
        """
        options: JobOptions = {"name": name, "priority": priority}
        if queue is not None:
            options["queue"] = queue
        return RemoteJob(name, job_options(options), self.members)

    def around(self, fn: A, /) -> A:
        """Run each attempt at the yield of this generator function, as for a transaction. The first hook is outermost.

        @jobs.around
        def in_app_context():
            with app.app_context():
                yield

        It may be a generator or an async generator, for jobs of both kinds. What the attempt raises is raised at the
        yield; the job has failed, whatever the hook does with it. A hook that raises fails the attempt.

        Raises:
            DefinitionError: it is no generator function.
        """
        check_around(fn)
        self.members.hooks.around.append(fn)
        return fn

    def on_enqueue(self, fn: E, /) -> E:
        """Call this function for each job that the program enqueues, before it is published. If it raises, it is not.

        @jobs.on_enqueue
        def count(job: JobMessage) -> None:
            ENQUEUED.labels(job.name).inc()

        It is called by enqueue, schedule, enqueue_many and batches, and not for what the coordinator or a person makes:
        retries, runs of a recurring job, jobs of an event.

        Raises:
            DefinitionError: it is async, or cannot be called with a `JobMessage`.
        """
        check_hook("on_enqueue", fn, "job", sync_only=True)
        self.members.hooks.on_enqueue.append(fn)
        return fn

    def on_start(self, fn: S, /) -> S:
        """Call this function in the worker before each attempt, outside of `around`. It may be async.

        @jobs.on_start
        def note(job: JobMessage) -> None: ...

        What it raises is logged, and changes nothing.

        Raises:
            DefinitionError: it cannot be called with a `JobMessage`.
        """
        check_hook("on_start", fn, "job")
        self.members.hooks.on_start.append(fn)
        return fn

    def on_success(self, fn: U, /) -> U:
        """Call this function in the worker after a function has returned, with its result. It may be async.

        @jobs.on_success
        def note(job: JobMessage, result: object) -> None: ...

        It is called before the outcome is reported: if the worker dies between the two, the job runs again. What it
        raises is logged, and changes nothing.

        Raises:
            DefinitionError: it cannot be called with a `JobMessage` and a result.
        """
        check_hook("on_success", fn, "job", "result")
        self.members.hooks.on_success.append(fn)
        return fn

    def on_failed(self, fn: F, /) -> F:
        """Call this function in the worker when the last attempt of a job has failed, with the error. It may be async.

        @jobs.on_failed
        def alert(job: JobMessage, error: BaseException) -> None: ...

        The error is what the attempt raised. Where nothing was raised (it expired, its process crashed, it was killed
        at its timeout) it is a JobFailed with the reason. No process calls it for a job whose failure the coordinator
        decides, as after its workers have died again and again. What it raises is logged, and changes nothing.

        Raises:
            DefinitionError: it cannot be called with a `JobMessage` and an error.
        """
        check_hook("on_failed", fn, "job", "error")
        self.members.hooks.on_failed.append(fn)
        return fn

    def on_worker_start(self, fn: W, /) -> W:
        """Call this function in each process that runs jobs, before its first one. An async one runs on their loop.

        @jobs.on_worker_start
        async def open_pool() -> None: ...

        If it raises, the worker does not start. The child process of jobs with isolation="process" calls it too.

        Raises:
            DefinitionError: it has parameters.
        """
        check_hook("on_worker_start", fn)
        self.members.hooks.on_worker_start.append(fn)
        return fn

    def on_worker_stop(self, fn: W, /) -> W:
        """Call this function when a worker stops gracefully, after its last job. An async one runs on the jobs' loop.

        The last one that is declared is called first. A process that is killed calls none, nor does the child process
        of jobs with isolation="process". What it raises is logged.

        Raises:
            DefinitionError: it has parameters.
        """
        check_hook("on_worker_stop", fn)
        self.members.hooks.on_worker_stop.append(fn)
        return fn

    def include(self, group: Jobs, /) -> None:
        """Make the jobs, hooks, subscriptions and recurring jobs of a group those of this program. Twice is once.

        jobs.include(mail)

        What is declared in the group later counts too. Its hooks are for its own jobs, inside those of this program.

        Raises:
            DefinitionError: it is no group, belongs to another program, or has a name that is taken.
        """
        members: GroupMembers | None = getattr(group, "members", None)
        if members is None or members.root is not None:
            raise DefinitionError(f"include() takes a group, as mail = Jobs(queue='mail'), not {group!r}")
        self.members.include(members)

    def _define(self, fn: Any, options: dict[str, Any]) -> Any:
        function = define(fn, self._defaults | options, names=self._names)
        self.members.add(function)
        kind = AsyncJob if function.is_async else SyncJob
        return kind(function, self.members)
