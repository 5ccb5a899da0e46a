"""The history of loads: what was written comes back joined, and the ledger adds up."""

from __future__ import annotations

from foreman.store.swaps import SwapLedger, SwapRecord


async def test_a_load_and_its_end_come_back_as_one(ground) -> None:
    swaps = ground.store.swaps
    first = SwapRecord("gpu", "a?num_ctx=8:1", "a:latest", "room", 10.0, 12.5)
    second = SwapRecord(
        "gpu", "b", "b:latest", "due", 20.0, 21.0, victim="a?num_ctx=8:1", cut=True, fifo_swaps=7, paid_seconds=2.5
    )
    await swaps.record(first)
    await swaps.gone("gpu", "a?num_ctx=8:1", 20.25, "swap")
    await swaps.record(second, saved_seconds=9.0)
    await swaps.found("gpu", "c", "c:latest", 22.0)
    a, b, c = await swaps.of("gpu")
    assert (a.end, a.ended_by, a.reason) == (20.25, "swap", "room")
    assert b == second
    assert (c.lane, c.reason, c.end) == ("c", "found", None)
    assert await swaps.of("other") == []
    assert await swaps.ledger() == SwapLedger(2, 7, 9.0, 2.5, {"gpu": {"room": 1, "due": 1}})


async def test_an_end_whose_load_is_trimmed_tells_nothing(ground) -> None:
    await ground.store.swaps.gone("gpu", "a", 1.0, "idle")
    assert await ground.store.swaps.of("gpu") == []
