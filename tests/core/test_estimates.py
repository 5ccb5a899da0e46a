"""What is learned of a lane: priors, clamps, and that what the store kept comes back."""

import json
import math

import pytest

from foreman.core.estimates import Gaps, Load, Rate, Service, Throughput, pack_all, unpack_all

ALL = (Service, Load, Gaps, Rate, Throughput)


def test_a_service_begins_at_its_prior_and_is_the_mean_of_the_last_runs():
    assert Service().seconds() == 5.0
    assert Service().seconds(prior=9.0) == 9.0
    assert Service().add(2.0).add(2.0).seconds() == pytest.approx(3.5), "two runs like the prior count with them"
    many = Service()
    for _ in range(100):
        many = many.add(1.0)
    assert len(many.runs) == 32
    assert many.seconds() == pytest.approx((32 + 10) / 34)


@pytest.mark.parametrize(("run", "least", "most"), [(0.0, 0.05, 5.0), (1e9, 5.0, 1800.0)])
def test_no_run_throws_an_estimate_out_of_its_clamp(run, least, most):
    assert least <= Service((run,) * 32).seconds() <= most
    assert Service().add(run).runs[0] in {0.05, 1800.0}


def test_a_load_is_smoothed_and_unmeasured_ones_lean_on_the_lanes_other_targets():
    assert Load().seconds() == 10.0
    assert Load().seconds([Load(4.0), Load(6.0), Load()]) == 5.0
    assert Load().add(8.0).seconds([Load(4.0)]) == 8.0
    assert Load().add(8.0).add(18.0).seconds() == pytest.approx(11.0)
    assert Load().add(0.0).seconds() == 0.2
    assert Load().add(1e6).seconds() == 600.0
    assert Load().add(10.0).add(1e6).seconds() == pytest.approx(10 + 0.3 * 590), "one that hung counts as the longest"


def test_few_gaps_are_taken_with_one_that_never_ends():
    assert Gaps().known() == (0.5, 1.0, math.inf)
    assert Gaps().add(2.0).add(3.0).known() == (2.0, 3.0, 0.5, 1.0, math.inf)
    three = Gaps().add(2.0).add(3.0).add(4.0)
    assert three.known() == (2.0, 3.0, 4.0)
    assert three.median() == 3.0
    assert three.add(9.0).median() == 3.0, "of an even number the lower one of the middle"
    for _ in range(40):
        three = three.add(1.0)
    assert len(three.gaps) == 16


def test_a_rate_halves_in_two_minutes():
    rate = Rate().add(100.0, calls=8)
    assert rate.per_second(220.0) == pytest.approx(rate.per_second(100.0) / 2)
    assert rate.add(220.0).count == pytest.approx(5.0)
    assert Rate().per_second(1e9) == 0.0
    steady = Rate()
    for second in range(3000):
        steady = steady.add(float(second))
    assert steady.per_second(3000.0) == pytest.approx(1.0, rel=0.05)


def test_a_clock_that_steps_back_takes_nothing_back():
    assert Rate().add(100.0).add(90.0).at == 100.0


def test_throughput_counts_busy_seconds_and_not_runs_times_slots():
    assert Throughput().seconds_per_run(6.0, slots=1) == 6.0
    assert Throughput().seconds_per_run(6.0, slots=3) == 3.0
    measured = Throughput()
    for _ in range(50):
        measured = measured.add(4, 10.0)
    assert measured.seconds_per_run(6.0, slots=4) == pytest.approx(2.5)
    for _ in range(50):
        measured = measured.add(4, 2.0)
    assert measured.seconds_per_run(6.0, slots=4) == pytest.approx(0.5, abs=0.05), "what was long ago counts for little"


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("broken", [None, "x", {}, ["a"], [True], [math.nan], [None, 1.0], 7])
def test_what_can_not_be_read_is_as_if_nothing_had_been_measured(kind, broken):
    assert kind.unpack(broken) == kind()


def test_what_was_packed_comes_back_through_json():
    values = (
        Service().add(1.5).add(2.5),
        Load().add(7.25),
        Gaps().add(0.5),
        Rate().add(1_700_000_000.5),
        Throughput().add(3, 4.5),
    )
    assert tuple(unpack_all(json.loads(json.dumps(pack_all(*values))), *ALL)) == values
    assert unpack_all([[1.0]], *ALL)[1:] == [Load(), Gaps(), Rate(), Throughput()]
