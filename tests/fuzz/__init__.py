"""A fuzzer of all messages that a coordinator reads: hostile bodies and properties, made from the models themselves."""
