"""The mail room: a program that needs every kind of job there is, with a real SMTP server to count what arrives."""
