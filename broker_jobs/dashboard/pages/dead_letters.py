"""Messages that could not be read, routed or decided: as they are, why, and what can be done with them."""

from __future__ import annotations

from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_jobs.dashboard.auth import Role
from broker_jobs.dashboard.pages.frame import Done, Form, acts, context, not_found, show, url, who


class Origin(NamedTuple):
    """What it means that a message was dead-lettered by this part, and what to do."""

    title: str
    means: str
    do: str


ORIGINS = {
    "log": Origin(
        "the log",
        "A worker or producer sent it to the coordinator, and the coordinator could not read it or decide it: as a rule"
        " that program is newer than the coordinator, or another program writes to our exchanges.",
        "Bring the coordinators to the newest version: at their next start they read it again by themselves. Or replay"
        " it. Delete it only if no program of yours has sent it: it may be the outcome of a job.",
    ),
    "command": Origin(
        "a command",
        "A program, the command line or this dashboard asked for something the coordinator does not know: it is newer"
        " than the coordinator, or it is no program of ours. Whoever asked was told nothing and may have asked again.",
        "Bring the coordinators to the newest version: at their next start they carry it out by themselves. If the"
        " wish is out of date, delete it.",
    ),
    "due": Origin(
        "a delay",
        "It came out of the delay queues when its time had come, and could not be read: as a rule a producer newer than"
        " the coordinator has scheduled it.",
        "Bring the coordinators to the newest version: at their next start they read it again by themselves. Or replay"
        " it. Deleted, a job that only this message knows of never runs.",
    ),
    "dead": Origin(
        "a worker or the broker",
        "A worker could not read it as a job, or no queue took it: as a rule a producer newer than its workers, or one"
        " in another language that writes something else than the wire format.",
        "Bring the workers to the newest version, or mend the producer; then replay it: its job runs as if it had just"
        " come. Deleted, it never runs.",
    ),
}
UNKNOWN = Origin("elsewhere", "It could not be understood.", "Read the reason; then replay it or delete it.")


def page(request: Request) -> Response:
    """The newest dead letters, a page of them."""
    it = context(request)
    found = it.queries.dead_letters(cursor=request.query_params.get("cursor"), limit=it.page_size)
    return show(request, "dead_letters.html", found=found, origins=ORIGINS, unknown=UNKNOWN)


def one(request: Request) -> Response:
    """A message with its body."""
    id = request.path_params["id"]
    message = context(request).queries.dead_letter(id)
    if message is None:
        raise not_found(f"dead letter {id}")
    return show(
        request,
        "dead_letter.html",
        message=message,
        origin=ORIGINS.get(message.origin, UNKNOWN),
        page_name="dead_letters",
    )


@acts(Role.ADMIN)
def replay(request: Request, _: Form) -> Done:
    """Decide a message again."""
    context(request).actions.replay_dead_letter(who(request), request.path_params["id"])
    return Done("The message was read and is decided.", to=url(request, "dead_letters"))


@acts(Role.ADMIN)
def delete(request: Request, _: Form) -> Done:
    """Forget a message for good."""
    context(request).actions.delete_dead_letter(who(request), request.path_params["id"])
    return Done("The message is deleted.", to=url(request, "dead_letters"))


ROUTES = [
    Route("/dead-letters", page, name="dead_letters"),
    Route("/dead-letters/{id:path}/replay", replay, methods=["POST"], name="dead_letter_replay"),
    Route("/dead-letters/{id:path}/delete", delete, methods=["POST"], name="dead_letter_delete"),
    Route("/dead-letters/{id:path}", one, name="dead_letter"),
]
