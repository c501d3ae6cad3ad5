"""Says in SQL which ended jobs are needed by something that has not ended, so that they are not forgotten.

Each is a condition about one row of a subquery `page` of jobs, with its columns `id`, `alias_group` and `is_alias`.
"""

from __future__ import annotations

MOST_CHILDREN = 20
"""A job with more children is kept until these were forgotten: so many are asked whether they have ended."""
MOST_ABOVE = 20
"""So far up from an unsatisfied job is looked for a failed one with which it comes back."""
_CHILDREN = "SELECT child FROM relations WHERE relations.parent = page.id"
IS_AWAITED = (  # nothing but constants is put together
    "(EXISTS (SELECT 1 FROM dependencies WHERE dependencies.kind = 'job' AND dependencies.target = page.id)"  # noqa: S608
    f" OR EXISTS (SELECT 1 FROM ({_CHILDREN} LIMIT {MOST_CHILDREN}) AS children JOIN jobs AS child"
    " ON child.id = children.child WHERE child.state IN ('awaiting', 'scheduled', 'enqueued', 'processing'))"
    f" OR EXISTS ({_CHILDREN} LIMIT 1 OFFSET {MOST_CHILDREN}))"
)
"""Whether what has not ended may need the end, or the result, of the job `page`."""
_BELONGS = (
    " OR EXISTS (SELECT 1 FROM unique_keys WHERE unique_keys.job_id = page.id)"
    " OR (page.is_alias = 0 AND EXISTS (SELECT 1 FROM jobs AS alias WHERE alias.alias_group = page.alias_group"
    " AND alias.alias_group IS NOT NULL AND alias.id <> page.id))"
    " OR (page.is_alias = 1 AND EXISTS (SELECT 1 FROM alias_groups JOIN jobs AS root ON root.id = alias_groups.root"
    " WHERE alias_groups.id = page.alias_group AND root.id <> page.id AND (root.changed_at >= {before}"
    " OR root.state IN ('awaiting', 'scheduled', 'enqueued', 'processing'))))"
)


def needed(before: str) -> str:
    """Whether what has not ended may need a job that has: its end, its result, its key, or what it is an alias of.

    An alias is needed while its root runs, as it shows what the root does, and then as long as the end of the root.

    Args:
        before: what ended before this instant is old; an expression of `page` and of parameters.
    """
    return IS_AWAITED + _BELONGS.format(before=before)


COMES_BACK = (
    "WITH RECURSIVE above (kind, id, steps) AS (SELECT kind, target, 1 FROM dependencies"  # noqa: S608  # constants
    " WHERE holder = page.id AND unsatisfied = 1 UNION SELECT d.kind, d.target, steps + 1 FROM above"
    f" JOIN dependencies AS d ON d.holder = above.id AND d.unsatisfied = 1 AND steps < {MOST_ABOVE})"
    " SELECT 1 FROM above JOIN jobs AS parent ON above.kind = 'job' AND parent.id = above.id"
    " WHERE parent.state IN ('awaiting', 'scheduled', 'enqueued', 'processing')"
    " OR (parent.state = 'failed' AND (parent.keep_until >= :now"
    " OR (parent.keep_until IS NULL AND parent.changed_at >= :failed_before)))"
    " UNION ALL SELECT 1 FROM above JOIN batches AS parent ON above.kind = 'batch' AND parent.id = above.id"
    " WHERE parent.ended_at IS NULL OR (parent.state = 'failed' AND parent.ended_at >= :failed_before)"
)
"""An unsatisfied job comes back with its parent, which a person may requeue as long as a failed one is kept."""
