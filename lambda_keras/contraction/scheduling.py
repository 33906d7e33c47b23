"""Order in time for computations that do not depend on each other.

Blocks that do not depend on each other may be computed all at once, and then
need the memory of all.
"""

import numpy as np
from keras import ops


def follow(first, tensor):
    """Returns the tensor, which is not there before the first one is."""
    return ops.where(_wait_for(first), ops.cast(0, tensor.dtype), tensor)


def slice_after(tensor, axis, start, stop, outputs):
    """Slices a tensor, not before the last of the outputs is there.

    Args:
        tensor: tensor of any shape.
        axis: axis to slice.
        start: first index.
        stop: index after the last.
        outputs: sequence of tensors, which may be empty.
    """
    if not outputs:
        return tensor[(slice(None),) * axis + (slice(start, stop),)]
    starts = np.zeros(len(tensor.shape), "int32")
    starts[axis] = start
    sizes = list(ops.shape(tensor))
    sizes[axis] = stop - start
    nothing = ops.cast(_wait_for(outputs[-1]), "int32")
    return ops.slice(tensor, ops.add(starts, nothing), sizes)


def _wait_for(tensor):
    """Returns `False` when the tensor is there."""
    number = tensor[(0,) * len(tensor.shape)]
    return ops.logical_and(number < 0, number > 0)


def add_to_last(totals, term):
    """Returns the last of the totals plus the term, or the first total."""
    return totals[-1] + term if totals else term
