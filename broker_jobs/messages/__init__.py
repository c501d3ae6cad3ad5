"""The messages of the wire: envelopes, events, commands, control and batch messages. Values only, no I/O."""
