"""Reads which queues the code of a program declares: in the options of its jobs, and of its recurring jobs."""

from __future__ import annotations

from collections.abc import Sequence

from broker_jobs.errors import OptionError
from broker_jobs.function.registry import Registry
from broker_jobs.messages.codec import decode
from broker_jobs.messages.commands import Schedule, Subscription
from broker_jobs.served_queues import ServedQueues
from broker_jobs.settings import Settings


def declared_queues(
    registry: Registry, recurring: Sequence[Schedule] = (), subscriptions: Sequence[Subscription] = ()
) -> list[str]:
    """The queues that jobs of this program are sent to, as far as its code says: "default" first, then by name.

    Queues of remote jobs are not among them: workers of another service serve these.
    """
    names = {function.options.queue for function in registry}
    for text in [*(schedule.call for schedule in recurring), *(subscription.call for subscription in subscriptions)]:
        call = decode(text.encode())
        if registry.get(call.job) is not None:
            names.add(call.queue)
    return ["default", *sorted(names - {"default"})]


def serving_declared(
    settings: Settings, registry: Registry, recurring: Sequence[Schedule], subscriptions: Sequence[Subscription]
) -> Settings:
    """These settings with all queues that the code declares, unless they name queues.

    None of these is preferred: of several, each has the weight 1.
    """
    if settings.names_queues:
        return settings
    queues = declared_queues(registry, recurring, subscriptions)
    weight = ":1" if len(queues) > 1 else ""
    return settings.model_copy(update={"queues": tuple(f"{queue}{weight}" for queue in queues)})


def check_queues(settings: Settings) -> None:
    """Raise OptionError unless the queues can be served so: a limit is of a queue that is served."""
    try:
        ServedQueues.parse(settings.queues, settings.queue_limits)
    except ValueError as error:
        raise OptionError(f"setting queue_limits: {error}") from None
