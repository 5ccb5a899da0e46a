"""Floor 5: the gateway's HTTP front door. Talks to callers; never dials a model server."""
