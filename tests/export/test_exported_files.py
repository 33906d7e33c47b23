"""Every file of an export does what Keras does, and says what it is."""

import hashlib
import json
import zipfile

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf

from export import exporter
from export.formats import FORMATS
from export.formats import onnx as onnx_format
from export.formats.tflite import count_operators
from export.formats.tflite import list_operators
from tests.conftest import CLASS_NAMES
from trainers.data.decoding import decode_image
from trainers.data.preprocessing import prepare_image

CROP_FRACTION = 0.875
# Of probabilities. Sums in another order differ by some 2e-6 here.
TOLERANCE = 2e-5
# The first row of pixels is to the right.
EXIF = (
    b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
)


@pytest.fixture(scope="module")
def saved_model(export_dir):
    return tf.saved_model.load(str(export_dir / "saved_model"))


def make_image(height, width, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (height, width, 1), dtype=np.uint8)


def compute_expected(keras_model, images):
    prepared = [prepare_image(image, 16, CROP_FRACTION) for image in images]
    return keras.ops.softmax(keras_model(np.stack(prepared))).numpy()


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(
    "size", [(16, 16), (23, 41), (11, 7)], ids=["same", "wide", "small"]
)
def test_saved_model_of_images_equals_keras(
    saved_model, keras_model, batch_size, size
):
    images = [make_image(*size, seed) for seed in range(batch_size)]
    outputs = saved_model.signatures["serving_default"](
        tf.constant(np.stack(images), tf.float32)
    )
    np.testing.assert_allclose(
        outputs["probabilities"],
        compute_expected(keras_model, images),
        atol=TOLERANCE,
    )


def test_saved_model_of_prepared_images_equals_keras(saved_model, keras_model):
    images = [make_image(29, 17, seed) for seed in range(3)]
    prepared = [prepare_image(image, 16, CROP_FRACTION) for image in images]
    outputs = saved_model.signatures["prepared"](tf.stack(prepared))
    np.testing.assert_allclose(
        outputs["probabilities"],
        compute_expected(keras_model, images),
        atol=TOLERANCE,
    )


def test_saved_model_of_files_prepares_each_size_as_in_evaluation(
    saved_model, keras_model
):
    images = [make_image(29, 17), make_image(16, 16), make_image(20, 53)]
    jpeg = tf.io.encode_jpeg(make_image(20, 31)).numpy()
    files = [
        tf.io.encode_png(images[0]),
        tf.io.encode_jpeg(images[1]),
        tf.io.encode_png(images[2]),
        # To be turned by a quarter.
        jpeg[:2] + b"\xff\xe1\0\x22" + EXIF + jpeg[2:],
    ]
    outputs = saved_model.signatures["image_bytes"](tf.stack(files))
    decoded = [decode_image(contents, channels=1) for contents in files[:3]]
    upright = tf.io.decode_jpeg(jpeg, dct_method="INTEGER_ACCURATE")
    decoded.append(np.rot90(upright, -1))
    np.testing.assert_allclose(
        outputs["probabilities"],
        compute_expected(keras_model, decoded),
        atol=TOLERANCE,
    )


def test_bad_file_costs_the_others_of_its_batch_nothing(
    saved_model, keras_model
):
    classify = saved_model.signatures["image_bytes"]
    good = tf.io.encode_png(make_image(20, 31)).numpy()
    bad = [b"", b"no image", good[:99], b"\xff\xd8\xff" + good]
    outputs = classify(tf.constant([good, *bad, good]))
    probabilities = outputs["probabilities"].numpy()
    expected = compute_expected(keras_model, [make_image(20, 31)] * 2)
    np.testing.assert_allclose(probabilities[[0, 5]], expected, atol=TOLERANCE)
    assert np.isnan(probabilities[1:5]).all()
    errors = [error.decode() for error in outputs["errors"].numpy()]
    assert errors[0] == errors[5] == ""
    assert set(errors[1:5]) == {
        "is no PNG, JPEG, BMP, GIF or WebP image, has more than 89478485 "
        "pixels, or is damaged or cut off"
    }
    # All of them.
    outputs = classify(tf.constant(bad))
    assert np.isnan(outputs["probabilities"]).all()


