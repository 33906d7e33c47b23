"""The program, with a network that nobody trained."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from PIL import Image
from pycocotools.coco import COCO

from export.detection import trained_detector
from export.detection.trained_detector import load_detector
from tests.support.programs import Program
from trainers.detection.shapes import SHAPES
from trainers.detection.shapes import draw_shapes
from trainers.program import UserError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def export_dir(untrained_dir):
    """Where the program put what it checked in a process of its own."""
    Program("export.export_detector").run(
        model_dir=str(untrained_dir), max_detections=5
    )
    return untrained_dir / "export"


def test_the_network_is_compared_where_it_is_not(export_dir):
    report = json.loads((export_dir / "export_report.json").read_text())
    # Those of both, on eight images.
    assert report["detections"] == 2 * 8 * 5
    assert report["missing"] == 0
    assert report["imported"] == []
    assert report["class_names"] == list(SHAPES)
    assert report["max_detections"] == 5
    assert set(report["files"]) >= {
        "saved_model/saved_model.pb",
        "saved_model/assets/metadata.json",
    }


def test_the_export_looks_at_images(export_dir, tmp_path, capsys):
    drawing = draw_shapes(3, 100, 150)
    Image.fromarray(drawing.image).save(tmp_path / "7.png")
    with pytest.raises(SystemExit) as end:
        Program("export.detect").start(
            tmp_path / "7.png",
            f"--model={export_dir}",
            f"--output_dir={tmp_path}",
            "--min_score=0",
        )
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/7.png: ")
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 7}],
        "categories": [],
        "annotations": [],
    }
    truth.createIndex()
    results = truth.loadRes(str(tmp_path / "detections.json"))
    boxes = np.array([row["bbox"] for row in results.anns.values()])
    assert len(boxes) == 5
    corners = boxes[:, :2] + boxes[:, 2:]
    # Further to the right than the network's images reach.
    assert corners[:, 0].max() > 64
    assert (corners <= [150.01, 100.01]).all()
    with Image.open(tmp_path / "7_detections.png") as picture:
        assert picture.size == (600, 400)


def remove_checkpoint(folder):
    (folder / "checkpoint").unlink()


def remove_parameters(folder):
    (folder / "params.yaml").unlink()


def name_one_class(folder):
    (folder / "metadata.json").write_text('{"class_names": ["circle"]}')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_parameters, "must be the folder of a run"),
        (name_one_class, "must name each of the 3 classes"),
        (remove_checkpoint, "must hold a checkpoint"),
    ],
    ids=["no_parameters", "class_names", "no_checkpoint"],
)
def test_what_is_no_run_is_one_line(untrained_dir, tmp_path, change, message):
    for path in untrained_dir.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    change(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        load_detector(tmp_path)
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_network_is_one_line(tmp_path):
    def build(units):
        dense = tf_keras.layers.Dense(units)
        dense.build((None, 3))
        return dense

    path = tf.train.Checkpoint(model=build(2)).write(str(tmp_path / "ckpt"))
    trained_detector.restore(build(2), path)
    with pytest.raises(UserError, match="must be of the network") as error:
        trained_detector.restore(build(4), path)
    assert "\n" not in str(error.value)
