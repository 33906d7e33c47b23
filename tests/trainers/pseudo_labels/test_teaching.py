"""Images that a teacher labels as training begins."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from export.exported_model import open_model
from tests.conftest import CLASS_NAMES
from trainers.data import records
from trainers.program import UserError
from trainers.pseudo_labels import teaching
from trainers.pseudo_labels.teaching import label_images


def write_images(folder):
    """Writes images, the second of which is bad; returns their contents."""
    random = np.random.default_rng(0)
    (folder / "inner").mkdir(parents=True)
    names = ["0.png", "1.png", "2.png", "inner/3.png", "inner/4.png"]
    for name in names:
        image = random.integers(0, 256, (20, 24, 1))
        keras.utils.save_img(folder / name, image, scale=False)
    (folder / names[1]).write_bytes(b"nothing of the kind")
    (folder / "notes.txt").write_text("no image")
    return [(folder / name).read_bytes() for name in names]


def write_records(folder, contents):
    """Writes them with no labels, two to a file; returns a pattern."""
    folder.mkdir()
    for number in range(0, len(contents), 2):
        path = folder / f"{number}.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for each in contents[number : number + 2]:
                example = tf.train.Example()
                feature = example.features.feature[records.IMAGE_KEY]
                feature.bytes_list.value.append(each)
                writer.write(example.SerializeToString())
    return f"{folder}/*.tfrecord"


def label(name, teacher="nowhere", **changes):
    arguments = {"class_names": CLASS_NAMES, "channels": 1, **changes}
    return label_images(str(name), str(teacher), **arguments)


def read_examples(split, examples):
    """Returns labels by the bytes of the images that they are of."""
    return {
        split.load(stored_image).numpy().tobytes(): label.numpy()
        for stored_image, label in examples
    }


@pytest.fixture
def play_teacher(monkeypatch):
    """Has a function of contents be the teacher."""

    def play(classify):
        monkeypatch.setattr(
            teaching, "_open_teacher", lambda *arguments: classify
        )

    return play


def get_error(name, **changes):
    with pytest.raises(UserError) as error:
        label(name, **changes)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_labels_are_what_an_export_says(export_dir, tmp_path):
    contents = write_images(tmp_path / "images")
    pattern = write_records(tmp_path / "records", contents)
    teacher = export_dir / "model.tflite"
    probabilities, _ = open_model(teacher).runs["image_bytes"](contents)
    expected = {
        tf.io.decode_png(each).numpy().tobytes(): row
        for each, row in zip(contents, probabilities, strict=True)
        if np.isfinite(row).all()
    }
    assert len(expected) == 4
    # Two are above it.
    confidence = np.median([row.max() for row in expected.values()])
    for name, bad_image in (
        (tmp_path / "images", tmp_path / "images" / "1.png"),
        (pattern, f"Record 1 of {tmp_path}/records/0.tfrecord"),
    ):
        split, bad_images = label(name, teacher)
        (line,) = bad_images
        assert line.startswith(f"{bad_image} is no PNG")
        assert split.size == 4
        found = read_examples(split, split.examples)
        assert found.keys() == expected.keys()
        for image, row in found.items():
            np.testing.assert_allclose(row, expected[image], atol=1e-6)
        # Those of which it is sure keep their labels, in any order.
        split, _ = label(name, teacher, min_confidence=confidence)
        examples = split.examples
        if split.reorder:
            examples = split.reorder(tf.constant([1, 2]))
        sure = read_examples(split, examples)
        assert len(sure) == split.size == 2
        for image, row in sure.items():
            assert row.max() > confidence
            np.testing.assert_allclose(row, expected[image], atol=1e-6)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([np.nan, 0.5], "has a probability that is no number"),
        ([0.5, 0.25], "must have probabilities with the sum 1, but has 0.75"),
    ],
)
def test_teacher_that_gives_no_probabilities_is_one_line(
    row, reason, tmp_path, play_teacher
):
    write_images(tmp_path / "images")
    play_teacher(
        lambda files: (np.float32([row] * len(files)), [""] * len(files))
    )
    message = get_error(tmp_path / "images", class_names=["cat", "dog"])
    assert f"{tmp_path}/images/0.png {reason}" in message


def test_shares_of_rounded_probabilities_sum_to_one(tmp_path, play_teacher):
    write_images(tmp_path / "images")

    def classify(files):
        errors = ["" if file[:4] == b"\x89PNG" else "bad" for file in files]
        return np.float32([[0.597, 0.398]] * len(files)), errors

    play_teacher(classify)
    split, _ = label(tmp_path / "images", class_names=["cat", "dog"])
    labels = np.stack([label for _, label in split.examples])
    np.testing.assert_allclose(labels, [[0.6, 0.4]] * 4, rtol=1e-6)


def test_teacher_that_is_sure_of_nothing_is_one_line(tmp_path, play_teacher):
    write_images(tmp_path / "images")

    def classify(files):
        errors = ["" if file[:4] == b"\x89PNG" else "bad" for file in files]
        return np.full((len(files), 10), np.float32(0.1)), errors

    play_teacher(classify)
    message = get_error(tmp_path / "images", min_confidence=0.5)
    assert message.endswith(
        f"Received: --pseudo_min_confidence=0.5, and 5 images in "
        f"{tmp_path}/images, of which 1 cannot be read"
    )


@pytest.mark.parametrize("kind", ["files", "records"])
def test_too_many_images_are_refused_before_the_teacher(
    kind, tmp_path, monkeypatch
):
    contents = write_images(tmp_path / "images")
    name = tmp_path / "images"
    if kind == "records":
        name = write_records(tmp_path / "records", contents)
    monkeypatch.setattr(teaching, "MOST_IMAGES", 4)
    message = get_error(name)
    assert "labels 4 images at most" in message
    assert "label them with export.label_images" in message


def test_what_is_no_teacher_is_one_line(export_dir, tmp_path):
    write_images(tmp_path / "images")
    message = get_error(tmp_path / "images")
    assert message.startswith("--teacher must be a SavedModel folder")
    message = get_error(
        tmp_path / "images",
        teacher=export_dir / "model.tflite",
        class_names=["class a", "class c"],
    )
    assert f"class 1 is 'class b' in {export_dir}/model.tflite" in message


def test_images_that_are_not_there_are_one_line(tmp_path):
    nowhere = tmp_path / "nowhere"
    assert get_error(nowhere).endswith(f"Received: --pseudo_labels={nowhere}")
    assert "holds no images" in get_error(tmp_path)
    assert "matches no images" in get_error(f"{tmp_path}/*.png")
