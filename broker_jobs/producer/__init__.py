"""A call becomes an envelope, and the envelope a confirmed message; what became of it is asked of the coordinator."""
