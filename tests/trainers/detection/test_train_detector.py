"""The program that trains detectors, from its flags to its files."""

import importlib.metadata
import json
import shutil
import types
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from official.vision.tasks.maskrcnn import MaskRCNNTask
from PIL import Image
from tensorflow.core.util import event_pb2

from tests.trainers.detection.conftest import SMALL
from tests.trainers.detection.conftest import restoring_precision
from trainers.detection import results
from trainers.detection.experiments import read_experiment
from trainers.detection.settings import DetectorRun
from trainers.detection.settings import make_run
from trainers.detection.settings import read_class_names
from trainers.knobs import list_knobs
from trainers.program import UserError


def read_scalars(folder):
    """Returns the scalars of events by step and tag."""
    scalars = {}
    for path in folder.iterdir():
        for record in tf.data.TFRecordDataset(str(path)):
            event = event_pb2.Event.FromString(record.numpy())
            for value in event.summary.value:
                scalar = float(tf.make_ndarray(value.tensor))
                scalars[event.step, value.tag] = scalar
    return scalars


@pytest.mark.slow
def test_detector_is_trained_and_evaluated(records, train_detector, tmp_path):
    """The one training of a detector in the tests of the whole project."""
    with restoring_precision():
        train_detector.run(
            model_dir=str(tmp_path), train_steps=1, **records, **SMALL
        )
    path = str(tmp_path / "ckpt-1")
    moved = {
        name: tf.train.load_variable(path, name).any()
        for name, _ in tf.train.list_variables(path)
        # Zero before the first step.
        if "/moving_mean/" in name.replace(":", "/")
        or "_3_normalization:gamma/" in name
    }
    assert any("gamma" in name for name in moved)
    assert all(moved.values())
    written = results.read_results(tmp_path)
    assert written["step"] == 1
    scalars = read_scalars(tmp_path / "validation")
    for task, prefix in (("box", ""), ("mask", "mask_")):
        for name, value in written[task].items():
            scalar = scalars[1, prefix + name]
            assert value == (None if scalar < 0 else pytest.approx(scalar))


def test_run_leaves_its_files(detector_run):
    assert {path.name for path in detector_run.iterdir()} >= {
        ".lock",
        "checkpoint",
        "ckpt-1.index",
        "ckpt-2.index",
        "detections.png",
        "flags.json",
        "metadata.json",
        "params.yaml",
        "results.json",
        "train",
        "validation",
    }
    metadata = json.loads((detector_run / "metadata.json").read_text())
    assert metadata == {"class_names": ["rectangle", "circle", "triangle"]}
    saved = json.loads((detector_run / "flags.json").read_text())
    assert sorted(saved) == sorted(
        field.name for field, _ in list_knobs(DetectorRun)
    )
    # In proportion to the batch: 0.005 for 8 images.
    assert saved["learning_rate"] == 0.00125
    assert saved["train_steps"] == 2
    experiment = read_experiment(detector_run / "params.yaml")
    assert (
        experiment.task.model.backbone.lambda_resnet.width_multiplier == 0.125
    )
    assert experiment.task.model.input_size == [64, 64, 3]


def test_training_goes_on_at_the_last_checkpoint(detector_run):
    steps = [
        step
        for step, tag in read_scalars(detector_run / "train")
        if tag == "total_loss"
    ]
    assert sorted(steps) == [1, 2]
    for step in (1, 2):
        path = str(detector_run / f"ckpt-{step}")
        for name in ("global_step", "optimizer/_iterations"):
            value = tf.train.load_variable(
                path, f"{name}/.ATTRIBUTES/VARIABLE_VALUE"
            )
            assert value == step


