"""What can be run: signature, options, registry, provided arguments, and the job that runs now. No I/O."""
