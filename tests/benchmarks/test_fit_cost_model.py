"""The fit of the cost model finds the constants that timings were made of."""

import numpy as np
import pytest

from benchmarks import fit_cost_model
from benchmarks.fit_cost_model import Layer
from benchmarks.fit_cost_model import Timing
from lambda_keras.contraction.cost_model import AVX512
from lambda_keras.contraction.cost_model import Blocks
from lambda_keras.contraction.cost_model import Machine
from lambda_keras.contraction.cost_model import Plan
from trainers.program import UserError

# Blocks cost next to nothing here, and bytes much.
MACHINE = Machine(
    multiply_adds_per_byte=11,
    multiply_adds_per_block=700_000,
    cache=2**21,
    share_beyond_cache=0.37,
)
SECONDS, OVERHEAD = 3e-11, 5e-4


def make_timings():
    """Returns what `MACHINE` would take, give or take a few per cent."""
    random = np.random.default_rng(0)
    timings = []
    for layer in fit_cost_model.list_layers(quick=True):
        for mode in fit_cost_model.MODES:
            for plan in fit_cost_model.list_plans(layer, mode):
                timing = Timing(layer, mode, plan, 0.0)
                seconds = OVERHEAD + SECONDS * timing.cost.total(MACHINE)
                seconds *= random.uniform(0.98, 1.02)
                timings.append(timing._replace(seconds=seconds))
    return timings


def test_fit_recovers_the_constants():
    timings = make_timings()
    # Now and then the machine does something else.
    seconds = [timing.seconds for timing in timings]
    seconds[::29] = [10 * disturbed for disturbed in seconds[::29]]
    fit = fit_cost_model.fit_machine(
        [timing.cost for timing in timings], seconds
    )
    assert fit.machine.cache == MACHINE.cache
    assert fit.machine == pytest.approx(MACHINE, rel=0.1)
    assert fit.seconds_per_multiply_add == pytest.approx(SECONDS, rel=0.1)
    assert fit.overhead == pytest.approx(OVERHEAD, rel=0.2)
    assert fit.error < 0.05


def test_regret_is_that_of_the_chosen_plan():
    timings = make_timings()
    own = fit_cost_model.find_regrets(timings, MACHINE)
    others = fit_cost_model.find_regrets(timings, AVX512)
    assert len(own) == 2 * len(fit_cost_model.list_layers(quick=True))
    assert max(own) < 1.05
    assert max(others) > 1.2


def test_regret_of_one_case_by_hand():
    layer = Layer(7, 13, 1, value_dim=5)
    by_rows = [
        Plan("queries_first", Blocks("query_rows", rows)) for rows in (1, 7)
    ]
    timings = [
        Timing(layer, "forward", plan, seconds)
        for plan, seconds in zip(by_rows, (0.2, 0.3), strict=True)
    ]
    # Seven blocks are seven times as dear as one, so that one is chosen.
    regrets = fit_cost_model.find_regrets(timings, AVX512)
    assert regrets == [pytest.approx(1.5)]


def test_loss_is_that_of_the_cases_where_a_kind_is_the_quickest():
    layer = Layer(7, 13, 1, value_dim=5)
    plans = {
        "query_rows": Plan("queries_first", Blocks("query_rows", 7)),
        "lambdas_first": Plan("lambdas_first"),
    }
    timings = [
        Timing(layer, "forward", plans["query_rows"], 0.2),
        Timing(layer, "forward", plans["lambdas_first"], 0.3),
        Timing(layer, "gradient", plans["query_rows"], 0.7),
    ]
    assert fit_cost_model.find_losses(timings, "lambdas_first") == [1, 1]
    losses = fit_cost_model.find_losses(timings, "query_rows")
    assert losses == [pytest.approx(1.5)]


def test_timings_are_refitted_from_their_file(tmp_path):
    timings = make_timings()
    fit_cost_model.write_timings(tmp_path / "timings.csv", timings)
    read = fit_cost_model.read_timings(tmp_path / "timings.csv")
    assert read == timings
    report = fit_cost_model.format_fit(read)
    assert "library" in report
    assert "fitted" in report


def test_file_that_holds_no_timings_is_refused(tmp_path):
    (tmp_path / "other.csv").write_text("size,scope\n7,3\n")
    with pytest.raises(UserError, match="a file that --output wrote"):
        fit_cost_model.read_timings(tmp_path / "other.csv")


@pytest.mark.slow
def test_plans_are_timed_forward_and_gradient(tmp_path):
    layer = Layer(3, 5, 2, shared=2, key_dim=3, value_dim=5)
    path = tmp_path / "timings.csv"
    timings = fit_cost_model.measure([layer], rounds=1, path=path)
    orders = {mode: set() for mode in fit_cost_model.MODES}
    for timing in timings:
        orders[timing.mode].add(timing.plan.order)
        assert timing.seconds > 0
    assert orders == {
        "forward": {"convolution", "queries_first", "lambdas_first"},
        "gradient": {"queries_first"},
    }
    assert fit_cost_model.read_timings(path) == timings
