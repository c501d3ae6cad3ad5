"""The measured libraries: each file has the same two jobs, `empty` and `stamp`, and an `Enqueuer`."""
