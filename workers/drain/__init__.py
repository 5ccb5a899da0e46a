"""One target's drain: what it knows of lanes and rivals, which lane it serves next, and what it does beside."""
