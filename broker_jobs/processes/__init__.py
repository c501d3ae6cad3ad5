"""Wires worker, coordinator and beat together, and runs them as processes: start, signals, logs, metrics, exit."""
