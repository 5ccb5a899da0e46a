"""What a target holds, from what foreman did and what /api/ps says. Pure: no socket, no clock."""

import pytest

from workers.loads.residency import CROWDED, Change, Residency


def tag(name, digest, **more):
    return {"name": name, "model": name, "digest": digest, **more}


def ps(*digests):
    return [{"name": f"name-of-{digest}", "digest": digest} for digest in digests]


@pytest.fixture
def here():
    residency = Residency()
    residency.inventory(
        [
            tag("a:latest", "d1"),
            tag("alias:latest", "d1"),
            tag("b:latest", "d2"),
            tag("nomic:latest", "d9", details={"family": "nomic-bert"}),
            tag("vectors:latest", "d8", capabilities=["embedding"]),
        ]
    )
    return residency


def lanes(residency):
    return [held.lane for held in residency.held]


def test_a_load_makes_a_resident_and_is_measured(here):
    here.loaded("d1", "A", None, now=10, seconds=4)
    assert (lanes(here), here.load_seconds("d1"), here.held[0].idle_since) == (["d1"], 4, 10)
    here.loaded("d1", "A", None, now=20, seconds=14)
    assert here.load_seconds("d1") == pytest.approx(7)  # 0.3 of the difference
    assert here.held[0].load_seconds == 14  # the running residency counts with its own


def test_a_second_lane_of_the_same_model_takes_the_place_of_the_first(here):
    here.loaded("d1", "a", None, now=1, seconds=1)
    here.loaded("d1?num_ctx=8192", "alias", None, now=2, seconds=1)
    assert lanes(here) == ["d1?num_ctx=8192"]


def test_ps_finds_the_resident_by_digest_whatever_name_loaded_it(here):
    here.loaded("d1", "alias", None, now=1, seconds=1)
    change = here.observe([{"name": "a:latest", "digest": "sha256:d1"}], now=5, asked_at=4)
    assert (change, lanes(here)) == (Change(), ["d1"])


def test_somebody_elses_load_appears_as_the_models_default_lane(here):
    assert here.observe(ps("d2"), now=5, asked_at=4) == Change(appeared=("d2",))
    assert (lanes(here), here.held[0].loaded_at) == (["d2"], 5)


def test_what_a_former_owner_published_names_the_lanes(here):
    here.remember([{"lane": "d2?num_ctx=99", "model": "b:latest", "since": 1.0}], {"d2?num_ctx=99": 3.0})
    here.observe(ps("d2"), now=5, asked_at=4)
    assert (lanes(here), here.load_seconds("d2?num_ctx=99")) == (["d2?num_ctx=99"], 3.0)


def test_what_was_held_before_the_target_was_away_is_found_again(here):
    here.loaded("d1?num_ctx=9", "a", None, now=1, seconds=1)
    here.forget()
    assert lanes(here) == []
    here.observe(ps("d1"), now=2, asked_at=2)
    assert lanes(here) == ["d1?num_ctx=9"]


def test_somebody_elses_eviction_is_noticed_but_not_of_a_busy_lane_nor_of_one_loaded_since(here):
    here.loaded("d1", "a", None, now=1, seconds=1)
    here.loaded("d2", "b", None, now=6, seconds=1)
    assert here.observe([], now=7, asked_at=5, busy={"d1"}) == Change()
    assert here.observe([], now=9, asked_at=8) == Change(vanished=("d1", "d2"))
    assert lanes(here) == []


def test_a_lane_that_runs_and_stays_out_of_sight_was_pushed_out_and_there_is_no_room_for_both(here):
    here.observe(ps("d1", "d2"), now=1, asked_at=1)
    _first, second = lanes(here)
    for look in range(2):
        assert here.observe(ps("d1"), now=2 + look, asked_at=2, busy={second}) == Change()
    assert here.observe(ps("d1"), now=4, asked_at=4, busy={second}) == Change(vanished=(second,))
    assert (here.places, here.must_unload) == (1, True)
    here.observe(ps("d1"), now=4 + CROWDED, asked_at=5)
    assert here.places == 2  # tried again: others may fit


