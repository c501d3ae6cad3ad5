"""Shows the kinds of jobs in one program: now, later, after another job, in a batch, recurring.

Runs on memory:// in this process; set BROKER_JOBS_URL and BROKER_JOBS_STORE to run it on RabbitMQ.
"""

from __future__ import annotations

from datetime import timedelta

from broker_jobs import BrokerJobs, JobFailed, result_of

jobs = BrokerJobs()


@jobs.job
def add(a: int, b: int) -> int:
    """Jobs are plain functions; arguments and results are checked against their types."""
    return a + b


@jobs.job
async def show(what: str, value: int) -> str:
    """Async functions run on an event loop."""
    return f"{what} is {value}"


@jobs.job(retries=2, backoff=[0.1])
def fail() -> None:
    """Runs three times: once, and two retries 0.1 seconds apart."""
    raise ValueError("on purpose")


def main() -> None:
    """Enqueue jobs and print their results."""
    with jobs:  # starts worker, coordinator and beat in this process
        now = add.enqueue(1, 2)
        print("now:", now.result(timeout=30))

        later = show.schedule(timedelta(seconds=1), "a delayed result", 3)
        print("later:", later.result(timeout=30))

        # Runs when `now` has succeeded, with its result as an argument.
        after = show.enqueue("the sum", result_of(now))
        print("after:", after.result(timeout=30))

        # The jobs of a batch become visible together, when the block ends without an error.
        with jobs.batch("numbers") as batch:
            receipts = [batch.enqueue(add, number, number) for number in range(3)]
        ended = show.after(batch).enqueue("the size of the batch", len(receipts))
        print("batch:", [receipt.result(timeout=30) for receipt in receipts], ended.result(timeout=30))

        try:
            fail.enqueue().result(timeout=30)
        except JobFailed as error:
            print("failed:", error)

        # Every second from now on. In an application, declare it in code: jobs.recurring("tick", "* * * * * *", …).
        jobs.recurring.put("tick", "* * * * * *", show.bind("the tick", 1))
        print("recurring:", jobs.recurring.trigger("tick").result(timeout=30))
        jobs.recurring.remove("tick")


if __name__ == "__main__":
    main()
