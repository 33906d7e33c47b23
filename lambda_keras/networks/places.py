"""Where the layers of a network stand.

Weights are matched by place: a saved network, one of PyTorch and a new one for
another image size agree in the places of their layers, and in little else.
"""

import inspect
import re

import keras


def make_lambda_layer(lambda_layer, filters, block):
    """Makes what stands in the middle of a block, and names it after that.

    The names that Keras numbers depend on what was built before, so that two
    networks seldom agree in them. A layer that stands in several blocks keeps
    the name of the first.

    Args:
        lambda_layer: function `filters -> layer` or `filters, name -> layer`.
        filters: int. Number of channels of its inputs.
        block: name of the block, such as `"c4_block2"`.

    Returns:
        What the function made. If that is no Keras layer, it has no name.
    """
    name = f"{block}_lambda"
    if "name" in inspect.signature(lambda_layer).parameters:
        layer = lambda_layer(filters, name=name)
    else:
        layer = lambda_layer(filters)
    is_layer = isinstance(layer, keras.layers.Layer)
    # Not built yet, as a rule: its weights will bear the name too.
    if is_layer and not re.fullmatch(r"c[2-5]_block\d+_lambda", layer.name):
        layer.name = name
    return layer


def find_network(model):
    """Returns the part of a model that `build_lambda_resnet` made.

    Args:
        model: such a network, or a model around one. What is neither is
            returned as it is.
    """
    parts = [model, *model._flatten_layers(include_self=False)]
    for part in parts:
        if isinstance(part, keras.Model) and has_layer(part, "c5"):
            return part
    return model


def has_layer(network, name):
    """Whether a network has a layer of a name."""
    return any(layer.name == name for layer in network.layers)


def find_layers(network):
    """Returns the layers of a network by their places.

    A place is the name that `build_lambda_resnet` gives to a layer. What
    stands at `L` had a name of its own in files of earlier versions, and has
    one still where a function makes several layers: its place follows from
    the names around it, the block's first convolution and what comes next.

    Args:
        network: a model of `build_lambda_resnet`. Its layers may come in any
            order in which each follows those that it is computed from, for a
            saved graph may come back with the branches of a block swapped.

    Returns:
        Dictionary from places to lists of layers. Layers before the stem,
        which prepare the images, are left out.
    """
    names = [layer.name for layer in network.layers]
    stem = [
        number for number, name in enumerate(names) if name.startswith("stem")
    ]
    places, block = {}, None
    for layer in network.layers[stem[0] if stem else 0 :]:
        place = layer.name
        if step := re.match(r"(c[2-5]_block\d+)_([12])_", place):
            block = step[1] if step[2] == "1" else None
        elif block and not re.match(r"c[2-5]_block", place):
            place = f"{block}_lambda"
        places.setdefault(place, []).append(layer)
    return places
