"""Trains a network on all devices of a strategy as if they were one.

Written against Keras 3.15 on TensorFlow, which by itself fails with several
replicas at several steps per execution (keras-team/keras#19246), at several
workers (#20585) and at gradient accumulation (#20582), and clips the gradient
of each replica instead of their sum. Three of its private methods are replaced
for that; a test fails when Keras changes them.
"""

import keras
import tensorflow as tf

from trainers.program import UserError


class DistributedModel(keras.Model):
    """Trains a network by the gradient of the global batch.

    The gradients of all replicas are added first, each weighted with its share
    of the batch, and only then clipped, so that the optimizer's
    `global_clipnorm` and `clipnorm` mean the same on every number of devices.
    A step takes one batch and ends in one update, whatever
    `gradient_accumulation_steps` is: step counts and schedules do not depend
    on it, and a checkpoint never lies in the middle of an accumulation.

    Make it under `strategy.scope()`, train it with `fit`, and save its
    `network`, a plain model that loads without this class.

    Args:
        network: functional model. Batch normalization should be synchronized
            if there are several replicas; otherwise each keeps statistics of
            its own, and those of the first are saved.
        gradient_accumulation_steps: int. Number of parts of a replica's batch
            that are computed one after the other, in the memory of one. Batch
            normalization sees one part at a time. A batch needs that many
            examples per replica.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.
    """

    def __init__(self, network, gradient_accumulation_steps=1, **kwargs):
        if keras.backend.backend() != "tensorflow":
            raise ValueError(
                "This model needs the TensorFlow backend; others distribute "
                "by `keras.distribution`. Received: "
                f"backend={keras.backend.backend()}"
            )
        super().__init__(**kwargs)
        if gradient_accumulation_steps < 1:
            raise ValueError(
                "`gradient_accumulation_steps` must be at least 1. Received: "
                f"gradient_accumulation_steps={gradient_accumulation_steps}"
            )
        self.network = network
        self.gradient_accumulation_steps = gradient_accumulation_steps

    def call(self, inputs, training=None):
        return self.network(inputs, training=training)

    def compile(self, *args, **kwargs):
        """Configures training as `keras.Model.compile` does.

        Raises:
            ValueError: If the optimizer is to accumulate gradients itself, the
                loss is no mean over the batch, or several replicas are to be
                compiled by XLA.
        """
        super().compile(*args, **kwargs)
        _check_mean(self.loss)
        if self._num_replicas > 1 and self.jit_compile:
            raise ValueError(
                "`jit_compile` must be False with several replicas, because "
                "XLA cannot compile across devices. Received: jit_compile=True"
            )
        optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        if optimizer.gradient_accumulation_steps:
            raise ValueError(
                "The optimizer must not accumulate gradients, because Keras's "
                "fails with several replicas; give "
                "`gradient_accumulation_steps` to the model. Received: "
                "gradient_accumulation_steps="
                f"{optimizer.gradient_accumulation_steps}"
            )
        # `train_step` adds the gradients of the replicas before the optimizer
        # clips them; it must not add them again.
        optimizer._all_reduce_sum_gradients = lambda pairs: pairs

    def train_step(self, data):
        data = keras.utils.unpack_x_y_sample_weight(data)
        size = _count_examples(data)
        tf.debugging.assert_greater_equal(
            size,
            self.gradient_accumulation_steps,
            "A batch must have an example for each part on each replica.",
        )
        mean_size = self._average_over_replicas(size)
        gradients = [None] * len(self.trainable_variables)
        for rows in _split(size, self.gradient_accumulation_steps):
            # Without the dependency, all parts would be in memory at once.
            with tf.control_dependencies(
                [g for g in gradients if g is not None]
            ):
                part = _take(data, rows)
            share = tf.cast(rows.stop - rows.start, tf.float32) / mean_size
            new = self._compute_gradients(part, share)
            gradients = [
                _add(*pair) for pair in zip(gradients, new, strict=True)
            ]
        self.optimizer.apply(
            _add_over_replicas(gradients), self.trainable_variables
        )
        return self.get_metrics_result()

    def _compute_gradients(self, data, share):
        x, y, sample_weight = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(
                x=x,
                y=y,
                y_pred=y_pred,
                sample_weight=sample_weight,
                training=True,
            )
            # Before the gradient is taken, which synchronized batch
            # normalization carries from one replica to the others.
            scaled_loss = self.optimizer.scale_loss(
                loss * tf.cast(share, loss.dtype)
            )
        # Keras has divided the loss by the number of replicas.
        self._loss_tracker.update_state(
            loss * self._num_replicas, sample_weight=_count_examples(data)
        )
        self.compute_metrics(x, y, y_pred, sample_weight)
        return tape.gradient(scaled_loss, self.trainable_variables)

    def _average_over_replicas(self, size):
        mean_size = tf.cast(size, tf.float32)
        # A size that is known beforehand is that of all replicas.
        if isinstance(size, int) or self._num_replicas == 1:
            return mean_size
        context = tf.distribute.get_replica_context()
        return context.all_reduce("MEAN", mean_size)

    @property
    def _num_replicas(self):
        return self.distribute_strategy.num_replicas_in_sync

    # Keras averages the batches of the replicas here, which it cannot over
    # several workers. The shapes of the first are all that is needed.
    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        if self._num_replicas == 1:
            super()._maybe_symbolic_build(iterator, data_batch)
            return
        if iterator is not None:
            for _, _, batches in iterator:
                data_batch = next(batches)
                break
        strategy = self.distribute_strategy
        data_batch = keras.tree.map_structure(
            lambda value: strategy.experimental_local_results(value)[0],
            data_batch,
        )
        with strategy.scope():
            self._symbolic_build(data_batch=data_batch)

    # Keras runs the replicas within a condition within a loop, which fails.
    def _make_function(self, step_function):
        if self._num_replicas == 1:
            return super()._make_function(step_function)

        def run_steps(iterator):
            def has_next(step, batch):
                return (step < self.steps_per_execution) & batch.has_value()

            def run_step(step, batch):
                self.distribute_strategy.run(
                    step_function, args=(batch.get_value(),)
                )
                return step + 1, tf.cond(
                    step + 1 < self.steps_per_execution,
                    iterator.get_next_as_optional,
                    lambda: batch,
                )

            steps, _ = tf.while_loop(
                has_next,
                run_step,
                (tf.constant(0), iterator.get_next_as_optional()),
                parallel_iterations=1,
            )
            # Over all replicas, so that all workers see the same values.
            return steps, self.get_metrics_result()

        def run_batch(batch):
            self.distribute_strategy.run(step_function, args=(batch,))
            return self.get_metrics_result()

        if not self.run_eagerly:
            run_steps, run_batch = (
                tf.function(run, autograph=False, reduce_retracing=True)
                for run in (run_steps, run_batch)
            )

        def function(iterator):
            if not isinstance(iterator, tf.distribute.DistributedIterator):
                # Python's, of a batch that was fetched already.
                return run_batch(next(iterator))
            steps, logs = run_steps(iterator)
            if not steps.numpy():
                raise StopIteration
            return logs

        return function


