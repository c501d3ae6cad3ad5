"""A storm: the whole system under faults at random, and what must be true when they are over."""
