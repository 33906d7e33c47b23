"""What is written and checked, with a detector whose detections are known."""

import json
from unittest import mock

import numpy as np
import pytest

from export.detection import detector_exporter
from export.detection.exported_detector import open_detector
from export.example_images import Examples
from export.exporter import VerificationError
from tests.support import known_detector
from tests.support.programs import Program
from tests.support.programs import run_in_this_process
from trainers.program import UserError

BOX = (8, 32, 24, 96)
compare_detections = Program(
    "export.detection.verify_detector"
).module.compare_detections
EXAMPLES = Examples("boxes", [known_detector.draw(32, 128, BOX)])


def read_all(folder):
    return {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def export(folder):
    with mock.patch.object(
        detector_exporter,
        "run_alone",
        lambda *command: run_in_this_process([None, "-m", *command]),
    ):
        return detector_exporter.export_detector(
            known_detector.make_detector(), folder, EXAMPLES
        )


@pytest.fixture(scope="module")
def detector_export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "export"
    text = export(folder)
    assert "boxes: 2 detections, whose boxes differ by at most 0.0" in text
    return folder


pytestmark = pytest.mark.slow


def test_an_export_is_opened(detector_export):
    for folder in (detector_export, detector_export / "saved_model"):
        opened = open_detector(folder)
        assert opened.class_names == ["lower", "upper"]
        found = opened.detect(EXAMPLES.images[0])
        np.testing.assert_array_equal(found.boxes, [BOX, BOX])
        np.testing.assert_array_equal(found.classes, [2, 1])
        np.testing.assert_array_equal(found.scores, [0.75, 0.25])
        assert found.masks.shape == (2, 28, 28)


def test_metadata_travel_with_it(detector_export):
    path = detector_export / "saved_model" / "assets" / "metadata.json"
    metadata = json.loads(path.read_text())
    assert metadata["image_size"] == [64, 64]
    assert metadata["class_names"] == ["lower", "upper"]
    assert (metadata["min_score"], metadata["max_detections"]) == (0.05, 3)


def test_what_finds_something_else_replaces_nothing(
    detector_export, monkeypatch
):
    before = read_all(detector_export)
    detect = detector_exporter.detect

    def detect_elsewhere(detector, image):
        found = detect(detector, image)
        return found | {"boxes": found["boxes"] + 1}

    monkeypatch.setattr(detector_exporter, "detect", detect_elsewhere)
    with pytest.raises(VerificationError, match="Received: 4 others of 4"):
        export(detector_export)
    assert read_all(detector_export) == before
    assert list(detector_export.parent.iterdir()) == [detector_export]


def test_what_is_foreign_is_not_replaced(detector_export):
    notes = detector_export / "notes.txt"
    notes.write_text("mine")
    before = read_all(detector_export)
    with pytest.raises(UserError, match=r"which holds notes\.txt"):
        export(detector_export)
    assert read_all(detector_export) == before
    notes.unlink()


def test_what_is_damaged_is_not_run(detector_export, tmp_path, capsys):
    metadata = detector_export / "saved_model" / "assets" / "metadata.json"
    written = metadata.read_text()
    metadata.write_text(written.replace("lower", "upper"))
    with pytest.raises(SystemExit) as end:
        Program("export.detect").start(
            "a.png", f"--model={detector_export}", f"--output_dir={tmp_path}"
        )
    metadata.write_text(written)
    assert end.value.code == 2
    errors = capsys.readouterr().err
    assert "metadata.json is damaged, changed or missing" in errors
    assert errors.count("\n") == 1


def make_found(**changes):
    found = {
        "boxes": np.array([[1, 2, 30, 40], [5, 6, 70, 80]], "float32"),
        "scores": np.array([0.9, 0.8], "float32"),
        "classes": np.array([1, 2]),
        "masks": np.zeros((2, 28, 28), "float32"),
    }
    return found | changes


def test_detections_may_come_in_another_order():
    backwards = {name: value[::-1] for name, value in make_found().items()}
    missing, differences = compare_detections(
        backwards, make_found(), (100, 100)
    )
    assert missing == 0
    assert set(differences.values()) == {0.0}


@pytest.mark.parametrize(
    "changes",
    [
        {"boxes": make_found()["boxes"] + [[0, 0, 0, 0], [0, 0, 0, 0.2]]},
        {"scores": np.array([0.9, 0.79])},
        {"classes": np.array([1, 1])},
        {"masks": np.stack([np.zeros((28, 28)), np.eye(28)])},
        {name: value[:1] for name, value in make_found().items()},
    ],
    ids=["box", "score", "class", "mask", "fewer"],
)
def test_another_detection_is_missed(changes):
    missing, _ = compare_detections(
        make_found(**changes), make_found(), (100, 100)
    )
    assert missing == 1
