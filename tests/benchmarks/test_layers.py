"""Tests of what the benchmarks compute, and one small run of each."""

import contextlib
import csv
import itertools

import numpy as np
import pytest

from benchmarks import arithmetic
from benchmarks import cases
from benchmarks import frameworks
from benchmarks import reports
from benchmarks import workers
from benchmarks.cases import Case
from lambda_keras import LambdaConv
from tests.support.programs import Program
from trainers.program import UserError

_LAYERS = Program("benchmarks.layers")
_NETWORKS = Program("benchmarks.networks")
_PROFILE = Program("benchmarks.profile_step")


def make_row(contestant, median, *, shape="7x7x512", mode="forward", peak=1.0):
    return {
        "shape": shape,
        "scope": "7",
        "batch_size": 1,
        "mode": mode,
        "contestant": contestant,
        "median_ms": median,
        "min_ms": median and median / 2,
        "peak_mib": peak,
    }


@pytest.fixture(scope="module")
def launcher():
    """Starts the workers of all tests that do not start programs."""
    with workers.Launcher("keras", workers.Setting()) as launcher:
        yield launcher


@pytest.mark.parametrize("scope", [1, 3, 7, 23, None])
@pytest.mark.parametrize("size", [1, 2, 7, 13])
def test_visible_pairs_equal_those_that_loops_find(size, scope):
    reach = size if scope is None else scope // 2
    pairs = [
        (query, context)
        for query, context in itertools.product(range(size), repeat=2)
        if abs(query - context) <= reach
    ]
    assert arithmetic.count_visible_pairs(size, scope) == len(pairs)


@pytest.mark.parametrize(
    ("channels", "num_heads", "key_dim"),
    [
        pytest.param(22, 2, 13, id="queries_first_is_cheaper"),
        pytest.param(10, 5, 3, id="lambdas_first_is_cheaper"),
    ],
)
@pytest.mark.parametrize("scope", [3, None])
def test_multiply_adds_are_those_of_the_cheaper_order(
    channels, num_heads, key_dim, scope
):
    grid = (5, 3)
    value_dim = channels // num_heads
    visible = np.array(
        [
            all(
                scope is None or abs(a - b) <= scope // 2
                for a, b in zip(query, context, strict=True)
            )
            for query in np.ndindex(grid)
            for context in np.ndindex(grid)
        ]
    ).sum()
    positions = 5 * 3
    orders = [
        # The lambdas of the pairs, which are added to that of the content
        # before the queries take them.
        visible * key_dim * value_dim,
        # The weights of the pairs, and the values that they weigh.
        visible * num_heads * key_dim + visible * num_heads * value_dim,
    ]
    projections = sum(
        positions * channels * units
        for units in (num_heads * key_dim, key_dim, value_dim)
    )
    content = positions * key_dim * value_dim
    content += positions * num_heads * key_dim * value_dim
    assert arithmetic.count_multiply_adds(
        grid, channels, scope=scope, num_heads=num_heads, key_dim=key_dim
    ) == projections + content + min(orders)


@pytest.mark.parametrize(("mode", "passes"), [("forward", 1), ("train", 3)])
def test_limit_is_the_share_of_a_matrix_product(mode, passes):
    case = Case("7x7x512", "global", 5, mode)
    # Queries first: 49 * 49 pairs of 4 * (16 + 128) multiply-adds.
    multiply_adds = 49 * 512 * (64 + 16 + 128)
    multiply_adds += 49 * 16 * 128 * 5 + 49 * 49 * 4 * (16 + 128)
    limit = case.compute_limit(workers.Measurement([0.25, 0.5]))
    share = passes * 5 * multiply_adds / 2048**3
    assert limit.seconds == pytest.approx([0.25 * share, 0.5 * share])


def test_geometric_mean_of_reciprocals_is_the_reciprocal():
    assert reports.geometric_mean([2.0, 8.0]) == pytest.approx(4)
    assert reports.geometric_mean([1 / 2, 1 / 8]) == pytest.approx(1 / 4)
    assert reports.geometric_mean([4.0, 0.25]) == pytest.approx(1)


