"""How batches are divided into images with two kinds of labels."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies

from trainers.program import UserError
from trainers.pseudo_labels.division import divide_batch


@given(strategies.integers(1, 500), strategies.integers(1, 500))
def test_whatever_is_whole_is_found(labelled, others):
    # As a user writes what has no end.
    ratio = float(f"{others / labelled:.8g}")
    assert divide_batch(labelled + others, ratio) == (labelled, others)


@pytest.mark.parametrize(
    ("batch_size", "ratio", "hint"),
    [
        (64, 2.0, ", such as --batch_size=66."),
        (64, 1.001, "images. Received"),
        (2, 3.0, ", such as --batch_size=4."),
        (64, 1e-9, "images. Received"),
        (64, 1e9, "images. Received"),
    ],
)
def test_batch_that_cannot_be_divided_is_one_line(batch_size, ratio, hint):
    with pytest.raises(UserError, match=re.escape(hint)) as error:
        divide_batch(batch_size, ratio)
    assert str(error.value).endswith(
        f"Received: --batch_size={batch_size} --pseudo_ratio={ratio:g}"
    )
