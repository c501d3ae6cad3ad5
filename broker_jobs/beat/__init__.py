"""Fires recurring jobs: cron computes planned times, beat publishes a command at each of them."""
