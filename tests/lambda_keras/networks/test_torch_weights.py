"""Weights of PyTorch networks in ours, against these networks themselves."""

import functools

import keras
import numpy as np
import pytest

import lambda_keras
from export import timm_networks
from lambda_keras import build_network
from lambda_keras import load_timm_weights
from lambda_keras import make_timm_state
from lambda_keras.networks import torch_weights
from tests.support import reference
from tests.support import torch_networks
from tests.support.networks import build_without_values

# Height and width of the images.
PEERS = {
    "lambda_resnet26t": (96, 160),
    "lambda_resnet26rpt_256": (256, 256),
    "lambda_resnet50ts": (96, 160),
    "resnet50": (96, 160),
    "resnet_rs50": (96, 160),
}


def make_images(size, number=2):
    random = np.random.default_rng(3)
    return random.normal(size=(number, *size, 3)).astype("float32")


def call(model, images):
    return keras.ops.convert_to_numpy(model(images, training=False))


def assert_same_logits(outputs, expected):
    assert np.std(expected, axis=1).min() > 0.1
    scale = np.abs(expected).max()
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-4 * scale)


def build_logits(name, size=None, **kwargs):
    input_shape = None if size is None else (*size, 3)
    return build_network(
        name, input_shape, classifier_activation=None, **kwargs
    )


@pytest.mark.parametrize(("name", "size"), PEERS.items(), ids=PEERS)
def test_network_with_timms_weights_gives_timms_logits(name, size):
    peer = torch_networks.build_timm_network(name, size)
    model = build_logits(name, size, weights=peer.state())
    images = make_images(size)
    assert_same_logits(call(model, images), peer(images))
    back = make_timm_state(model)
    for key, array in torch_weights.select_tensors(peer.state(), model).items():
        np.testing.assert_array_equal(back.pop(key), array)
    assert not back


def test_all_networks_that_timm_has_too_have_its_tensors():
    torch_networks.import_timm()
    import torch

    compared = []
    for name, network in lambda_keras.NETWORKS.items():
        with torch.device("meta"):
            peer = timm_networks.create_timm_network(
                name, (network.image_size, network.image_size)
            )
        if peer is None:
            continue
        model = build_without_values(build_network, name)
        assert {
            key: tensor.shape
            for key, tensor in torch_weights.list_tensors(model).items()
        } == {
            key: tuple(tensor.shape)
            for key, tensor in peer.state_dict().items()
            if not key.endswith("num_batches_tracked")
        }, name
        compared.append(name)
    assert compared == [
        "resnet50",
        "resnet101",
        "resnet152",
        *(f"resnet_rs{n}" for n in (50, 101, 152, 200, 270, 350, 420)),
        "lambda_resnet26t",
        "lambda_resnet26rpt_256",
        "lambda_resnet50ts",
    ]


def test_timm_with_our_weights_gives_our_logits():
    model = build_logits("lambda_resnet26t", (96, 160))
    peer = torch_networks.build_timm_network("lambda_resnet26t", (96, 160))
    load_timm_weights(model, peer.state())
    reference.randomize_weights(model.get_layer("c2_block1_1_conv"))
    images = make_images((96, 160))
    before = peer(images)
    peer.load(make_timm_state(model))
    assert np.abs(peer(images) - before).max() > 0.1
    assert_same_logits(peer(images), call(model, images))


def test_lambda_resnet50_with_a_bias_gives_the_logits_of_pytorch():
    peer = torch_networks.build_lambda_resnet50()
    images = make_images((64, 32), number=4)
    # Each lambda layer squares the scale of its inputs, and errors with it.
    peer.normalize(images)
    model = build_logits("resnet50_llll_biased", (64, 32), weights=peer.state())
    assert_same_logits(call(model, images), peer(images))


def test_pytorch_files_are_read_as_they_are_written(tmp_path):
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    peer = torch_networks.build_timm_network("lambda_resnet26t", (96, 160))
    state = peer.module.state_dict()
    safetensors.save_file(state, tmp_path / "model.safetensors")
    torch.save(
        {"state_dict": {f"module.{name}": x for name, x in state.items()}},
        tmp_path / "model.pth",
    )
    for file in ("model.safetensors", "model.pth"):
        read = torch_weights.read_checkpoint(tmp_path / file)
        assert read.keys() == peer.state().keys()
        for name, array in peer.state().items():
            np.testing.assert_array_equal(read[name], array)


