"""The program, with a detector that nobody trained."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pycocotools.coco import COCO

from export.detection.detector_exporter import detect
from export.detection.exported_detector import open_detector
from export.detection.trained_detector import load_detector
from tests.support.programs import Program
from trainers.detection.shapes import SHAPES
from trainers.detection.shapes import draw_shapes
from trainers.program import UserError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def export_dir(untrained_dir):
    """Where the program, in this process, put what it checked in another."""
    Program("export.export_detector").run(
        model_dir=str(untrained_dir), max_detections=5
    )
    return untrained_dir / "export"


def read_all(folder):
    return {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_the_report_tells_what_was_compared(export_dir):
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


def test_the_export_finds_what_the_detector_does(untrained_dir, export_dir):
    detector = load_detector(untrained_dir, max_detections=5)
    image = draw_shapes(3, 100, 150).image
    expected = detect(detector, image)
    found = open_detector(export_dir).detect(image)
    for name in ("boxes", "scores", "classes", "masks"):
        np.testing.assert_allclose(
            getattr(found, name), expected[name], rtol=1e-3, atol=1e-3
        )
    assert found.boxes[:, 3].max() > 128


def test_detections_are_written(export_dir, tmp_path):
    drawing = draw_shapes(3, 100, 150)
    Image.fromarray(drawing.image).save(tmp_path / "7.png")
    result = subprocess.run(
        [
            *(sys.executable, "-m", "export.detect", str(tmp_path / "7.png")),
            *(f"--model={export_dir}", f"--output_dir={tmp_path}"),
            "--min_score=0",
        ],
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"{tmp_path}/7.png: ")
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 7}],
        "categories": [],
        "annotations": [],
    }
    truth.createIndex()
    results = truth.loadRes(str(tmp_path / "detections.json"))
    found = open_detector(export_dir).detect(drawing.image)
    annotations = results.loadAnns(results.getAnnIds())
    assert [row["category_id"] for row in annotations] == found.classes.tolist()
    assert Image.open(tmp_path / "7_detections.png").size == (600, 400)


def test_what_is_foreign_is_not_replaced(untrained_dir, export_dir, tmp_path):
    folder = shutil.copytree(export_dir, tmp_path / "export")
    (folder / "notes.txt").write_text("mine")
    before = read_all(folder)
    with pytest.raises(UserError, match=r"which holds notes\.txt"):
        Program("export.export_detector").run(
            model_dir=str(untrained_dir), export_dir=str(folder)
        )
    assert read_all(folder) == before


def test_a_damaged_export_is_one_line(export_dir, tmp_path, capsys):
    folder = shutil.copytree(export_dir, tmp_path / "export")
    metadata = folder / "saved_model" / "assets" / "metadata.json"
    metadata.write_text(metadata.read_text().replace("circle", "square"))
    with pytest.raises(SystemExit) as end:
        Program("export.detect").start(
            "a.png", f"--model={folder}", f"--output_dir={tmp_path}"
        )
    assert end.value.code == 2
    errors = capsys.readouterr().err
    assert "metadata.json is damaged, changed or missing" in errors
    assert errors.count("\n") == 1


def remove_checkpoint(folder):
    for path in folder.glob("ckpt-*"):
        path.unlink()


def rename_a_class(folder):
    (folder / "metadata.json").write_text('{"class_names": ["circle"]}')


def widen(folder):
    path = folder / "params.yaml"
    text = path.read_text()
    assert "fc_dims: 32" in text
    path.write_text(text.replace("fc_dims: 32", "fc_dims: 48"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shutil.rmtree, "must be the folder of a run"),
        (rename_a_class, "must name each of the 3 classes"),
        (remove_checkpoint, "must hold a checkpoint"),
        (widen, "The checkpoint must be of the network"),
    ],
    ids=["no_folder", "class_names", "no_checkpoint", "other_network"],
)
def test_what_is_no_run_is_one_line(untrained_dir, tmp_path, change, message):
    folder = tmp_path / "run"
    folder.mkdir()
    for path in untrained_dir.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    # It names the files where they were.
    (folder / "checkpoint").unlink()
    tf.train.update_checkpoint_state(str(folder), "ckpt-200")
    change(folder)
    with pytest.raises(UserError, match=message) as error:
        load_detector(folder)
    assert "\n" not in str(error.value)
