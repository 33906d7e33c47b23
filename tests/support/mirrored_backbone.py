"""Trains a part of a backbone for a step on the devices of a strategy."""

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from official.vision.configs.common import NormActivation

from tests.support import reference
from trainers.detection.backbone import KerasBackbone
from trainers.detection.backbone import LambdaResNet
from trainers.detection.backbone import build_features

BATCH_SIZE = 6
SHAPE = (64, 32, 3)


def train(strategy):
    config = LambdaResNet(
        depth=26, layout="LCCC", width_multiplier=0.125, scope_size=3
    )
    norm = NormActivation(use_sync_bn=True, norm_momentum=0.5)
    random = np.random.default_rng(1)
    images = random.normal(size=(BATCH_SIZE, *SHAPE)).astype("float32")
    with strategy.scope():
        network = build_features(config, norm, SHAPE)
        # All stages take half a minute.
        network = keras.Model(network.input, {"2": network.output["2"]})
        reference.randomize_weights(network)
        model = KerasBackbone(network, tf_keras.regularizers.L2(0.01))
        optimizer = tf_keras.optimizers.legacy.SGD(0.1, momentum=0.9)
        # Its slots, too, are made in the scope, as by the trainer.
        optimizer._create_all_weights(model.trainable_variables)
    count = strategy.num_replicas_in_sync

    def compute_step(batch):
        with tf.GradientTape() as tape:
            outputs = model(batch, training=True)
            loss = sum(tf.reduce_mean(x**2) for x in outputs.values())
            # As tf-models-official does.
            loss = (loss + tf.add_n(model.losses)) / count
        variables = model.trainable_variables
        gradients = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    parts = tf.split(images, count)
    batch = strategy.experimental_distribute_values_from_function(
        lambda context: parts[context.replica_id_in_sync_group]
    )
    tf.function(strategy.run)(compute_step, args=(batch,))
    return {key: w.numpy() for key, w in model.network_weights.items()}
