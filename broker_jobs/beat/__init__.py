"""Time as a producer: schedule (pure) and tick."""
