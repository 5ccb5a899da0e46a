"""What the gateway knows of the pool: targets and models, who waits for how long, whether one more may come in."""
