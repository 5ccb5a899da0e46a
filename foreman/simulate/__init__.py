"""The simulator: traces of arrivals, run through the very scheduler that drains targets, or through another policy.

`foreman simulate` and the scheduling tests and benches call me. I stand on the core alone: no socket, no store, no clock but
the one I turn.
"""
