import copy
import json
import re

import numpy as np
import pytest
import tensorflow as tf
from official.vision.dataloaders import tf_example_decoder
from PIL import Image
from pycocotools import mask as coco_mask

from tests.support.programs import Program
from trainers.detection import records
from trainers.detection import shapes

DRAWINGS = {3: shapes.draw_shapes(0, 40, 60), 8: shapes.draw_shapes(1, 50, 44)}
SQUARE = {"bbox": [5, 10, 20, 8], "area": 160}
PARTS = [[5, 10, 25, 10, 25, 13, 5, 13], [5, 13, 15, 13, 15, 18, 5, 18]]
# A run-length code of another size.
LONG = coco_mask.encode(np.zeros((99, 99), np.uint8, "F"))["counts"].decode()
CONTENTS = {
    "images": [
        {"id": 3, "file_name": "three.png", "height": 40, "width": 60},
        {"id": 8, "file_name": "eight.jpg", "height": 50, "width": 44},
    ],
    "categories": [{"id": 2, "name": " cat\n"}, {"id": 5, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 3, "category_id": 5, "segmentation": PARTS},
        {"id": 2, "image_id": 3, "category_id": 2},
        {"id": 3, "image_id": 8, "category_id": 2, "iscrowd": 1},
    ],
}


def find_mask(number, position):
    return DRAWINGS[number].masks[position]


def make_contents():
    contents = copy.deepcopy(CONTENTS)
    polygon, compressed, crowd = contents["annotations"]
    polygon |= SQUARE
    code = coco_mask.encode(np.asfortranarray(find_mask(3, 0), np.uint8))
    compressed["bbox"] = coco_mask.toBbox(code).tolist()
    code["counts"] = code["counts"].decode()
    compressed["segmentation"] = code
    flat = find_mask(8, 0).ravel(order="F")
    ends = np.flatnonzero(np.diff(flat, prepend=False, append=not flat[-1]))
    counts = np.diff(ends, prepend=0).tolist()
    crowd["segmentation"] = {"size": [50, 44], "counts": counts}
    # As drawn by hand, a little outside.
    crowd["bbox"] = [-0.5, 0, 44.7, 50]
    return contents


@pytest.fixture
def folder(tmp_path):
    Image.fromarray(DRAWINGS[3].image).save(tmp_path / "three.png")
    Image.fromarray(DRAWINGS[8].image).save(tmp_path / "eight.jpg")
    return tmp_path


def run(folder, contents, capsys, *, output="new/train", **flags):
    path = folder / "instances.json"
    if contents is not None:
        path.write_text(
            contents if isinstance(contents, str) else json.dumps(contents)
        )
    given = {
        "annotations": path,
        "images": folder,
        "output": f"{folder}/{output}",
    }
    arguments = [f"--{name}={value}" for name, value in (given | flags).items()]
    with pytest.raises(SystemExit) as end:
        Program("trainers.detection.make_records").start(*arguments)
    captured = capsys.readouterr()
    return end.value.code, captured.out, captured.err


@pytest.mark.slow
def test_masks_of_all_kinds_are_kept(folder, capsys):
    contents = make_contents()
    flat = {**contents["annotations"][0], "bbox": [5, 10, 20, 0.0]}
    contents["annotations"].append(flat)
    status, out, _ = run(folder, contents, capsys, num_shards=2)
    assert not status
    assert "Left out 1 object" in out
    pattern = f"{folder}/new/train-?????-of-00002.tfrecord"
    assert records.check_records(pattern) == 2
    decode = tf_example_decoder.TfExampleDecoder(include_mask=True).decode
    found = {}
    for record in tf.data.TFRecordDataset(tf.io.gfile.glob(pattern)):
        example = decode(record)
        found[int(example["source_id"])] = example
    masks = found[3]["groundtruth_instance_masks"].numpy()
    parts = np.zeros((40, 60))
    parts[10:13, 5:25] = 1
    parts[13:18, 5:15] = 1
    np.testing.assert_array_equal(masks, [parts, find_mask(3, 0)])
    np.testing.assert_allclose(
        found[3]["groundtruth_boxes"][0] * (40.0, 60.0, 40.0, 60.0),
        (10, 5, 18, 25),
        rtol=1e-5,
    )
    np.testing.assert_array_equal(found[3]["groundtruth_classes"], [5, 2])
    np.testing.assert_array_equal(
        found[3]["groundtruth_area"], [160, find_mask(3, 0).sum()]
    )
    np.testing.assert_array_equal(found[3]["image"], DRAWINGS[3].image)
    np.testing.assert_array_equal(
        found[8]["groundtruth_instance_masks"], [find_mask(8, 0)]
    )
    np.testing.assert_allclose(
        found[8]["groundtruth_boxes"], [[0, 0, 1, 1]], rtol=1e-6
    )
    np.testing.assert_array_equal(found[8]["groundtruth_is_crowd"], [True])
    names = (folder / "new" / "classes-train.txt").read_text()
    assert names == "1\ncat\n3\n4\ndog\n"
    # What is there is kept.
    status, _, errors = run(folder, contents, capsys)
    assert status == 2
    assert "must not exist yet" in errors