def test_step_moves_the_whole_detector(detector_run):
    first, second = (
        {
            name: tf.train.load_variable(str(detector_run / f"ckpt-{n}"), name)
            for name, _ in tf.train.list_variables(
                str(detector_run / f"ckpt-{n}")
            )
            if name.endswith("VARIABLE_VALUE")
        }
        for n in (1, 2)
    )
    assert set(first) == set(second)
    of_backbone = [name for name in first if "/network_weights/" in name]
    moved = [n for n in first if not np.array_equal(first[n], second[n])]
    # Statistics of all layers, and the zero scales of the blocks' last
    # normalizations, through which little comes to what is before them.
    for ending in ("moving_mean", "moving_variance", "_3_normalization:gamma"):
        names = [n for n in of_backbone if ending in n]
        assert names
        assert set(names) <= set(moved)
    for part in ("decoder", "rpn_head", "detection_head", "mask_head"):
        assert any(n.startswith(part) for n in moved)


def test_results_are_what_the_evaluation_found(detector_run):
    scalars = read_scalars(detector_run / "validation")
    written = results.read_results(detector_run)
    assert written["step"] == 2
    for task, prefix in (("box", ""), ("mask", "mask_")):
        assert set(written[task]) == set(results.METRICS)
        for name, value in written[task].items():
            scalar = scalars[2, prefix + name]
            assert value == (None if scalar < 0 else pytest.approx(scalar))
    annotations = json.loads((detector_run / "annotation.json").read_text())
    assert len(annotations["images"]) == 3


def test_pictures_are_of_the_validation_images(detector_run):
    with Image.open(detector_run / "detections.png") as picture:
        # Three rows of two of 64 x 48 pixels, eight times as large.
        assert picture.size == (2 * 384 + 8, 3 * 512 + 2 * 8)


def test_finished_run_says_so(detector_run, train_detector, capsys):
    checkpoints = {
        path.name: path.stat().st_mtime for path in detector_run.glob("ckpt-*")
    }
    with restoring_precision():
        train_detector.run(model_dir=str(detector_run))
    output = capsys.readouterr().out
    assert f"The run in {detector_run} is finished: 2 of 2 steps." in output
    assert "per cent" in output
    assert checkpoints == {
        path.name: path.stat().st_mtime for path in detector_run.glob("ckpt-*")
    }


def get_error(program, **values):
    """Returns the one line that says what is wrong with flags."""
    with restoring_precision(), pytest.raises(UserError) as error:
        program.run(**values)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("difference", "reason"),
    [
        ({"recipe": "resnet101"}, "--recipe=resnet101 instead of rectangles"),
        (
            {"params_override": "task.model.backbone.lambda_resnet.depth=50"},
            "task.model.backbone.lambda_resnet.depth=50 instead of 26",
        ),
        ({"train_steps": 1}, "can only become longer"),
        ({"image_size": 96}, "--image_size=96 instead of 64"),
    ],
)
def test_folder_of_another_run_is_refused(
    difference, reason, detector_run, train_detector
):
    message = get_error(
        train_detector, model_dir=str(detector_run), **difference
    )
    assert reason in message
    assert str(detector_run) in message


def test_checkpoints_of_unknown_origin_are_refused(
    detector_run, records, train_detector, tmp_path
):
    for path in detector_run.glob("c*k*"):
        shutil.copy(path, tmp_path)
    message = get_error(
        train_detector, model_dir=str(tmp_path), **records, **SMALL
    )
    assert "holds checkpoints but no flags.json" in message


def build_alone(task):
    """Stands in for `build_model`: a backbone alone is built sooner."""
    from official.vision.modeling.backbones import factory

    config = task.task_config.model
    backbone = factory.build_backbone(
        tf_keras.layers.InputSpec(shape=(None, *config.input_size)),
        config.backbone,
        config.norm_activation,
    )
    return types.SimpleNamespace(
        backbone=backbone, trainable_variables=backbone.trainable_variables
    )


