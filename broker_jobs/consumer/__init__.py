"""A delivery becomes an attempt, an attempt becomes an outcome, and each is settled in one place."""
