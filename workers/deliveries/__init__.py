"""Webhooks on their way: one attempt per arq job, one POST per attempt."""
