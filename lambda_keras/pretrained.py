"""Weights of trained networks for networks of another input size."""

import keras
from keras import ops

from lambda_keras.position_embeddings import resize_position_embeddings


def load_weights(model, path, method="extend"):
    """Gives a model the weights of a saved one, at any resolution.

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
    copy_weights(find_network(source, model), model, method)


def find_network(source, model):
    """Returns the part of a model that has the layers of another."""
    parts = [source, *source._flatten_layers(include_self=False)]
    networks = [part for part in parts if isinstance(part, keras.Model)]
    for network in networks:
        if len(network.weights) == len(model.weights):
            return network
    return source


def copy_weights(source, target, method="extend"):
    """Copies all weights of a model to another of the same layers.

    Args:
        source: a built model.
        target: a built model whose position embeddings may have other scopes.
        method: how these are resized, as in `resize_position_embeddings`.

    Raises:
        ValueError: If the models differ in anything else; the message names
            the weights. The target is then unchanged.
    """
    if len(source.weights) != len(target.weights):
        raise ValueError(
            "The weights must be those of the same network. Received: "
            f"{len(source.weights)} weights of {source.name} for "
            f"{len(target.weights)} of {target.name}"
        )
    pairs = list(zip(source.weights, target.weights, strict=True))
    misfits = [
        f"{theirs.path} {tuple(theirs.shape)} for {tuple(ours.shape)}"
        for theirs, ours in pairs
        if not _fits(theirs, ours)
    ]
    if misfits:
        raise ValueError(
            "The weights must be those of the same network, though position "
            "embeddings may have other scopes. Received: "
            f"{len(misfits)} that do not fit: {'; '.join(misfits[:8])}"
        )
    for theirs, ours in pairs:
        values = ops.convert_to_numpy(theirs)
        if theirs.shape != ours.shape:
            values = resize_position_embeddings(values, ours.shape[:-3], method)
        ours.assign(values)


def _fits(theirs, ours):
    if theirs.name != ours.name:
        return False
    if tuple(theirs.shape) == tuple(ours.shape):
        return True
    return (
        theirs.name == "table"
        and len(theirs.shape) == len(ours.shape)
        and tuple(theirs.shape[-3:]) == tuple(ours.shape[-3:])
    )
