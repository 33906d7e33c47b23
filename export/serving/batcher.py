"""Runs a model on batches of what waits."""

import asyncio
import collections
import concurrent.futures
import time
from collections.abc import Callable

import numpy as np

# Each of TensorFlow's threads prepares what it computes for itself.
_NUM_WARM_UPS = 3


class Batcher:
    """Puts examples together into batches and runs a model on them.

    A batch is what came while the last one was computed, so that nobody waits
    for a timer, and the busier the model is, the larger its batches are. The
    model runs in one thread, one batch after the other.

    Args:
        run: function of float32 examples, `(examples, ...)`, that returns a
            row for each.
        max_batch_size: number of examples to run at once at the most.
        is_padded: whether batches are filled with zeros up to the next power
            of two, or `max_batch_size`, so that the model sees few sizes.
        observe: function to call with the number of examples of a batch and
            the seconds that it took.
    """

    def __init__(
        self,
        run: Callable[[np.ndarray], np.ndarray],
        *,
        max_batch_size: int,
        is_padded: bool,
        observe: Callable[[int, float], None],
    ):
        self._run = run
        self._max_batch_size = max_batch_size
        self._is_padded = is_padded
        self._observe = observe
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "model")
        self._waiting = collections.deque()
        self._work = None

    def warm_up(self, shape: tuple[int, ...]) -> None:
        """Runs each size of a batch, which at first is slower than ever after.

        Args:
            shape: of an example.
        """
        sizes = {self._pad(n + 1) for n in range(self._max_batch_size)}
        for size in _NUM_WARM_UPS * (sorted(sizes) if self._is_padded else [1]):
            batch = np.zeros((size, *shape), "float32")
            self._thread.submit(self._run, batch).result()

    def run(self, example: np.ndarray) -> asyncio.Future:
        """Returns the row of an example, once it is there.

        An example whose future is cancelled before its turn is left out. What
        the model raises is raised by all of its batch.
        """
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((example, future))
        if self._work is None:
            self._work = asyncio.create_task(self._run_all())
        return future

    async def _run_all(self):
        loop = asyncio.get_running_loop()
        while batch := self._take_batch():
            examples, futures = zip(*batch, strict=True)
            try:
                rows = await loop.run_in_executor(
                    self._thread, self._run_batch, examples
                )
            except Exception as error:
                for future in futures:
                    if not future.done():
                        future.set_exception(error)
            else:
                for future, row in zip(futures, rows, strict=True):
                    if not future.done():
                        future.set_result(row)
        self._work = None

    def _take_batch(self):
        batch = []
        while self._waiting and len(batch) < self._max_batch_size:
            example, future = self._waiting.popleft()
            if not future.done():
                batch.append((example, future))
        return batch

    def _run_batch(self, examples):
        begin = time.perf_counter()
        count = len(examples)
        padded = self._pad(count) if self._is_padded else count
        batch = np.zeros((padded, *examples[0].shape), "float32")
        np.stack(examples, out=batch[:count])
        rows = self._run(batch)[:count]
        self._observe(count, time.perf_counter() - begin)
        return rows

    def _pad(self, count):
        return min(1 << (count - 1).bit_length(), self._max_batch_size)