def test_initial_checkpoint_of_another_backbone_is_refused(
    detector_run, records, train_detector, tmp_path
):
    override = f"""{{task: {{init_checkpoint: {detector_run},
        model: {{backbone: {{lambda_resnet: {{layout: CCCC}}}}}}}}}}"""
    values = {**records, **SMALL, "params_override": override}
    with mock.patch.object(MaskRCNNTask, "build_model", build_alone):
        message = get_error(
            train_detector, model_dir=str(tmp_path / "run"), **values
        )
    assert "must be a checkpoint of the same backbone" in message


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"model_dir": None}, "--model_dir is missing"),
        ({"train": None}, "--train is missing"),
        ({"validation": None}, "--validation is missing"),
        ({"train": "/none/train-*"}, "none at /none/train-*"),
        ({"image_size": 100}, "--image_size must be a multiple of 32"),
        ({"params_override": "task.modle=3"}, "The key 'modle' does not exist"),
        (
            {"params_override": "task.model.roi_sampler.num_sampled_rois=61"},
            "num_sampled_rois must be at most 60, ",
        ),
        (
            {"params_override": "task.model.mask_sampler.num_sampled_masks=49"},
            "num_sampled_masks must be at most 48, ",
        ),
        (
            {"params_override": "trainer.steps_per_loop=0"},
            "steps_per_loop must be at least 1 step",
        ),
        (
            {"params_override": "trainer.summary_interval=30"},
            "summary_interval must be a multiple of steps_per_loop",
        ),
        (
            {
                "params_override": "{task: {model: {backbone: "
                "{type: resnet, resnet: {model_id: 51}}}}}"
            },
            "with which tf-models-official can make a detector: KeyError: 51",
        ),
        ({"class_names": "a,,b"}, "--class_names must be names"),
        ({"class_names": "a,b"}, "must be from 1 to 2"),
        ({"mode": "eval"}, "--mode=eval needs the --model_dir of a run"),
        ({"train_steps": 0}, "--train_steps must be at least 1"),
        ({"backbone_weights": "missing.keras"}, "must be a .keras file"),
    ],
)
def test_bad_input_is_one_line(
    values, reason, records, train_detector, tmp_path
):
    folder = tmp_path / "run"
    common = {"model_dir": str(folder), **records, **SMALL}
    assert reason in get_error(train_detector, **{**common, **values})
    # Nothing but an empty folder and its lock.
    assert not list(folder.glob("[!.]*"))


def test_errors_without_overrides_are_not_swallowed(train_detector):
    with (
        pytest.raises(KeyError, match="51"),
        train_detector.module._blaming_overrides(DetectorRun()),
    ):
        raise KeyError(51)


@pytest.mark.parametrize("version", ["2.7.2", "2.21.0", None])
def test_other_versions_of_the_detectors_are_refused(
    version, records, train_detector, tmp_path
):
    def find(name):
        assert name == "tf-models-official"
        if version is None:
            raise importlib.metadata.PackageNotFoundError
        return version

    with mock.patch.object(importlib.metadata, "version", find):
        message = get_error(
            train_detector, model_dir=str(tmp_path), **records, **SMALL
        )
    assert message.startswith("Detection needs tf-models-official 2.20")
    if version:
        assert message.endswith(f"Received: tf-models-official {version}")


def test_bad_input_ends_with_code_2(train_detector, capsys):
    with restoring_precision(), pytest.raises(SystemExit) as end:
        train_detector.start("--model_dir=run", "--recipe=rectangles")
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("Error: --train is missing")


def test_class_names_are_of_a_file_or_a_list(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("red fox\nhare\n")
    expected = ["red fox", "hare"]
    for text in (str(path), "red fox, hare"):
        run = make_run({"class_names": text}, {})
        assert read_class_names(run) == expected
    assert len(read_class_names(DetectorRun())) == 90


def test_dry_run_prints_the_experiment(train_detector, capsys):
    with (
        restoring_precision(),
        mock.patch.object(MaskRCNNTask, "build_model", build_alone),
    ):
        train_detector.run(dry_run=True, **SMALL)
    output = capsys.readouterr().out
    assert "width_multiplier: 0.125" in output
    count = output.splitlines()[-1].partition(" ")[0]
    assert output.endswith(
        f"{count} parameters, {count} of them in the backbone\n"
    )
