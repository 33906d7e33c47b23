"""The check of all named networks, on a small one and on broken ones."""

import pathlib

import keras
import numpy as np
import pytest

import lambda_keras
from export import exporter
from tests.support.programs import Program
from tests.support.programs import run_in_this_process
from trainers.program import UserError

PROGRAM = Program("benchmarks.check_networks")
check_networks = PROGRAM.module
FILTERS = 8


def build_small(name, *, num_classes, input_tensor, normalization):
    """A network of one lambda layer, in place of the named ones."""
    x = lambda_keras.LambdaConv(FILTERS, 3, 2, 4, normalization=normalization)(
        input_tensor
    )
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(num_classes, "softmax", name="predictions")(x)
    pixels = keras.utils.get_source_inputs(input_tensor)[0]
    return keras.Model(pixels, x, name=name)


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    monkeypatch.setattr(lambda_keras, "build_network", build_small)


@pytest.mark.slow
def test_a_network_that_does_all_of_it_gets_its_row(tmp_path, monkeypatch):
    # Of some weights, the probabilities of all images are about the same.
    keras.utils.set_random_seed(0)
    monkeypatch.setattr(exporter, "run_to_end", run_in_this_process)
    check = check_networks.check_network("small", 16, tmp_path, 5)
    # Queries, keys and values of 3 channels, with 2 heads of 4 channels; two
    # normalizations, the embeddings and the classifier.
    expected = 3 * (8 + 4 + 4) + 2 * (8 + 4) + 9 * 4 + (8 + 1) * 5
    assert check.parameters == expected
    assert len(check.costs) == 4
    assert all(seconds > 0 and size > 0 for seconds, size in check.costs)
    keras_file, saved_model, tflite = check.differences
    assert keras_file == 0
    assert saved_model < 1e-4
    assert tflite < 1e-4
    row = check.format_row("small")
    assert row.startswith(f"| `small` | {expected} | ")
    assert row.count("|") == 1 + 2 + 4 + 3


def test_a_file_that_returns_something_else_is_refused(tmp_path, monkeypatch):
    load_model = keras.saving.load_model

    def load_another(path):
        model = load_model(path)
        bias = model.get_layer("predictions").bias
        bias.assign(bias + 1e-3 * np.arange(5))
        return model

    keras.utils.set_random_seed(0)
    monkeypatch.setattr(keras.saving, "load_model", load_another)
    with pytest.raises(check_networks.CheckError, match=r"to the last bit\."):
        check_networks.check_network("small", 16, tmp_path, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


def make_batch():
    random = np.random.default_rng(0)
    return random.normal(size=(4, 7)).astype("float32"), np.arange(4) % 3


def test_a_weight_without_a_gradient_is_named():
    images, labels = make_batch()
    inputs = keras.Input((7,))
    idle = keras.layers.Dense(3, use_bias=False, name="idle")
    logits = keras.layers.Dense(3)(inputs) + 0 * idle(inputs)
    model = keras.Model(inputs, keras.layers.Softmax()(logits))
    with pytest.raises(
        check_networks.CheckError, match=r"; 1 weights .*: idle/kernel$"
    ):
        check_networks.train_step(model, images, labels)


def test_a_loss_that_is_no_number_is_refused():
    images, labels = make_batch()
    images[1, 2] = np.inf
    dense = keras.layers.Dense(3, "softmax")
    model = keras.Sequential([keras.Input((7,)), dense])
    with pytest.raises(check_networks.CheckError, match="a loss of nan"):
        check_networks.train_step(model, images, labels)


def test_a_network_that_does_not_see_its_images_is_refused():
    same = np.full((5, 3), 1 / 3)
    for probabilities in (same, same * np.nan):
        with pytest.raises(check_networks.CheckError, match=r"than 0\.05 "):
            check_networks.check_variety(probabilities)
    check_networks.check_variety(np.eye(5, 3))


def test_the_others_are_checked_after_one_that_fails(monkeypatch, capsys):
    def check(name, image_size):
        if name == "resnet101":
            raise check_networks.CheckError("It does nothing.")
        return check_networks.Check(
            12_345, [(image_size, 3 * 10**9)] * 4, [0.0, 1e-7, 2e-6]
        )

    monkeypatch.setattr(check_networks, "run_alone", check)
    with pytest.raises(SystemExit, match=r"1 failed: resnet101$"):
        PROGRAM.run(
            networks=["resnet50", "resnet101", "resnet152"], image_size=32
        )
    header, line, *rows = capsys.readouterr().out.splitlines()
    assert header.count("|") == line.count("|") == rows[0].count("|")
    cells = " | ".join(["32 s, 3.0 GB"] * 4)
    assert rows == [
        f"| `resnet50` | 12,345 | {cells} | 0.0e+00 | 1.0e-07 | 2.0e-06 |",
        "resnet101: CheckError: It does nothing.",
        f"| `resnet152` | 12,345 | {cells} | 0.0e+00 | 1.0e-07 | 2.0e-06 |",
    ]


def test_an_unknown_network_is_named():
    with pytest.raises(UserError, match=r"some of resnet50,.*: resnet51$"):
        PROGRAM.run(networks=["resnet51"])


def test_every_network_has_a_row_in_the_document():
    document = pathlib.Path(__file__).parents[2] / "docs" / "networks.md"
    section = document.read_text().partition("benchmarks.check_networks")[2]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    names = [row.split("`")[1] for row in rows]
    assert names == list(lambda_keras.NETWORKS)
    assert all(" | 0.0e+00 | " in row for row in rows)
