"""Jobs that do what no job should, for minutes, beside innocent ones."""
