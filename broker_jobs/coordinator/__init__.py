"""Records become truth: decide (pure), apply, release, sweep."""
