"""Floor 1: bytes in, values out, and back. Sans-io: nothing here opens, waits or logs."""
