"""The road of a sync call: from a request under `/api` or `/v1` to the last byte of its answer."""
