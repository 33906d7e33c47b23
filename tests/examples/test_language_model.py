"""The language model: what it sees, how it streams, learns and reports."""

import json

import keras
import numpy as np
import pytest

from tests.support.programs import Program

PROGRAM = Program("examples.language_model")
language_model = PROGRAM.module
LENGTH = 11
TINY = {
    "length": 7,
    "width": 8,
    "blocks": 1,
    "steps": 4,
    "batch_size": 2,
    "sample_length": 9,
}


def get_error(**values):
    """Returns what the program says on standard error before it exits."""
    with pytest.raises(SystemExit) as exit_:
        PROGRAM.run(**values)
    message = exit_.value.code
    assert isinstance(message, str)
    assert "\n" not in message
    return message


def build_model(kind):
    """Returns a network whose logits differ as a trained network's do."""
    if kind == "attention":
        model = language_model.build_attention_model(LENGTH, 8, 2)
    else:
        model = language_model.build_lambda_model(kind, LENGTH, 8, 2)
    random = np.random.default_rng(3)
    for weight in model.weights:
        # Away from scales of one and biases of zero.
        weight.assign(weight + random.normal(0, 0.3, weight.shape))
    return model


def make_bytes(length=LENGTH, seed=5):
    return np.random.default_rng(seed).integers(256, size=length)


def read_all(reader, text):
    return np.stack([reader.read(byte) for byte in text])


@pytest.mark.parametrize("kind", ["lambda_conv", "lambda_layer"])
def test_streaming_gives_the_logits_of_the_whole_context(kind, tmp_path):
    model = build_model(kind)
    text = make_bytes()
    expected = model.predict(text[None], verbose=0)[0]
    assert expected.std() > 0.1
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    logits = read_all(language_model.StreamingReader(loaded), text)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["lambda_conv", "attention"])
def test_reading_again_gives_the_logits_of_the_last_context(kind):
    model = build_model(kind)
    text = make_bytes(LENGTH + 3)
    logits = read_all(language_model.RereadingReader(model), text)
    first, last = model.predict(np.stack([text[:LENGTH], text[3:]]), verbose=0)
    np.testing.assert_allclose(logits[:LENGTH], first, atol=1e-4)
    np.testing.assert_allclose(logits[-1], last[-1], atol=1e-4)


@pytest.mark.parametrize("kind", ["lambda_conv", "lambda_layer", "attention"])
def test_a_byte_changes_no_logits_before_it(kind):
    model = build_model(kind)
    position = 6
    text = np.tile(make_bytes(), (2, 1))
    text[1, position] = (text[1, position] + 1) % 256
    logits, changed = model.predict(text, verbose=0)
    np.testing.assert_allclose(logits[:position], changed[:position], atol=1e-5)
    assert np.abs(logits - changed)[position:].max(axis=-1).min() > 1e-3


def test_a_repeated_text_is_learned():
    keras.utils.set_random_seed(0)
    text = np.frombuffer(b"lambda layers " * 40, "uint8").astype("int32")
    model = language_model.build_lambda_model("lambda_conv", LENGTH, 16, 1)
    result = language_model.train(
        model,
        *language_model.split_text(text),
        steps=48,
        batch_size=8,
        learning_rate=0.02,
        seed=0,
    )
    # Any of 256 bytes is 8 bits, any of the text's 9 is 3.2.
    assert result["bits_per_character"] < 2
    assert result["curve"]["steps"] == [6, 12, 18, 24, 30, 36, 42, 48]
    *_, last = result["curve"]["bits_per_character"]
    assert last == result["bits_per_character"]
    sample, _ = language_model.write_sample(
        language_model.StreamingReader(model),
        b"lambda l",
        20,
        temperature=0.01,
        seed=0,
    )
    assert sample == "lambda layers lambda layers "


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
    np.testing.assert_array_equal(drawn_targets, drawn + 1)


def test_repeated_paragraphs_are_read_once(tmp_path):
    path = tmp_path / "text"
    path.write_text("one\n\ntwo\n\none\n\nthree")
    text = bytes(language_model.read_text(path).tolist())
    assert text == b"one\n\ntwo\n\nthree"


def test_networks_have_about_as_many_parameters():
    lambdas = language_model.build_lambda_model("lambda_conv", 128, 64, 3)
    attention = language_model.build_attention_model(128, 64, 3)
    ratio = lambdas.count_params() / attention.count_params()
    assert 0.98 < ratio < 1.02


def test_run_leaves_its_files(tmp_path, capsys):
    text = tmp_path / "text"
    text.write_text("".join(f"line {number}\n" for number in range(99)))
    model_dir = tmp_path / "runs" / "small"
    PROGRAM.run(text=str(text), model_dir=str(model_dir), **TINY)
    assert sorted(path.name for path in model_dir.iterdir()) == [
        "attention.keras",
        "curves.png",
        "lambda.keras",
        "results.json",
        "samples.txt",
    ]
    results = json.loads((model_dir / "results.json").read_text())
    for name in ("lambda", "attention"):
        model = keras.saving.load_model(model_dir / f"{name}.keras")
        assert results[name]["parameters"] == model.count_params()
        assert 4 < results[name]["bits_per_character"] < 9
    samples = (model_dir / "samples.txt").read_text()
    assert samples.count("---\nThe ") == 3
    assert f"{results['lambda']['bits_per_character']:.3f}" in (
        capsys.readouterr().out
    )
    assert (model_dir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "must be a new folder" in get_error(model_dir=str(model_dir))


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