def test_no_images_give_no_rows(saved_model):
    outputs = saved_model.signatures["image_bytes"](tf.zeros(0, tf.string))
    assert outputs["probabilities"].shape == (0, 10)
    assert outputs["errors"].shape == (0,)
    for name in ("serving_default", "features"):
        (output,) = saved_model.signatures[name](
            tf.zeros((0, 9, 9, 1))
        ).values()
        assert output.shape[0] == 0


@pytest.mark.parametrize("name", ["model.tflite", "model.onnx"])
def test_other_formats_take_bad_files_and_none(export_dir, name):
    formats = {f.file_name: f for f in FORMATS}
    classify = formats[name].load(export_dir / name)["image_bytes"]
    good = tf.io.encode_png(make_image(20, 31)).numpy()
    probabilities, errors = classify([good, b"no image", good])
    assert errors == ["", "is no PNG, JPEG, BMP, GIF or WebP image", ""]
    np.testing.assert_allclose(probabilities.sum(axis=-1), [1, np.nan, 1], 1e-5)
    np.testing.assert_array_equal(probabilities[0], probabilities[2])
    probabilities, errors = classify([])
    assert probabilities.shape == (0, 10)
    assert errors == []


def test_features_are_what_the_last_dense_layer_takes(saved_model, keras_model):
    images = [make_image(16, 16, seed) for seed in range(2)]
    outputs = saved_model.signatures["features"](
        tf.constant(np.stack(images), tf.float32)
    )
    # Within the network that is a layer of the model.
    dense = keras_model.layers[-1].get_layer("predictions")
    probabilities = keras.ops.softmax(dense(outputs["features"]))
    np.testing.assert_allclose(
        probabilities, compute_expected(keras_model, images), atol=TOLERANCE
    )


def test_saved_model_carries_what_describes_it(export_dir):
    path = export_dir / "saved_model" / "assets" / "metadata.json"
    metadata = json.loads(path.read_text())
    assert metadata.pop("preprocessing")
    assert metadata == {
        "class_names": CLASS_NAMES,
        "image_size": 16,
        "channels": 1,
        "crop_fraction": CROP_FRACTION,
    }


def test_saved_model_has_folded_normalizations(saved_model, keras_model):
    # Each but those of lambda layers leaves a bias of four variables.
    folded = len(keras_model.variables) - len(saved_model.model_variables)
    assert folded == 3 * 17


def test_tflite_equals_keras(export_dir, keras_model):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(export_dir / "model.tflite"))
    classify = interpreter.get_signature_runner()
    (input_name,) = classify.get_input_details()
    images = [make_image(16, 16, seed).astype("float32") for seed in range(3)]
    outputs = [
        next(iter(classify(**{input_name: image[None]}).values()))[0]
        for image in images
    ]
    expected = keras.ops.softmax(keras_model(np.stack(images)))
    np.testing.assert_allclose(outputs, expected, atol=TOLERANCE)


def test_tflite_needs_built_in_operators_only(export_dir):
    operators = list_operators((export_dir / "model.tflite").read_bytes())
    assert {"CONV_2D", "BATCH_MATMUL", "SOFTMAX"} <= set(operators)
    assert not [name for name in operators if name.startswith("CUSTOM")]


def test_list_operators_names_those_not_built_in():
    invert = tf.function(
        tf.linalg.inv, input_signature=[tf.TensorSpec((3, 3), tf.float32)]
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [invert.get_concrete_function()], invert
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.SELECT_TF_OPS]
    assert "CUSTOM:FlexMatrixInverse" in list_operators(converter.convert())


def test_tflite_carries_what_describes_it(export_dir):
    with zipfile.ZipFile(export_dir / "model.tflite") as archive:
        metadata = json.loads(archive.read("metadata.json"))
    assert metadata["class_names"] == CLASS_NAMES
    assert metadata["image_size"] == 16


