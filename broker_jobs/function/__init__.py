"""Describes what can be run: signatures, options, registry, provided arguments. No I/O."""
