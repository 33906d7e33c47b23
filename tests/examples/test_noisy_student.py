"""The example of pseudo-labels: its parts, and a short run."""

import functools
import json
import re
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf

from examples import few_labels
from export import exporter
from tests.support.programs import Program
from tests.support.programs import run_in_this_process
from tests.support.training import SMALL
from trainers.program import UserError
from trainers.pseudo_labels import shards

PROGRAM = Program("examples.noisy_student")


def test_the_labelled_images_are_as_many_of_each_class():
    labels = np.array([0, 1, 2] * 9 + [2])
    chosen = few_labels.choose_labelled(labels, 4, seed=3)
    assert np.bincount(labels[chosen]).tolist() == [4, 4, 4]
    assert (np.diff(chosen) > 0).all()
    again = few_labels.choose_labelled(labels, 4, seed=3)
    np.testing.assert_array_equal(chosen, again)
    others = few_labels.choose_labelled(labels, 4, seed=4)
    assert set(chosen) != set(others)
    with pytest.raises(UserError, match=r"be below 9\. Received: 9"):
        few_labels.choose_labelled(labels, 9, seed=3)


def test_the_table_has_all_seeds_their_mean_and_their_deviation():
    table = PROGRAM.module.format_results(
        {
            0: {"labelled only": 0.5, "all labels": 0.9},
            7: {"labelled only": 0.6, "all labels": 0.9},
        },
        {0: [0.75], 7: [0.85]},
    )
    assert table.splitlines() == [
        "| seed | labelled only | all labels | right labels, round 1 |",
        "| --- | --- | --- | --- |",
        "| 0 | 50.0 | 90.0 | 75.0 |",
        "| 7 | 60.0 | 90.0 | 85.0 |",
        "| mean | 55.0 ± 7.1 | 90.0 ± 0.0 | 80.0 ± 7.1 |",
    ]


def read_features(paths):
    """Returns the features of all records in files."""
    return [
        tf.train.Example.FromString(record).features.feature
        for path in sorted(paths)
        for record in shards.read_records(str(path))
    ]


def read_names(paths):
    return [
        int(features["image/filename"].bytes_list.value[0])
        for features in read_features(paths)
    ]


@pytest.mark.slow
def test_a_student_learns_what_its_teacher_says(tmp_path, monkeypatch, capfd):
    module = PROGRAM.module
    read_part = few_labels.read_part
    programs = []

    def read_few(split):
        part = read_part(split)
        chosen = np.concatenate(
            [np.flatnonzero(part.labels == digit)[:8] for digit in range(10)]
        )
        images = [part.images[position] for position in chosen]
        return few_labels.Part(images, part.labels[chosen])

    def run_step(name, *arguments):
        programs.append(name.rpartition(".")[2])
        if name == "trainers.train_classifier":
            small = ("depth", "width_multiplier")
            arguments = (*arguments, *(f"--{n}={SMALL[n]}" for n in small))
        if f"--dataset={tmp_path / 'seed5' / 'all'}" in arguments:
            # Trained as the first, which was seen.
            row = (tmp_path / "seed5/labelled_only/metrics.csv").read_text()
            (tmp_path / "seed5/all_labels").mkdir()
            (tmp_path / "seed5/all_labels/metrics.csv").write_text(row)
            return
        ended = run_in_this_process(["python", "-m", name, *arguments])
        assert ended.returncode == 0, ended.stderr

    compile_eagerly = functools.partialmethod(
        keras.Model.compile, run_eagerly=True
    )
    monkeypatch.setattr(few_labels, "read_part", read_few)
    monkeypatch.setattr(module, "run_step", run_step)
    monkeypatch.setattr(module, "_EPOCHS", 1)
    with (
        mock.patch.object(keras.Model, "compile", compile_eagerly),
        mock.patch.object(exporter, "run_to_end", run_in_this_process),
    ):
        PROGRAM.run(
            output=str(tmp_path),
            labelled_per_class=4,
            steps=2,
            batch_size=40,
            rounds=1,
            seeds=["5"],
            min_confidence=0.0,
        )
    assert programs == [
        "train_classifier",
        "export_model",
        "label_images",
        "select_labels",
        "train_classifier",
        "train_classifier",
    ]
    seed_dir = tmp_path / "seed5"
    round_dir = seed_dir / "round1"
    labelled = read_names((seed_dir / "labelled").glob("train-*"))
    heap = read_names((round_dir / "labels").glob("labels-*"))
    # Each image of training is either told or asked for, once.
    assert sorted(labelled + heap) == list(range(80))
    assert len(labelled) == 40
    selected = read_features((round_dir / "selected").glob("selected-*"))
    right = [
        features["image/class/label"].int64_list.value[0] - 1
        == int(features["image/filename"].bytes_list.value[0]) // 8
        for features in selected
    ]
    saved = json.loads((round_dir / "student" / "flags.json").read_text())
    assert saved["pseudo_labels"] == str(round_dir / "selected")
    assert saved["pseudo_ratio"] == 3
    accuracies = [
        (folder / "metrics.csv").read_text().splitlines()[-1]
        for folder in (
            seed_dir / "labelled_only",
            round_dir / "student",
            seed_dir / "all_labels",
        )
    ]
    row = (tmp_path / "results.md").read_text().splitlines()[2]
    _, *cells, share = re.findall(r"[\d.]+", row)
    assert share == f"{100 * np.mean(right):.1f}"
    for cell, line in zip(cells, accuracies, strict=True):
        values = [float(value) for value in line.split(",")]
        assert any(f"{100 * value:.1f}" == cell for value in values)
    assert row in capfd.readouterr().out
    assert (tmp_path / "accuracies.png").exists()