def test_names_on_the_hub_are_asked_of_the_hub(monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    numpy_files = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "model.safetensors"
    numpy_files.save_file({"head.fc.bias": np.arange(3.0)}, path)
    asked = []

    def download(repository, file):
        asked.append((repository, file))
        return str(path)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    state = torch_weights.read_checkpoint("hf://timm/lambda_resnet26t.c1_in1k")
    assert asked == [("timm/lambda_resnet26t.c1_in1k", "model.safetensors")]
    np.testing.assert_array_equal(state["head.fc.bias"], [0, 1, 2])


def build_shapes(**kwargs):
    """A small network of timm's kind."""
    arguments = dict(
        input_shape=(64, 64, 3),
        layout=("C", "C", "CL", "L"),
        architecture="tiered",
        lambda_layer=lambda filters: lambda_keras.LambdaConv(
            filters, 5, use_bias=True
        ),
        activation="silu",
        width_multiplier=0.125,
    )
    return lambda_keras.build_lambda_resnet(
        26, num_classes=7, **(arguments | kwargs)
    )


def build_small(**kwargs):
    """One with random weights."""
    model = build_shapes(**kwargs)
    reference.randomize_weights(model)
    return model


# For tests that do not change it.
get_small = functools.cache(build_small)


def test_weights_come_back_from_a_checkpoint():
    model, other = get_small(), build_small()
    state = make_timm_state(model)
    for weight in other.weights:
        weight.assign(0 * weight)
    load_timm_weights(other, state)
    for weight, expected in zip(other.weights, model.weights, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_a_checkpoint_reaches_a_network_within_a_model():
    network = build_small()
    state = make_timm_state(network)
    images = keras.Input((64, 64, 3))
    model = keras.Model(images, network(keras.layers.Rescaling(2.0)(images)))
    state["head.fc.bias"] = state["head.fc.bias"] + 1
    load_timm_weights(model, state)
    bias = network.get_layer("predictions").bias
    np.testing.assert_array_equal(bias, state["head.fc.bias"])


def test_offsets_of_another_image_size_are_kept():
    model = build_small(lambda_layer=lambda_keras.LambdaLayer)
    state = make_timm_state(model)
    larger = build_shapes(
        input_shape=(96, 96, 3),
        lambda_layer=lambda_keras.LambdaLayer,
        weights=state,
    )
    name = "stages.2.1.self_attn.pos_emb"
    learned, extended = state[name], make_timm_state(larger)[name]
    assert (learned.shape, extended.shape) == ((7, 7, 16), (11, 11, 16))
    np.testing.assert_array_equal(extended[2:-2, 2:-2], learned)
    np.testing.assert_array_equal(extended[0, 0], learned[0, 0])


def test_a_network_without_classifier_leaves_out_that_of_the_checkpoint():
    state = make_timm_state(get_small())
    features = build_shapes(include_top=False, weights=state)
    kept = make_timm_state(features)
    assert state.keys() - kept.keys() == {"head.fc.weight", "head.fc.bias"}


def remove(state):
    del state["stages.3.0.self_attn.conv_lambda.bias"]


def add(state):
    state["stages.0.2.conv1_1x1.conv.weight"] = np.zeros((4, 8, 1, 1))


def reshape(state):
    state["head.fc.weight"] = np.zeros((9, 256))


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (remove, r"1 missing: stages\.3\.0\.self_attn\.conv_lambda\.bias$"),
        (add, r"1 unexpected: stages\.0\.2\.conv1_1x1\.conv\.weight$"),
        (
            reshape,
            r"include_top=False.*1 misshapen: head\.fc\.weight \(9, 256\) for "
            r"\(7, 256\)$",
        ),
    ],
    ids=["missing", "unexpected", "misshapen"],
)
def test_a_tampered_checkpoint_is_refused_by_name(tamper, message):
    model = get_small()
    state = make_timm_state(model)
    before = model.get_weights()
    tamper(state)
    state["stem.conv1.conv.weight"] = 5 + state["stem.conv1.conv.weight"]
    with pytest.raises(ValueError, match=message):
        load_timm_weights(model, state)
    for weight, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)


@pytest.mark.parametrize("is_file", [False, True], ids=["arrays", "file"])
def test_the_builder_takes_a_checkpoint(is_file, tmp_path):
    model = get_small()
    weights = make_timm_state(model)
    if is_file:
        numpy_files = pytest.importorskip("safetensors.numpy")
        path = tmp_path / "model.safetensors"
        numpy_files.save_file(weights, path)
        weights = path
    built = build_shapes(weights=weights)
    for weight, expected in zip(built.weights, model.weights, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_a_checkpoint_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.safetensors, .*model\.h5"):
        load_timm_weights(get_small(), tmp_path / "model.h5")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            dict(
                lambda_layer=lambda filters: lambda_keras.LambdaConv(
                    filters, num_key_value_heads=2
                )
            ),
            r"num_key_value_heads=2",
        ),
        (
            dict(
                lambda_layer=lambda filters: keras.Sequential(
                    [lambda_keras.LambdaConv(filters)]
                )
            ),
            r"Sequential in c4_block2$",
        ),
        (
            dict(normalization=keras.layers.LayerNormalization()),
            r"batch normalization.*LayerNormalization",
        ),
    ],
    ids=["several_lambdas", "other_layer", "layer_normalization"],
)
def test_a_network_without_counterpart_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_timm_state(build_without_values(build_shapes, **arguments))
