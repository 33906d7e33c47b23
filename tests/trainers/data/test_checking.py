"""Which images are left out of a run, and whether it may go on so."""

import types

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from tests.support.training import run_main_eagerly
from trainers.data import checking
from trainers.data.decoding import decode_image
from trainers.program import UserError


def test_list_of_bad_images_is_compared(tmp_path):
    path = tmp_path / "bad_images.txt"
    checking.compare_bad_images(path, [])
    checking.write_bad_images(path, ["cats/1.png is damaged", "2.png is too"])
    checking.compare_bad_images(path, ["cats/1.png is damaged", "2.png is too"])
    with pytest.raises(UserError, match="Received: 1 instead of 2"):
        checking.compare_bad_images(path, ["cats/1.png is damaged"])
    checking.write_bad_images(path, [])
    assert not path.exists()


@pytest.mark.parametrize(
    "contents",
    [
        b"no image",
        b"GIF89a" + 20 * b"x",
        # The size in the header of a PNG: 2 ** 16 times 2 ** 16.
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\1\0\0\0\1\0\0",
    ],
)
def test_bad_image_that_nobody_checked_is_one_line(contents):
    images = tf.data.Dataset.from_tensors(contents).map(
        lambda image: decode_image(image, 3)
    )
    with (
        pytest.raises(UserError, match="An image of the data set") as error,
        checking.explaining_bad_images(),
    ):
        next(iter(images))
    assert "\n" not in str(error.value)


def test_other_errors_are_not_taken_for_bad_images():
    with (
        pytest.raises(tf.errors.InvalidArgumentError),
        checking.explaining_bad_images(),
    ):
        tf.ones((2, 3)) @ tf.ones((2, 3))


def test_image_that_may_not_be_read_is_bad():
    def refuse():
        raise tf.errors.PermissionDeniedError(None, None, "1.png; denied")
        yield

    # Root may read everything.
    examples = types.SimpleNamespace(map=lambda *_, **__: refuse())
    split = types.SimpleNamespace(
        examples=examples, size=1, describe=str, load=None
    )
    assert checking.find_bad_images(split) == {0: "may not be read"}


@pytest.mark.slow
def test_run_leaves_out_bad_images_and_goes_on_so(tmp_path):
    random = np.random.default_rng(0)
    photos = tmp_path / "photos"
    for name in ("cats", "dogs"):
        (photos / name).mkdir(parents=True)
        for number in range(7):
            pixels = random.integers(0, 256, (13, 11, 3), np.uint8)
            PIL.Image.fromarray(pixels).save(photos / name / f"{number}.png")
    (photos / "dogs" / "3.png").write_bytes(b"no image")
    listed = tmp_path / "run" / "bad_images.txt"

    def run(**values):
        run_main_eagerly(
            dataset=str(photos),
            model_dir=str(tmp_path / "run"),
            depth=14,
            width_multiplier=0.125,
            image_size=16,
            stem_strides=1,
            scope_size=3,
            batch_size=5,
            mode="train",
            **values,
        )

    with pytest.raises(UserError, match=r"3\.png is no PNG"):
        run(epochs=1)
    lines = f"{photos}/dogs/3.png is no PNG, JPEG, BMP, GIF or WebP image\n"
    assert listed.read_text() == lines
    run(epochs=1, max_bad_images=2)
    assert listed.read_text() == lines
    (photos / "cats" / "2.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="Other images are bad"):
        run(epochs=2, max_bad_images=2)
    assert listed.read_text() == lines
