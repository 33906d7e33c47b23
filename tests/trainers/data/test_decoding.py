"""Image files of every kind are decoded alike, with TensorFlow and without."""

import io
import struct

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from export import preprocessing as export_preprocessing
from trainers.data import animations
from trainers.data import decoding

SIZE = 48, 40


def make_colors():
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (5, 6, 3), np.uint8)
    return PIL.Image.fromarray(np.kron(coarse, np.ones((8, 8, 1), np.uint8)))


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def make_files():
    """Returns files of all kinds, and what is in them as colors."""
    colors = make_colors()
    gray, few = colors.convert("L"), colors.quantize(7)
    shades = PIL.Image.fromarray(np.asarray(gray).astype("uint16") * 256 + 77)
    fading = colors.copy()
    fading.putalpha(gray)
    others = {"save_all": True, "append_images": [colors.rotate(90)]}
    images = {
        "png": (colors, {}),
        "png gray": (gray, {}),
        "png gray, transparent": (fading.convert("LA"), {}),
        "png palette": (few, {}),
        "png palette, transparent": (few, {"transparency": bytes(range(7))}),
        "png black and white": (colors.convert("1"), {}),
        "png transparent": (fading, {}),
        "png animated": (colors, others),
        "jpeg": (colors, {}),
        "jpeg gray": (gray, {}),
        "jpeg progressive": (colors, {"progressive": True}),
        "bmp": (colors, {}),
        "bmp gray": (gray, {}),
        "bmp palette": (few, {}),
        "bmp transparent": (fading, {}),
        "gif": (colors, {}),
        "gif transparent": (few, {"transparency": 3}),
        "gif animated": (colors, others),
        "webp": (colors, {"quality": 80}),
        "webp lossless": (colors, {"lossless": True}),
        "webp transparent": (fading, {"lossless": True}),
        "webp animated": (colors, {"lossless": True, **others}),
    }
    for name, (image, options) in images.items():
        contents = encode(image, name.split()[0], **options)
        decoded = PIL.Image.open(io.BytesIO(contents)).convert("RGBA")
        yield name, contents, np.asarray(decoded)[..., :3]
    # The upper 8 of 16 bits; Pillow would say 255 of nearly all.
    yield (
        "png 16 bits",
        encode(shades, "png"),
        np.stack([np.asarray(gray)] * 3, axis=-1),
    )
    deep = np.asarray(colors).astype("uint16") * 256 + 77
    contents = tf.io.encode_png(deep).numpy()
    yield "png 16 bits of colors", contents, np.asarray(colors)
    bmp = bytearray(encode(colors, "bmp"))
    bmp[22:26] = struct.pack("<i", -SIZE[1])
    yield "bmp from above", bytes(bmp), np.asarray(colors)[::-1]


FILES = list(make_files())


@pytest.fixture(scope="module", params=[1, 3], ids=["gray", "colors"])
def decoders(request):
    channels = request.param

    @tf.function(input_signature=[tf.TensorSpec((), tf.string)])
    def decode_in_graph(contents):
        return decoding.decode_image(contents, channels)

    return (
        channels,
        lambda contents: decode_in_graph(contents).numpy(),
        lambda contents: export_preprocessing.decode_image(contents, channels),
    )


@pytest.mark.parametrize(
    ("contents", "expected"),
    [file[1:] for file in FILES],
    ids=[name for name, *_ in FILES],
)
def test_every_kind_is_read(decoders, contents, expected):
    channels, decode_in_graph, decode_alone = decoders
    if channels == 1:
        image = PIL.Image.open(io.BytesIO(contents))
        if image.format == "JPEG":
            image.draft("L", None)
        else:
            image = PIL.Image.fromarray(expected)
        expected = np.asarray(image.convert("L"))[..., np.newaxis]
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(decode_in_graph(contents), expected)
    np.testing.assert_array_equal(decode_alone(contents), expected)


def test_cyan_magenta_yellow_and_black_become_colors(decoders):
    channels, decode_in_graph, decode_alone = decoders
    random = np.random.default_rng(0)
    inks = random.integers(0, 256, (16, 16, 4)).astype("uint8")
    inks = PIL.Image.fromarray(inks, mode="CMYK")
    contents = encode(inks, "jpeg", quality=100)
    decoded = PIL.Image.open(io.BytesIO(contents)).convert("RGB")
    expected = np.asarray(decoded.convert("L" if channels == 1 else "RGB"))
    expected = expected.reshape(16, 16, channels).astype(int)
    np.testing.assert_allclose(decode_in_graph(contents), expected, atol=1)
    np.testing.assert_array_equal(decode_alone(contents), expected)


def test_first_frame_of_a_gif_may_be_a_part_of_it(decoders):
    channels, decode_in_graph, decode_alone = decoders
    frame = make_colors().quantize(7).crop((3, 5, 30, 20))
    contents = bytearray(encode(frame, "gif", optimize=False))
    contents[6:10] = struct.pack("<2H", *SIZE)
    # The corner of the frame, behind the mark of its beginning.
    begin = contents.index(b"," + bytes(4)) + 1
    contents[begin : begin + 4] = struct.pack("<2H", 3, 5)
    part = frame.convert("RGB").convert("L" if channels == 1 else "RGB")
    expected = np.asarray(part).reshape(15, 27, channels)
    np.testing.assert_array_equal(decode_in_graph(bytes(contents)), expected)
    np.testing.assert_array_equal(decode_alone(bytes(contents)), expected)