def change(contents, key, position=0, **changes):
    contents[key][position].update(changes)
    return contents


def enlarge(contents):
    contents["annotations"] = contents["annotations"][:1]
    return change(contents, "images", height=41)


BAD = [
    (lambda c: None, "--annotations cannot be read: No such file"),
    (lambda c: "{", "must be a JSON file"),
    (lambda c: [], "must be COCO's JSON"),
    (lambda c: {**c, "images": []}, "must list images"),
    (lambda c: {**c, "annotations": c["annotations"][:0]}, "must list annot"),
    (lambda c: change(c, "images", file_name="none.png"), "no .*none.png"),
    (enlarge, "60 x 41 pixels. Rec.*60 x 40"),
    (lambda c: change(c, "images", height=None), "file_name, height and wid"),
    (lambda c: change(c, "images", 1, id=3), "a number of its own .*: 3"),
    (lambda c: change(c, "categories", id=0), "category_id 2, annotation 2"),
    (lambda c: change(c, "categories", 1, id=10**9), "must be from 1 to"),
    (lambda c: change(c, "annotations", category_id=4), "category_id 4, an"),
    (lambda c: change(c, "annotations", image_id=4), "image_id 4, annot"),
    (lambda c: change(c, "annotations", bbox=[50, 0, 12, 9]), "within its im"),
    (lambda c: change(c, "annotations", bbox=[1, 2, 3]), "of four numbers"),
    (lambda c: change(c, "annotations", area="2"), "area of an object"),
    (lambda c: change(c, "annotations", segmentation=[]), "boxes alone"),
    (lambda c: change(c, "annotations", segmentation=[[1, 2, 3, 4]]), "boxes"),
    (
        lambda c: change(
            c, "annotations", segmentation={"size": [60, 40], "counts": [1]}
        ),
        "size of its image",
    ),
    (
        lambda c: change(
            c, "annotations", segmentation={"size": [40, 60], "counts": [9, 9]}
        ),
        "add up to its pixels",
    ),
    (
        lambda c: change(
            c, "annotations", segmentation={"size": [40, 60], "counts": LONG}
        ),
        "annotation 1 cannot be decoded",
    ),
]


@pytest.mark.slow
def test_bad_input_is_told_in_one_line(folder, capsys):
    good = make_contents()
    for edit, message in BAD:
        status, out, errors = run(folder, edit(copy.deepcopy(good)), capsys)
        [line] = [
            line for line in errors.splitlines() if line.startswith("Error")
        ]
        assert (status, out) == (2, "")
        assert "Traceback" not in errors
        assert re.search(message, line), line
    assert not list(folder.glob("new/*"))


@pytest.mark.slow
def test_bad_images_and_flags_are_told_in_one_line(folder, capsys):
    good = make_contents()
    status, _, errors = run(folder, good, capsys, num_shards=3)
    assert (status, "3 for 2 images" in errors) == (2, True)
    status, _, errors = run(folder, good, capsys, images=folder / "none")
    assert (status, "must be a folder" in errors) == (2, True)
    status, _, errors = run(folder, good, capsys, output="new/")
    assert (status, "begin of a name" in errors) == (2, True)
    for contents in (
        b"",
        b"no image",
        (folder / "eight.jpg").read_bytes()[:-300],
    ):
        (folder / "eight.jpg").write_bytes(contents)
        status, _, errors = run(folder, good, capsys)
        assert status == 2
        assert "eight.jpg must be an image file" in errors
    Image.fromarray(DRAWINGS[8].image).save(folder / "eight.jpg", "GIF")
    status, _, errors = run(folder, good, capsys)
    assert (status, "Received: GIF" in errors) == (2, True)
    assert not list(folder.glob("new/*"))
