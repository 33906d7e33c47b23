"""Weights of trained networks for networks of another input size."""

import keras
from keras import ops

from lambda_keras.position_embeddings import find_scopes
from lambda_keras.position_embeddings import resize_position_embeddings

# How the names begin that `build_lambda_resnet` gives.
_BUILT_NAMES = ("stem", "c2", "c3", "c4", "c5", "predictions")


def load_weights(model, path, method="extend"):
    """Gives a model the weights of a saved one, at any resolution.

    A model without a classifier takes all weights but those of the saved
    classifier.

    Args:
        model: a model of `build_lambda_resnet`.
        path: a `.keras` file of the same network, built for any image size,
            alone or within a model that prepares its images.
        method: how position embeddings of another size are resized, as in
            `resize_position_embeddings`.

    Raises:
        ValueError: If the saved network has other weights; the message names
            them. The model is then unchanged.
    """
    source = keras.saving.load_model(path, compile=False)
    copy_weights(find_network(source), model, method)


def find_network(model):
    """Returns the part of a model that `build_lambda_resnet` made."""
    parts = [model, *model._flatten_layers(include_self=False)]
    for part in parts:
        if isinstance(part, keras.Model) and "c5" in _name_layers(part):
            return part
    return model


def list_weights(model, include_top=True):
    """Lists the weights of a network, each once, in an order of its own.

    Args:
        model: a model of `build_lambda_resnet`. Layers before its stem, which
            prepare the images, do not count.
        include_top: whether those of the classifier are among them.
    """
    names = _name_layers(model)
    stem = [n for n, name in enumerate(names) if name.startswith("stem")]
    layers = model.layers[stem[0] if stem else 0 :]
    # A saved graph may come back with the branches of a block in another
    # order. What stands at the lambda layers has names that Keras numbers, but
    # is on one path through the network.
    layers = sorted(
        layers,
        key=lambda layer: (
            layer.name if layer.name.startswith(_BUILT_NAMES) else ""
        ),
    )
    weights = {}
    for layer in layers:
        if include_top or layer.name != "predictions":
            weights.update((id(weight), weight) for weight in layer.weights)
    return list(weights.values())


def copy_weights(source, target, method="extend"):
    """Copies all weights of a network to another of the same layers.

    Args:
        source: a built network.
        target: a built network whose position embeddings may have other
            scopes, and which may lack the classifier.
        method: how the embeddings are resized, as in
            `resize_position_embeddings`.

    Raises:
        ValueError: If the networks differ in anything else; the message names
            the weights. The target is then unchanged.
    """
    include_top = "predictions" in _name_layers(target)
    theirs = list_weights(source, include_top)
    ours = list_weights(target)
    _check_weights(theirs, ours, f"of {source.name} for those of {target.name}")
    for their_weight, our_weight in zip(theirs, ours, strict=True):
        values = ops.convert_to_numpy(their_weight)
        if their_weight.shape != our_weight.shape:
            scopes = find_scopes(our_weight.shape)
            values = resize_position_embeddings(values, scopes, method)
        our_weight.assign(values)


def _name_layers(model):
    return [layer.name for layer in model.layers]


def _check_weights(theirs, ours, what):
    if len(theirs) != len(ours):
        raise ValueError(
            "The weights must be those of the same network. Received: "
            f"{len(theirs)} for {len(ours)} weights, {what}"
        )
    misfits = [
        f"{their_weight.path} {tuple(their_weight.shape)} for "
        f"{tuple(our_weight.shape)}"
        for their_weight, our_weight in zip(theirs, ours, strict=True)
        if not _fits(their_weight, our_weight)
    ]
    if misfits:
        raise ValueError(
            "The weights must be those of the same network, though position "
            "embeddings may have other scopes. For another classifier, build "
            "the network with `include_top=False`. Received: "
            f"{len(misfits)} that do not fit: {'; '.join(misfits[:8])}"
        )


def _fits(theirs, ours):
    if theirs.name != ours.name:
        return False
    if tuple(theirs.shape) == tuple(ours.shape):
        return True
    scopes = len(find_scopes(ours.shape))
    return (
        # Lambda layers have one table, attention one an axis of the grid.
        "table" in theirs.name
        and len(theirs.shape) == len(ours.shape)
        and tuple(theirs.shape[scopes:]) == tuple(ours.shape[scopes:])
    )
