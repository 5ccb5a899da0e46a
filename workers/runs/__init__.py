"""One claimed job to its end: asked of the target, passed on or kept, and how it ended."""
