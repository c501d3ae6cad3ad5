"""Says what a coordinator lets itself be watched by; metrics implement it, the default looks away."""

from __future__ import annotations

from broker_jobs.broker.work_depth import WorkDepth


class CoordinatorObserver:
    """Callbacks from the coordinator's thread; they must be quick and must not raise."""

    def records(self, kind: str, count: int) -> None:
        """Records of one kind were decided and committed."""

    def committed(self, seconds: float, rows: int) -> None:
        """One transaction took this long and wrote this many rows."""

    def released(self, count: int, late_seconds: list[float]) -> None:
        """Jobs were released; how late each was against its due time (0 and more)."""

    def dead_letters(self, origin: str) -> None:
        """A message could not be decided and was put aside."""

    def lag(self, seconds: float) -> None:
        """How old the newest tick was when it was read: how far the log is behind."""

    def active(self, active: bool) -> None:
        """This coordinator became the active one, or stepped down."""

    def depth(self, queue: str, ready: int, consumers: int) -> None:
        """Messages ready and consumers of a broker's queue that is no work queue."""

    def work_depth(self, queue: str, depth: WorkDepth) -> None:
        """Messages ready in the work queues of a queue, and their consumers."""

    def oldest(self, queue: str, seconds: float) -> None:
        """How long the oldest enqueued job of a queue has waited."""

    def paused(self, queue: str, paused: bool) -> None:
        """Whether a person has paused a queue."""

    def kept(self, dead_letters: int, overdue_seconds: float) -> None:
        """How many dead letters the store holds; for how long a recurring job has been due that no beat fired."""

    def held(self, counts: dict[str, int]) -> None:
        """How many jobs of each queue are held, as no living worker knows them."""

    def states(self, counts: dict[str, int]) -> None:
        """How many jobs the store holds in each state."""

    def noted(self, what: str) -> None:
        """Something worth counting happened (a stale record, a job started twice, …)."""
