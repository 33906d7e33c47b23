"""Weights of trained networks for new ones, also of another image size."""

import keras
from keras import ops

from lambda_keras.networks.places import find_layers
from lambda_keras.networks.places import find_network
from lambda_keras.networks.places import has_layer
from lambda_keras.networks.torch_weights import is_checkpoint
from lambda_keras.networks.torch_weights import load_timm_weights
from lambda_keras.position_embeddings import find_scopes
from lambda_keras.position_embeddings import resize_position_embeddings


def load_weights(model, weights, method="extend"):
    """Gives a network the weights of a trained one, at any resolution.

    A network without a classifier takes all weights but those of the trained
    classifier.

    Args:
        model: a model of `build_lambda_resnet`.
        weights: path of a `.keras` file of the same network, built for any
            image size, alone or within a model that prepares its images; or a
            checkpoint of PyTorch, as in `load_timm_weights`.
        method: how the position embeddings of a `.keras` file are resized
            where they have another size, as in `resize_position_embeddings`.

    Raises:
        ValueError: If they are those of another network; the message names
            the weights. The model is then unchanged.
    """
    if is_checkpoint(weights):
        load_timm_weights(model, weights)
        return
    source = keras.saving.load_model(weights, compile=False)
    copy_weights(find_network(source), model, method)


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
    theirs, ours = list_weights(source), list_weights(target)
    if not has_layer(target, "predictions"):
        theirs.pop("predictions", None)
    for their_weight, our_weight in _pair_weights(theirs, ours):
        values = ops.convert_to_numpy(their_weight)
        if their_weight.shape != our_weight.shape:
            scopes = find_scopes(our_weight.shape)
            values = resize_position_embeddings(values, scopes, method)
        our_weight.assign(values)


def list_weights(network):
    """Lists the weights of a network by the places of their layers.

    Args:
        network: as in `find_layers`.

    Returns:
        Dictionary from places to lists of weights, without places that have
        none. What several layers share is listed at the first of them only.
    """
    weights, seen = {}, set()
    for place, layers in find_layers(network).items():
        for weight in (weight for layer in layers for weight in layer.weights):
            if id(weight) not in seen:
                seen.add(id(weight))
                weights.setdefault(place, []).append(weight)
    return weights


def _pair_weights(theirs, ours):
    """Returns pairs of weights of the same place, or says what misfits."""
    problems = [
        f"{place} is {adjective}"
        for adjective, places in (
            ("missing", ours.keys() - theirs.keys()),
            ("unexpected", theirs.keys() - ours.keys()),
        )
        for place in sorted(places)
    ]
    pairs = []
    for place in (place for place in ours if place in theirs):
        if len(theirs[place]) == len(ours[place]):
            pairs += zip(theirs[place], ours[place], strict=True)
        else:
            problems.append(
                f"{place} has {len(theirs[place])} weights for "
                f"{len(ours[place])}"
            )
    problems += [
        f"{their_weight.path} {tuple(their_weight.shape)} for "
        f"{tuple(our_weight.shape)} of {our_weight.name}"
        for their_weight, our_weight in pairs
        if not _fits(their_weight, our_weight)
    ]
    if problems:
        raise ValueError(
            "The weights must be those of the same network, though position "
            "embeddings may have other scopes. For another classifier, build "
            "the network with `include_top=False`. Received: "
            f"{len(problems)} that do not fit: {'; '.join(problems[:8])}"
        )
    return pairs


def _fits(theirs, ours):
    if theirs.name != ours.name:
        return False
    if tuple(theirs.shape) == tuple(ours.shape):
        return True
    scopes = len(find_scopes(ours.shape))
    return (
        # Lambda layers have one table, attention has one per axis of the grid.
        "table" in theirs.name
        and len(theirs.shape) == len(ours.shape)
        and tuple(theirs.shape[scopes:]) == tuple(ours.shape[scopes:])
    )
