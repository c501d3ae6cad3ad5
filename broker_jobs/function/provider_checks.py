"""Refuses, where a job is written, provided parameters that cannot be provided."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from broker_jobs.errors import DefinitionError
from broker_jobs.function.depends import annotated_marker, is_inspectable, name_of, provided_parameters


def refuse_annotated(name: str, fn: Callable[..., Any], annotations: Mapping[str, Any]) -> None:
    """Refuse `Annotated[Mailer, Depends(get_mailer)]` where a caller would have to give a value.

    Args:
        name: the job.
        fn: its function.
        annotations: those of its parameters that are not provided.

    Raises:
        DefinitionError: a parameter is written this way; the message says what to write instead.
    """
    for parameter, annotation in annotations.items():
        if (marker := annotated_marker(fn, annotation)) is not None:
            raise DefinitionError(
                f"{name}: Depends is a default here: write {parameter}: … = Depends({name_of(marker.provider)}), "
                f"not Annotated[…, Depends({name_of(marker.provider)})], as without a default type checkers miss an "
                "argument in each enqueue"
            )


def check_providers(name: str, fn: Callable[..., Any], through: tuple[Callable[..., Any], ...] = ()) -> None:
    """Refuse providers that cannot be called with what is provided.

    Raises:
        DefinitionError: one has a parameter that nothing provides, or needs itself.
    """
    own = provided_parameters(fn, bare=bool(through))
    for _, marker in own.values():
        provider = marker.provider
        if provider in through:
            circle = " needs ".join(name_of(each) for each in (*through[through.index(provider) :], provider))
            raise DefinitionError(f"{name}: {circle}: a provider cannot need itself")
        if is_inspectable(provider):
            given = provided_parameters(provider, bare=True)
            for parameter in inspect.signature(provider).parameters.values():
                variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
                if parameter.default is parameter.empty and parameter.name not in given and not variadic:
                    raise DefinitionError(
                        f"{name}: the provider {name_of(provider)} needs {parameter.name}, and nothing provides it: "
                        f"give it a default, or write {parameter.name}: … = Depends(…)"
                    )
            check_providers(name, provider, (*through, provider))


def async_provider(fn: Callable[..., Any], *, bare: bool = False) -> tuple[str, str] | None:
    """(parameter, provider's name) of the first provider, at any depth, that needs an event loop; None if none does."""
    for name, (_, marker) in provided_parameters(fn, bare=bare).items():
        provider = marker.provider
        call = provider if inspect.isroutine(provider) else getattr(provider, "__call__", provider)  # noqa: B004
        if any(inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one) for one in (provider, call)):
            return name, name_of(provider)
        if is_inspectable(provider) and (deeper := async_provider(provider, bare=True)) is not None:
            return name, deeper[1]
    return None
