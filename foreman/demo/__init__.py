"""Floor 5: a stateful stand-in for Ollama, traffic for it, and a true small model; for demos, tests and benches."""
