"""What training left behind is read, or refused in one line."""

import json
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import lambda_keras
from export.trained_classifier import convert_to_float32
from export.trained_classifier import end_in_softmax
from export.trained_classifier import load_classifier
from tests.support.programs import Program
from trainers.program import UserError


@pytest.fixture(scope="module")
def program():
    return Program("export.export_model")


def test_softmax_is_appended_to_logits():
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Flatten()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    images = np.random.default_rng(0).uniform(0, 255, (5, 4, 4, 1))
    np.testing.assert_allclose(
        end_in_softmax(model)(images),
        keras.ops.softmax(model(images)),
        atol=1e-6,
    )


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_softmax_is_not_applied_twice(nested):
    images = keras.Input((4, 4, 1))
    x = keras.layers.Flatten()(images)
    model = keras.Model(images, keras.layers.Dense(3, "softmax")(x))
    if nested:
        images = keras.Input((4, 4, 1))
        model = keras.Model(images, model(images / 255))
    assert end_in_softmax(model) is model


def test_half_precision_model_is_rebuilt_in_float32_with_its_weights():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        inputs = keras.Input((6, 6, 3))
        x = lambda_keras.LambdaConv(8, scope_size=3)(inputs)
        x = keras.layers.GlobalAveragePooling2D()(x)
        inner = keras.Model(inputs, keras.layers.Dense(5)(x))
        outer_inputs = keras.Input((6, 6, 3))
        x = keras.layers.Rescaling(1 / 255)(outer_inputs)
        mixed = keras.Model(outer_inputs, inner(x))
    finally:
        keras.config.set_dtype_policy("float32")
    converted = convert_to_float32(mixed)

    assert mixed.outputs[0].dtype == "bfloat16"
    assert converted.outputs[0].dtype == "float32"
    layers = converted._flatten_layers()
    assert {layer.compute_dtype for layer in layers} == {"float32"}
    for old, new in zip(mixed.weights, converted.weights, strict=True):
        np.testing.assert_array_equal(old, new)
    images = np.random.default_rng(0).uniform(0, 255, (2, 6, 6, 3))
    np.testing.assert_allclose(
        converted(images), keras.ops.cast(mixed(images), "float32"), atol=0.05
    )


@pytest.mark.slow
def test_float32_model_is_kept(keras_model):
    assert convert_to_float32(keras_model) is keras_model


def test_missing_model_is_named(tmp_path):
    with pytest.raises(UserError, match=r"Received: .*absent\.keras"):
        load_classifier(tmp_path / "absent.keras")


def test_damaged_model_is_named(tmp_path, model_dir):
    damaged = tmp_path / "best.keras"
    damaged.write_bytes((model_dir / "best.keras").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cut off: .*best\.keras"):
        load_classifier(damaged)


@pytest.fixture
def change_model(linear_model_path):
    """Writes other contents for a member of the file, or none."""
    with zipfile.ZipFile(linear_model_path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def change(name, contents):
        with zipfile.ZipFile(linear_model_path, "w") as archive:
            for member, old in members.items():
                if member != name:
                    archive.writestr(member, old)
                elif contents is not None:
                    archive.writestr(member, contents(old))

    return change


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("config.json", None),
        ("config.json", lambda old: b"null"),
        ("config.json", lambda old: b"{}"),
        ("config.json", lambda old: old[:100]),
        ("config.json", lambda old: old.replace(b"Dense", b"Dance")),
        # It loads, but TensorFlow has no such names.
        ("config.json", lambda old: old.replace(b'"dense', b'"&ense')),
        ("config.json", lambda old: old.replace(b'"dtype"', b'"type"')),
        ("model.weights.h5", None),
        ("model.weights.h5", lambda old: b"no HDF5"),
        ("model.weights.h5", lambda old: old[:900]),
        ("model.weights.h5", lambda old: old.replace(b"HEAP", b"HEAD")),
    ],
)
def test_archive_of_damaged_contents_is_one_line(
    change_model, linear_model_path, name, contents
):
    change_model(name, contents)
    with pytest.raises(UserError, match=r"Received: .*last\.keras") as error:
        load_classifier(linear_model_path)
    assert "\n" not in str(error.value)


def test_flipped_bits_are_one_line_wherever_they_are(linear_model_path):
    contents = linear_model_path.read_bytes()
    messages = []
    for position in range(0, len(contents), 97):
        damaged = bytearray(contents)
        damaged[position] ^= 1 << position % 8
        linear_model_path.write_bytes(damaged)
        try:
            load_classifier(linear_model_path)
        except UserError as error:
            messages.append(str(error))
    # The others are in what an archive holds beside its files.
    assert len(messages) > 0.9 * len(contents) / 97
    assert not [message for message in messages if "\n" in message]


