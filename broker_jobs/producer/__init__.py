"""Turns a call into an envelope, publishes it, and reads states and results from the coordinator."""
