"""Decides when a job may run: one module for each condition. See docs/internals/conditions.md."""