def test_int8_has_no_float_operators(export_dir):
    floats = count_operators(export_dir / "model.tflite")["float"]
    assert floats["CONV_2D"] > 10
    counts = count_operators(export_dir / "model_int8.tflite")
    assert counts["float"] == {}
    assert counts["all"]["CONV_2D"] == floats["CONV_2D"]


def test_report_says_how_every_format_differs_from_keras(export_dir):
    report = json.loads((export_dir / "export_report.json").read_text())
    assert report["left_out"] == {}
    rows = report["formats"]
    assert [row["file"] for row in rows.values()] == [
        "saved_model",
        "model.tflite",
        "model_float16.tflite",
        "model_dynamic.tflite",
        "model_int8.tflite",
        "model.onnx",
    ]
    for name in ("saved_model", "tflite", "onnx"):
        assert rows[name]["max_difference"] < 1e-4
        assert rows[name]["top1_agreement"] == 1
    # Half of the digits of float32 are lost, and no more.
    assert 1e-5 < rows["tflite_float16"]["max_difference"] < 0.1
    assert rows["tflite_int8"]["max_difference"] > 0.01
    size = rows["tflite"]["size"]
    assert size == (export_dir / "model.tflite").stat().st_size
    assert rows["tflite_float16"]["size"] < 0.6 * size
    assert rows["tflite_dynamic"]["size"] < 0.45 * size
    assert rows["tflite_int8"]["size"] < 0.45 * size
    for row in rows.values():
        assert list(row["latency_ms"]) == ["1", "8"]
        assert min(row["latency_ms"].values()) > 0


def test_report_lists_what_was_written(export_dir):
    report = exporter.read_report(export_dir)
    files = {
        path.relative_to(export_dir).as_posix()
        for path in export_dir.rglob("*")
        if path.is_file()
    }
    assert report["files"].keys() == files - {"export_report.json"}
    assert "saved_model/assets/metadata.json" in files
    model = (export_dir / "model.onnx").read_bytes()
    assert report["files"]["model.onnx"] == hashlib.sha256(model).hexdigest()


def test_page_shows_what_was_measured(export_dir):
    page = (export_dir / "export_report.html").read_text()
    report = exporter.read_report(export_dir)
    assert "/best.keras</bdi></h1>" in page
    for row in report["formats"].values():
        assert row["file"] in page
        assert f"{row['latency_ms']['8']:.2f} ms" in page
    # All of them, as the class of each is known.
    assert page.count("<figure") == page.count("base64,") == 16


def test_table_has_a_row_for_each_file(export_dir):
    table = exporter.format_table(export_dir)
    rows = [line.split() for line in table.splitlines()]
    files = [model_format.file_name for model_format in FORMATS]
    assert [row[0] for row in rows[1:7]] == files
    assert rows[5][5].startswith("0/")
    assert "\nCompared with Keras on noise and smooth patterns.\n" in table


@pytest.mark.parametrize("batch_size", [1, 3])
def test_onnx_equals_keras(export_dir, keras_model, batch_size):
    session = onnxruntime.InferenceSession(export_dir / "model.onnx")
    images = np.stack([make_image(16, 16, seed) for seed in range(batch_size)])
    images = images.astype("float32")
    (outputs,) = session.run(["probabilities"], {"images": images})
    expected = keras.ops.softmax(keras_model(images))
    np.testing.assert_allclose(outputs, expected, atol=TOLERANCE)


def test_onnx_carries_what_describes_it(export_dir):
    model = onnx.load(export_dir / "model.onnx")
    versions = {entry.domain: entry.version for entry in model.opset_import}
    assert versions[""] == 18
    metadata = onnx_format.read_metadata(export_dir / "model.onnx")
    assert metadata["class_names"] == CLASS_NAMES
    assert metadata["crop_fraction"] == CROP_FRACTION


def test_export_leaves_no_other_files(export_dir):
    assert sorted(p.name for p in export_dir.parent.iterdir()) == [
        "best.keras",
        "export",
        "metadata.json",
    ]
