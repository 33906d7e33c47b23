"""Averages of a network's weights over training, evaluated beside it."""

import keras
import tensorflow as tf

from trainers.distributed_model import DistributedModel

_PREFIX = "average_"


class AveragedModel(DistributedModel):
    """Trains a network and keeps an average of its weights.

    All weights are averaged exponentially, the statistics of batch
    normalization among them, once per step: after step t with momentum
    min(`momentum`, (1 + t) / (10 + t)), so that the first, random weights are
    soon forgotten.

    The average is a network of its own, and nothing is ever swapped.
    Evaluation runs both over the same batches and reports what it reports of
    the network, `loss` and `accuracy`, say, of the average as `average_loss`
    and `average_accuracy`. `predict` is the network's. Save `network` or
    `average`: both are plain models that load without this class.

    Args:
        network: functional model. Its layers must not share what
            `keras.models.clone_model` separates.
        momentum: float. Part of the average that a step keeps.
        **kwargs: Arguments of `DistributedModel`.
    """

    def __init__(self, network, momentum=0.9999, **kwargs):
        super().__init__(network, **kwargs)
        if not 0 <= momentum < 1:
            raise ValueError(
                "`momentum` must be at least 0 and less than 1. Received: "
                f"momentum={momentum}"
            )
        self.momentum = momentum
        self.average = keras.models.clone_model(network)
        _check_same_weights(network, self.average)
        self.average.set_weights(network.get_weights())
        # The variables only: a frozen layer would be saved as frozen.
        for variable in self.average.variables:
            variable.trainable = False
        self._evaluates = False

    def compile(self, *args, metrics=None, weighted_metrics=None, **kwargs):
        """Configures training as `DistributedModel.compile` does.

        Raises:
            ValueError: Also if a metric is no `keras.metrics.Metric`.
        """
        super().compile(
            *args, metrics=metrics, weighted_metrics=weighted_metrics, **kwargs
        )
        with self.distribute_strategy.scope():
            self._average_loss = keras.metrics.Mean(name=f"{_PREFIX}loss")
            self._average_metrics = _copy_metrics(metrics)
            self._average_weighted_metrics = _copy_metrics(weighted_metrics)

    def train_step(self, data):
        logs = super().train_step(data)
        steps = keras.ops.cast(self.optimizer.iterations, "float32")
        tf.__internal__.distribute.interim.maybe_merge_call(
            self._update_average,
            self.distribute_strategy,
            tf.minimum(self.momentum, (1 + steps) / (10 + steps)),
        )
        return logs

    def test_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self.average(x, training=False)
        loss = self.compute_loss(
            x=x,
            y=y,
            y_pred=y_pred,
            sample_weight=sample_weight,
            training=False,
        )
        self._average_loss.update_state(
            loss * self.distribute_strategy.num_replicas_in_sync,
            sample_weight=keras.ops.shape(y_pred)[0],
        )
        for metric in self._average_metrics:
            metric.update_state(y, y_pred)
        for metric in self._average_weighted_metrics:
            metric.update_state(y, y_pred, sample_weight)
        return super().test_step(data)

    def evaluate(self, *args, **kwargs):
        # What training reports has nothing of the average.
        self._evaluates = True
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self._evaluates = False

    @property
    def metrics(self):
        return [
            metric
            for metric in super().metrics
            if self._evaluates or not metric.name.startswith(_PREFIX)
        ]

    def _update_average(self, strategy, momentum):
        for mean, value in zip(
            self.average.weights, self.network.weights, strict=True
        ):
            strategy.extended.update(
                mean.value, _move, args=(value.value, momentum), group=False
            )


def _move(mean, value, momentum):
    if mean.dtype.is_floating:
        momentum = tf.cast(momentum, mean.dtype)
        value = momentum * mean + (1 - momentum) * value
    mean.assign(value)


def _copy_metrics(metrics):
    copies = []
    for metric in metrics or []:
        if not isinstance(metric, keras.metrics.Metric):
            raise ValueError(
                "Metrics must be `keras.metrics.Metric`s, which the average "
                f"gets copies of. Received: {metric}"
            )
        config = {**metric.get_config(), "name": _PREFIX + metric.name}
        copies.append(type(metric).from_config(config))
    return copies


def _check_same_weights(network, average):
    shapes, expected = (
        [tuple(weight.shape) for weight in model.weights]
        for model in (average, network)
    )
    if shapes != expected:
        raise ValueError(
            "The network cannot be averaged, because "
            "`keras.models.clone_model` gives a copy other weights. Received: "
            f"{len(expected)} weights, in the copy {len(shapes)}"
        )
