"""The program, with a detector that finds the same in every image."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from export.detection.exported_detector import Detections
from export.detection.exported_detector import ExportedDetector
from tests.support.programs import Program

CLASS_NAMES = ["circle", "triangle"]


def find(image):
    height, width, _ = image.shape
    return Detections(
        boxes=np.array(
            [[2, 4, height - 2, width - 4], [1, 1, 3, 3], [0, 0, 4, 8]],
            "float32",
        ),
        classes=np.array([2, 1, 2]),
        scores=np.array([0.9, 0.6, 0.3], "float32"),
        masks=np.ones((3, 28, 28), "float32"),
    )


@pytest.fixture
def detect(monkeypatch, capsys):
    program = Program("export.detect")
    monkeypatch.setattr(
        program.module,
        "open_detector",
        lambda path: ExportedDetector(CLASS_NAMES, find),
    )

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            program.start("--model=export", *arguments)
        return end.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number, size in ((17, (32, 24)), (4, (20, 16))):
        path = folder / f"{number:06d}.png"
        Image.new("RGB", size, "gray").save(path)
    return folder


def test_pictures_and_results_are_written(detect, images, tmp_path):
    output_dir = tmp_path / "new" / "found"
    code, output, errors = detect(images, f"--output_dir={output_dir}")
    assert (code, errors) == (0, "")
    assert output.splitlines() == [
        f"{images}/000004.png: 1 triangle, 1 circle",
        f"{images}/000017.png: 1 triangle, 1 circle",
    ]
    assert sorted(path.name for path in output_dir.iterdir()) == [
        "000004_detections.png",
        "000017_detections.png",
        "detections.json",
    ]
    picture = np.asarray(Image.open(output_dir / "000017_detections.png"))
    height, width, _ = picture.shape
    assert width * 24 == height * 32
    # The mask colors what was gray.
    red, green, blue = picture[height // 2, width // 2].tolist()
    assert not red == green == blue
    assert picture[height // 2, 0].tolist() == [128, 128, 128]


def test_coco_reads_the_results(detect, images, tmp_path):
    detect(images, f"--output_dir={tmp_path}", "--min_score=0.2")
    truth = COCO()
    truth.dataset = {
        "images": [
            {"id": 4, "height": 16, "width": 20},
            {"id": 17, "height": 24, "width": 32},
        ],
        "categories": [{"id": 1}, {"id": 2}],
        "annotations": [],
    }
    truth.createIndex()
    results = truth.loadRes(str(tmp_path / "detections.json"))
    assert [len(results.getAnnIds(imgIds=n)) for n in (4, 17)] == [3, 3]
    first, second, third = results.loadAnns(results.getAnnIds(imgIds=17))
    assert first["bbox"] == [4, 2, 24, 20]
    assert (first["category_id"], first["category_name"]) == (2, "triangle")
    assert first["score"] == 0.9
    mask = coco_mask.decode(first["segmentation"])
    expected = np.zeros((24, 32), bool)
    expected[2:22, 4:28] = True
    assert (mask == expected).all()
    assert third["bbox"] == [0, 0, 8, 4]
    assert second["area"] == 4


def test_bad_images_are_lines_and_the_others_go_on(detect, images, tmp_path):
    (images / "a.png").write_bytes(b"no image")
    code, output, errors = detect(
        tmp_path / "none.png", images, f"--output_dir={tmp_path}"
    )
    assert code == 1
    assert len(output.splitlines()) == 2
    assert errors.splitlines() == [
        f"Error: {tmp_path}/none.png cannot be read: No such file or directory",
        f"Error: {images}/a.png is no PNG, JPEG, BMP, GIF or WebP image",
        "Error: 2 of 4 images could not be looked at.",
    ]
    results = json.loads((tmp_path / "detections.json").read_text())
    # The names are no numbers.
    assert [result["image_id"] for result in results] == [2, 2, 3, 3]


def test_files_of_one_name_have_a_picture_each(detect, images, tmp_path):
    (images / "more").mkdir()
    Image.new("L", (9, 9)).save(images / "more" / "000004.bmp")
    output_dir = tmp_path / "found"
    code, _, _ = detect(images, f"--output_dir={output_dir}")
    assert code == 0
    assert sorted(path.name for path in output_dir.glob("*.png")) == [
        "000004_2_detections.png",
        "000004_detections.png",
        "000017_detections.png",
    ]


def test_an_image_in_which_nothing_is_found_is_said(detect, images, tmp_path):
    path = images / "000004.png"
    code, output, _ = detect(
        path, f"--output_dir={tmp_path}", "--min_score=0.95"
    )
    assert (code, output) == (0, f"{path}: nothing\n")
    assert json.loads((tmp_path / "detections.json").read_text()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "At least one image file must be given"),
        (("a.png",), "--output_dir must be given"),
        (("a.png", "--output_dir={file}"), "--output_dir cannot be made"),
        (
            ("a.png", "--output_dir=.", "--min_score=2"),
            "--min_score: must be a number from 0 to 1. Received: 2",
        ),
    ],
    ids=["no_image", "no_output", "output_is_a_file", "score"],
)
def test_wrong_arguments_are_one_line(detect, tmp_path, arguments, message):
    file = tmp_path / "file"
    file.touch()
    arguments = [argument.format(file=file) for argument in arguments]
    code, output, errors = detect(*arguments)
    assert (code, output) == (2, "")
    assert message in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("name", ["", "missing"])
def test_what_is_no_export_is_one_line(tmp_path, capsys, name):
    with pytest.raises(SystemExit) as end:
        Program("export.detect").start(
            "a.png", f"--model={tmp_path / name}", f"--output_dir={tmp_path}"
        )
    assert end.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith("Error: --model must be the folder of an export")
    assert errors.count("\n") == 1
