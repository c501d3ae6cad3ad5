"""Records become truth: decide (pure), apply, release, find lost messages."""