def test_places_are_the_most_ever_listed_and_known_once_a_load_pushed_somebody_out(here):
    assert (here.places, here.must_unload) == (1, False)
    here.observe(ps("d1", "d2"), now=1, asked_at=1)
    assert here.places == 2
    assert not here.must_unload  # there may be room for a third
    here.pushed_out(0.0)
    assert here.must_unload
    here.unloaded("d1")
    assert not here.must_unload
    here.observe(ps("d1", "d2", "d3"), now=2, asked_at=2)
    assert (here.places, here.must_unload) == (3, False)


def test_configured_places_are_known_from_the_start():
    residency = Residency(1)
    residency.loaded("a", "a", None, now=1, seconds=1)
    assert residency.must_unload
    residency.observe(ps("d1", "d2"), now=2, asked_at=0)
    assert residency.places == 1


def test_embedding_models_take_no_place(here):
    here.observe(ps("d1", "d9", "d8"), now=1, asked_at=1)
    assert (lanes(here), here.places) == (["d1"], 1)
    here.embeds("b", None, 0.0)  # a job of the embedding slot used it
    here.observe(ps("d1", "d2", "d9"), now=2, asked_at=2)
    assert lanes(here) == ["d1"]


def test_a_name_that_nobody_has_is_not_remembered_for_having_been_asked_to_embed(here):
    for number in range(3):  # callers name what they like; the target's own words are their answer
        here.embeds(f"none-{number}:cloud", None, 0.0)
    assert here.embed_used == {}


def test_a_model_that_is_drained_too_keeps_its_place_when_it_embeds(here):
    here.loaded("d1", "a", None, now=1, seconds=1)
    here.embeds("a", None, 0.0)
    here.observe(ps("d1"), now=2, asked_at=2)
    assert lanes(here) == ["d1"]


def test_an_embedding_model_that_pushes_the_resident_out_is_noticed_and_forgiven(here):
    here.loaded("d1", "a", None, now=1, seconds=1)
    here.observe(ps("d1"), now=2, asked_at=2)
    assert here.embed_fits
    here.observe(ps("d9"), now=3, asked_at=3)
    assert not here.embed_fits
    here.observe(ps("d9", "d1"), now=4, asked_at=4)
    assert here.embed_fits


def test_a_look_between_the_two_hides_nothing(here):
    here.loaded("d1", "a", None, now=1, seconds=1)
    here.observe((), now=2, asked_at=2, busy={"d9"})  # it loads
    here.observe(ps("d9"), now=3, asked_at=3)
    assert not here.embed_fits


def test_a_resident_that_left_before_is_not_the_embedding_models_fault(here):
    here.loaded("d1", "a", None, now=1, seconds=1)
    here.observe((), now=2, asked_at=2)
    here.observe(ps("d9"), now=3, asked_at=3, busy={"d9"})
    assert here.embed_fits


def test_a_resident_that_leaves_by_itself_is_not_the_embedding_models_fault(here):
    here.loaded("d1", "a", None, now=1, seconds=1)
    here.observe(ps("d1", "d9"), now=2, asked_at=2)
    here.observe(ps("d9"), now=3, asked_at=3)
    assert here.embed_fits


def test_idle_is_since_when_nothing_is_queued_or_running(here):
    here.loaded("d1", "a", None, now=1, seconds=1)
    here.idle({"d1": None}, {}, 5)
    assert here.held[0].idle_since is None
    here.idle({}, {"d1": 1}, 6)
    assert here.held[0].idle_since is None
    here.idle({}, {}, 7)
    here.idle({}, {}, 8)
    assert here.held[0].idle_since == 7


def test_names_are_known_in_any_spelling(here):
    assert here.knows("A")
    assert here.knows("registry.ollama.ai/library/a:latest")
    assert not here.knows("c")
    assert here.identity("c", "sha256:d7") == "d7"
    assert here.identity("c") == "c:latest"
    assert here.own_name("A") == "a:latest"
