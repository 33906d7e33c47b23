"""Checks of arguments that several modules make."""


def check_positive_integers(**sizes):
    """Raises a `ValueError` for the first size that is no positive integer."""
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(
                f"`{name}` must be a positive integer. "
                f"Received: {name}={size!r}"
            )


def check_choice(name, value, choices):
    """Raises a `ValueError` if a value is not one of the choices."""
    if value not in choices:
        raise ValueError(
            f"`{name}` must be one of {choices}. Received: {name}={value!r}"
        )


def check_divisible(name, value, divisor_name, divisor, reason):
    """Raises a `ValueError` with the reason if there is a remainder."""
    if value % divisor:
        raise ValueError(
            f"`{name}` must be divisible by `{divisor_name}`, because "
            f"{reason}. Received: {name}={value}, {divisor_name}={divisor}"
        )


def check_input_shape(name, shape):
    """Raises a `ValueError` if a lambda layer takes no tensor of the shape."""
    if not 3 <= len(shape) <= 5:
        raise ValueError(
            "Lambda layers take sequences, images or volumes: 3, 4 or 5 axes "
            "with the batch first and the channels last. "
            f"Received: {name} of shape {tuple(shape)}"
        )
    if shape[-1] is None:
        raise ValueError(
            f"The last axis of the {name} must have a known size, because the "
            "projections have a weight for each channel. "
            f"Received: {name} of shape {tuple(shape)}"
        )


def check_relation(query_grid, context_grid, strides):
    """Raises a `ValueError` if one grid does not cover the other."""
    related = len(query_grid) == len(context_grid) and all(
        queries is None
        or contexts is None
        or queries * strides.query == contexts * strides.context
        for queries, contexts in zip(query_grid, context_grid, strict=True)
    )
    if not related:
        raise ValueError(
            "Position lambdas need a relation between the positions of the "
            "inputs and those of the context: the context's grid must be "
            "`context_scale` times as large as that of the inputs. Without a "
            "relation, set `use_position=False`. Received: grids "
            f"{tuple(query_grid)} and {tuple(context_grid)}, context_scale="
            f"{strides.query / strides.context:g}"
        )


def check_image_shape(shape):
    """Raises a `ValueError` if a shape is not that of images of known size."""
    if len(shape) != 4 or None in shape[1:]:
        raise ValueError(
            "The layer takes images of known size, (batch_size, height, "
            "width, channels), because it learns an embedding for each "
            f"offset. Received: inputs of shape {tuple(shape)}"
        )
