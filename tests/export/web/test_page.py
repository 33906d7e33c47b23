"""The page in a browser beside Python, in one session of the browser."""

import contextlib
import functools
import http.server
import io
import itertools
import json
import os
import pathlib
import shutil
import struct
import subprocess
import threading

import numpy as np
import pytest
from PIL import Image

import export
from export import make_page
from export.formats import FORMATS
from export.preprocessing import decode_image
from export.preprocessing import prepare_image
from trainers.data.datasets import open_dataset

WEB = pathlib.Path(export.__file__).parent / "web"
SESSION = pathlib.Path(__file__).with_name("browser_session.mjs")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MODELS = [
    model_format.file_name
    for model_format in FORMATS
    if model_format.file_name.endswith(".tflite")
]
NUM_SCANS = 60
# What is multiplied by weights of 8 bits is rounded as it is computed, and a
# sum in another order may be rounded to the next number.
TOLERANCES = {"model_dynamic.tflite": 0.03}

# Before something is exported in vain.
pytestmark = pytest.mark.usefixtures("programs")


def find_programs():
    """Returns the paths of node and of a browser, or skips the test."""
    node = shutil.which("node")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    missing = {
        "Node.js": node,
        "Chromium": browser,
        "npm ci --prefix export/web": (
            WEB / "node_modules" / "playwright-core"
        ).is_dir(),
    }
    names = [name for name, found in missing.items() if not found]
    if names:
        # `make test-web` sets it.
        stop = pytest.fail if "REQUIRE_BROWSER" in os.environ else pytest.skip
        stop(f"It takes Node.js, npm and Chromium; missing: {names}")
    return node, browser


