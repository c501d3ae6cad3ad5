"""Shows dead letters: their reason and body, what to do, and the actions replay and delete."""

from __future__ import annotations

from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_jobs.dashboard.context import context, url, visitor_name
from broker_jobs.dashboard.forms.form import Form
from broker_jobs.dashboard.pages.handlers import Done, action, not_found
from broker_jobs.dashboard.pages.rendering import render
from broker_jobs.dashboard.role import Role


class Origin(NamedTuple):
    """Where a dead letter comes from, what that means, and what to do."""

    title: str
    meaning: str
    do: str


ORIGINS = {
    "log": Origin(
        "the log",
        "A worker or producer sent it to the coordinator, which could not decode or apply it. Usually that program is"
        " newer than the coordinator, or another program writes to the exchanges of broker_jobs.",
        "Upgrade the coordinators: at their next start they process it again. Or replay it. Delete it only if none of"
        " your programs has sent it: it may be the outcome of a job.",
    ),
    "command": Origin(
        "a command",
        "A program, the command line or this dashboard sent a command that the coordinator does not know. Usually the"
        " sender is newer than the coordinator, or is a foreign program. It received no answer and may have sent the"
        " command again.",
        "Upgrade the coordinators: at their next start they carry it out. If the command is out of date, delete it.",
    ),
    "due": Origin(
        "a delay queue",
        "It left the delay queues at its due time, and could not be decoded. Usually a producer that is newer than the"
        " coordinator has scheduled it.",
        "Upgrade the coordinators: at their next start they process it again. Or replay it. If you delete it, a job"
        " that exists only in this message never runs.",
    ),
    "dead": Origin(
        "a worker or the broker",
        "A worker could not decode it as a job, or no queue matched its routing key. Usually the producer is newer than"
        " the workers, or is written in another language and does not follow the wire format.",
        "Upgrade the workers, or correct the producer. Then replay it: its job runs as if it had just been enqueued. If"
        " you delete it, its job never runs.",
    ),
    "work": Origin(
        "the coordinator itself",
        "It was telling other jobs or batches how one has ended, going on with a bulk command, or the like, and an"
        " error stopped that. What has led to it was applied. The body names what was to be done.",
        "Read the reason; if it is an error of broker_jobs, upgrade the coordinators. Then replay it: it goes on where"
        " it stopped. If you delete it, jobs that it would have told may wait for ever: requeue those that shall run.",
    ),
}
UNKNOWN = Origin("unknown", "It could not be decoded.", "Read the reason, then replay it or delete it.")


def page(request: Request) -> Response:
    """A page of dead letters, newest first."""
    it = context(request)
    found = it.queries.system.dead_letters(cursor=request.query_params.get("cursor"), limit=it.page_size)
    return render(request, "dead_letters.html", found=found, origins=ORIGINS, unknown=UNKNOWN)


def one(request: Request) -> Response:
    """One dead letter with its body."""
    id = request.path_params["id"]
    message = context(request).queries.system.dead_letter(id)
    if message is None:
        raise not_found(f"dead letter {id}")
    return render(
        request,
        "dead_letter.html",
        message=message,
        origin=ORIGINS.get(message.origin, UNKNOWN),
        page_name="dead_letters",
    )


@action(Role.ADMIN)
def replay(request: Request, _: Form) -> Done:
    """Process a dead letter again."""
    context(request).actions.replay_dead_letter(visitor_name(request), request.path_params["id"])
    return Done("Replayed: the message has been processed.", to=url(request, "dead_letters"))


@action(Role.ADMIN)
def delete(request: Request, _: Form) -> Done:
    """Delete a dead letter permanently."""
    context(request).actions.delete_dead_letter(visitor_name(request), request.path_params["id"])
    return Done("The dead letter is deleted.", to=url(request, "dead_letters"))


ROUTES = [
    Route("/dead-letters", page, name="dead_letters"),
    Route("/dead-letters/{id:path}/replay", replay, methods=["POST"], name="dead_letter_replay"),
    Route("/dead-letters/{id:path}/delete", delete, methods=["POST"], name="dead_letter_delete"),
    Route("/dead-letters/{id:path}", one, name="dead_letter"),
]
