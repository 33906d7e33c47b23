"""The loss, the optimizer and its schedule."""

from collections.abc import Sequence

import keras
from keras import ops

from trainers.recipes import Recipe

# After these shares of the epochs the rate falls to a tenth: 30, 60 and 80 of
# 90, as ResNet-RS was released.
_STEPS_DOWN = (1 / 3, 2 / 3, 8 / 9)
# What decays the weights itself; the others take a penalty in the loss.
_DECOUPLED = ("adamw", "lamb")


def compile_classifier(
    model: keras.Model,
    recipe: Recipe,
    *,
    steps_per_epoch: int,
    steps_per_execution: int = 1,
    jit_compile: bool = False,
) -> None:
    """Gives a model the loss, the optimizer and the metrics of a recipe.

    Args:
        model: what `build_classifier` returns, or what trains it.
        recipe: names the optimization.
        steps_per_epoch: number of batches in an epoch.
        steps_per_execution: steps that run without returning to Python.
        jit_compile: whether XLA compiles the step.
    """
    if recipe.optimizer not in _DECOUPLED:
        add_weight_decay(model, recipe.weight_decay)
    metrics = [keras.metrics.CategoricalAccuracy(name="accuracy")]
    network = getattr(model, "network", model)
    if network.output_shape[-1] > 5:
        metrics.append(
            keras.metrics.TopKCategoricalAccuracy(5, name="top_5_accuracy")
        )
    model.compile(
        optimizer=make_optimizer(model, recipe, steps_per_epoch),
        loss=keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=recipe.label_smoothing
        ),
        # Evaluation fills its last batch with images of weight 0.
        weighted_metrics=metrics,
        steps_per_execution=steps_per_execution,
        jit_compile=jit_compile,
    )


def make_optimizer(
    model: keras.Model, recipe: Recipe, steps_per_epoch: int
) -> keras.optimizers.Optimizer:
    """Makes the optimizer of a recipe for the variables of a model.

    Those of adamw and lamb leave the variables alone that `add_weight_decay`
    does.
    """
    common = {
        "learning_rate": make_learning_rate(recipe, steps_per_epoch),
        "global_clipnorm": recipe.global_clipnorm or None,
    }
    if recipe.optimizer == "sgd":
        return keras.optimizers.SGD(
            momentum=recipe.momentum, nesterov=recipe.nesterov, **common
        )
    if recipe.optimizer == "rmsprop":
        return keras.optimizers.RMSprop(momentum=recipe.momentum, **common)
    makers = {"adamw": keras.optimizers.AdamW, "lamb": keras.optimizers.Lamb}
    optimizer = makers[recipe.optimizer](
        weight_decay=recipe.weight_decay, **common
    )
    optimizer.exclude_from_weight_decay(
        [v for v in model.trainable_variables if not decays(v)]
    )
    return optimizer


def make_learning_rate(
    recipe: Recipe, steps_per_epoch: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Makes a linear warm-up that the recipe's decay follows.

    Runs too short for the warm-up of the recipe warm up for half of their
    steps.
    """
    steps = recipe.epochs * steps_per_epoch
    warmup_steps = count_warmup_steps(recipe, steps_per_epoch)
    if recipe.learning_rate_decay == "cosine":
        return keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=0.0 if warmup_steps else recipe.learning_rate,
            decay_steps=steps - warmup_steps,
            warmup_target=recipe.learning_rate if warmup_steps else None,
            warmup_steps=warmup_steps,
        )
    shares = _STEPS_DOWN if recipe.learning_rate_decay == "step" else ()
    return StepDecay(
        recipe.learning_rate,
        warmup_steps=warmup_steps,
        boundaries=[round(share * steps) for share in shares],
    )


def count_warmup_steps(recipe: Recipe, steps_per_epoch: int) -> int:
    """Returns the number of steps in which the learning rate rises."""
    return min(
        int(recipe.warmup_epochs * steps_per_epoch),
        recipe.epochs * steps_per_epoch // 2,
    )


class StepDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up from 0, then a tenth of the rate from each boundary on.

    Args:
        learning_rate: the largest rate.
        warmup_steps: int. Steps until it is reached.
        boundaries: step numbers, rising.
    """

    def __init__(
        self, learning_rate: float, warmup_steps: int, boundaries: Sequence[int]
    ):
        super().__init__()
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.boundaries = list(boundaries)

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rate = self.learning_rate * ops.where(
            step < self.warmup_steps, step / max(1, self.warmup_steps), 1.0
        )
        for boundary in self.boundaries:
            rate = ops.where(step < boundary, rate, 0.1 * rate)
        return rate

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "warmup_steps": self.warmup_steps,
            "boundaries": self.boundaries,
        }


def add_weight_decay(model: keras.Model, weight_decay: float) -> None:
    """Adds `weight_decay / 2` times the sum of squared weights to the loss.

    All weights but biases and the scales and shifts of the normalizations
    decay.
    """
    for variable in model.trainable_variables:
        if decays(variable):
            variable.regularizer = keras.regularizers.L2(weight_decay / 2)


def decays(variable: keras.Variable) -> bool:
    """Returns whether weight decay is for a variable of a network."""
    return variable.name not in ("gamma", "beta", "bias")
