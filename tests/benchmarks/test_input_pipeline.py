"""Tests of the benchmark of the input pipeline, and one small run of it."""

import csv

import numpy as np
import pytest
import tensorflow as tf

from tests.support.programs import Program
from trainers.program import UserError

PROGRAM = Program("benchmarks.input_pipeline")
input_pipeline = PROGRAM.module


@pytest.mark.slow
def test_pipelines_do_what_their_names_say_and_get_a_row_each(
    tmp_path, capsys, monkeypatch
):
    batches = []
    measure = input_pipeline.measure

    def keep_one(dataset, count):
        # A second iterator would take as long to make as the first.
        iterator = iter(dataset)
        batches.append(next(iterator))
        return measure(iterator, count)

    monkeypatch.setattr(input_pipeline, "measure", keep_one)
    monkeypatch.setattr(input_pipeline, "_WARM_UP_BATCHES", 1)
    monkeypatch.setattr(input_pipeline, "_NUM_IMAGES", 8)
    PROGRAM.run(
        image_size=19,
        batch_size=5,
        batches=2,
        rounds=1,
        output=str(tmp_path / "rows.csv"),
    )
    with open(tmp_path / "rows.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    printed = capsys.readouterr().out
    for row in rows:
        assert row["pipeline"] in printed
        best = float(row["best_images_per_second"])
        assert 0 < float(row["images_per_second"]) <= best
        assert float(row["cpu_ms_per_image"]) > 0
    names = [row["pipeline"] for row in rows]
    batches = dict(zip(names, batches, strict=True))
    assert batches["decode"][0].shape == (5, 375, 500, 3)
    assert batches["decode"][0].dtype == tf.uint8
    assert 50 < np.std(batches["decode"][0]) < 90
    del batches["decode"]
    crops = batches["crop and flip"][0]
    for name, (images, labels) in batches.items():
        assert images.shape == (5, 19, 19, 3)
        assert (np.count_nonzero(labels, axis=-1) == 1).all() == (
            "Mixup" not in name
        )
        assert np.array_equal(images, crops) == (name == "crop and flip")


def test_figures_are_medians_and_the_best(monkeypatch):
    measured = {"fast": [(1, 2), (3, 5), (2, 6)], "slow": [(9, 9)] * 3}
    turns = []

    def measure(dataset, count):
        turns.append(dataset)
        assert count == 7
        return measured[dataset].pop(0)

    monkeypatch.setattr(input_pipeline, "measure", measure)
    rows = input_pipeline.measure_pipelines(
        {name: name for name in measured}, batch_size=5, batches=7, rounds=3
    )
    assert turns == ["fast", "slow"] * 3
    assert rows[0] == {
        "pipeline": "fast",
        "images_per_second": 35 / 2,
        "best_images_per_second": 35,
        "cpu_ms_per_image": 5000 / 35,
        "rounds": 3,
    }


def test_missing_folder_of_the_output_is_refused(tmp_path):
    with pytest.raises(UserError, match="a folder that exists"):
        PROGRAM.run(output=str(tmp_path / "nowhere" / "rows.csv"))
