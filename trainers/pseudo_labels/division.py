"""How many images of a batch are labelled, and how many pseudo-labelled."""

import math

from trainers.program import UserError


def divide_batch(batch_size: int, pseudo_ratio: float) -> tuple[int, int]:
    """Divides a batch into labelled and pseudo-labelled images.

    Args:
        batch_size: images in a batch.
        pseudo_ratio: pseudo-labelled images for each labelled one.

    Returns:
        How many are labelled, and how many pseudo-labelled.

    Raises:
        UserError: If there is no such division.
    """
    labelled = _divide(batch_size, pseudo_ratio)
    if labelled:
        return labelled, batch_size - labelled
    sizes = range(batch_size + 1, 10 * batch_size)
    # One for each whole ratio, and most that people think of.
    larger = next((n for n in sizes if _divide(n, pseudo_ratio)), None)
    hint = f", such as --batch_size={larger}" if larger else ""
    raise UserError(
        "--batch_size must be a whole number times 1 + --pseudo_ratio, so that "
        f"each batch has that many labelled images{hint}. Received: "
        f"--batch_size={batch_size} --pseudo_ratio={pseudo_ratio:g}"
    )


def _divide(batch_size, ratio):
    """Returns the number of labelled images, 0 if there is no whole one."""
    labelled = round(batch_size / (1 + ratio))
    # A third has no end in decimal digits.
    is_exact = math.isclose(labelled * (1 + ratio), batch_size, rel_tol=1e-6)
    return labelled if is_exact and labelled < batch_size else 0