def test_best_peer_is_the_fastest_lambda_layer_of_others():
    rows = [
        make_row("ours", 2.0),
        make_row("timm", 9.0),
        make_row("timm_compiled", None),
        make_row("lucidrains", 6.0),
        make_row("torch_conv", 1.0),
    ]
    (found,) = reports.group_by_case(rows).values()
    assert reports.choose_best_peer(found)["contestant"] == "lucidrains"
    ratios = reports.compare(rows, "forward", reports.choose_best_peer)
    assert ratios == {("7x7x512", "7", 1, "forward"): 3.0}


def test_compare_leaves_out_cases_that_one_side_did_not_finish():
    rows = [
        make_row("ours", 2.0),
        make_row("timm", None),
        make_row("ours", None, shape="14x14x256"),
        make_row("timm", 1.0, shape="14x14x256"),
        make_row("ours", 1.0, mode="train"),
        make_row("timm", 1.0, mode="train"),
    ]
    assert reports.compare(rows, "forward", reports.choose_best_peer) == {}


def test_summary_names_the_mean_and_the_worst_case():
    rows = [
        make_row("ours", 1.0, peak=2.0),
        make_row("timm", 2.0, peak=1.0),
        make_row("ours", 1.0, shape="14x14x256", peak=2.0),
        make_row("timm", 8.0, shape="14x14x256", peak=4.0),
        make_row(cases.LIMIT, 0.25, peak=None),
    ]
    best = reports.summarize(rows).splitlines()[1]
    numbers = "forward 2 4 4 1 2 7x7x512, scope 7, batch 1"
    assert best.split() == [*["fastest", "other", "lambda"], *numbers.split()]
    limit = reports.format_limits(rows).splitlines()[1]
    assert limit.split()[-1] == "4"


def test_paper_ratios_stand_beside_those_of_the_measured_networks():
    rows = [
        {"model": "resnet50_cccc", "infer_samples_per_sec": 8.0},
        {"model": "resnet50_ccll", "infer_samples_per_sec": 6.0},
        {"model": "efficientnet_b0", "infer_samples_per_sec": 9.0},
    ]
    convolutional, hybrid = _NETWORKS.module.compare_with_paper(rows)
    assert convolutional == ["resnet50_cccc", 1, 1, None]
    assert hybrid == ["resnet50_ccll", 4980 / 7240, 0.75, None]


def test_network_columns_have_the_units_of_timm():
    measurement = workers.Measurement(
        [0.5, 0.1, 0.2],
        peak=3 * workers.MIB,
        facts={"parameters": 25_557_032, "gmacs": 4.1},
    )
    columns = _NETWORKS.module.make_columns("infer", measurement, 8, 224)
    assert columns == {
        "infer_samples_per_sec": pytest.approx(40),
        "infer_step_time": pytest.approx(200),
        "infer_batch_size": 8,
        "infer_img_size": 224,
        "infer_gmacs": 4.1,
        "infer_peak_mib": 3,
        "infer_note": "",
        "param_count": pytest.approx(25.557032),
    }


@pytest.mark.slow
def test_layers_are_measured_in_processes(tmp_path):
    _LAYERS.run(
        cases=["7x7x512"],
        scopes=["7"],
        batch_sizes=["1"],
        contestants=["ours", "keras_conv"],
        seconds=0.01,
        output=str(tmp_path),
    )
    with open(tmp_path / "layers.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["mode"], row["contestant"]) for row in rows] == [
        (mode, contestant)
        for mode in ("forward", "train")
        for contestant in (cases.LIMIT, "ours", "keras_conv")
    ]
    for row in rows:
        assert row["note"] == ""
        assert 0 < float(row["min_ms"]) <= float(row["median_ms"])
    parameters = [int(row["parameters"]) for row in rows[1:3]]
    assert parameters == [512 * (64 + 16 + 128) + 784 + 4 * (64 + 128), 2359808]
    assert (tmp_path / "layers.png").stat().st_size > 0


def test_exported_layer_takes_part_in_latency_alone():
    for mode, batch_size, count in [
        ("forward", 1, 1),
        ("forward", 8, 0),
        ("train", 1, 0),
    ]:
        case = Case("7x7x512", "7", batch_size, mode)
        assert len(cases.make_tasks(case, ["ours_litert"])) == count


def test_exported_layer_computes_the_layer():
    inputs = np.random.default_rng(0).normal(size=(1, 7, 5, 8))
    inputs = inputs.astype("float32")
    layer = LambdaConv(8, scope_size=3)
    expected = layer(inputs)
    np.testing.assert_allclose(
        frameworks.prepare_litert(layer, inputs)(), expected, atol=1e-5
    )


