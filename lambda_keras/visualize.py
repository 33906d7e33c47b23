"""Pictures of how much each pixel weighs in what a lambda layer returns.

A lambda layer has no attention maps, and needs none. But its outputs are sums
of values, so each value has a weight for each query, which can be computed
after all: one part of it from what the pixels show, one from where they are.
"""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from lambda_keras.base_lambda import BaseLambda


class PixelWeights(NamedTuple):
    """What each pixel of a lambda layer's grid weighs for one query.

    The values times the sum of both kinds of weights, summed over the pixels,
    are the layer's output at the query, but for the product of the query and
    the bias of a `LambdaConv(use_bias=True)`. (Where the intra-depth is above
    1, a weight is the sum of those of the several values of a pixel.)

    Attributes:
        layer_name: name of the layer.
        query: the pixel of the image that asks, `(row, column)`.
        grid_query: the pixel of the layer's grid that covers it.
        content: array `(num_heads, height, width)`. Weights for what the
            pixels show; `None` if the layer does not use content.
        positions: array `(num_heads, height, width)`. Weights for where the
            pixels are, seen from the query; `None` if the layer does not use
            positions.
    """

    layer_name: str
    query: tuple
    grid_query: tuple
    content: np.ndarray | None
    positions: np.ndarray | None


def find_lambda_layers(model):
    """Lists the lambda layers of a model and of the models inside it.

    Args:
        model: `keras.Model`.

    Returns:
        Layers, in the order of the model.
    """
    found = []
    for layer in model.layers:
        if isinstance(layer, BaseLambda):
            found.append(layer)
        elif isinstance(layer, keras.Model):
            found += find_lambda_layers(layer)
    return found


def compute_pixel_weights(model, image, query, layer_name=None):
    """Computes what each pixel weighs for one query of a lambda layer.

    Time and memory grow with the square of the number of pixels of the
    layer's grid.

    Args:
        model: `keras.Model` with lambda layers, which may be in models inside
            it.
        image: `(height, width, channels)`, as the model takes it.
        query: `(row, column)`, a pixel of the image. It is mapped to the pixel
            of the layer's grid that covers it.
        layer_name: name of a lambda layer. Defaults to the first, which
            tends to have the finest grid.

    Returns:
        `PixelWeights`.

    Raises:
        ValueError: If the model has no such layer, if the layer does not work
            on images that are their own context, or if the query is not in
            the image.

    Example:

    >>> model = lambda_keras.build_lambda_resnet(
    ...     26, (32, 32, 3), num_classes=10, stem_strides=1)
    >>> weights = lambda_keras.visualize.compute_pixel_weights(
    ...     model, np.random.rand(32, 32, 3), query=(9, 20))
    >>> print(weights.grid_query, weights.content.shape)
    (2, 5) (4, 8, 8)
    """
    image = np.asarray(image)
    _check_query(query, image.shape)
    layer = _get_lambda_layer(model, layer_name)
    inputs = _record_inputs(model, layer, image[np.newaxis])
    _, *grid, _ = inputs.shape
    grid_query = tuple(
        index * grid_size // image_size
        for index, grid_size, image_size in zip(
            query, grid, image.shape[:2], strict=True
        )
    )
    number = np.ravel_multi_index(grid_query, grid)
    content, positions = (
        None if weights is None else _make_maps(weights[0, number], grid)
        for weights in layer.compute_weights(inputs)
    )
    return PixelWeights(
        layer.name, tuple(query), grid_query, content, positions
    )


def draw_pixel_weights(weights, image):
    """Draws an image, and beside it what its pixels weigh for one query.

    There is a row of maps for each kind of weights, and in it a map for each
    head. Red adds the value of a pixel, blue subtracts it. The maps of a row
    have the same scale; the query is framed.

    Args:
        weights: what `compute_pixel_weights` returned.
        image: `(height, width, channels)` of 1 or 3 channels, the same image.
            The lowest number is drawn dark and the highest bright.

    Returns:
        A `matplotlib.figure.Figure`: `figure.savefig("weights.png")`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the image has another number of channels.
    """
    image = np.asarray(image)
    kinds = {"content": weights.content, "position": weights.positions}
    rows = {kind: maps for kind, maps in kinds.items() if maps is not None}
    num_heads, *grid = next(iter(rows.values())).shape
    figure, image_axes, axes_of_rows = _lay_out(
        list(rows), num_heads, aspect=grid[0] / grid[1]
    )
    figure.suptitle(
        f"What each pixel weighs for the framed query in {weights.layer_name}"
    )
    _draw_image(image_axes, image)
    _frame_query(image_axes, weights.grid_query, grid, image.shape)
    for kind, maps in rows.items():
        _draw_maps(axes_of_rows[kind], maps, weights.grid_query)
        axes_of_rows[kind][0].set_ylabel(kind)
    first_row, *_ = axes_of_rows.values()
    for head, axes in enumerate(first_row, start=1):
        axes.set_title(f"head {head}")
    return figure


