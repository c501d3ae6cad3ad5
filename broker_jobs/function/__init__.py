"""What is run: a function, its signature and options, the registry both ends share. Knows no broker."""
