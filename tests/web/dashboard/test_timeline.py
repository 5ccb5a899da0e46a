"""The drawing of the swaps: rows, hatches, ticks, and the table that says the same."""

from __future__ import annotations

import re

from foreman.core.jobs import State
from foreman.store.swaps import SwapRecord
from foreman.store.views import Ran
from foreman.web.dashboard import timeline
from tests.web.dashboard.past import swaps

NOW = 1_800_000_000.0


def swap(model: str, t0: float, end: float | None, *, target: str = "gpu1", load: float = 4.0) -> SwapRecord:
    return SwapRecord(
        target, model, model, "due", NOW + t0, NOW + t0 + load, None if end is None else NOW + end, "swap"
    )


def rails(text: str) -> list[int]:
    """The heights of the rails, in rows."""
    return [int(height) // 18 for height in re.findall(r'class="rail"[^>]* height="(\d+)"', text)]


def test_one_row_per_place():
    one = [swap("a", -500, -398), swap("b", -400, -200), swap("a", -200, None)]
    assert rails(timeline.timeline({"gpu1": one}, [], NOW, 900)) == [1], "the end of the one before is noted late"
    two = [swap("a", -500, None), swap("b", -400, -200), swap("c", -190, None)]
    assert rails(timeline.timeline({"gpu1": two}, [], NOW, 900)) == [2]


def test_it_shows_what_was_there_in_its_time():
    history = {"gpu1": [swap("old", -5000, -4000), swap("new", -100, None)], "gpu2": []}
    text = timeline.timeline(history, [], NOW, 900)
    assert "new" in text
    assert "old" not in text
    assert "old" in timeline.timeline(history, [], NOW, 21600)
    assert "Nothing was loaded" in timeline.timeline({"gpu1": []}, [], NOW, 900)


def test_ticks_are_ends_of_jobs_and_failures_stand_out():
    jobs = [
        Ran("1", "gpu1", "a", State.DONE, NOW - 60, NOW - 50),
        Ran("2", "gpu1", "a", State.FAILED, NOW - 50, NOW - 40),
        Ran("3", "gpu2", "a", State.DONE, NOW - 50, NOW - 40),
    ]
    text = timeline.timeline({"gpu1": [swap("a", -100, None)]}, jobs, NOW, 900)
    assert text.count('class="tick"') == 1
    assert text.count('class="tick fail"') == 1


def test_names_from_outside_stay_text():
    nasty = "</svg><script>alert(1)</script>"
    text = timeline.timeline({nasty: [swap(nasty, -100, None, target=nasty)]}, [], NOW, 900)
    assert "<script>" not in text


async def test_it_is_drawn_from_the_store(gateway, worker, store, dial):
    await worker.publish("gpu1", "m:latest")
    await swaps(store)
    text = (await (await dial(gateway)).get("/ui/timeline?span=3600")).body.decode()
    assert rails(text) == [1]
    assert len(set(re.findall(r'<g class="(c\d)"', text))) <= 3
    assert text.count("<tr>") == 7
    assert 'data-look="3600" aria-pressed="true"' in text
