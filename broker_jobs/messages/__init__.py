"""What travels: envelope, state, codec. Pure values; no I/O."""
