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


def test_classes_are_measured_apart():
    logits = np.eye(4)[[0, 0, 1, 1, 3]]
    classes = evaluation.measure_classes(
        logits, np.array([0, 1, 1, 1, 3]), ["cat", "dog", "eel", "cat"]
    )
    assert [tuple(each.values()) for each in classes] == [
        ("cat", 1.0, 1),
        ("dog", 2 / 3, 3),
        ("eel", None, 0),
        ("cat", 1.0, 1),
    ]


def test_top_5_are_five_or_all():
    logits = np.array([[6.0, 5, 4, 3, 2, 1], [6, 5, 4, 3, 2, 1]])
    assert evaluation.measure_top_5(logits, np.array([4, 5])) == 0.5
    assert evaluation.measure_top_5(logits[:, :3], np.array([0, 2])) == 1


def test_missing_model_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no .*best\.keras; train first"):
        evaluation.load_model(tmp_path / "best.keras")


def test_damaged_model_is_one_line(tmp_path):
    (tmp_path / "best.keras").write_bytes(b"half a file")
    with pytest.raises(UserError, match=r"best\.keras is damaged") as error:
        evaluation.load_model(tmp_path / "best.keras")
    assert "\n" not in str(error.value)
