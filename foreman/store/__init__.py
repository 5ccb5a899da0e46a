"""Floor 3: everything that talks to Redis, and the only folder that does."""