def make_header(kind, width, height):
    """Returns a file that says to be of a size, and little more."""
    if kind == "jpeg":
        contents = bytearray(encode(make_colors(), "jpeg"))
        begin = contents.index(b"\xff\xc0") + 5
        contents[begin : begin + 4] = struct.pack(">2H", height, width)
        return bytes(contents)
    if kind == "png":
        return encode(PIL.Image.new("1", (width, height)), "png")
    little = struct.pack("<2H", width, height)
    sides = struct.pack("<I", width - 1 | (height - 1) << 14)
    canvas = b"".join((n - 1).to_bytes(3, "little") for n in (width, height))
    return {
        "gif": b"GIF89a" + little + encode(make_colors(), "gif")[10:],
        "bmp": encode(make_colors(), "bmp")[:18]
        + struct.pack("<2i", width, height)
        + encode(make_colors(), "bmp")[26:],
        "webp lossy": b"RIFF....WEBPVP8 \x0a\0\0\0...\x9d\x01\x2a" + little,
        "webp lossless": b"RIFF....WEBPVP8L....\x2f" + sides,
        "webp extended": b"RIFF....WEBPVP8X\x0a\0\0\0...." + canvas,
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "png",
        "jpeg",
        "gif",
        "bmp",
        "webp lossy",
        "webp lossless",
        "webp extended",
    ],
)
def test_size_is_refused_by_the_header(decoders, kind):
    _, decode_in_graph, decode_alone = decoders
    contents = make_header(kind, 12_000, 12_000)
    with pytest.raises(tf.errors.InvalidArgumentError, match="has more than"):
        decode_in_graph(contents)
    # Pillow wants more of a WebP than its header.
    if not kind.startswith("webp"):
        with pytest.raises(ValueError, match="has more than"):
            decode_alone(contents)
    assert export_preprocessing.MAX_PIXELS == decoding.MAX_PIXELS


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (b"", decoding.NO_IMAGE),
        (b"no image " * 99, decoding.NO_IMAGE),
        (encode(make_colors(), "tiff"), decoding.NO_IMAGE),
        (encode(make_colors().convert("1"), "bmp"), decoding.OTHER_BMP),
        (encode(make_colors(), "gif")[:-99], decoding.DAMAGED),
        (encode(make_colors(), "png")[:-99], None),
        (encode(make_colors(), "jpeg")[:-99], None),
        (encode(make_colors(), "bmp")[:-99], None),
        (encode(make_colors(), "webp")[:-99], None),
    ],
    ids=["empty", "text", "tiff", "bmp of 1 bit"]
    + [f"{kind} cut off" for kind in ("gif", "png", "jpeg", "bmp", "webp")],
)
def test_bad_files_are_refused(decoders, contents, reason):
    _, decode_in_graph, decode_alone = decoders
    # Where TensorFlow refuses them, it uses words of its own.
    with pytest.raises(tf.errors.InvalidArgumentError, match=reason):
        decode_in_graph(contents)
    with pytest.raises(ValueError, match=reason or decoding.DAMAGED):
        decode_alone(contents)


def make_animation(kind):
    """Returns an animation of three frames, without transparency."""
    colors = make_colors()
    others = [colors.rotate(90), colors.rotate(180)]
    return encode(
        colors, kind, save_all=True, append_images=others, lossless=True
    )


@pytest.mark.parametrize(
    ("kind", "take"),
    [
        ("gif", animations.take_first_gif_frame),
        ("webp", animations.take_first_webp_frame),
    ],
)
def test_first_frame_of_an_animation_is_taken_alone(kind, take):
    contents = make_animation(kind)
    assert PIL.Image.open(io.BytesIO(contents)).n_frames == 3
    frame, *_, is_whole = take(tf.constant(contents))
    assert is_whole
    assert PIL.Image.open(io.BytesIO(frame.numpy())).n_frames == 1
    # What is missing of those behind it does not matter, but of itself does.
    size = len(frame.numpy())
    *_, is_whole = take(tf.constant(contents[:-9]))
    assert is_whole
    *_, is_whole = take(tf.constant(contents[: size - 9]))
    assert not is_whole


def test_animation_says_to_be_transparent(decoders):
    """Else TensorFlow 2.20 writes beyond what it has reserved."""
    channels, decode_in_graph, decode_alone = decoders
    contents = bytearray(make_animation("webp"))
    # The flags: an animation, and no more.
    contents[20] = 0x02
    contents = bytes(contents)
    frame, _ = animations.take_first_webp_frame(tf.constant(contents))
    assert frame.numpy()[20] == 0x12
    colors = make_colors().convert("L" if channels == 1 else "RGB")
    expected = np.asarray(colors).reshape(*SIZE[::-1], channels)
    np.testing.assert_array_equal(decode_in_graph(contents), expected)
    np.testing.assert_array_equal(decode_alone(contents), expected)
