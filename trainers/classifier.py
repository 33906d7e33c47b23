"""The network that is trained, with its loss and its optimizer."""

import functools

import keras

import lambda_keras
from trainers.recipes import Recipe


def build_classifier(
    recipe: Recipe,
    *,
    channels: int,
    num_classes: int,
    synchronized: bool = False,
) -> keras.Model:
    """Builds a LambdaResNet that takes images as they come from a file.

    Args:
        recipe: names the network and the size of its images.
        channels: 1 for grayscale or 3 for colors.
        num_classes: number of classes.
        synchronized: whether batch normalization averages over all devices.

    Returns:
        A model from images, `(batch_size, image_size, image_size, channels)`,
        0 to 255, to logits, `(batch_size, num_classes)`.

    Raises:
        ValueError: If there is no such network.
    """
    normalization = keras.layers.BatchNormalization(
        momentum=0.9, epsilon=1e-5, synchronized=synchronized
    )
    input_shape = (recipe.image_size, recipe.image_size, channels)
    network = lambda_keras.build_lambda_resnet(
        recipe.depth,
        input_shape,
        num_classes,
        layout=recipe.layout,
        architecture=recipe.architecture,
        lambda_layer=functools.partial(
            lambda_keras.LambdaConv,
            scope_size=recipe.scope_size,
            normalization=normalization,
        ),
        classifier_activation=None,
        dropout_rate=recipe.dropout_rate,
        stochastic_depth_rate=recipe.stochastic_depth_rate,
        width_multiplier=recipe.width_multiplier,
        stem_strides=recipe.stem_strides,
        normalization=normalization,
    )
    images = keras.Input(input_shape, name="images")
    # Half precision does not hold all that lies between two gray levels.
    rescaled = keras.layers.Rescaling(
        1 / 127.5, offset=-1.0, dtype="float32", name="rescaling"
    )(images)
    return keras.Model(images, network(rescaled), name=f"{network.name}_logits")


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
