"""The command that converts PyTorch checkpoints."""

import pathlib
import pickle
import sys
import types

import keras
import numpy as np
import pytest

import lambda_keras
from export import timm_networks
from lambda_keras import make_timm_state
from tests.support.programs import Program
from tests.support.torch_networks import import_timm
from trainers.program import UserError


@pytest.fixture(scope="module")
def program():
    return Program("export.convert_weights")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> pathlib.Path:
    safetensors = pytest.importorskip("safetensors.numpy")
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    network = lambda_keras.build_network("lambda_resnet26t", (64, 64, 3))
    state = timm_networks.draw_state(
        {name: x.shape for name, x in make_timm_state(network).items()}
    )
    state["stem.conv1.bn.num_batches_tracked"] = np.array(7)
    safetensors.save_file(state, path)
    return path


def test_pixels_are_prepared_as_for_imagenet(program):
    identity = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Identity()]
    )
    model = program.module.build_pixel_model(identity)
    pixels = program.module.make_pixels(8)
    assert pixels.min() >= 0
    assert pixels.max() <= 255
    np.testing.assert_allclose(
        model(pixels), lambda_keras.preprocess_input(pixels), atol=1e-5
    )


@pytest.mark.slow
def test_a_converted_file_gives_the_logits_of_the_network(
    program, checkpoint, tmp_path, capsys
):
    output = tmp_path / "new" / "model.keras"
    program.run(
        network="lambda_resnet26t",
        weights=str(checkpoint),
        output=str(output),
        image_size=64,
    )
    network = lambda_keras.build_network(
        "lambda_resnet26t",
        (64, 64, 3),
        weights=checkpoint,
        classifier_activation=None,
    )
    pixels = program.module.make_pixels(64)
    expected = keras.ops.convert_to_numpy(
        network(lambda_keras.preprocess_input(pixels))
    )
    model = keras.saving.load_model(output)
    logits = keras.ops.convert_to_numpy(model(pixels))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(logits, expected, atol=1e-5 * scale)
    printed = capsys.readouterr().out
    assert f"class {expected[0].argmax()}" in printed
    assert "Tensors read: 188, of which 1 count" in printed
    assert [path.name for path in output.parent.iterdir()] == ["model.keras"]


@pytest.mark.slow
def test_a_conversion_is_compared_with_timm(
    program, checkpoint, tmp_path, capsys
):
    import_timm()
    arguments = dict(
        network="lambda_resnet26t",
        weights=str(checkpoint),
        output=str(tmp_path / "model.keras"),
        image_size=64,
    )
    program.run(**arguments)
    assert "of the largest logit" in capsys.readouterr().out


@pytest.mark.slow
def test_a_difference_from_timm_fails_and_writes_nothing(
    program, checkpoint, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        timm_networks, "compute_timm_logits", lambda *_: np.ones((2, 1000))
    )
    output = tmp_path / "model.keras"
    with pytest.raises(UserError, match=r"within 0\.0001 of timm's"):
        program.run(
            network="lambda_resnet26t",
            weights=str(checkpoint),
            output=str(output),
            image_size=64,
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (dict(weights=None), r"--weights is missing"),
        (dict(output="model.h5"), r"--output must end in \.keras.*model\.h5"),
        (dict(network="resnet26"), r"--network must be one of resnet50.*26$"),
        (dict(weights="model.onnx"), r"must be one of \.safetensors.*\.onnx"),
        (dict(weights="none.safetensors"), r"none\.safetensors"),
        (dict(network="lambda_resnet26rpt_256"), r"missing: .*pos_emb"),
    ],
    ids=[
        "no_weights",
        "no_keras_file",
        "unknown_network",
        "unknown_format",
        "no_such_file",
        "another_network",
    ],
)
def test_bad_flags_exit_with_a_reason(program, checkpoint, flags, message):
    arguments = dict(
        network="lambda_resnet26t",
        weights=str(checkpoint),
        output="model.keras",
        image_size=64,
    )
    with pytest.raises(UserError, match=message):
        program.run(**(arguments | flags))


def convert(program, path):
    """Returns the one line that a conversion ends in."""
    with pytest.raises(UserError) as error:
        program.run(
            network="lambda_resnet26t",
            weights=str(path),
            output="model.keras",
            image_size=64,
        )
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "contents",
    [b"", b"junk" * 50, bytes(50), b"\5" + bytes(7) + b'{"a":', b"cut"],
    ids=["empty", "junk", "zeros", "no_json", "cut"],
)
def test_damaged_safetensors_are_one_line(
    program, checkpoint, tmp_path, contents
):
    path = tmp_path / "model.safetensors"
    if contents == b"cut":
        contents = checkpoint.read_bytes()[:-4]
    path.write_bytes(contents)
    message = convert(program, path)
    assert f"{path} is no safetensors file, or a damaged one" in message


@pytest.mark.parametrize(
    "outcome",
    [
        EOFError("Ran out of input"),
        RuntimeError("PytorchStreamReader failed\nreading zip archive"),
        pickle.UnpicklingError("Re-run with weights_only=False\nor not"),
        KeyError(1785425525),
        AssertionError("storage key not found"),
        [1, 2],
        {"state_dict": 3},
        {"a": "no tensor"},
    ],
    ids=lambda outcome: type(outcome).__name__,
)
def test_damaged_files_of_torch_are_one_line(
    program, tmp_path, monkeypatch, outcome
):
    """As PyTorch 2.13 answers to empty and cut files, junk and other data."""

    def load(path, map_location, weights_only):
        assert weights_only
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    torch = types.SimpleNamespace(load=load)
    monkeypatch.setitem(sys.modules, "torch", torch)
    message = convert(program, tmp_path / "model.pth")
    assert (
        "model.pth is no file of tensors by name that `torch.save`" in message
    )
    assert "weights_only" not in message


@pytest.mark.parametrize(
    ("weights", "package"),
    [
        ("model.safetensors", "safetensors"),
        ("model.pth", "torch"),
        ("hf://timm/lambda_resnet26t.c1_in1k", "huggingface_hub"),
    ],
)
def test_missing_package_is_named(program, monkeypatch, weights, package):
    monkeypatch.setitem(sys.modules, package, None)
    message = convert(program, weights)
    assert message.startswith("--weights of this kind need a package that")
    assert package in message
    assert message.endswith(f"Received: {weights}")


def test_lines_of_the_hub_become_one(program, monkeypatch):
    def download(*_):
        raise OSError("401 Client Error.\n\nRepository Not Found")

    hub = types.SimpleNamespace(hf_hub_download=download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert convert(program, "hf://timm/x") == (
        "--weights cannot be read: 401 Client Error. Repository Not Found. "
        "Received: hf://timm/x"
    )
