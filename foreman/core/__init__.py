"""Floor 0: the words and the decisions of the queue. Talks to nobody: no await, no clock, no logger."""
