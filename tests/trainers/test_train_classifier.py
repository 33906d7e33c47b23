"""The program that trains, from its flags to its files."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver

from trainers import classifier
from trainers import evaluation
from trainers import recipes
from trainers import train_classifier
from trainers.data.datasets import open_dataset
from trainers.data.preprocessing import prepare_image
from trainers.program import UserError
from trainers.settings import make_recipe
from trainers.settings import resolve_flags

# A network that trains on the digits in seconds: 5 steps an epoch.
SMALL = {"width_multiplier": 0.125, "batch_size": 256}


@pytest.fixture(autouse=True)
def parsed_flags():
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver():
        yield
    keras.config.set_dtype_policy("float32")


def run_main(**values):
    with flagsaver.flagsaver(**values):
        train_classifier.main(["train_classifier"])


def run_program(module, *arguments):
    """Returns what a program prints to standard output."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


def get_error(**values):
    """Returns what the program says on standard error before it exits."""
    with pytest.raises(SystemExit) as exit_:
        run_main(**values)
    message = exit_.value.code
    assert isinstance(message, str)
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of one epoch that was then made one longer."""
    model_dir = tmp_path_factory.mktemp("runs") / "digits"
    flags.FLAGS.mark_as_parsed()
    run_main(model_dir=str(model_dir), epochs=1, mode="train", **SMALL)
    first_row = (model_dir / "metrics.csv").read_text()
    run_main(model_dir=str(model_dir), epochs=2)
    assert (model_dir / "metrics.csv").read_text().startswith(first_row)
    return model_dir


def test_run_leaves_its_files(trained):
    assert sorted(path.name for path in trained.iterdir()) == [
        "best.keras",
        "confusion_matrix.png",
        "flags.json",
        "last.keras",
        "logs",
        "metadata.json",
        "metrics.csv",
        "results.json",
        "train_state.npz",
        "training_curves.png",
    ]


def test_run_is_exported_and_predicts_from_both_files(trained, tmp_path):
    """From the flags of training to the top class of an image file."""
    export_dir = tmp_path / "export"
    run_program(
        "export.export_model",
        f"--model={trained / 'best.keras'}",
        f"--export_dir={export_dir}",
    )
    scans = open_dataset("digits").validation.examples.take(3)
    paths, images = [], []
    for number, (image, _) in enumerate(scans):
        paths.append(tmp_path / f"scan{number}.png")
        paths[-1].write_bytes(tf.io.encode_png(image).numpy())
        images.append(prepare_image(image, 16, crop_fraction=1.0))
    model = evaluation.load_model(trained / "best.keras")
    expected = model.predict(np.stack(images), verbose=0).argmax(axis=-1)
    for file in ("saved_model", "model.tflite"):
        printed = run_program(
            "export.predict", *paths, f"--model={export_dir / file}", "--top=1"
        )
        # A line with the path, then one with the probability and the class.
        lines = [line.split() for line in printed.splitlines()]
        assert [line[0] for line in lines[::2]] == list(map(str, paths))
        assert [line[1] for line in lines[1::2]] == list(map(str, expected))


def test_run_saves_all_flags_resolved(trained):
    saved = json.loads((trained / "flags.json").read_text())
    assert saved == {
        "dataset": "digits",
        "data_dir": None,
        "seed": 0,
        "precision": "float32",
        "strategy": "auto",
        "tpu": None,
        "depth": 26,
        "layout": None,
        "architecture": "rs",
        "scope_size": 7,
        "width_multiplier": 0.125,
        "stem_strides": 1,
        "image_size": 16,
        "epochs": 2,
        "batch_size": 256,
        # In proportion to the batch: 0.1 for 64 digits.
        "learning_rate": 0.4,
        "weight_decay": 1e-4,
        "label_smoothing": 0.1,
        "dropout_rate": 0.0,
        "stochastic_depth_rate": 0.0,
    }


def test_run_saves_what_an_export_needs(trained):
    metadata = json.loads((trained / "metadata.json").read_text())
    assert metadata == {
        "class_names": [str(digit) for digit in range(10)],
        "crop_fraction": 1.0,
    }
    model = evaluation.load_model(trained / "best.keras")
    assert model.input_shape == (None, 16, 16, 1)
    images = np.random.default_rng(0).uniform(0, 255, (3, 16, 16, 1))
    logits = model(images).numpy()
    assert logits.shape == (3, 10)
    assert (np.abs(logits.sum(axis=-1) - 1) > 1e-3).all()


def test_results_are_those_of_the_best_epoch(trained):
    results = json.loads((trained / "results.json").read_text())
    rows = np.genfromtxt(trained / "metrics.csv", delimiter=",", names=True)
    assert results["examples"] == 360
    np.testing.assert_allclose(
        results["accuracy"], rows["val_accuracy"].max(), atol=1e-5
    )


def test_evaluation_needs_no_flag_but_the_folder(trained):
    before = (trained / "results.json").read_text()
    (trained / "results.json").unlink()
    run_main(model_dir=str(trained), mode="eval")
    assert (trained / "results.json").read_text() == before


def test_finished_run_is_left_as_it_is(trained, capsys):
    before = (trained / "train_state.npz").read_bytes()
    run_main(model_dir=str(trained), mode="train")
    assert "All 2 epochs are done" in capsys.readouterr().out
    assert (trained / "train_state.npz").read_bytes() == before


def test_contradicting_flags_are_named(trained):
    message = get_error(model_dir=str(trained), depth=50, seed=1)
    assert "--depth=50 instead of 26" in message
    assert "--seed=1 instead of 0" in message
    assert "--epochs=1 instead of 2" in get_error(
        model_dir=str(trained), epochs=1
    )


@pytest.mark.parametrize(
    ("flag", "value", "rule"),
    [
        ("depth", 27, "must be one of"),
        ("layout", "CCXL", "four letters"),
        ("architecture", "v2", "must be one of"),
        ("scope_size", 4, "must be odd"),
        ("width_multiplier", 0.0, "greater than 0"),
        ("stem_strides", 3, "must be 4, 2 or 1"),
        ("image_size", 4, "at least 8"),
        ("epochs", 0, "at least 1"),
        ("batch_size", 0, "at least 1"),
        ("batch_size", 1438, "at most 1437"),
        ("learning_rate", -0.1, "greater than 0"),
        ("learning_rate", float("nan"), "greater than 0"),
        ("weight_decay", -1e-4, "at least 0"),
        ("label_smoothing", 1.0, "less than 1"),
        ("dropout_rate", 1.5, "less than 1"),
        ("stochastic_depth_rate", -0.5, "at least 0"),
        ("seed", -1, "from 0"),
        ("dataset", "cifra10", "Did you mean cifar10"),
        ("tpu", "grpc://127.0.0.1:1", "No TPU could be reached"),
    ],
)
def test_bad_flag_is_one_line_and_leaves_nothing(flag, value, rule, tmp_path):
    message = get_error(model_dir=str(tmp_path / "new"), **{flag: value})
    assert rule in message
    assert str(value) in message
    assert not (tmp_path / "new").exists()


def test_network_too_narrow_for_its_heads_is_one_line(tmp_path):
    message = get_error(model_dir=str(tmp_path), width_multiplier=0.05)
    assert "`filters` must be divisible by `num_heads`" in message


def test_missing_model_dir_is_one_line():
    assert "--model_dir is missing" in get_error()


def test_evaluation_without_a_run_is_one_line(tmp_path):
    message = get_error(model_dir=str(tmp_path), mode="eval")
    assert "needs the --model_dir of a run" in message


def test_model_dir_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    message = get_error(model_dir=str(tmp_path / "file" / "run"))
    assert "must be a folder that can be written" in message


def test_model_of_unknown_origin_is_not_overwritten(tmp_path):
    (tmp_path / "best.keras").write_text("precious")
    assert "holds best.keras" in get_error(model_dir=str(tmp_path))
    assert (tmp_path / "best.keras").read_text() == "precious"


def test_damaged_flags_file_is_one_line(tmp_path):
    (tmp_path / "flags.json").write_text('{"depth": 2')
    assert "flags.json is damaged" in get_error(model_dir=str(tmp_path))


def test_flags_left_out_are_as_saved():
    resolved = resolve_flags({"epochs": 7}, {"batch_size": 32, "epochs": 5})
    assert (resolved["epochs"], resolved["batch_size"]) == (7, 32)


@pytest.mark.parametrize(
    ("dataset", "image_size", "scope_size", "epochs"),
    [
        ("digits", 16, 7, 20),
        ("cifar10:3.0.2", 32, 7, 200),
        ("imagenet2012", 224, 23, 90),
    ],
)
def test_recipe_follows_the_data(dataset, image_size, scope_size, epochs):
    recipe = recipes.get_recipe(dataset)
    assert recipe.image_size == image_size
    assert recipe.scope_size == scope_size
    assert recipe.epochs == epochs


def test_learning_rate_warms_up_and_falls_to_zero():
    recipe = recipes.Recipe(epochs=10, warmup_epochs=2, learning_rate=0.5)
    schedule = classifier.make_learning_rate(recipe, steps_per_epoch=4)
    rates = [float(schedule(step)) for step in (0, 4, 8, 24, 40)]
    np.testing.assert_allclose(rates, [0, 0.25, 0.5, 0.25, 0], atol=1e-6)


def test_weight_decay_adds_its_multiple_of_the_weights_to_the_gradient():
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(3),
            keras.layers.BatchNormalization(),
        ]
    )
    classifier.add_weight_decay(model, 0.25)
    for variable in model.trainable_variables:
        variable.assign(
            np.random.default_rng(0).normal(size=tuple(variable.shape))
        )
    with tf.GradientTape() as tape:
        loss = tf.add_n(model.losses)
    gradients = tape.gradient(
        loss, [variable.value for variable in model.trainable_variables]
    )
    kernel, bias, gamma, beta = model.trainable_variables
    np.testing.assert_allclose(gradients[0], 0.25 * kernel.numpy(), rtol=1e-6)
    np.testing.assert_allclose(gradients[1], 0.25 * bias.numpy(), rtol=1e-6)
    assert (gamma.name, beta.name) == ("gamma", "beta")
    assert gradients[2:] == [None, None]


def test_measure_counts_and_averages():
    logits = np.log([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25], [0.1, 0.1, 0.8]])
    results = evaluation.measure(logits.astype(np.float32), np.array([0, 0, 2]))
    assert results["examples"] == 3
    np.testing.assert_allclose(results["accuracy"], 2 / 3)
    np.testing.assert_allclose(
        results["loss"], -np.log([0.7, 0.25, 0.8]).mean(), rtol=1e-5
    )


def test_other_classes_are_refused_in_evaluation(trained, tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for number in range(5):
            png = tf.io.encode_png(np.zeros((8, 8, 3), np.uint8)).numpy()
            (tmp_path / name / f"{number}.png").write_bytes(png)
    message = get_error(
        model_dir=str(trained), mode="eval", dataset=str(tmp_path)
    )
    assert "other classes" in message


def test_out_of_range_numbers_are_user_errors():
    with pytest.raises(UserError, match="--epochs must be at least 1"):
        make_recipe(resolve_flags({"epochs": -1}, {}))
