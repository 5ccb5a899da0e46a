"""The road of an async job: `/jobs`, from submit to artifacts."""
