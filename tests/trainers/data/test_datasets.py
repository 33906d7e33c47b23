"""Data sets whose images are known."""

import os
import pathlib

import keras
import numpy as np
import PIL.Image
import pytest
import sklearn.datasets
import tensorflow as tf
import tensorflow_datasets as tfds

from trainers.data import decoding
from trainers.data.checking import drop_bad_images
from trainers.data.datasets import open_dataset
from trainers.program import UserError


class TinyPhotos(tfds.core.GeneratorBasedBuilder):
    """Gray images whose level is their number; no test split."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(names=["even", "odd"]),
                }
            )
        )

    def _split_generators(self, dl_manager):
        return {"train": self._make(13), "validation": self._make(5)}

    def _generate_examples(self):
        raise NotImplementedError

    def _make(self, count):
        for number in range(count):
            image = np.full((11, 7, 3), number, np.uint8)
            yield number, {"image": image, "label": number % 2}


@pytest.fixture(scope="module")
def digits():
    return open_dataset("digits")


@pytest.fixture
def photos(tmp_path):
    """A folder of ten photographs each of cats and dogs."""
    for level, name in ((50, "cats"), (200, "dogs")):
        (tmp_path / name).mkdir()
        for number in range(10):
            image = np.full((9, 12, 3), level + number, np.uint8)
            png = tf.io.encode_png(image).numpy()
            (tmp_path / name / f"{number}.PNG").write_bytes(png)
    return tmp_path


def list_files(split):
    return [path.decode() for path, _ in split.examples.as_numpy_iterator()]


def test_digits_are_the_scans_of_scikit_learn(digits):
    scans = sklearn.datasets.load_digits().images
    splits = (digits.train, digits.validation)
    images = np.concatenate(
        [
            np.stack([image for image, _ in split.examples.as_numpy_iterator()])
            for split in splits
        ]
    )

    assert [split.size for split in splits] == [1437, 360]
    assert images.dtype == np.uint8
    assert images.max() == 255
    levels = np.round(images[..., 0] / 255 * 16)
    assert sorted(map(np.ndarray.tolist, levels)) == sorted(
        map(np.ndarray.tolist, scans)
    )


def test_digits_held_out_are_a_fifth_of_each_class(digits):
    labels = [label for _, label in digits.validation.examples]
    counts = np.bincount(sklearn.datasets.load_digits().target)
    np.testing.assert_allclose(np.bincount(labels), counts / 5, atol=1)


def test_split_is_the_same_whatever_the_seed(photos):
    keras.utils.set_random_seed(1)
    first = list_files(open_dataset(str(photos)).train)
    keras.utils.set_random_seed(2)
    assert list_files(open_dataset(str(photos)).train) == first


def test_folder_gives_images_with_their_classes(photos):
    dataset = open_dataset(str(photos))
    dataset, bad_images = drop_bad_images(dataset)
    assert not bad_images
    assert dataset.class_names == ["cats", "dogs"]
    assert (dataset.train.size, dataset.validation.size) == (16, 4)
    labels = []
    for path, label in dataset.validation.examples:
        labels.append(int(label))
        assert int(dataset.validation.load(path)[0, 0, 0]) // 100 == 2 * label
    assert sorted(labels) == [0, 0, 1, 1]


def test_folder_may_hold_its_own_split(photos):
    for split in ("train", "val"):
        (photos / split).mkdir()
    for name in ("cats", "dogs"):
        (photos / "val" / name).mkdir()
        (photos / name / "3.PNG").rename(photos / "val" / name / "3.PNG")
        (photos / name).rename(photos / "train" / name)
    dataset = open_dataset(str(photos))
    assert (dataset.train.size, dataset.validation.size) == (18, 2)
    assert all("val" in path for path in list_files(dataset.validation))
    assert not any("val" in path for path in list_files(dataset.train))


def test_damaged_image_is_named(photos):
    damaged = photos / "dogs" / "7.PNG"
    damaged.write_bytes(damaged.read_bytes()[:40])
    with pytest.raises(UserError, match=r"dogs/7\.PNG is damaged"):
        drop_bad_images(open_dataset(str(photos)))


def test_folder_without_images_is_named(photos):
    (photos / "birds").mkdir()
    with pytest.raises(UserError, match="birds must hold images"):
        open_dataset(str(photos))


def test_folder_of_one_class_is_refused(photos):
    with pytest.raises(UserError, match="at least two folders"):
        open_dataset(str(photos / "cats"))


def test_class_of_one_image_is_refused(photos):
    (photos / "birds").mkdir()
    (photos / "cats" / "0.PNG").rename(photos / "birds" / "0.PNG")
    with pytest.raises(UserError, match="too few images"):
        open_dataset(str(photos))


def test_tfds_gives_images_with_their_classes(tmp_path):
    TinyPhotos(data_dir=tmp_path).download_and_prepare()
    dataset = open_dataset("tiny_photos", str(tmp_path))
    assert dataset.class_names == ["even", "odd"]
    assert dataset.channels == 3
    assert (dataset.train.size, dataset.validation.size) == (13, 5)
    numbers = []
    for stored_image, label in dataset.train.examples:
        image = dataset.train.load(stored_image).numpy()
        assert image.shape == (11, 7, 3)
        assert image[0, 0, 0] % 2 == label
        numbers.append(image[0, 0, 0])
    assert sorted(numbers) == list(range(13))


def test_tfds_does_not_decode_images_of_too_many_pixels(tmp_path, limit_pixels):
    TinyPhotos(data_dir=tmp_path).download_and_prepare()
    limit_pixels(11 * 7 - 1)
    dataset = open_dataset("tiny_photos", str(tmp_path))
    stored_image, _ = next(iter(dataset.train.examples))
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=decoding.TOO_LARGE
    ):
        dataset.train.load(stored_image)


def test_unprepared_tfds_name_says_how_to_prepare_it(tmp_path):
    with pytest.raises(UserError, match="tfds build cifar10"):
        open_dataset("cifar10", str(tmp_path))


@pytest.mark.parametrize("name", ["cifra10", "./photos", "cifar10/nothing"])
def test_unknown_dataset_is_refused_in_one_line(name, tmp_path):
    with pytest.raises(UserError, match=f"Received: {name}") as error:
        open_dataset(name, str(tmp_path))
    assert "\n" not in str(error.value)


def test_unknown_dataset_comes_with_close_names():
    with pytest.raises(UserError, match="Did you mean cifar10"):
        open_dataset("cifra10")


def test_suffixes_that_are_not_read_are_counted(photos, capsys):
    for name in ("1.avif", "2.AVIF", "1.tiff", "._3.png", ".DS_Store", "notes"):
        (photos / "dogs" / name).write_bytes(b"what it holds does not matter")
    dataset, bad_images = drop_bad_images(open_dataset(str(photos)))
    assert not bad_images
    assert dataset.train.size + dataset.validation.size == 20
    output = capsys.readouterr().out
    assert "2 .avif, 1 .tiff, 1 without a suffix;" in output


def test_suffixes_that_are_not_read_come_with_how_to_convert_them(
    photos, capsys
):
    (photos / "dogs" / "1.avif").touch()
    open_dataset(str(photos))
    assert "`mogrify -format png *.avif`" in capsys.readouterr().out
    for path in (photos / "cats").iterdir():
        path.rename(path.with_suffix(".avif"))
    with pytest.raises(UserError, match=r"Received: 10 \.avif.*mogrify"):
        open_dataset(str(photos))


@pytest.mark.parametrize("names", [["cats"], ["dogs"], []])
def test_class_without_images_to_validate_on_is_named(names, photos):
    for split, classes in (("train", ["cats", "dogs"]), ("val", names)):
        (photos / split).mkdir()
        for name in classes:
            (photos / split / name).mkdir()
            (photos / split / name / "1.png").touch()
    missing = ", ".join(sorted({"cats", "dogs"} - set(names)))
    with pytest.raises(UserError, match=f"Received: none of {missing}"):
        open_dataset(str(photos))


def test_link_to_nothing_is_not_left_out_as_if_it_were_no_class(photos):
    (photos / "birds").symlink_to(photos / "nowhere")
    with pytest.raises(UserError, match="birds is a link to nothing"):
        open_dataset(str(photos))


@pytest.mark.parametrize("name", [b"\xff\xe4.png", b"two\nlines.png"])
def test_names_of_files_need_be_no_text(name, photos, capsys):
    path = os.path.join(os.fsencode(photos), b"dogs", name)
    png = (photos / "dogs" / "1.PNG").read_bytes()
    pathlib.Path(os.fsdecode(path)).write_bytes(png)
    dataset, bad_images = drop_bad_images(open_dataset(str(photos)))
    assert not bad_images
    assert dataset.train.size + dataset.validation.size == 21
    pathlib.Path(os.fsdecode(path)).write_bytes(b"no image")
    _, (line,) = drop_bad_images(open_dataset(str(photos)), 1)
    assert line.isprintable()
    assert line.endswith(".png' is no PNG, JPEG, BMP, GIF or WebP image")


def test_folder_that_may_not_be_read_is_one_line(photos, monkeypatch):
    iterate = pathlib.Path.iterdir

    def refuse(path):
        if path.name == "dogs":
            raise PermissionError(13, "Permission denied", str(path))
        return iterate(path)

    # Root may read everything.
    monkeypatch.setattr(pathlib.Path, "iterdir", refuse)
    with pytest.raises(UserError, match="dogs cannot be read: Perm") as error:
        open_dataset(str(photos))
    assert "\n" not in str(error.value)


def test_class_that_is_not_in_train_is_refused(photos):
    for split, names in (("train", ["cats", "dogs"]), ("val", ["cats", "emu"])):
        for name in names:
            (photos / split / name).mkdir(parents=True)
            (photos / split / name / "1.png").touch()
    with pytest.raises(UserError, match="Received: emu"):
        open_dataset(str(photos))


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "dangling"])
def test_what_bears_the_name_of_an_image_must_be_a_file(photos, kind):
    path = photos / "dogs" / "x.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path if kind == "loop" else photos / "nothing")
    with pytest.raises(UserError, match=r"x\.png is a folder, a pipe or"):
        open_dataset(str(photos))


def test_bad_images_are_left_out_up_to_a_number(photos):
    files = list_files(open_dataset(str(photos)).train)
    bad = [files[2], files[11]]
    for path in bad:
        pathlib.Path(path).write_bytes(b"no image")
    with pytest.raises(UserError, match="and 1 others are bad") as error:
        drop_bad_images(open_dataset(str(photos)), 1)
    assert str(error.value).endswith("Received: --max_bad_images=1")
    dataset, lines = drop_bad_images(open_dataset(str(photos)), 2)
    assert lines == [f"{path} {decoding.NO_IMAGE}" for path in bad]
    assert dataset.train.size == 14
    # The others stay in their order.
    rest = [path for path in files if path not in bad]
    assert list_files(dataset.train) == rest


def test_image_of_too_many_pixels_is_bad(photos, limit_pixels):
    paths = [
        photos / "dogs" / f"x.{suffix}"
        for suffix in ("bmp", "gif", "jpeg", "png", "webp")
    ]
    for path in paths:
        PIL.Image.new("RGB", (311, 257)).save(path)
    limit_pixels(311 * 257)
    _, lines = drop_bad_images(open_dataset(str(photos)), 5)
    assert not lines
    limit_pixels(311 * 257 - 1)
    _, lines = drop_bad_images(open_dataset(str(photos)), 5)
    assert sorted(lines) == [f"{path} {decoding.TOO_LARGE}" for path in paths]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_gray_or_colored_as_asked(photos, channels):
    for dataset in (
        open_dataset(str(photos), channels=channels),
        open_dataset("digits", channels=channels),
    ):
        stored_image, _ = next(iter(dataset.train.examples))
        assert dataset.channels == channels
        assert dataset.train.load(stored_image).shape[-1] == channels


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mnist:9.9.9", "9.9.9"),
        ("huggingface:mnist", "pip install datasets"),
        ("imdb_reviews", "not for image classification"),
    ],
)
def test_what_tfds_cannot_give_is_one_line(name, reason, tmp_path):
    with pytest.raises(UserError, match=reason) as error:
        open_dataset(name, str(tmp_path))
    assert "\n" not in str(error.value)
    assert name in str(error.value)
