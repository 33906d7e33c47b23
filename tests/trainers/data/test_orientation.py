"""Photographs are upright, whatever a camera was held like."""

import functools
import io
import struct

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import tensorflow as tf

from export import preprocessing as export_preprocessing
from trainers.data import decoding
from trainers.data.orientation import read_orientation as read_in_graph

# As in an input pipeline, where conditions and loops are part of a graph.
_in_graph = functools.partial(
    tf.function, input_signature=[tf.TensorSpec((), tf.string)]
)
read_orientation = _in_graph(read_in_graph)
decode_image = _in_graph(lambda contents: decoding.decode_image(contents, 3))


def make_jpeg(exif=b""):
    """Encodes an image that is unlike itself if turned or mirrored."""
    rows, columns = np.mgrid[:11, :19]
    colors = [16 * rows, 12 * columns, 5 * rows + 3 * columns]
    image = PIL.Image.fromarray(np.stack(colors, axis=-1).astype(np.uint8))
    file = io.BytesIO()
    image.save(file, "jpeg", exif=exif)
    return file.getvalue()


def make_exif(orientation, order=">"):
    """Makes EXIF of the name of a camera and an orientation."""
    mark = {">": b"MM", "<": b"II"}[order]
    entries = [
        struct.pack(f"{order}HHI4s", 0x10F, 2, 4, b"abc"),
        struct.pack(f"{order}HHIHH", 0x112, 3, 1, orientation, 0),
    ]
    return b"".join(
        [
            b"Exif\0\0",
            struct.pack(f"{order}2sHIH", mark, 42, 8, len(entries)),
            *entries,
            bytes(4),
        ]
    )


@pytest.mark.parametrize("order", "><")
@pytest.mark.parametrize("orientation", range(10))
def test_photographs_are_upright(orientation, order):
    jpeg = make_jpeg(make_exif(orientation, order))
    photograph = PIL.Image.open(io.BytesIO(jpeg))
    upright = np.asarray(PIL.ImageOps.exif_transpose(photograph), int)
    decoded = decode_image(jpeg).numpy()
    np.testing.assert_array_equal(decoded, upright)
    np.testing.assert_array_equal(
        export_preprocessing.decode_image(jpeg, 3), decoded
    )


def test_files_without_exif_stay_as_they_are():
    jpeg = make_jpeg()
    expected = np.asarray(PIL.Image.open(io.BytesIO(jpeg)))
    assert expected.shape == (11, 19, 3)
    np.testing.assert_array_equal(
        decoding.decode_image(tf.constant(jpeg), 3), expected
    )
    # What looks like EXIF in another format is none.
    assert read_orientation(b"\x89PNG" + jpeg[4:]) == 1


def test_exif_behind_other_segments_is_found():
    plain = make_jpeg()
    exif = make_exif(6)
    segments = b"".join(
        b"\xff" + marker + (2 + len(content)).to_bytes(2, "big") + content
        for marker, content in (
            (b"\xed", b"Photoshop" * 999),
            (b"\xfe", b"\xff\xe1 a comment"),
            (b"\xe1", b"http://ns.adobe.com/xap/1.0/"),
            (b"\xe1", exif),
        )
    )
    jpeg = plain[:2] + segments + plain[2:]
    assert PIL.Image.open(io.BytesIO(jpeg)).getexif()[0x112] == 6
    assert read_orientation(jpeg) == 6
    assert export_preprocessing.read_orientation(jpeg) == 6


@pytest.mark.parametrize("order", "><")
def test_damaged_exif_raises_nothing_and_is_read_alike(order):
    jpeg = make_jpeg(make_exif(8, order))
    end = jpeg.index(b"Exif") + len(make_exif(8))
    damaged = [jpeg[:size] for size in range(end + 1)]
    random = np.random.default_rng(0)
    for _ in range(200):
        contents = bytearray(jpeg)
        for position in random.integers(2, end, 2):
            contents[position] = random.choice([0, 1, 2, 127, 255])
        damaged.append(bytes(contents))
    found = [int(read_orientation(contents)) for contents in damaged]
    assert set(found) > {1, 8}
    assert found == [
        export_preprocessing.read_orientation(contents) for contents in damaged
    ]
