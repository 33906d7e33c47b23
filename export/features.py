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
    last = _find_last(model)
    is_part = isinstance(last, keras.Model)
    if is_part:
        # Only the config of a functional model has them.
        is_part = "output_layers" in last.get_config()
    part = add_features(last) if is_part else None
    found = {}

    def call(layer, *args, **kwargs):
        if layer is not last:
            return layer(*args, **kwargs)
        if is_part:
            found.update(part(*args, **kwargs))
            return found.pop("outputs")
        if isinstance(layer, keras.layers.Dense) and len(args[0].shape) == 2:
            found["features"] = args[0]
        return layer(*args, **kwargs)

    # The layers are the same ones, called once more.
    copy = keras.models.clone_model(
        model, clone_function=lambda layer: layer, call_function=call
    )
    return keras.Model(copy.input, {"outputs": copy.output, **found})


def _find_last(model):
    kinds = keras.layers.Dense | keras.Model
    layers = [layer for layer in model.layers if isinstance(layer, kinds)]
    return layers[-1] if layers else None
