"""Which labelled images are chosen: of each class those the surest.

A class's images are in order of confidence, those of equal confidence in that
of the numbers of their shards and records. So the last image that is chosen
says of each whether it is, without a list of all.
"""

from collections.abc import Iterable
from collections.abc import Iterator

import numpy as np

# Between the bins of a histogram of confidence.
BIN_EDGES = np.linspace(0, 1, 21, dtype=np.float32)
# What a record says, without the image: its surest class.
PREDICTION = np.dtype([("class", np.int32), ("confidence", np.float32)])
# One image of a class.
CANDIDATE = np.dtype(
    [("confidence", np.float32), ("shard", np.int32), ("record", np.int32)]
)
# What is chosen of a class: so many images, from the surest to the last, and
# so many with their copies, of which those as far as `repeated` have one more.
CHOICE = np.dtype(
    [
        ("images", np.int64),
        ("copies", np.int64),
        ("surest", CANDIDATE),
        ("last", CANDIDATE),
        ("repeated", CANDIDATE),
    ]
)


def summarize_shard(
    predictions: np.ndarray, shard: int, *, min_confidence: float, most: int
) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
    """Summarizes what the records of a shard say.

    Args:
        predictions: `PREDICTION`, `(records,)`.
        shard: its number.
        min_confidence: of an image that may be chosen.
        most: number of images of a class to choose, at most.

    Yields:
        Number of a class, and its summary: int64, `(1 + bins,)`, the number
        of images that may be chosen and the histogram of confidence; and
        `CANDIDATE`, `(candidates,)`, the surest of them in their order.
    """
    for number in np.unique(predictions["class"]):
        records = np.flatnonzero(predictions["class"] == number)
        confidence = predictions["confidence"][records]
        bins = np.digitize(confidence, BIN_EDGES[1:-1])
        histogram = np.bincount(bins, minlength=len(BIN_EDGES) - 1)
        is_confident = confidence >= np.float32(min_confidence)
        candidates = np.empty(np.count_nonzero(is_confident), CANDIDATE)
        candidates["confidence"] = confidence[is_confident]
        candidates["shard"] = shard
        candidates["record"] = records[is_confident]
        counts = np.array([len(candidates), *histogram])
        yield int(number), (counts, _take_surest(candidates, most))


def merge_summaries(
    summaries: Iterable[tuple[np.ndarray, np.ndarray]], most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Merges summaries of a class, in whatever order, to one of all."""
    counts, candidates = zip(*summaries, strict=True)
    return sum(counts), _take_surest(np.concatenate(candidates), most)


def _take_surest(candidates, most):
    order = np.lexsort(
        (candidates["record"], candidates["shard"], -candidates["confidence"])
    )
    return candidates[order[:most]]


def choose(candidates: np.ndarray, least: int) -> np.ndarray:
    """Chooses all candidates of a class, repeated if they are few.

    The surest are repeated once more than the others where numbers do not
    divide.

    Args:
        candidates: `CANDIDATE`, `(candidates,)`, in their order; may be none.
        least: number of images and copies, at least.

    Returns:
        `CHOICE`, `()`.
    """
    choice = np.zeros((), CHOICE)
    # None is as sure.
    choice["repeated"]["confidence"] = np.inf
    count = len(candidates)
    if count:
        choice["images"] = count
        choice["copies"] = max(count, least)
        choice["surest"] = candidates[0]
        choice["last"] = candidates[-1]
        rest = choice["copies"] % count
        if rest:
            choice["repeated"] = candidates[rest - 1]
    return choice


def count_copies(
    predictions: np.ndarray, shard: int, choices: np.ndarray
) -> np.ndarray:
    """Counts how often each record of a shard is chosen.

    Args:
        predictions: `PREDICTION`, `(records,)`.
        shard: its number.
        choices: `CHOICE`, `(num_classes,)`.

    Returns:
        int64, `(records,)`.
    """
    choices = choices[predictions["class"]]
    confidence = predictions["confidence"]
    copies = choices["copies"] // np.maximum(choices["images"], 1)
    return copies * _reach(confidence, shard, choices["last"]) + _reach(
        confidence, shard, choices["repeated"]
    )


def _reach(confidence, shard, last):
    """Returns which records come no later than others, one for each."""
    records = np.arange(len(confidence))
    return (confidence > last["confidence"]) | (
        (confidence == last["confidence"])
        & (
            (shard < last["shard"])
            | ((shard == last["shard"]) & (records <= last["record"]))
        )
    )
