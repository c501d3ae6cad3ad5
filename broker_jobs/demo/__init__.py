"""A demo that sends mail with every kind of job to a real SMTP server, and checks what arrives."""
