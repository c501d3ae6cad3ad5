"""Jobs of a group, in a module that imports no program: hooks, a subscription, a recurring job, a group inside."""

from __future__ import annotations

from collections.abc import Generator

from broker_jobs import JobMessage, Jobs

seen: list[str] = []
mail = Jobs(queue="mail", retries=0, tags=["mail"])
inner = Jobs(names="module")
late = Jobs()


@mail.around
def around_mail() -> Generator[None]:
    seen.append("mail begins")
    yield
    seen.append("mail ends")


@inner.on_start
def note(job: JobMessage) -> None:
    seen.append(f"inner {job.name}")


@mail.job
def welcome(user_id: int) -> str:
    return f"welcome {user_id}"


@mail.job(queue="bulk", retries=2)
async def newsletter(number: int) -> str:
    return f"newsletter {number}"


@mail.subscribe("user.registered")
def greet(user_id: int) -> None:
    seen.append(f"greet {user_id}")


@inner.job
def nested() -> str:
    return "nested"


mail.recurring("welcome-all", "0 0 1 1 *", welcome.bind(0))
mail.include(inner)
