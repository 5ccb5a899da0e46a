"""What a worker hands the store of its lanes: no lane is taken back by a word of its being forgotten, and none stays."""

from __future__ import annotations

from workers.drain.learned import KEPT, Learned


def crowded() -> Learned:
    """One lane more was used than are remembered, so that the first is out."""
    learned = Learned(1)
    for number in range(KEPT + 1):
        learned.claimed(f"lane-{number}", 0.0, 0.0)
    return learned


def test_a_lane_that_is_used_again_before_anybody_was_told_is_not_forgotten() -> None:
    learned = crowded()
    learned.claimed("lane-0", 1.0, 1.0)
    changed, forgotten = learned.changes()
    assert "lane-0" in changed
    assert forgotten == ["lane-1"]


def test_what_did_not_reach_the_store_is_told_again() -> None:
    learned = crowded()
    changed, forgotten = learned.changes()
    learned.unwritten(changed, forgotten)
    assert learned.changes() == (changed, forgotten)


def test_a_lane_that_is_used_again_while_the_store_is_away_is_not_forgotten() -> None:
    learned = crowded()
    changed, forgotten = learned.changes()
    learned.claimed("lane-0", 1.0, 1.0)
    learned.unwritten(changed, forgotten)
    assert "lane-0" not in learned.changes()[1]