@pytest.mark.parametrize(
    "error",
    [MemoryError("array"), tf.errors.ResourceExhaustedError(None, None, "OOM")],
    ids=["numpy", "tensorflow"],
)
def test_model_that_memory_does_not_hold_is_one_line(
    linear_model_path, monkeypatch, error
):
    """As of a number of units with a flipped bit."""

    def load(*_, **__):
        raise error

    monkeypatch.setattr(keras.saving, "load_model", load)
    with pytest.raises(UserError, match=f"load: {type(error).__name__}: "):
        load_classifier(linear_model_path)


def test_missing_class_is_named(change_model, linear_model_path):
    change_model(
        "config.json",
        lambda old: old.replace(
            b'"keras.layers", "class_name": "Flatten"',
            b'"mine", "class_name": "Mine"',
        ),
    )
    with pytest.raises(UserError, match="Could not locate class 'Mine'"):
        load_classifier(linear_model_path)


def test_model_that_returns_nan_is_refused(linear_model_path):
    model = keras.saving.load_model(linear_model_path)
    model.layers[-1].bias.assign([0, np.nan])
    model.save(linear_model_path)
    with pytest.raises(UserError, match=r"finite numbers\. Received: nan"):
        load_classifier(linear_model_path)


def call_system(config, command):
    layer = config["config"]["layers"][1]
    layer |= {
        "module": "os",
        "class_name": "system",
        "registered_name": None,
        "config": {"command": command},
    }


def initialize_by_process(config, command):
    config["config"]["layers"][2]["config"]["kernel_initializer"] = {
        "module": "subprocess",
        "class_name": "Popen",
        "registered_name": None,
        "config": {"args": command, "shell": True},
    }


def activate_by_system(config, command):
    config["config"]["layers"][2]["config"]["activation"] = {
        "module": "os",
        "class_name": "function",
        "registered_name": "system",
        "config": "system",
    }


def add_lambda(config, command):
    code = f"(lambda x: (__import__('os').system({command!r}), x)[1])"
    layer = keras.layers.Lambda(eval(code), output_shape=(4, 4, 1))
    config["config"]["layers"][1] |= keras.saving.serialize_keras_object(layer)


@pytest.mark.parametrize(
    "change",
    [call_system, initialize_by_process, activate_by_system, add_lambda],
)
def test_code_in_a_model_is_not_run(
    change, change_model, linear_model_path, tmp_path
):
    trace = tmp_path / "trace"

    def change_config(contents):
        config = json.loads(contents)
        change(config, f"touch {trace}")
        return json.dumps(config)

    change_model("config.json", change_config)
    with pytest.raises(UserError, match=r"Received: .*last\.keras$") as error:
        load_classifier(linear_model_path)
    assert "\n" not in str(error.value)
    assert not trace.exists()


def test_model_of_two_inputs_is_refused(tmp_path):
    inputs = [keras.Input((4,)), keras.Input((4,))]
    outputs = keras.layers.Add()(inputs)
    keras.Model(inputs, outputs).save(tmp_path / "two.keras")
    with pytest.raises(UserError, match="must map square images"):
        load_classifier(tmp_path / "two.keras")


def test_classes_without_metadata_are_numbered(linear_model_path, capsys):
    classifier = load_classifier(linear_model_path)
    assert classifier.class_names == ["0", "1"]
    assert classifier.crop_fraction == 1
    assert "the classes are called 0 to 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("{", "is damaged"),
        ('{"class_names": ["a", "b"]}', "crop_fraction in .*: None"),
        (
            '{"class_names": ["a", "b", "c"], "crop_fraction": 1}',
            "3 names for 2 classes",
        ),
        ('{"class_names": ["a", "b"], "crop_fraction": 0}', "above 0"),
        ("null", "is damaged"),
        ('{"class_names": ["a"], "crop_fraction": 1}', "1 names for 2"),
        ('{"class_names": [1, 2], "crop_fraction": 1}', "list of strings"),
        ('{"class_names": "ab", "crop_fraction": 1}', "list of strings"),
        ('{"class_names": ["a", "b"], "crop_fraction": NaN}', ": nan"),
        ('{"class_names": ["a", "b"], "crop_fraction": true}', ": True"),
    ],
    ids=[
        "not JSON",
        "no crop",
        "too many names",
        "empty crop",
        "no object",
        "too few names",
        "names of another type",
        "names in no list",
        "crop is no number",
        "crop of another type",
    ],
)
def test_unfit_metadata_is_named(linear_model_path, metadata, message):
    linear_model_path.with_name("metadata.json").write_text(metadata)
    with pytest.raises(UserError, match=message):
        load_classifier(linear_model_path)
