"""The language model: what it sees, how it streams, learns and reports."""

import contextlib
import io
import json
import math
import pathlib
import types
from typing import NamedTuple

import keras
import numpy as np
import pytest

from examples import language_network
from tests.support.programs import Program
from trainers.program import UserError

PROGRAM = Program("examples.language_model")
language_model = PROGRAM.module
# One worker makes the networks and the run that these tests share.
pytestmark = pytest.mark.xdist_group("language_model")
LENGTH = 11
REPEATED = "lambda layers "


def get_error(**values):
    """Returns the line that the program ends with."""
    with pytest.raises(UserError) as raised:
        PROGRAM.run(**values)
    message = str(raised.value)
    assert "\n" not in message
    return message


def build_networks(layer, length=LENGTH, width=8, blocks=2):
    return language_model.build_networks(
        types.SimpleNamespace(
            layer=layer, length=length, width=width, blocks=blocks
        )
    )


@pytest.fixture(scope="module")
def networks():
    """Networks whose logits differ as those of trained networks do."""
    networks = {
        "lambda_conv": build_networks("lambda_conv")["lambda"],
        "lambda_layer": build_networks("lambda_layer")["lambda"],
        "attention": build_networks("lambda_conv")["attention"],
    }
    random = np.random.default_rng(3)
    for network in networks.values():
        for weight in network.weights:
            # Away from scales of one and biases of zero.
            weight.assign(weight + random.normal(0, 0.3, weight.shape))
    return networks


