"""Wiring, top to bottom: worker, coordinator, beat, all in one."""
