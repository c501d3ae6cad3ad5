"""The contract between workers (and everybody else who tells) and the coordinator: the records of the log."""
