"""What a process of the command line loads of a program."""

from broker_jobs import BrokerJobs
from broker_jobs.cli.load_app import application_of


def test_a_process_loads_what_the_code_declares() -> None:
    jobs = BrokerJobs("memory://")

    @jobs.subscribe("user.registered")
    def welcome(user_id: int) -> None: ...

    @jobs.job
    def report() -> None: ...

    jobs.recurring("weekly", "0 9 * * MON", report)
    application = application_of(jobs, "shop.jobs:jobs", {})
    assert {each.service for each in application.recurring} == {"main"}  # in memory it needs no name
    assert [each.event for each in application.subscriptions] == ["user.registered"]
    assert [each.name for each in application.recurring] == ["weekly"]
    assert application.close == jobs.stop
