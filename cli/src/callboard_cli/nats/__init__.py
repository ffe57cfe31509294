"""What Callboard asks of its nats-server: the server's configuration, its users and their credentials."""
