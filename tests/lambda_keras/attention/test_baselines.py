"""The networks of the paper's Tables 3 and 4 with other layers."""

import functools
import pathlib

import keras
import numpy as np
import pytest

import lambda_keras
from examples import baselines
from examples.baselines import BASELINES
from lambda_keras import build_lambda_resnet
from tests.support.networks import build_without_values

# Builds, saves or exports whole models: not for the edit loop.
pytestmark = pytest.mark.slow

# ResNet-50 with nothing in place of its 3x3 convolutions.
WITHOUT_3X3 = 25_557_032 - 9 * (
    3 * 64**2 + 4 * 128**2 + 6 * 256**2 + 3 * 512**2
)
# Width of the bottlenecks and, for each block, of the square grid that stands
# before its stride.
STAGES = {
    64: (56, 56, 56),
    128: (56, 28, 28, 28),
    256: (28, 14, 14, 14, 14, 14),
    512: (14, 7, 7),
}


def count_linear(width, size):
    return 3 * width**2


def count_global(width, size):
    return 3 * width**2 + 2 * (2 * size - 1) * width // 8


def count_axial(width, size):
    return 2 * (2 * width**2 + (2 * size - 1) * width // 16)


def count_local(width, size):
    return 3 * width**2 + 2 * 7 * width // 16


def count_augmented(width, size):
    if width == 64:
        return 9 * width**2
    keys = 8 * 20
    values = {128: 16, 256: 24, 512: 48}[width]
    convolution = 9 * width * (width - values)
    projections = width * (2 * keys + values) + values**2
    return convolution + projections + 2 * (2 * size - 1) * 20


COUNTS = {
    "linear": count_linear,
    "global": count_global,
    "axial": count_axial,
    "local": count_local,
    "augmented": count_augmented,
}


@functools.cache
def build_whole(name):
    return build_without_values(BASELINES[name].build)


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_those_of_the_layers_by_hand(name):
    expected = WITHOUT_3X3 + sum(
        COUNTS[name](width, size)
        for width, sizes in STAGES.items()
        for size in sizes
    )
    model = build_whole(name)
    assert baselines.count_trainable(model) == expected
    document = pathlib.Path(__file__).parents[3] / "docs" / "baselines.md"
    (row,) = (
        line
        for line in document.read_text().splitlines()
        if f"| {expected:,} |" in line
    )
    billions = lambda_keras.count_multiply_adds(model) / 1e9
    assert row.endswith(f" {billions:.2f} |")


@pytest.mark.parametrize(
    "name", [name for name in BASELINES if BASELINES[name].reported]
)
def test_parameters_are_those_of_the_paper(name):
    count = baselines.count_trainable(build_whole(name))
    # The paper prints one decimal.
    assert round(count / 1e6, 1) == BASELINES[name].reported


@pytest.mark.parametrize("name", [*COUNTS, "channel"])
def test_every_weight_of_a_baseline_learns_and_is_saved(
    name, tmp_path, monkeypatch
):
    # Half of the blocks: one with a stride and one without in each stage.
    monkeypatch.setattr(
        baselines,
        "build_lambda_resnet",
        lambda depth, *args, **kwargs: build_lambda_resnet(26, *args, **kwargs),
    )
    images = np.random.default_rng(0).normal(size=(2, 64, 48, 3))
    model = BASELINES[name].build((64, 48, 3), 10, width_multiplier=1 / 4)
    # A block's last scale starts at zero, which hides the block.
    for weight in model.weights:
        if weight.path.endswith("gamma"):
            weight.assign(np.ones(weight.shape))
    # Compiling the graph would take longer than the step.
    model.compile(
        keras.optimizers.SGD(0.1),
        loss="sparse_categorical_crossentropy",
        run_eagerly=True,
    )
    before = model.get_weights()
    loss = model.train_on_batch(images, np.array([1, 7]))
    assert np.isfinite(loss)
    for weight, old in zip(model.weights, before, strict=True):
        new = keras.ops.convert_to_numpy(weight)
        assert np.all(np.isfinite(new)), weight.path
        assert np.any(new != old), weight.path
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded(images), model(images), rtol=1e-5, atol=1e-6
    )


def test_main_prints_a_row_for_each_baseline(monkeypatch, capsys):
    rows = {name: BASELINES[name] for name in ("convolution", "linear")}
    monkeypatch.setattr(baselines, "BASELINES", rows)
    monkeypatch.setattr(
        baselines,
        "build_lambda_resnet",
        functools.partial(build_without_values, build_lambda_resnet),
    )
    baselines.main(["baselines"])
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| Conv2D | CCCC | 25,557,032 | 25.6M | 4.09 |",
        "| LinearAttention | LLLL | 18,012,200 |  | 3.28 |",
    ]
