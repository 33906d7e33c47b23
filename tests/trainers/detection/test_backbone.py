"""LambdaResNets within the detectors of tf-models-official."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from official.vision.configs.common import NormActivation
from official.vision.modeling.backbones import factory
from safetensors.numpy import save_file

import lambda_keras
from lambda_keras import NETWORKS
from lambda_keras.networks.torch_weights import make_timm_state
from tests.support import mirrored_backbone
from tests.support import reference
from tests.support.networks import build_without_values
from trainers.detection import backbone
from trainers.detection.backbone import LambdaResNet
from trainers.detection.experiments import RECIPES
from trainers.program import UserError

# Builds whole models: not for the edit loop.
pytestmark = pytest.mark.slow

SMALL = {
    "depth": 26,
    "layout": "CCCL",
    "width_multiplier": 0.125,
    "scope_size": 3,
}
NORM = NormActivation(use_sync_bn=True, norm_momentum=0.5)
SHAPE = (64, 32, 3)


def build_backbone(seed=0, **kwargs):
    """Builds one as a detector does, with random weights."""
    backbone.register_backbone()
    model = factory.build_backbone(
        tf_keras.layers.InputSpec(shape=(None, *SHAPE)),
        backbone.Backbone(
            type="lambda_resnet",
            lambda_resnet=LambdaResNet(**{**SMALL, **kwargs}),
        ),
        NORM,
        tf_keras.regularizers.L2(0.5),
    )
    # New residual branches are zero, and most gradients in them.
    reference.randomize_weights(model._get_network(), seed)
    return model


def make_images():
    random = np.random.default_rng(1)
    return random.normal(size=(3, *SHAPE)).astype("float32")


def read_weights(model):
    return {key: w.numpy() for key, w in model.network_weights.items()}


def test_levels_are_the_stages_of_the_network():
    model = build_backbone()
    outputs = model(make_images(), training=False)
    normalization = keras.layers.BatchNormalization(epsilon=0.001)
    network = lambda_keras.build_lambda_resnet(
        26,
        SHAPE,
        include_top=False,
        layout="CCCL",
        width_multiplier=0.125,
        lambda_layer=lambda filters: lambda_keras.LambdaConv(
            filters, scope_size=3, normalization=normalization
        ),
        normalization=normalization,
    )
    network.set_weights(model._get_network().get_weights())
    stages = keras.Model(
        network.input, [network.get_layer(f"c{n}").output for n in range(2, 6)]
    )
    for n, expected in zip(range(2, 6), stages(make_images()), strict=True):
        assert model.output_specs[str(n)] == (None, *expected.shape[1:])
        np.testing.assert_array_equal(outputs[str(n)], expected)


def test_normalizations_are_the_detectors():
    settings = {
        (layer.momentum, layer.epsilon, layer.synchronized)
        for layer in build_backbone()._get_network().layers
        if isinstance(layer, keras.layers.BatchNormalization)
    }
    assert settings == {(0.5, 0.001, True)}


def test_step_moves_all_variables_and_statistics():
    model = build_backbone()
    before = read_weights(model)
    with tf.GradientTape() as tape:
        outputs = model(make_images(), training=True)
        loss = sum(tf.reduce_mean(x**2) for x in outputs.values())
    gradients = tape.gradient(loss, model.trainable_variables)
    tf_keras.optimizers.legacy.SGD(0.1, momentum=0.9).apply_gradients(
        zip(gradients, model.trainable_variables, strict=True)
    )
    after = read_weights(model)
    same = [key for key in before if np.array_equal(before[key], after[key])]
    assert not same
    assert len(model.trainable_variables) == len(
        model._get_network().trainable_variables
    )


def test_states_of_stochastic_depth_are_kept():
    model = build_backbone(stochastic_depth_rate=0.5)
    before = [state.numpy() for state in model.random_states]
    assert len(before) == 8
    model(make_images(), training=True)
    for state, value in zip(model.random_states, before, strict=True):
        assert not np.array_equal(state, value)


def test_frozen_backbone_keeps_its_statistics():
    model = build_backbone()
    model.trainable = False
    before = read_weights(model)
    model(make_images(), training=True)
    for key, value in read_weights(model).items():
        np.testing.assert_array_equal(value, before[key])
    assert not model.trainable_variables


def test_all_but_biases_and_normalizations_decay():
    model = build_backbone()
    expected = sum(
        0.5 * np.sum(value.astype("float64") ** 2)
        for key, value in read_weights(model).items()
        if key.endswith(("kernel", "table"))
    )
    np.testing.assert_allclose(sum(model.losses), expected, rtol=1e-4)


def test_checkpoint_restores_all_and_has_readable_keys(tmp_path):
    model = build_backbone(seed=1)
    path = tf.train.Checkpoint(backbone=model).save(str(tmp_path / "ckpt"))
    keys = {name for name, _ in tf.train.list_variables(path)}
    assert (
        "backbone/network_weights/c5_block1_lambda:query:kernel"
        "/.ATTRIBUTES/VARIABLE_VALUE"
    ) in keys
    other = build_backbone(seed=2)
    backbone.check_checkpoint(other, path)
    tf.train.Checkpoint(backbone=other).restore(path).assert_consumed()
    expected = model(make_images(), training=False)
    for level, features in other(make_images(), training=False).items():
        np.testing.assert_array_equal(features, expected[level])


def test_checkpoint_of_another_backbone_is_refused(tmp_path):
    path = tf.train.Checkpoint(backbone=build_backbone()).save(
        str(tmp_path / "ckpt")
    )
    with pytest.raises(UserError) as error:
        backbone.check_checkpoint(build_backbone(layout="CCCC"), path)
    message = str(error.value)
    assert "must be a checkpoint of the same backbone" in message
    assert "c5_block1_2_conv:kernel, None instead of [3, 3, 64, 64]" in message
    with pytest.raises(UserError) as error:
        backbone.check_checkpoint(build_backbone(scope_size=5), path)
    message = str(error.value)
    assert "Received: 2 weights" in message
    assert "[3, 3, 1, 1, 16] instead of [5, 5, 1, 1, 16]" in message


@pytest.fixture(scope="module")
def classifier():
    model = lambda_keras.build_lambda_resnet(
        26,
        (32, 32, 3),
        5,
        layout="CCCL",
        width_multiplier=0.125,
        squeeze_excite_ratio=0,
        lambda_layer=lambda filters: lambda_keras.LambdaConv(
            filters, scope_size=3
        ),
    )
    reference.randomize_weights(model, seed=3)
    return model


@pytest.mark.parametrize("name", ["", "model.safetensors"])
def test_backbone_begins_with_a_classifier(name, classifier, tmp_path):
    classifier.save(tmp_path / "best.keras")
    state = make_timm_state(classifier)
    save_file(state, tmp_path / "model.safetensors")
    config = LambdaResNet(
        **SMALL, squeeze_excite_ratio=0.0, weights=str(tmp_path / name)
    )
    features = backbone.build_features(config, NORM, SHAPE)
    weights = {weight.path: weight for weight in classifier.weights}
    for weight in features.weights:
        np.testing.assert_array_equal(weight, weights[weight.path])


def get_error(**kwargs):
    config = LambdaResNet(**{**SMALL, **kwargs})
    with pytest.raises(UserError) as error:
        backbone.build_features(config, NORM, SHAPE)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_bad_configurations_are_one_line(tmp_path):
    assert "`depth` must be" in get_error(depth=51)
    assert "`layout` must be" in get_error(layout="C,C,C")
    assert "`lambda_layer` must be" in get_error(lambda_layer="Lambda")
    assert "`name` must be one of" in get_error(network="resnet51")
    missing = get_error(weights=str(tmp_path))
    assert "the folder of a run that has its best.keras" in missing
    (tmp_path / "best.keras").write_text("")
    assert "cannot be those of the backbone" in get_error(weights=str(tmp_path))


def test_weights_of_another_network_are_refused(classifier, tmp_path):
    classifier.save(tmp_path / "best.keras")
    message = get_error(weights=str(tmp_path / "best.keras"))
    assert "The weights must be those of the same network" in message
    assert "c2_block1_squeeze_conv is missing" in message


def test_global_lambdas_are_of_one_size():
    config = LambdaResNet(**{**SMALL, "lambda_layer": "LambdaLayer"})
    features = backbone.build_features(config, NORM, SHAPE)
    layer = features.get_layer("c5_block2_lambda")
    assert isinstance(layer, lambda_keras.LambdaLayer)
    # Offsets between the 2 x 1 positions of c5.
    assert layer.position_embeddings.table.shape[:2] == (3, 1)


def test_named_networks_are_built_without_their_classifier():
    features = build_without_values(
        backbone.build_features,
        LambdaResNet(network="lambda_resnet26t"),
        NORM,
        (256, 256, 3),
    )
    classifier = 1000 * (2048 + 1)
    assert count_parameters(features) == (
        NETWORKS["lambda_resnet26t"].parameters - classifier
    )


def count_parameters(model):
    return sum(np.prod(w.shape) for w in model.trainable_weights)


@pytest.mark.detection
@pytest.mark.parametrize(
    ("recipe", "network"),
    [
        ("lambda_resnet101", "lambda_resnet101"),
        ("lambda_resnet152", "lambda_resnet152"),
        ("resnet101_se", "resnet_rs101"),
        ("resnet152_se", "resnet_rs152"),
    ],
)
def test_recipes_have_the_papers_backbones(recipe, network):
    features = build_without_values(
        backbone.build_features,
        LambdaResNet(**RECIPES[recipe].backbone),
        NORM,
        (1024, 1024, 3),
    )
    classifier = 1000 * (2048 + 1)
    assert count_parameters(features) == (
        NETWORKS[network].parameters - classifier
    )


@pytest.mark.detection
@pytest.mark.parametrize(
    ("recipe", "millions"), [("resnet101", 44.6), ("resnet152", 60.2)]
)
def test_recipes_without_squeeze_excite_have_the_papers_size(recipe, millions):
    features = build_without_values(
        backbone.build_features,
        LambdaResNet(**RECIPES[recipe].backbone),
        NORM,
        (1024, 1024, 3),
    )
    classifier = 1000 * (2048 + 1)
    assert round((count_parameters(features) + classifier) / 1e6, 1) == millions


def test_mirrored_step_equals_that_of_one_device(mirrored):
    expected = mirrored_backbone.train(tf.distribute.get_strategy())
    actual = mirrored.results["backbone"]
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(
            actual[key], value, rtol=1e-4, atol=1e-5, err_msg=key
        )