def test_network_is_measured_in_a_process(launcher, tmp_path, monkeypatch):
    monkeypatch.setattr(
        _NETWORKS.module,
        "Launcher",
        lambda *_: contextlib.nullcontext(launcher),
    )
    _NETWORKS.run(
        models=["resnet50_ccll"],
        modes=["infer"],
        batch_size=2,
        image_size=32,
        rounds=3,
        output=str(tmp_path),
    )
    with open(tmp_path / "networks.csv") as file:
        (row,) = csv.DictReader(file)
    assert (row["model"], row["infer_note"]) == ("resnet50_ccll", "")
    assert float(row["param_count"]) == 15.559736
    seconds = float(row["infer_step_time"]) / 1000
    assert float(row["infer_samples_per_sec"]) == pytest.approx(2 / seconds)
    assert (tmp_path / "networks.png").stat().st_size > 0


def test_worker_that_fails_says_why(launcher):
    case = Case("7x7x512", "7", 1, "forward")
    task = workers.Task("keras", cases.build_keras_contestant, ("no", case))
    found = workers.measure(
        {"no": task}, {"keras": launcher}, workers.Setting()
    )
    assert found["no"].seconds == []
    assert found["no"].error == "KeyError: 'no'"


def test_peak_memory_is_what_was_needed_since_the_reset():
    workers.reset_peak_memory()
    before = workers.read_memory("VmHWM")
    block = np.ones(64 * workers.MIB, "uint8")
    del block
    growth = workers.read_memory("VmHWM") - before
    assert growth == pytest.approx(64 * workers.MIB, rel=0.1)
    workers.reset_peak_memory()
    assert workers.read_memory("VmHWM") < before + 32 * workers.MIB


def test_unknown_name_of_a_case_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--cases must be some of.*9x9x9"):
        _LAYERS.run(cases=["9x9x9"], output=str(tmp_path))


def test_profile_of_a_layer_lists_its_operations(capsys):
    case = Case("7x7x512", "7", 1, "forward")
    _PROFILE.module.profile_layer(case, steps=2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("7x7x512, scope 7, batch 1, forward: ")
    kinds = [line.split()[0] for line in lines[3:15]]
    assert {"BatchMatMulV2", "MatMul", "GatherV2"} <= set(kinds)


def test_profile_groups_operations_by_what_they_belong_to():
    module = _PROFILE.module
    operations = [
        module.Operation("net/lambda_conv_3_1/MatMul", "_MklMatMul", 1, 0.002),
        module.Operation("lambda_resnet/stem/Conv2D", "Conv2D", 2, 0.006),
        module.Operation("net/lambda_layer_1/Exp", "Exp", 3, 0.001),
        module.Operation("net/c4_block2_lambda_1/Exp", "Exp", 1, 0.001),
    ]
    owners = module.group(operations, module.name_owner)
    assert owners == [
        ["everything else", 2, pytest.approx(6), pytest.approx(60)],
        ["lambda layers", 5, pytest.approx(4), pytest.approx(40)],
    ]
    assert module.group(operations, module.name_kind)[1][0] == "MatMul"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(), "One of --layer and --network"),
        (dict(layer="7x7x512", network="resnet50_cccc"), "One of --layer"),
        (dict(network="lambda_resnet26t"), "--network must be some of"),
    ],
    ids=["nothing", "both", "of_another_framework"],
)
def test_profile_refuses_what_it_cannot_record(values, message):
    with pytest.raises(UserError, match=message):
        _PROFILE.run(**values)


# One image is taken in rows of offsets, four also in rows of queries.
@pytest.mark.parametrize(("batch_size", "share"), [(1, 0.35), (4, 0.5)])
def test_training_step_needs_less_than_the_embeddings_of_all_pairs(
    launcher, batch_size, share
):
    case = Case("64x64x256", "global", batch_size, "train")
    task = workers.Task("keras", cases.build_keras_contestant, ("ours", case))
    # The memory is known after one call.
    setting = workers.Setting(max_rounds=1)
    found = workers.measure({"ours": task}, {"keras": launcher}, setting)
    all_pairs = 4096 * 4096 * cases.KEY_DIM * 4
    assert 0 < found["ours"].peak < share * all_pairs
    assert 0 < found["ours"].library < 64 * workers.MIB