def encode(image, kind, **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def draw_smooth(random, height, width, channels):
    """Returns an image as photographs are, without noise."""
    image = random.integers(0, 256, (5, 6, channels)).astype("uint8")
    return np.array(Image.fromarray(image).resize((width, height)))


def make_images():
    """Returns contents of image files by their names."""
    random = np.random.default_rng(3)
    images = {}
    for height, width in [(1, 1), (7, 5), (16, 16), (37, 53), (211, 97)]:
        color = random.integers(0, 256, (height, width, 3)).astype("uint8")
        images[f"{height}x{width}.png"] = encode(color, "PNG")
        images[f"gray_{height}x{width}.png"] = encode(color[..., 0], "PNG")
    # More than a strip.
    color = draw_smooth(random, 1203, 1601, 4)
    images["strips.png"] = encode(color[..., :3], "PNG")
    images["strips.jpg"] = encode(color[..., :3], "JPEG")
    color = draw_smooth(random, 41, 67, 4)
    images["gray.jpg"] = encode(color[..., 0], "JPEG")
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[0x112] = orientation
        images[f"turned_{orientation}.jpg"] = encode(
            color[..., :3], "JPEG", exif=exif
        )
    images["opaque.bmp"] = encode(color[..., :3], "BMP")
    images["opaque.webp"] = encode(color[..., :3], "WEBP", lossless=True)
    images["lossy.webp"] = encode(color[..., :3], "WEBP")
    # From opaque to invisible, each with a color.
    color[..., 3] = np.linspace(0, 255, 67)
    images["faint.png"] = encode(color, "PNG")
    images["faint.webp"] = encode(color, "WEBP", lossless=True, exact=True)
    palette = Image.fromarray(color[..., :3]).quantize(16)
    for kind in ("PNG", "GIF"):
        file = io.BytesIO()
        palette.save(file, kind, transparency=3)
        images[f"palette.{kind.lower()}"] = file.getvalue()
    frames = [palette, palette.rotate(180)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    images["animation.gif"] = file.getvalue()
    # The frame is a part of the image, from column 5 and row 7 on.
    size = struct.pack("<2H", 67, 41)
    images["part.gif"] = (
        images["palette.gif"]
        .replace(size, struct.pack("<2H", 80, 60), 1)
        .replace(
            b"," + bytes(4) + size, struct.pack("<c4H", b",", 5, 7, 67, 41)
        )
    )
    return images


def is_exact(name, channels):
    """Returns whether the browser has the pixels that Python has.

    Of a colored JPEG, Python takes the gray from the file, and the browser
    makes it of colors, some of which were cut off at 0 or 255.
    """
    return channels == 3 or not name.endswith(".jpg") or name == "gray.jpg"


def make_cases(folder, export_dir):
    """Writes what the browser is to read; returns `cases.json`."""
    examples = open_dataset("digits").validation.examples
    scans = []
    for number, (image, _) in enumerate(examples.take(NUM_SCANS)):
        scans.append(f"{number}.png")
        contents = encode(image.numpy()[..., 0], "PNG")
        (folder / scans[-1]).write_bytes(contents)
    prepared = []
    for name, contents in make_images().items():
        (folder / name).write_bytes(contents)
        prepared += [
            {
                "file": name,
                "image_size": size,
                "channels": channels,
                "crop_fraction": fraction,
            }
            for size, fraction in [(16, 0.875), (29, 1.0)]
            for channels in (1, 3)
        ]
    (folder / "scan.txt").write_text("What is no image.")
    whole = (folder / "37x53.png").read_bytes()
    (folder / "cut_off.png").write_bytes(whole[: len(whole) // 2])
    size = (10**5).to_bytes(4, "big")
    (folder / "huge.png").write_bytes(whole[:16] + 2 * size + whole[24:])
    model = bytearray((export_dir / MODELS[0]).read_bytes())
    (folder / "no_model.tflite").write_bytes(whole)
    model[len(model) // 2] ^= 1
    (folder / "damaged.tflite").write_bytes(model)
    shutil.copyfile(export_dir / MODELS[-1], folder / "other.tflite")
    cases = {
        "scans": scans,
        "models": MODELS,
        "prepared": prepared,
        "bad": [
            "scan.txt",
            "cut_off.png",
            "huge.png",
            "no_model.tflite",
            "damaged.tflite",
        ],
        "other": "other.tflite",
    }
    (folder / "cases.json").write_text(json.dumps(cases))
    return cases


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serve(folder):
    """Serves a folder; yields its address."""
    handler = functools.partial(_Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("web")


@pytest.fixture(scope="session")
def programs():
    return find_programs()


@pytest.fixture(scope="module")
def cases(programs, export_dir, folder):
    (folder / "cases").mkdir()
    return make_cases(folder / "cases", export_dir)


@pytest.fixture(scope="module")
def said(programs, cases, export_dir, folder):
    """What the browser printed."""
    (folder / "examples").mkdir()
    shutil.copy(folder / "cases" / "0.png", folder / "examples")
    make_page.main(
        [
            f"--export_dir={export_dir}",
            f"--output_dir={folder / 'a page'}",
            f"--examples={folder / 'examples'}",
        ]
    )
    node, browser = programs
    package = WEB / "package.json"
    with serve(folder) as address:
        result = subprocess.run(
            [
                *(node, SESSION, package, browser),
                *(f"{address}a%20page/", f"{address}cases/"),
            ],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return json.loads(result.stdout) | {"address": address}


def classify(export_dir, file_name, paths):
    (model_format,) = (f for f in FORMATS if f.file_name == file_name)
    run = model_format.load(export_dir / file_name)["image_bytes"]
    probabilities, errors = run([path.read_bytes() for path in paths])
    assert not any(errors)
    return probabilities


@pytest.mark.parametrize("file_name", MODELS)
def test_probabilities_are_those_of_python(
    said, cases, export_dir, folder, file_name
):
    paths = [folder / "cases" / name for name in cases["scans"]]
    expected = classify(export_dir, file_name, paths)
    assert len(expected) == NUM_SCANS
    tolerance = TOLERANCES.get(file_name, 1e-5)
    np.testing.assert_allclose(
        said["models"][file_name], expected, rtol=0, atol=tolerance
    )


def test_images_are_prepared_as_in_python(said, cases, folder):
    assert len(said["prepared"]) == len(cases["prepared"]) > 90
    for image, case in zip(said["prepared"], cases["prepared"], strict=True):
        contents = (folder / "cases" / case["file"]).read_bytes()
        expected = prepare_image(
            decode_image(contents, case["channels"]),
            case["image_size"],
            case["crop_fraction"],
        )
        difference = np.abs(np.reshape(image, expected.shape) - expected)
        if is_exact(case["file"], case["channels"]):
            assert difference.max() == 0, case
        else:
            assert difference.mean() < 0.5, case


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scan.txt", "is no PNG, JPEG, BMP, GIF or WebP image."),
        ("cut_off.png", "is damaged or cut off."),
        ("huge.png", "has more than 89478485 pixels."),
    ],
)
def test_bad_image_is_one_line_without_a_result(said, name, message):
    bad = said["bad"][name]
    assert bad["message"] == f"{name} {message}"
    assert bad["winner"] == "\N{EN DASH}"
    np.testing.assert_allclose(bad["bars"], np.zeros(10), atol=1e-9)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "no_model.tflite",
            "is no whole .tflite file of export.export_model.",
        ),
        (
            "damaged.tflite",
            "is damaged: the checksum of the model is another.",
        ),
    ],
)
def test_bad_model_is_one_line_and_another_stays(said, name, message):
    bad = said["bad"][name]
    assert bad["message"] == f"{name} {message}"
    assert bad["model"] == MODELS[-1]
    np.testing.assert_allclose(
        bad["bars"], said["models"][MODELS[-1]][0], atol=1e-4
    )


def test_dropped_model_is_used(said):
    assert said["dropped"] == said["models"][MODELS[-1]][0]


def test_drawing_changes_the_bars(said):
    for bars in (said["oneStroke"], said["twoStrokes"]):
        # Those of the model of integers.
        assert sum(bars) == pytest.approx(1, abs=0.02)
    for earlier, later in itertools.pairwise(
        said[name] for name in ("example", "oneStroke", "twoStrokes")
    ):
        assert np.abs(np.subtract(earlier, later)).max() > 0.01
    np.testing.assert_allclose(said["cleared"], np.zeros(10), atol=1e-9)


def test_example_is_classified(said):
    np.testing.assert_allclose(
        said["example"], said["models"][MODELS[-1]][0], atol=1e-4
    )


def test_page_names_models_and_what_computes(said):
    assert [option.split(",")[0] for option in said["options"]] == [
        "float32",
        "float16",
        "dynamic",
        "int8",
    ]
    # Headless, it has no adapter for WebGPU.
    assert said["accelerator"] == "WebAssembly"
    assert said["withoutModels"].startswith("There are no models here.")


def test_nothing_else_is_asked_and_no_rule_is_broken(said):
    address = said["address"]
    assert (
        f"{address}a%20page/litert/litert_wasm_internal.wasm"
        in (said["requests"])
    )
    for request in said["requests"]:
        assert request.startswith((address, f"blob:{address}"))
    assert said["errors"] == []
