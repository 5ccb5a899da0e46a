"""The other process family: takes jobs from the store, runs them on the model servers. Never imports foreman.web."""
