"""The choice among labels, beside one that sorts all at once."""

import collections

import hypothesis
import numpy as np
from hypothesis import strategies as st

from trainers.pseudo_labels import selection

NUM_CLASSES = 4
# Few, so that many are equal; 0.7 is no number of binary digits.
_RECORDS = st.tuples(
    st.integers(0, NUM_CLASSES - 2),
    st.sampled_from([0.25, 0.5, 0.7, 0.75, 1.0, 1.005]),
)
_SHARDS = st.lists(st.lists(_RECORDS, max_size=12), min_size=1, max_size=5)


def choose_at_once(shards, min_confidence, most, least):
    """Returns how often each is chosen, by class, shard and record."""
    found = collections.defaultdict(list)
    for shard, records in enumerate(shards):
        for record, (number, confidence) in enumerate(records):
            if confidence >= min_confidence:
                found[number].append((-confidence, shard, record))
    copies = collections.Counter()
    for number, candidates in found.items():
        places = [place for _, *place in sorted(candidates)[:most]]
        if len(places) < least:
            places = np.resize(places, (least, 2)).tolist()
        copies.update((number, *place) for place in places)
    return copies


@hypothesis.given(
    shards=_SHARDS,
    min_confidence=st.sampled_from([0.0, 0.5, 0.7, 1.0]),
    most=st.integers(1, 20),
    least=st.integers(0, 20),
    data=st.data(),
)
@hypothesis.settings(deadline=None, max_examples=200)
def test_surest_are_chosen(shards, min_confidence, most, least, data):
    predictions = [np.array(shard, selection.PREDICTION) for shard in shards]
    summaries = collections.defaultdict(list)
    for shard in data.draw(st.permutations(range(len(shards)))):
        for number, summary in selection.summarize_shard(
            predictions[shard],
            shard,
            min_confidence=min_confidence,
            most=most,
        ):
            summaries[number].append(summary)
    none = selection.choose(np.empty(0, selection.CANDIDATE), least)
    choices = np.full(NUM_CLASSES, none)
    for number, parts in summaries.items():
        middle = data.draw(st.integers(1, len(parts)))
        first = selection.merge_summaries(parts[:middle], most)
        counts, candidates = selection.merge_summaries(
            [first, *parts[middle:]], most
        )
        confidence = np.array(
            [c for shard in shards for n, c in shard if n == number],
            np.float32,
        )
        confident, *histogram = counts
        assert confident == np.sum(confidence >= np.float32(min_confidence))
        np.testing.assert_array_equal(
            histogram,
            np.histogram(np.minimum(confidence, 1), selection.BIN_EDGES)[0],
        )
        choices[number] = selection.choose(candidates, least)

    expected = choose_at_once(shards, min_confidence, most, least)
    found = {
        (int(predictions[shard]["class"][record]), shard, record): copies
        for shard in range(len(shards))
        for record, copies in enumerate(
            selection.count_copies(predictions[shard], shard, choices)
        )
        if copies
    }
    assert found == expected
    for number, choice in enumerate(choices):
        of_class = [c for (n, *_), c in expected.items() if n == number]
        assert choice["images"] == len(of_class)
        assert choice["copies"] == sum(of_class)
        if of_class:
            for field, place in (("surest", min), ("last", max)):
                assert place(
                    (-shards[s][r][1], s, r)
                    for n, s, r in expected
                    if n == number
                )[1:] == (choice[field]["shard"], choice[field]["record"])