def check_divisibility(
    *,
    batch_size: int,
    steps_per_epoch: int,
    num_replicas: int,
    gradient_accumulation_steps: int = 1,
    steps_per_execution: int = 1,
) -> None:
    """Checks that batches and epochs can be divided as the flags say.

    Args:
        batch_size: examples per step on all replicas together.
        steps_per_epoch: steps per epoch.
        num_replicas: number of devices, over all workers.
        gradient_accumulation_steps: parts of a replica's batch.
        steps_per_execution: steps that run without returning to Python.

    Raises:
        UserError: If they cannot.
    """
    parts = num_replicas * gradient_accumulation_steps
    if batch_size % parts:
        raise UserError(
            f"--batch_size must be divisible by {parts}, the number of "
            f"devices, {num_replicas}, times --gradient_accumulation_steps, "
            f"{gradient_accumulation_steps}. Received: "
            f"--batch_size={batch_size}"
        )
    if steps_per_epoch % steps_per_execution:
        divisors = [
            str(steps)
            for steps in range(1, steps_per_epoch + 1)
            if steps_per_epoch % steps == 0
        ]
        raise UserError(
            f"--steps_per_execution must divide {steps_per_epoch}, the number "
            f"of steps per epoch: {', '.join(divisors)}. Received: "
            f"--steps_per_execution={steps_per_execution}"
        )


def _check_mean(loss):
    reduction = getattr(loss, "reduction", "mean")
    if reduction not in ("mean", "sum_over_batch_size"):
        raise ValueError(
            "The loss must be a mean over the batch, because the parts of a "
            "batch are weighted with their numbers of examples. Received: "
            f"reduction={reduction}"
        )


def _count_examples(data):
    inputs = keras.tree.flatten(data[0])
    return keras.ops.shape(inputs[0])[0]


def _split(size, parts):
    return [
        slice(size * part // parts, size * (part + 1) // parts)
        for part in range(parts)
    ]


def _take(data, rows):
    return keras.tree.map_structure(
        lambda value: None if value is None else tf.identity(value[rows]), data
    )


def _add(total, gradient):
    if total is None or gradient is None:
        return gradient
    # Sparse gradients, of embeddings, become dense.
    return tf.convert_to_tensor(total) + tf.convert_to_tensor(gradient)


def _add_over_replicas(gradients):
    context = tf.distribute.get_replica_context()
    present = [g for g in gradients if g is not None]
    added = iter(context.all_reduce("SUM", present))
    return [None if g is None else next(added) for g in gradients]
