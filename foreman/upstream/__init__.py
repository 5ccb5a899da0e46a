"""Floor 3: everything that talks to the model servers, and the only folder that does."""
