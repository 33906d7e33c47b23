"""The comparison of our networks with timm's, where there is timm."""

import pytest

from export import timm_networks
from tests.support.programs import Program
from tests.support.torch_networks import import_timm
from trainers.program import UserError

PROGRAM = Program("benchmarks.compare_with_timm")


def test_without_timm_the_extra_is_named(monkeypatch):
    def fail():
        raise ImportError("No module named 'timm'")

    monkeypatch.setattr(timm_networks, "import_timm", fail)
    with pytest.raises(UserError, match=r"extra `peers`.*No module .*'timm'"):
        PROGRAM.run()


@pytest.mark.slow
def test_each_network_has_a_row(monkeypatch, capsys):
    import_timm()
    compared = {"lambda_resnet26t": (32, 64)}
    monkeypatch.setattr(PROGRAM.module, "_COMPARED", compared)
    PROGRAM.run()
    *_, row = capsys.readouterr().out.splitlines()
    name, size, difference = row.strip("| ").split(" | ")
    assert (name, size) == ("`lambda_resnet26t`", "32x64")
    # Two ways to add up are never equal to the last bit.
    assert 0 < float(difference) < 1e-5


@pytest.mark.slow
def test_another_weight_makes_a_difference(monkeypatch):
    import_timm()
    load_state = timm_networks.load_state

    def load_another(module, state):
        name = "head.fc.weight"
        load_state(module, state | {name: 1.01 * state[name]})

    monkeypatch.setattr(timm_networks, "load_state", load_another)
    difference = PROGRAM.module.measure_difference("lambda_resnet26t", (32, 64))
    assert difference == pytest.approx(0.01, rel=0.2)
