"""Enqueues jobs that run in another service. A stub function gives such a job its types.

@jobs.remote("billing.charge", queue="billing")
def charge(order_id: int) -> str: raise NotImplementedError
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from broker_jobs.errors import DefinitionError
from broker_jobs.function.annotation import check_annotations_early
from broker_jobs.function.depends import provided_parameters
from broker_jobs.function.options import FunctionOptions
from broker_jobs.function.signature import Signature
from broker_jobs.producer.job import Job
from broker_jobs.producer.requests import JobSource

P = ParamSpec("P")
R = TypeVar("R")


def _anything(*args: Any, **kwargs: Any) -> Any:
    """The function of a remote job without a stub."""
    del args, kwargs


class RemoteJob(Job[..., Any]):
    """A job of another service. Its arguments are not checked, unless it decorates a stub."""

    def __init__(self, name: str, options: FunctionOptions, source: JobSource) -> None:
        super().__init__(name, Signature(_anything, name, loose=True), options, source)

    @overload
    def __call__(self, stub: Callable[P, Coroutine[Any, Any, R]], /) -> Job[P, R]: ...
    @overload
    def __call__(self, stub: Callable[P, R], /) -> Job[P, R]: ...
    def __call__(self, stub: Callable[P, Any], /) -> Job[P, Any]:
        """Check the arguments of each call against `stub`, which is never run.

        Raises:
            DefinitionError: `stub` is a generator or a lambda, or a parameter has no JSON form.
        """
        if not inspect.isfunction(stub):
            raise TypeError(f"{self.name} runs in another service; write .enqueue(…)")
        if inspect.isgeneratorfunction(stub) or stub.__name__ == "<lambda>":
            raise DefinitionError(f"{self.name}: the stub of a remote job is a def with annotations")
        if provided := provided_parameters(stub, bare=True):
            raise DefinitionError(
                f"{self.name} runs in another service, which provides {', '.join(provided)} itself: leave Depends out "
                "of the stub"
            )
        check_annotations_early(stub, self.name, ())
        return _StubbedJob(self.name, Signature(stub, self.name), self._options, self.source, stub.__name__)


class _StubbedJob(Job[P, R]):
    """A remote job with a stub. Calling it raises; the method is hidden from type checkers, so they report the call."""

    def __init__(
        self, name: str, signature: Signature, options: FunctionOptions, source: JobSource, variable: str
    ) -> None:
        super().__init__(name, signature, options, source)
        self._variable = variable

    if not TYPE_CHECKING:

        def __call__(self, *args: object, **kwargs: object) -> None:
            del args, kwargs
            raise TypeError(f"{self.name} runs in another service; write {self._variable}.enqueue(…)")
