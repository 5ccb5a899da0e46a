"""Floor 4: the way of an answer's bytes from a worker to a gateway, in one process or over TCP."""