def _check_query(query, image_shape):
    if len(image_shape) != 3:
        raise ValueError(
            "`image` must have the shape (height, width, channels): one image "
            f"without a batch axis. Received: image of shape {image_shape}"
        )
    height, width, _ = image_shape
    row, column = query
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(
            "`query` must be the (row, column) of a pixel of the image, which "
            f"has {height} rows and {width} columns. Received: query={query}"
        )


def _get_lambda_layer(model, name):
    layers = find_lambda_layers(model)
    if not layers:
        raise ValueError(
            "`model` must have a lambda layer, because only lambda layers "
            f"have such weights. Received: {model.name} with none"
        )
    if name is None:
        return layers[0]
    names = [layer.name for layer in layers]
    if names.count(name) != 1:
        raise ValueError(
            "`layer_name` must be the name of one lambda layer of the model: "
            f"{', '.join(names)}. Received: layer_name={name!r}"
        )
    return layers[names.index(name)]


def _record_inputs(model, layer, images):
    """Calls the model and returns what it gives to one of its layers."""
    recorded = []
    call = layer.call

    def record_and_call(inputs, *others, **options):
        recorded.append((inputs, others, options))
        return call(inputs, *others, **options)

    # Every kind of model calls its layers; only some can be cut at one.
    layer.call = record_and_call
    try:
        model(images, training=False)
    finally:
        del layer.call  # The one of the class is there again.
    inputs, others, options = recorded[-1]
    options.pop("training", None)
    _check_call(layer, inputs, [*others, *options.values()])
    return inputs


def _check_call(layer, inputs, options):
    if len(inputs.shape) != 4:
        raise ValueError(
            "Only the weights of layers that work on images can be drawn. "
            f"Received: {layer.name} on inputs of shape {tuple(inputs.shape)}"
        )
    if any(option is not None and option is not False for option in options):
        raise ValueError(
            "The context of the lambda layer must be its inputs, without "
            "masks, because only then a weight belongs to a pixel. "
            f"Received: {layer.name} called with a context or a mask"
        )


def _make_maps(weights, grid):
    """From `(num_heads, context, intra_depth)` to an image per head."""
    return ops.convert_to_numpy(ops.sum(weights, axis=-1)).reshape(-1, *grid)


def _lay_out(kinds, num_heads, aspect):
    """Returns a figure, the axes of the image and those of each row."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Pictures of weights need matplotlib, which is not installed: "
            "`pip install lambda-keras[train]`"
        ) from error
    # In widths of a map; the image is as high as the rows together.
    width_ratios = [len(kinds)] + [1] * num_heads
    figure = Figure(
        figsize=(1 + 1.5 * sum(width_ratios), 0.8 + 1.5 * aspect * len(kinds)),
        layout="constrained",
    )
    names = {
        kind: [f"{kind} {head + 1}" for head in range(num_heads)]
        for kind in kinds
    }
    axes = figure.subplot_mosaic(
        [["image", *names[kind]] for kind in kinds], width_ratios=width_ratios
    )
    return (
        figure,
        axes["image"],
        {kind: [axes[name] for name in names[kind]] for kind in kinds},
    )


def _draw_image(axes, image):
    if image.shape[-1] not in (1, 3):
        raise ValueError(
            "`image` must have 1 or 3 channels to be drawn. "
            f"Received: image of shape {image.shape}"
        )
    image = image - image.min()
    axes.imshow(image / (image.max() or 1.0), cmap="gray")
    axes.set(title="image", xticks=[], yticks=[])


def _draw_maps(row_of_axes, maps, grid_query):
    """Draws a map per head on one scale of colors, white at zero."""
    limit = np.abs(maps).max() or 1.0
    for axes, map_of_head in zip(row_of_axes, maps, strict=True):
        drawn = axes.imshow(map_of_head, cmap="RdBu_r", vmin=-limit, vmax=limit)
        _frame_query(axes, grid_query, maps.shape[1:], maps.shape[1:])
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("lightgray")
    bar = axes.figure.colorbar(drawn, ax=row_of_axes, aspect=12, pad=0.02)
    bar.set_ticks(
        [-limit, 0, limit],
        labels=[f"\N{MINUS SIGN}{limit:.2g}", "0", f"+{limit:.2g}"],
    )
    bar.outline.set_visible(False)


def _frame_query(axes, grid_query, grid, shape):
    """Frames the query's pixel of the grid on a picture of another shape."""
    from matplotlib import patheffects
    from matplotlib.patches import Rectangle

    height, width = shape[0] / grid[0], shape[1] / grid[1]
    row, column = grid_query
    # Black within white is seen on every color.
    outline = patheffects.withStroke(linewidth=3.5, foreground="white")
    axes.add_patch(
        Rectangle(
            # The first pixel is centered on 0.
            (column * width - 0.5, row * height - 0.5),
            width,
            height,
            fill=False,
            edgecolor="black",
            linewidth=1.5,
            path_effects=[outline],
            clip_on=False,
        )
    )
