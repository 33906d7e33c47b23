"""Tests of the benchmark of damaged files, and a small run of it."""

import numpy as np
import pytest

from tests.support.programs import Program

fuzz_images = Program("benchmarks.fuzz_images").module


def make_outcome(**probabilities):
    records = {
        name: {"classes": [{"index": 0, "probability": probability}]}
        if probability is not None
        else {"error": "is damaged"}
        for name, probability in probabilities.items()
    }
    return fuzz_images.Outcome(records, [], 0, 0.0)


def test_files_depend_on_the_seed_alone():
    first, again, other = (
        {file.name: file for file in fuzz_images.make_files(24, seed)}
        for seed in (0, 0, 1)
    )
    assert first == again
    assert set(other.values()) & set(first.values()) == set()
    damages = [file.damage for file in first.values()]
    assert damages.count("none") == 8
    assert len(set(damages)) > 3


@pytest.mark.parametrize(
    ("alone", "mixed", "harmed"),
    [
        ({"a": 0.5, "b": 0.1}, {"a": 0.5, "b": 0.1}, 0),
        ({"a": 0.5, "b": 0.1}, {"a": 0.5, "b": 0.2}, 1),
        # Refused beside bad ones only, or never reached.
        ({"a": 0.5, "b": 0.1}, {"a": 0.5, "b": None}, 1),
        ({"a": 0.5, "b": 0.1}, {"a": 0.5}, 1),
        ({"a": 0.5, "b": 0.1}, {"a": np.nan, "b": 0.1}, 1),
    ],
)
def test_whole_files_that_changed_are_counted(alone, mixed, harmed):
    outcomes = make_outcome(**mixed), make_outcome(**alone)
    assert fuzz_images.count_harmed(["a", "b"], *outcomes, 1e-5) == harmed


@pytest.mark.slow
def test_files_are_classified_and_the_end_of_the_process_is_told(
    export_dir, tmp_path, monkeypatch
):
    names = []
    for file in fuzz_images.make_files(12, seed=0):
        (tmp_path / file.name).write_bytes(file.contents)
        names.append(file.name)
    whole = [name for name in names if "_none_" in name]
    outcome = fuzz_images.classify(export_dir / "model.tflite", tmp_path, names)
    assert list(outcome.records) == names
    assert outcome.ends == []
    assert outcome.peak > 2**24
    assert all("classes" in outcome.records[name] for name in whole)
    assert any("error" in record for record in outcome.records.values())
    # No model can be opened.
    outcome = fuzz_images.classify(tmp_path, tmp_path, names)
    assert outcome.records == {}
    assert outcome.ends == ["exit code 2"]
    # There is no time at all.
    monkeypatch.setattr(fuzz_images, "_SECONDS_PER_FILE", 0.0)
    monkeypatch.setattr(fuzz_images, "_SECONDS_TO_START", 0.0)
    outcome = fuzz_images.classify(export_dir / "model.tflite", tmp_path, names)
    assert outcome.ends == ["hung"]
