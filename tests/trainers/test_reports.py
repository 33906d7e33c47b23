"""What a run says before and after it."""

import pytest
import tensorflow as tf

from tests.support.training import SMALL
from trainers import classifier
from trainers import reports
from trainers.data.datasets import open_dataset
from trainers.settings import make_recipe
from trainers.settings import make_run
from trainers.settings import resolve_flags
from trainers.strategies import Devices


@pytest.mark.slow
def test_run_is_described_before_it_begins(tmp_path):
    resolved = resolve_flags({**SMALL, "epochs": 3}, saved={})
    recipe = make_recipe(resolved)
    model = classifier.build_classifier(recipe, channels=1, num_classes=10)
    classifier.freeze_stages(model, 1)
    stem = sum(
        weight.numpy().size
        for layer in classifier.get_network(model).layers
        if not layer.trainable
        for weight in layer.weights
        if "moving" not in weight.name
    )
    text = reports.describe_run(
        model,
        recipe,
        open_dataset("digits"),
        run=make_run(resolved),
        devices=Devices(tf.distribute.get_strategy(), 2, 1, is_chief=True),
        model_dir=tmp_path,
    )
    lines = text.splitlines()
    # Aligned.
    assert {len(line) - len(line[15:].lstrip()) for line in lines} != {0}
    assert all(line[13:15] == "  " and line[15] != " " for line in lines)
    facts = {line[:13].strip(): line[15:] for line in lines}
    assert stem > 0
    assert facts["Parameters"] == f"{97702 - stem:,} trainable of 100,438"
    assert facts["Network"] == (
        "lambda_resnet14_rs, 2 lambda layers of scope 7, width x 0.125"
    )
    assert facts["Multiply-adds"] == "0.00249 G per image"
    assert facts["Images"] == "16x16 pixels, 1 channel"
    assert facts["Data"] == (
        "digits, 10 classes, 1,437 images to train on, 360 to validate"
    )
    assert facts["Devices"].startswith("2 x ")
    assert facts["Devices"].endswith(" in 1 process")
    assert facts["Batch"] == "256 images, 128 on each device"
    assert facts["Length"] == "3 epochs of 5 steps"
    assert facts["Recipe"] == "digits"
    # Half of the run, because it is so short.
    assert facts["Optimizer"] == (
        "sgd, learning rate 0.4, cosine decay after 7 steps of warm-up"
    )
    assert facts["Precision"] == "float32"
    assert facts["Results"] == str(tmp_path)


METRICS = """\
epoch,accuracy,val_accuracy,val_loss,val_top_5_accuracy{}
0,0.1,0.5,2,0.75{}
1,0.2,0.7,1,0.9{}
2,0.3,0.6,1,0.8{}
"""


def describe(model_dir, **values):
    text = reports.describe_training(
        model_dir,
        **{"results": None, "images_per_second": 12.3, "seconds": 61, **values},
    )
    return [line.split() for line in text.splitlines()]


def test_results_are_those_of_metrics_without_an_evaluation(tmp_path):
    (tmp_path / "metrics.csv").write_text(METRICS.format("", "", "", ""))
    lines = describe(tmp_path)
    assert lines[1:3] == [
        ["best.keras", "2", "70.00%", "90.00%"],
        ["last.keras", "3", "60.00%", "80.00%"],
    ]
    assert ["Epochs", "3"] in lines
    assert ["Speed", "12", "images/s", "in", "the", "last", "epoch"] in lines
    assert ["Time", "0:01:01"] in lines
    # What is there, and no more.
    files = [line[0] for line in lines if line and "." in line[0]]
    assert files == ["best.keras", "last.keras", "metrics.csv"]
    lines = describe(tmp_path, images_per_second=None)
    assert ["Speed", "no", "step", "was", "taken", "now"] in lines


def test_average_may_be_the_best(tmp_path):
    columns = (",val_average_accuracy,val_average_loss", ",0.4,3", ",0.8,1", "")
    columns = (*columns[:3], ",0.7,2")
    (tmp_path / "metrics.csv").write_text(METRICS.format(*columns))
    assert describe(tmp_path)[1:4] == [
        ["best.keras", "2", "80.00%", "-"],
        ["last.keras", "3", "60.00%", "80.00%"],
        ["last", "average", "3", "70.00%", "-"],
    ]


@pytest.mark.parametrize("has_last", [False, True])
def test_evaluation_says_what_was_evaluated(tmp_path, has_last):
    results = {"epoch": 7, "accuracy": 0.5, "top5": 75.0}
    if has_last:
        results["last"] = {"epoch": None, "accuracy": 0.25, "top5": 50.0}
    (tmp_path / "results.json").touch()
    text = reports.describe_evaluation(tmp_path, results=results, seconds=1)
    lines = [line.split() for line in text.splitlines()]
    assert lines[1] == ["best.keras", "7", "50.00%", "75.00%"]
    last = ["last.keras", "-", "25.00%", "50.00%"]
    assert (last in lines) == has_last
