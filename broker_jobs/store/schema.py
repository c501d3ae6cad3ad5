"""Names the tables and their columns as this version knows them; the steps in `migrations/` are what makes them.

Apart from the steps because those never change once released; a test compares the two. Instants are floats (seconds
since the Unix epoch): they compare and travel without conversion. Every name is in one schema on PostgreSQL
(`broker_jobs`, unless the address sets a search_path), so that no table of another program is in the way.

Over 300 lines: all tables in one place.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, LargeBinary, MetaData, Table, Text

metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("store_id", Text, nullable=False),
    Column("schema", BigInteger, nullable=False),
    Column("serial", BigInteger, nullable=False),
    Column("log_time", Double, nullable=False),
    Column("last_tick_at", Double, nullable=False),
    Column("control_version", BigInteger, nullable=False),
    Column("schedules_version", BigInteger, nullable=False),
    Column("accepted_serial", BigInteger, nullable=False),
)

installation = Table(
    "installation", metadata, Column("id", BigInteger, primary_key=True), Column("name", Text, nullable=False)
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("job", Text),
    Column("queue", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason_code", Text),
    Column("publication", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("attempt", BigInteger, nullable=False),
    Column("crashes", BigInteger, nullable=False),
    Column("returns", BigInteger, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("owner", Text),
    Column("owned", BigInteger, nullable=False),
    Column("sender", Text),
    Column("due_at", Double),
    Column("grace_until", Double),
    Column("created_at", Double, nullable=False),
    Column("changed_at", Double, nullable=False),
    Column("released_at", Double),
    Column("started_at", Double),
    Column("ended_at", Double),
    Column("copy_until", Double),
    Column("retries", BigInteger, nullable=False),
    Column("envelope", Text),
    Column("reason", Text),
    Column("result", Text),
    Column("result_lost", Text),
    Column("error", Text),
    Column("parent", Text),
    Column("batch", Text),
    Column("recurring", Text),
    Column("tags", Text),
    Column("progress", Text),
    Column("history", Text),
    Column("unknowns", BigInteger, nullable=False),
    Column("interruptions", BigInteger, nullable=False),
    Column("lost_since", BigInteger, nullable=False),
    Column("waits", BigInteger, nullable=False),
    Column("conditions", BigInteger, nullable=False),
    Column("alias_group", Text),
    Column("counted_as", Text),
    Column("gives_back", BigInteger, nullable=False),
    Column("ran_on", Text),
    Column("ran_host", Text),
    Column("priority", Text),
    Column("keep_until", Double),
    Column("result_until", Double),
)

attempts = Table(
    "attempts",
    metadata,
    Column("job_id", Text, primary_key=True),
    Column("epoch", BigInteger, primary_key=True),
    Column("attempt", BigInteger, nullable=False),
    Column("ended", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("started_at", Double),
    Column("ended_at", Double, nullable=False),
    Column("worker", Text),
    Column("host", Text),
    Column("release", Text),
    Column("reason", Text),
    Column("error", Text),
    Column("fingerprint", Text),
)

counts = Table(
    "counts",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("state", Text, primary_key=True),
    Column("n", BigInteger, nullable=False),
)

outcomes = Table(
    "outcomes",
    metadata,
    Column("minute", BigInteger, primary_key=True),
    Column("state", Text, primary_key=True),
    Column("n", BigInteger, nullable=False),
)

ended = Table(
    "ended",
    metadata,
    Column("state", Text, primary_key=True),
    Column("n", BigInteger, nullable=False),
)

queue_outcomes = Table(
    "queue_outcomes",
    metadata,
    Column("minute", BigInteger, primary_key=True),
    Column("queue", Text, primary_key=True),
    Column("n", BigInteger, nullable=False),
)

durations = Table(
    "durations",
    metadata,
    Column("minute", BigInteger, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("bucket", BigInteger, primary_key=True),
    Column("n", BigInteger, nullable=False),
)

kind_outcomes = Table(
    "kind_outcomes",
    metadata,
    Column("minute", BigInteger, primary_key=True),
    Column("job", Text, primary_key=True),
    Column("state", Text, primary_key=True),
    Column("n", BigInteger, nullable=False),
)

kind_durations = Table(
    "kind_durations",
    metadata,
    Column("minute", BigInteger, primary_key=True),
    Column("job", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("bucket", BigInteger, primary_key=True),
    Column("n", BigInteger, nullable=False),
)

queues = Table(
    "queues",
    metadata,
    Column("name", Text, primary_key=True),
    Column("paused", BigInteger, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Text, primary_key=True),
    Column("at", Double, nullable=False),
    Column("by", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("user_id", Text, nullable=False),
)

schedules = Table(
    "schedules",
    metadata,
    Column("name", Text, primary_key=True),
    Column("cron", Text, nullable=False),
    Column("tz", Text, nullable=False),
    Column("misfire", Text, nullable=False),
    Column("overlap", Text, nullable=False),
    Column("call", Text, nullable=False),
    Column("service", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("paused", BigInteger, nullable=False),
    Column("last_planned_at", Double),
    Column("last_job_id", Text),
    Column("created_at", Double, nullable=False),
    Column("changed_at", Double, nullable=False),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("slot", Text, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("queues", Text, nullable=False),
    Column("served", Text, nullable=False),
    Column("queue_limits", Text, nullable=False),
    Column("concurrency", BigInteger, nullable=False),
    Column("running", BigInteger, nullable=False),
    Column("done", BigInteger, nullable=False),
    Column("cpu_percent", Double, nullable=False),
    Column("rss_bytes", BigInteger, nullable=False),
    Column("version", Text, nullable=False),
    Column("service", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("busy", Text, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
    Column("silent_since", Double),
    Column("problem", Text, nullable=False),
    Column("lost", BigInteger, nullable=False),
)

code_jobs = Table(
    "code_jobs",
    metadata,
    Column("code", Text, primary_key=True),
    Column("job", Text, primary_key=True),
)

removed_declarations = Table(
    "removed_declarations",
    metadata,
    Column("service", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("at", Double, nullable=False),
)

worker_changes = Table(
    "worker_changes",
    metadata,
    Column("worker", Text, primary_key=True),
    Column("change", Text, nullable=False),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", Text, primary_key=True),
    Column("at", Double, nullable=False),
    Column("origin", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("exchange", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("dead_lettered", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
)

poison_marks = Table(
    "poison_marks",
    metadata,
    Column("hash", Text, primary_key=True),
    Column("at", Double, nullable=False),
)

log_lines = Table(
    "log_lines",
    metadata,
    Column("n", BigInteger, primary_key=True),
    Column("job_id", Text, nullable=False),
    Column("attempt", BigInteger, nullable=False),
    Column("at", Double, nullable=False),
    Column("digest", BigInteger, nullable=False),
    Column("text", Text, nullable=False),
)

dependencies = Table(
    "dependencies",
    metadata,
    Column("holder", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("target", Text, primary_key=True),
    Column("on_end", Text, nullable=False),
    Column("unsatisfied", BigInteger, nullable=False),
    Column("since", Double, nullable=False),
)

batches = Table(
    "batches",
    metadata,
    Column("id", Text, primary_key=True),
    Column("title", Text, nullable=False),
    Column("parent", Text),
    Column("state", Text, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("open", BigInteger, nullable=False),
    Column("succeeded", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("deleted", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("ended_at", Double),
)

batch_submissions = Table(
    "batch_submissions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("batch", Text, nullable=False),
    Column("parent_submission", Text),
    Column("chunks", BigInteger),
    Column("seen", BigInteger, nullable=False),
    Column("accepted", BigInteger, nullable=False),
    Column("opened", BigInteger, nullable=False),
    Column("since", Double, nullable=False),
)

chunks = Table(
    "chunks",
    metadata,
    Column("submission", Text, primary_key=True),
    Column("number", BigInteger, primary_key=True),
)

work_items = Table(
    "work_items",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("target", Text, primary_key=True),
    Column("outcome", Text, nullable=False),
)

unique_keys = Table(
    "unique_keys",
    metadata,
    Column("key", Text, primary_key=True),
    Column("job_id", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("until", Double),
    Column("after", Text),
)

alias_groups = Table(
    "alias_groups", metadata, Column("id", Text, primary_key=True), Column("root", Text, nullable=False)
)

lines = Table(
    "lines",
    metadata,
    Column("key", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("limit_code", BigInteger, nullable=False),
    Column("limit_set", BigInteger),
    Column("rank", BigInteger, nullable=False),
    Column("span", Double),
    Column("fixed", BigInteger, nullable=False),
    Column("taken", BigInteger, nullable=False),
    Column("turns", BigInteger, nullable=False),
    Column("tail", BigInteger, nullable=False),
    Column("next_at", Double),
)

line_entries = Table(
    "line_entries",
    metadata,
    Column("key", Text, primary_key=True),
    Column("job_id", Text, primary_key=True),
    Column("place", BigInteger, nullable=False),
    Column("stage", BigInteger, nullable=False),
)

rate_starts = Table(
    "rate_starts",
    metadata,
    Column("key", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("job_id", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
)

open_runs = Table(
    "open_runs", metadata, Column("name", Text, primary_key=True), Column("n", BigInteger, nullable=False)
)

subscriptions = Table(
    "subscriptions",
    metadata,
    Column("service", Text, primary_key=True),
    Column("event", Text, primary_key=True),
    Column("job", Text, primary_key=True),
    Column("call", Text, nullable=False),
)

relations = Table(
    "relations",
    metadata,
    Column("child", Text, primary_key=True),
    Column("parent", Text, primary_key=True),
    Column("on_end", Text, nullable=False),
)

functions = Table(
    "functions",
    metadata,
    Column("name", Text, primary_key=True),
    Column("service", Text, primary_key=True),
    Column("queue", Text, nullable=False),
    Column("doc", Text, nullable=False),
    Column("parameters", Text, nullable=False),
    Column("seen_at", Double, nullable=False),
)

components = Table(
    "components",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("version", Text, nullable=False),
    Column("active", BigInteger, nullable=False),
    Column("seen_at", Double, nullable=False),
)
