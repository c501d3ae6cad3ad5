"""The states of a job and how records change them. Pure; see docs/internals/transitions.md."""
