import asyncio
import threading

import numpy as np
import pytest

from export.serving.batcher import Batcher


class Model:
    """Doubles examples, and notes its batches; the first waits for `go`."""

    def __init__(self, error=None):
        self.batches = []
        self.go = threading.Event()
        self._error = error

    def __call__(self, examples):
        self.batches.append(examples.copy())
        self.go.wait(timeout=10)
        if self._error and len(self.batches) == 1:
            raise self._error
        return examples * 2


def make_batcher(model, observed=None, **arguments):
    arguments = {"max_batch_size": 6, "is_padded": True} | arguments
    observed = [] if observed is None else observed

    def observe(size, seconds):
        observed.append(size)
        assert 0 <= seconds < 10

    return Batcher(model, observe=observe, **arguments)


async def run_all(model, batcher, values, cancelled=()):
    """Runs the first value alone, and the others as they then wait."""
    futures = [batcher.run(np.full(2, values[0], "float32"))]
    while not model.batches:
        await asyncio.sleep(0.001)
    futures += [batcher.run(np.full(2, v, "float32")) for v in values[1:]]
    for number in cancelled:
        futures[number].cancel()
    model.go.set()
    return await asyncio.gather(*futures, return_exceptions=True)


def test_what_waits_is_a_batch_of_a_power_of_two():
    model, observed = Model(), []
    batcher = make_batcher(model, observed)
    values = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    rows = asyncio.run(run_all(model, batcher, values))
    np.testing.assert_array_equal(rows, [[2 * v, 2 * v] for v in values])
    assert observed == [1, 6, 3]
    # Six is the largest.
    assert [len(batch) for batch in model.batches] == [1, 6, 4]
    np.testing.assert_array_equal(model.batches[2][:, 0], [8, 9, 10, 0])


def test_batches_are_not_padded_where_it_costs():
    model = Model()
    batcher = make_batcher(model, is_padded=False)
    asyncio.run(run_all(model, batcher, [1, 2, 3, 4]))
    assert [len(batch) for batch in model.batches] == [1, 3]


def test_cancelled_examples_are_left_out():
    model = Model()
    batcher = make_batcher(model)
    rows = asyncio.run(run_all(model, batcher, [1, 2, 3, 4], cancelled=[0, 2]))
    assert isinstance(rows[0], asyncio.CancelledError)
    assert isinstance(rows[2], asyncio.CancelledError)
    np.testing.assert_array_equal(rows[1::2], [[4, 4], [8, 8]])
    np.testing.assert_array_equal(model.batches[1][:, 0], [2, 4])


def test_error_costs_its_own_batch_only():
    model = Model(error=RuntimeError("no memory"))
    batcher = make_batcher(model)
    rows = asyncio.run(run_all(model, batcher, [1, 2, 3]))
    with pytest.raises(RuntimeError, match="no memory"):
        raise rows[0]
    np.testing.assert_array_equal(rows[1:], [[4, 4], [6, 6]])


def test_warm_up_runs_each_size():
    model = Model()
    model.go.set()
    make_batcher(model).warm_up((3, 2))
    assert [b.shape for b in model.batches] == [
        (size, 3, 2) for size in 3 * (1, 2, 4, 6)
    ]
