"""What a classifier knows of an image before it chooses a class."""

import keras


def add_features(model: keras.Model) -> keras.Model:
    """Adds what the last dense layer of a classifier is applied to.

    Args:
        model: images -> `(batch_size, classes)`. The dense layer may be in a
            functional model within.

    Returns:
        A model with the same weights: images -> `"outputs"`, as before, and
        `"features"`, `(batch_size, channels)`, if there is such a layer.
    """
    *_, last = [
        None,
        *(
            layer
            for layer in model.layers
            if isinstance(layer, keras.layers.Dense | keras.Model)
        ),
    ]
    outputs = {"outputs": model.output}
    if isinstance(last, keras.layers.Dense) and len(last.input.shape) == 2:
        outputs["features"] = last.input
    # Only the config of a functional model has them.
    elif isinstance(last, keras.Model) and "output_layers" in last.get_config():
        return _add_features_within(model, last)
    return keras.Model(model.input, outputs)


def _add_features_within(model, part):
    part_with_features = add_features(part)
    found = {}

    def call(layer, *args, **kwargs):
        if layer is not part:
            return layer(*args, **kwargs)
        found.update(part_with_features(*args, **kwargs))
        return found.pop("outputs")

    # The layers are the same ones, called once more.
    copy = keras.models.clone_model(
        model, clone_function=lambda layer: layer, call_function=call
    )
    return keras.Model(copy.input, {"outputs": copy.output, **found})
