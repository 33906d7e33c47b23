"""How many multiply-adds a lambda layer needs."""

import math

# The gradients of the inputs and of the weights take as many multiply-adds
# each as the forward pass.
PASSES = {"forward": 1, "train": 3}


def count_visible_pairs(size: int, scope: int | None) -> int:
    """Returns how many pairs of positions of an axis lie in a scope.

    Args:
        size: number of positions on the axis.
        scope: odd number of positions that a query sees, itself in the
            middle. `None` for all.

    Returns:
        Pairs of a query and a context position. Those that a scope would have
        beyond the border are not counted.
    """
    if scope is None:
        return size**2
    reach = min(scope // 2, size - 1)
    # The offsets -reach to reach have size - |offset| pairs each.
    return size + 2 * sum(size - offset for offset in range(1, reach + 1))


def count_multiply_adds(
    grid: tuple[int, ...],
    channels: int,
    *,
    scope: int | None,
    num_heads: int,
    key_dim: int,
) -> int:
    """Counts the multiply-adds of one example in the cheapest order.

    The cheaper of lambdas first and queries first (see
    `lambda_keras.functional`) for the positions, with the projections and the
    content lambda. Lambdas of positions are added to that of the content
    before the queries take both. Normalizations, softmax and sums are left
    out.

    Args:
        grid: sizes of the axes of positions.
        channels: of the inputs and of the outputs.
        scope: as in `count_visible_pairs`, on every axis.
        num_heads: number of queries per position.
        key_dim: size of each query and key.

    Returns:
        Multiply-adds of the forward pass.
    """
    value_dim = channels // num_heads
    positions = math.prod(grid)
    pairs = math.prod(count_visible_pairs(size, scope) for size in grid)
    projections = channels * (num_heads * key_dim + key_dim + value_dim)
    content = key_dim * value_dim * (1 + num_heads)
    pair_cost = min(key_dim * value_dim, num_heads * (key_dim + value_dim))
    return positions * (projections + content) + pairs * pair_cost
