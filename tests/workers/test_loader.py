"""The loader's memory of refusals stays small, whatever lanes callers make up."""

from __future__ import annotations

from workers.clock import StoreClock
from workers.loads import loader


def test_it_remembers_a_bounded_number_of_refused_lanes(monkeypatch):
    monkeypatch.setattr(loader, "HOLD", 0.0)
    clock = StoreClock()
    made = loader.Loader(None, None, clock, None, keep_alive="-1", patience=0.0)
    for number in range(2 * loader._REFUSED_KEPT):
        made._refuse(f"m?num_ctx={number}", 500)
    assert len(made._refused) == loader._REFUSED_KEPT
    for number in range(20):
        for _ in range(loader.REFUSALS):
            made._refuse(f"n?num_ctx={number}", 500)
    assert len(made._held_until) <= 1, "a hold that is over is forgotten"
