"""The loss, the optimizer and its schedule."""

import keras

from trainers.recipes import Recipe


def compile_classifier(
    model: keras.Model, recipe: Recipe, *, steps_per_epoch: int
) -> None:
    """Gives a model the loss, the optimizer and the metrics of a recipe.

    Args:
        model: what `build_classifier` returns.
        recipe: names the optimization.
        steps_per_epoch: number of batches in an epoch.
    """
    add_weight_decay(model, recipe.weight_decay)
    metrics = [keras.metrics.CategoricalAccuracy(name="accuracy")]
    if model.output_shape[-1] > 20:
        metrics.append(
            keras.metrics.TopKCategoricalAccuracy(5, name="top_5_accuracy")
        )
    model.compile(
        optimizer=keras.optimizers.SGD(
            make_learning_rate(recipe, steps_per_epoch), momentum=0.9
        ),
        loss=keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=recipe.label_smoothing
        ),
        # Evaluation fills its last batch with images of weight 0.
        weighted_metrics=metrics,
    )


def make_learning_rate(
    recipe: Recipe, steps_per_epoch: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Makes a linear warm-up that a half cosine follows, down to 0.

    Runs too short for the warm-up of the recipe warm up for half of their
    steps.
    """
    steps = recipe.epochs * steps_per_epoch
    warmup_steps = min(int(recipe.warmup_epochs * steps_per_epoch), steps // 2)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup_steps else recipe.learning_rate,
        decay_steps=steps - warmup_steps,
        warmup_target=recipe.learning_rate if warmup_steps else None,
        warmup_steps=warmup_steps,
    )


def add_weight_decay(model: keras.Model, weight_decay: float) -> None:
    """Adds `weight_decay / 2` times the sum of squared weights to the loss.

    All weights but the scales and shifts of the normalizations decay.
    """
    for variable in model.trainable_variables:
        if variable.name not in ("gamma", "beta"):
            variable.regularizer = keras.regularizers.L2(weight_decay / 2)
