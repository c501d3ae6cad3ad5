"""Makes a `Function` of a decorated function, or raises with the reason why it cannot be a job."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from broker_jobs.errors import DefinitionError
from broker_jobs.function.annotation import check_annotations_early
from broker_jobs.function.depends import provided_parameters
from broker_jobs.function.keys import template_error
from broker_jobs.function.options import job_options
from broker_jobs.function.provider_checks import async_provider, check_providers, refuse_annotated
from broker_jobs.function.registry import Function, source_place
from broker_jobs.function.signature import Signature

Names: TypeAlias = Literal["function", "module"]
"""How a job is named that has no option `name`: by its function, or by its module and function."""


def define(fn: Any, options: Mapping[str, Any], *, names: Names = "function") -> Function:
    """Check a decorated function and its options.

    Args:
        fn: what was decorated.
        options: those of `@jobs.job`.
        names: how a job is named that has no option `name`.

    Raises:
        DefinitionError: it cannot be a job; the message says what to write instead.
        OptionError: an option is unknown or out of range.
    """
    if isinstance(fn, str):
        raise DefinitionError(f"write @jobs.job(name={fn!r}) or @jobs.job(queue={fn!r})")
    if isinstance(fn, staticmethod):
        return define(fn.__func__, options, names=names)
    if isinstance(fn, classmethod):
        raise _method(fn.__func__)
    if inspect.ismethod(fn):
        raise _method(fn.__func__)
    if inspect.isclass(fn):
        raise DefinitionError(f"{fn.__name__} is a class: write a function that makes one and calls it")
    if not inspect.isfunction(fn) and hasattr(fn, "enqueue"):
        raise DefinitionError(f"{fn!r} is a job already: decorate the function once; other options go into .using(…)")
    if not inspect.isfunction(fn):
        raise DefinitionError(f"{fn!r} is not a function: write a def that calls it")
    chosen = job_options(options)
    _check_kind(fn)
    name = chosen.name or default_name(fn, names)
    provided = provided_parameters(fn)
    _check_provided(fn, name)
    check_annotations_early(fn, name, provided)
    signature = Signature(fn, name)
    if (wrong := template_error(chosen.unique, chosen.limits, signature)) is not None:
        raise DefinitionError(wrong)
    return Function(
        name=name,
        fn=fn,
        is_async=inspect.iscoroutinefunction(fn),
        signature=signature,
        options=chosen,
        where=source_place(fn),
        provided=provided,
    )


def default_name(fn: Callable[..., Any], names: Names) -> str:
    """The name of a job without an option `name`: "welcome", or "shop.mail.welcome".

    The main module of a program is named after its file, as the same code is imported by that name elsewhere.
    """
    if names == "function":
        return fn.__name__
    module = fn.__module__
    if module == "__main__":
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)
        if spec is not None:  # python -m shop.mail, or python -m shop
            module = spec.name.removesuffix(".__main__")
        else:
            module = Path(getattr(main, "__file__", None) or "interactive").stem
    return f"{module}.{fn.__qualname__.split('<locals>.')[-1]}"


def _check_kind(fn: Callable[..., Any]) -> None:
    if fn.__name__ == "<lambda>":
        raise DefinitionError("a lambda has no name that a message could carry; write a def")
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise DefinitionError(
            f"{fn.__name__} is a generator, and what it yields would be lost. Return a list, or enqueue a job for each"
        )
    first = next(iter(inspect.signature(fn).parameters), "")
    scope = fn.__qualname__.split(".")[:-1]
    if scope and scope[-1] != "<locals>" and first in {"self", "cls"}:
        raise _method(fn)


def _check_provided(fn: Callable[..., Any], name: str) -> None:
    parameters, provided = inspect.signature(fn).parameters, provided_parameters(fn)
    refuse_annotated(
        name, fn, {each.name: each.annotation for each in parameters.values() if each.name not in provided}
    )
    check_providers(name, fn)
    for parameter in parameters.values():
        if parameter.name in provided and parameter.kind is parameter.POSITIONAL_ONLY:
            raise DefinitionError(f"{name}: {parameter.name} is provided (Depends) and cannot be positional-only")
    if not inspect.iscoroutinefunction(fn) and (found := async_provider(fn)) is not None:
        parameter_name, provider = found
        if inspect.iscoroutinefunction(inspect.unwrap(fn)):
            raise DefinitionError(
                f"{name}: {provider}, the provider of {parameter_name}, is async, and {name} is an ordinary function: "
                f"its decorator is not async. Make the decorator async, or the provider sync"
            )
        raise DefinitionError(
            f"{name}: {provider}, the provider of {parameter_name}, is async, and {name} runs in a thread; "
            f"write async def {name}, or make the provider sync"
        )


def _method(fn: Callable[..., Any]) -> DefinitionError:
    shown = ".".join(fn.__qualname__.split("<locals>.")[-1].split(".")[-2:])
    return DefinitionError(
        f"{shown} is a method: a message cannot carry its self. Make it a function or a @staticmethod; "
        "for what it needs use Depends"
    )