class Run(NamedTuple):
    """What a run read, what it printed and what it left."""

    text: pathlib.Path
    printed: str
    model_dir: pathlib.Path
    results: dict
    samples: str


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Lets the program learn a text that repeats itself."""
    folder = tmp_path_factory.mktemp("language")
    text, model_dir = folder / "text", folder / "runs" / "small"
    text.write_text(REPEATED * 40)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        PROGRAM.run(
            text=str(text),
            model_dir=str(model_dir),
            length=LENGTH,
            width=16,
            blocks=1,
            steps=48,
            batch_size=8,
            learning_rate=0.02,
            prompt="lambda l",
            sample_length=20,
            temperature=0.01,
        )
    results = json.loads((model_dir / "results.json").read_text())
    samples = (model_dir / "samples.txt").read_text()
    return Run(text, printed.getvalue(), model_dir, results, samples)


def make_bytes(length=LENGTH, seed=5):
    return np.random.default_rng(seed).integers(256, size=length)


def compute_logits(network, texts):
    return keras.ops.convert_to_numpy(network(np.array(texts)))


def read_all(reader, text):
    return np.stack([reader.read(byte) for byte in text])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lambda_conv", "lambda_layer"])
def test_streaming_gives_the_logits_of_the_whole_context(
    kind, networks, tmp_path
):
    text = make_bytes()
    (expected,) = compute_logits(networks[kind], [text])
    assert expected.std() > 0.1
    networks[kind].save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    logits = read_all(language_network.StreamingReader(loaded), text)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lambda_conv", "attention"])
def test_reading_again_gives_the_logits_of_the_last_context(kind, networks):
    text = make_bytes(LENGTH + 3)
    first, last = compute_logits(networks[kind], [text[:LENGTH], text[3:]])
    logits = read_all(language_network.RereadingReader(networks[kind]), text)
    np.testing.assert_allclose(logits[:LENGTH], first, atol=1e-4)
    np.testing.assert_allclose(logits[-1], last[-1], atol=1e-4)


@pytest.mark.parametrize("kind", ["lambda_conv", "lambda_layer", "attention"])
def test_a_byte_changes_no_logits_before_it(kind, networks):
    position = 6
    text = np.tile(make_bytes(), (2, 1))
    text[1, position] = (text[1, position] + 1) % 256
    logits, changed = compute_logits(networks[kind], text)
    np.testing.assert_allclose(logits[:position], changed[:position], atol=1e-5)
    assert np.abs(logits - changed)[position:].max(axis=-1).min() > 1e-3


def test_targets_are_the_bytes_after_the_inputs():
    text = np.arange(100)
    contexts = (
        *language_model.cut_contexts(text, 7),
        *next(language_model.draw_batches(text, 7, 5, seed=0)),
    )
    inputs, targets, drawn, drawn_targets = contexts
    assert inputs.shape == (14, 7)
    np.testing.assert_array_equal(inputs.ravel(), text[:98])
    np.testing.assert_array_equal(targets, inputs + 1)
    assert drawn.shape == (5, 7)
    np.testing.assert_array_equal(drawn, drawn[:, :1] + np.arange(7))
    np.testing.assert_array_equal(drawn_targets, drawn + 1)


def test_repeated_paragraphs_are_read_once(tmp_path):
    path = tmp_path / "text"
    path.write_text("one\n\ntwo\n\none\n\nthree")
    text = bytes(language_model.read_text(path).tolist())
    assert text == b"one\n\ntwo\n\nthree"


def test_networks_have_about_as_many_parameters():
    networks = build_networks("lambda_conv", length=128, width=64, blocks=3)
    counts = [network.count_params() for network in networks.values()]
    assert counts == [192_368, 191_296]


@pytest.mark.slow
def test_a_repeated_text_is_learned(run):
    # Any of 256 bytes is 8 bits, any of the text's 9 is 3.2.
    assert run.results["lambda"]["bits_per_character"] < 2
    assert run.results["attention"]["bits_per_character"] < 3.2
    for name in ("lambda", "attention"):
        curve = run.results[name]["curve"]
        assert curve["steps"] == [6, 12, 18, 24, 30, 36, 42, 48]
        *_, last = curve["bits_per_character"]
        assert last == run.results[name]["bits_per_character"]
    assert f"--- lambda, streamed ---\n{REPEATED * 2}\n" in run.samples


@pytest.mark.slow
def test_saved_networks_are_those_that_were_measured(run):
    text = language_model.read_text(run.text)
    _, held_out = language_model.split_text(text)
    inputs, targets = language_model.cut_contexts(held_out, LENGTH)
    for name in ("lambda", "attention"):
        result = run.results[name]
        network = keras.saving.load_model(run.model_dir / f"{name}.keras")
        assert network.count_params() == result["parameters"]
        losses = keras.losses.sparse_categorical_crossentropy(
            targets, compute_logits(network, inputs), from_logits=True
        )
        bits = np.mean(losses) / math.log(2)
        assert bits == pytest.approx(result["bits_per_character"], abs=1e-4)


@pytest.mark.slow
def test_run_leaves_its_files(run):
    assert sorted(path.name for path in run.model_dir.iterdir()) == [
        "attention.keras",
        "curves.png",
        "lambda.keras",
        "results.json",
        "samples.txt",
    ]
    assert run.samples.count("---\nlambda l") == 3
    assert run.samples in run.printed
    for name in ("lambda", "attention"):
        bits = run.results[name]["bits_per_character"]
        assert f"{bits:.3f}" in run.printed
    picture = (run.model_dir / "curves.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert "must be a new folder" in get_error(model_dir=str(run.model_dir))


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"text": "missing.txt"}, "--text must be a file"),
        ({"steps": 0}, "--steps must be above 0"),
        ({"temperature": -1.0}, "--temperature must be above 0"),
        ({"width": 6}, "--width must be divisible by 4"),
        ({"prompt": ""}, "--prompt is empty"),
        ({"length": 10**6}, "needs a text of 10000010 bytes"),
    ],
    ids=["text", "steps", "temperature", "width", "prompt", "length"],
)
def test_bad_flag_is_one_line_and_leaves_nothing(values, rule, tmp_path):
    model_dir = tmp_path / "run"
    assert rule in get_error(model_dir=str(model_dir), **values)
    assert not model_dir.exists()
