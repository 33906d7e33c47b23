"""What is measured of a trained model."""

import numpy as np
import pytest

from trainers import evaluation
from trainers.program import UserError


def test_measure_counts_and_averages():
    logits = np.log([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25], [0.1, 0.1, 0.8]])
    results = evaluation.measure(logits.astype(np.float32), np.array([0, 0, 2]))
    assert results["examples"] == 3
    np.testing.assert_allclose(results["accuracy"], 2 / 3)
    np.testing.assert_allclose(
        results["loss"], -np.log([0.7, 0.25, 0.8]).mean(), rtol=1e-5
    )


def test_missing_model_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no .*best\.keras; train first"):
        evaluation.load_model(tmp_path / "best.keras")


def test_damaged_model_is_one_line(tmp_path):
    (tmp_path / "best.keras").write_bytes(b"half a file")
    with pytest.raises(UserError, match=r"best\.keras is damaged") as error:
        evaluation.load_model(tmp_path / "best.keras")
    assert "\n" not in str(error.value)
