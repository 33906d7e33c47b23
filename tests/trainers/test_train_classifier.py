"""The program that trains, from its flags to its files."""

import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.util import event_pb2

from tests.conftest import CLASS_NAMES
from tests.support.training import PROGRAM
from tests.support.training import SMALL
from tests.support.training import run_main
from trainers import evaluation
from trainers import run_folder
from trainers import train_classifier
from trainers.knobs import list_knobs
from trainers.program import UserError
from trainers.pseudo_labels import label_records
from trainers.recipes import Recipe
from trainers.settings import Run
from trainers.settings import resolve_flags


@pytest.fixture(autouse=True)
def _precision():
    yield
    keras.config.set_dtype_policy("float32")


def get_error(**values):
    """Returns the one line that says what is wrong with flags."""
    with pytest.raises(UserError) as error:
        run_main(**values)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.slow
def test_run_leaves_its_files(trained):
    assert sorted(path.name for path in trained.iterdir()) == [
        ".lock",
        "augmented_batch.png",
        "best.keras",
        "confusion_matrix.png",
        "flags.json",
        "last.keras",
        "logs",
        "metadata.json",
        "metrics.csv",
        "results.json",
        "states",
        "train.log",
        "training_curves.png",
    ]


@pytest.mark.slow
def test_run_saves_all_flags_resolved(trained):
    saved = json.loads((trained / "flags.json").read_text())
    knobs = [*list_knobs(Run), *list_knobs(Recipe)]
    assert sorted(saved) == sorted(field.name for field, _ in knobs)
    expected = {
        "dataset": "digits",
        "data_dir": None,
        "seed": 0,
        "precision": "float32",
        "strategy": "auto",
        "tpu": None,
        "depth": 14,
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
    assert {name: saved[name] for name in expected} == expected


@pytest.mark.slow
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


@pytest.mark.slow
def test_results_are_those_of_the_best_epoch(trained):
    results = json.loads((trained / "results.json").read_text())
    rows = np.genfromtxt(trained / "metrics.csv", delimiter=",", names=True)
    assert results["examples"] == 360
    np.testing.assert_allclose(
        results["accuracy"], rows["val_accuracy"].max(), atol=1e-5
    )


@pytest.mark.slow
def test_results_are_what_timm_reports_and_more_of_best_and_last(trained):
    best = json.loads((trained / "results.json").read_text())
    last = best.pop("last")
    assert best.keys() == last.keys()
    rows = np.genfromtxt(trained / "metrics.csv", delimiter=",", names=True)
    assert last["epoch"] == 2
    for results in (best, last):
        row = rows[results["epoch"] - 1]
        np.testing.assert_allclose(
            [results["accuracy"], results["top1"], results["top5"]],
            [
                row["val_accuracy"],
                100 * row["val_accuracy"],
                100 * row["val_top_5_accuracy"],
            ],
            atol=1e-3,
        )
        np.testing.assert_allclose(results["top1_err"], 100 - results["top1"])
        np.testing.assert_allclose(results["top5_err"], 100 - results["top5"])
        classes = results["classes"]
        assert [each["name"] for each in classes] == list("0123456789")
        right = sum(each["accuracy"] * each["examples"] for each in classes)
        np.testing.assert_allclose(right / 360, results["accuracy"])
        assert {
            name: results[name]
            for name in (
                "model",
                "param_count",
                "img_size",
                "crop_pct",
                "interpolation",
            )
        } == {
            "model": "lambda_resnet14_rs",
            "param_count": 0.1,
            "img_size": 16,
            "crop_pct": 1.0,
            "interpolation": "bilinear",
        }


@pytest.mark.slow
def test_evaluation_needs_no_flag_but_the_folder(trained, capsys):
    before = (trained / "results.json").read_text()
    (trained / "results.json").unlink()
    run_main(model_dir=str(trained), mode="eval")
    assert (trained / "results.json").read_text() == before
    accuracy = f"{json.loads(before)['accuracy']:.2%}"
    assert f"{accuracy:>6}" in capsys.readouterr().out
    # Once, however often it is evaluated.
    (events,) = (trained / "logs" / "evaluation").iterdir()
    records = tf.data.TFRecordDataset(str(events)).as_numpy_iterator()
    tags = [
        value.tag
        for record in records
        for value in event_pb2.Event.FromString(record).summary.value
    ]
    assert tags == ["confusion_matrix"]


@pytest.mark.slow
def test_run_that_is_done_is_evaluated_once_and_left_as_it_is(trained, capsys):
    def read_run():
        return {
            path: path.read_bytes()
            for path in trained.rglob("*")
            if path.is_file() and "continuous_eval" not in str(path)
        }

    before = read_run()
    with run_folder.locking(trained):
        for _ in range(2):
            run_main(model_dir=str(trained), mode="continuous_eval")
    said = capsys.readouterr().out
    assert said.count("Epoch 2: ") == 1
    assert said.count("All 2 epochs are done.") == 2
    assert read_run() == before
    results = json.loads((trained / "results.json").read_text())
    row = (trained / "continuous_eval.csv").read_text().splitlines()[1]
    assert row.startswith(f"1,{results['last']['accuracy']},")
    (trained / "continuous_eval.csv").unlink()


@pytest.mark.slow
def test_finished_run_is_left_as_it_is(trained, capsys):
    last = run_folder.list_states(trained)[-1]
    before = last.read_bytes()
    run_main(model_dir=str(trained), mode="train")
    assert "All 2 epochs are done" in capsys.readouterr().out
    assert run_folder.list_states(trained)[-1] == last
    assert last.read_bytes() == before


@pytest.mark.slow
def test_refused_resume_leaves_the_flags(trained, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    (tmp_path / "best.keras").write_bytes(b"damaged")
    before = (tmp_path / "flags.json").read_bytes()
    message = get_error(model_dir=str(tmp_path), epochs=3)
    assert "best.keras is damaged" in message
    assert (tmp_path / "flags.json").read_bytes() == before


def test_folder_that_another_process_trains_in_is_refused(tmp_path):
    with run_folder.locking(tmp_path):
        message = get_error(model_dir=str(tmp_path), mode="train", **SMALL)
    assert "Another process is training in" in message
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.slow
def test_contradicting_flags_are_named(trained):
    message = get_error(model_dir=str(trained), depth=50, seed=1)
    assert "--depth=50 instead of 14" in message
    assert "--seed=1 instead of 0" in message
    assert "--epochs=1 instead of 2" in get_error(
        model_dir=str(trained), epochs=1
    )


def test_knob_younger_than_the_run_had_its_default(tmp_path):
    saved = resolve_flags({"stem_strides": 2}, saved={})
    del saved["dropout_rate"]
    (tmp_path / "flags.json").write_text(json.dumps(saved))
    message = get_error(model_dir=str(tmp_path), dropout_rate=0.5)
    assert message.endswith("Received: --dropout_rate=0.5 instead of 0.0")


def test_help_shows_each_knob_under_its_heading(monkeypatch):
    given = {}
    monkeypatch.setattr(
        train_classifier,
        "run_program",
        lambda main, **arguments: given.update(arguments, main=main),
    )
    train_classifier.run()
    knobs = [*list_knobs(Run), *list_knobs(Recipe)]
    assert {field.name for field, _ in knobs} < PROGRAM.flag_names
    assert sorted(given["flag_groups"]) == sorted(
        {about.group for _, about in knobs}
    )
    assert given["main"] is train_classifier.main
    assert "same command goes on" in given["interrupted"]


@pytest.mark.parametrize(
    ("flag", "value", "rule"),
    [
        ("depth", 27, "must be 14, 26"),
        ("layout", "CCXL", "four letters"),
        ("architecture", "v2", "must be rs, v1 or tiered"),
        ("scope_size", 4, "must be odd"),
        ("scope_size", 100001, "must be small enough for the memory"),
        ("width_multiplier", 0.0, "greater than 0"),
        ("width_multiplier", 0.1, "try 0.125"),
        ("width_multiplier", 1e9, "must be small enough for the memory"),
        ("image_size", 1000000, "must be small enough for the memory"),
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


def test_batch_that_pseudo_labels_do_not_divide_is_one_line(tmp_path):
    message = get_error(
        model_dir=str(tmp_path / "new"), pseudo_labels="p", pseudo_ratio=2.0
    )
    assert "such as --batch_size=66" in message
    message = get_error(model_dir=str(tmp_path / "new"), pseudo_labels="p")
    assert "--pseudo_labels must be a folder or a pattern" in message
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_run_on_pseudo_labels_says_so(tmp_path, capsys):
    labels = tmp_path / "labels"
    labels.mkdir()
    names = [str(digit) for digit in range(10)]
    teacher = label_records.Teacher("f1", names, 1, "runs/t")
    label_records.write_teacher(str(labels), teacher)
    image = label_records.LabelledImage(
        encode_gray(128), "1.png", np.array([1]), np.float32([0.7]), "f1"
    )
    record = label_records.make_record(image)
    with tf.io.TFRecordWriter(f"{labels}/labels-00000-of-00001") as writer:
        writer.write(record)
    run_main(
        model_dir=str(tmp_path / "run"),
        pseudo_labels=str(labels),
        pseudo_ratio=3.0,
        pseudo_loss_weight=0.5,
        dry_run=True,
        **SMALL,
    )
    said = capsys.readouterr().out
    assert (
        f"Pseudo-labels  {labels}, 1 image, 3 for each labelled one: 192 and "
        "64 in a batch, weight of their losses 0.5\n"
    ) in said
    assert "Length         20 epochs of 22 steps\n" in said
    assert (tmp_path / "run" / "augmented_batch.png").exists()


@pytest.mark.slow
def test_teacher_labels_the_images_of_a_run(export_dir, tmp_path):
    for name in CLASS_NAMES:
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(5):
            path = tmp_path / "data" / name / f"{number}.png"
            path.write_bytes(encode_gray(number))
    others = tmp_path / "others"
    others.mkdir()
    (others / "good.png").write_bytes(encode_gray(128))
    (others / "bad.png").write_bytes(b"bad")
    run = Run(
        dataset=str(tmp_path / "data"),
        pseudo_labels=str(others),
        teacher=str(export_dir / "model.tflite"),
    )
    with pytest.raises(UserError, match=r"bad\.png is no PNG"):
        train_classifier.open_checked(run, tmp_path, "train", is_new=True)
    assert "bad.png is no PNG" in (tmp_path / "bad_images.txt").read_text()
    run = dataclasses.replace(run, max_bad_images=1)
    dataset = train_classifier.open_checked(run, tmp_path, "train", is_new=True)
    assert dataset.pseudo_labelled.size == 1
    assert dataset.pseudo_labelled.examples.element_spec[1].shape == (10,)
    dataset = train_classifier.open_checked(run, tmp_path, "eval", is_new=True)
    assert dataset.pseudo_labelled is None


def encode_gray(level):
    return tf.io.encode_png(np.full((8, 8, 1), level, np.uint8)).numpy()


def test_missing_model_dir_is_one_line():
    assert "--model_dir is missing" in get_error()


def test_evaluation_without_a_run_is_one_line(tmp_path):
    message = get_error(model_dir=str(tmp_path), mode="eval")
    assert "needs the --model_dir of a run" in message


@pytest.mark.slow
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
