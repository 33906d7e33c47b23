"""Order in time for computations that do not depend on each other.

TensorFlow computes what is ready, so that blocks that do not depend on each
other may be computed all at once, and then need the memory of all. Keras has no
control dependencies. What is here makes a value of an input depend on an output
without changing it, in a way that no compiler sees through.
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
    # The start waits and not the tensor, of which `follow` would make a copy.
    nothing = ops.cast(_wait_for(outputs[-1]), "int32")
    return ops.slice(tensor, ops.add(starts, nothing), sizes)


def _wait_for(tensor):
    """Returns `False` when the tensor is there."""
    # Never true, and not known to be: a product with zero would be dropped
    # by a simplifier, and would make an infinite number NaN.
    number = tensor[(0,) * len(tensor.shape)]
    return ops.logical_and(number < 0, number > 0)


def add_to_last(totals, term):
    """Returns the last of the totals plus the term, or the first total."""
    return totals[-1] + term if totals else term
