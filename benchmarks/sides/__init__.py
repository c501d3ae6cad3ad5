"""The measured libraries: each file has the same two jobs, `empty` and `stamp`, and a `Sender` that enqueues them."""
