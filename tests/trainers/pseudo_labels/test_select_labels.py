"""The program that chooses labels, on folders of labels of known numbers."""

import collections
import io
import itertools
import json
import os
import pathlib
import shutil

import matplotlib.figure
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from tests.support.programs import Program
from tests.trainers.pseudo_labels.test_selection import choose_at_once
from trainers import plots
from trainers.data.records import LABEL_KEY
from trainers.data.records import NAME_KEY
from trainers.data.records import open_records
from trainers.program import UserError
from trainers.pseudo_labels import label_records

pytestmark = pytest.mark.slow
PROGRAM = Program("trainers.select_labels")
TEACHER = label_records.Teacher("0f3a", ["cat", "dog", "eel"], 2, "old")
# Surest class and its probability.
SHARDS = [
    [(0, 0.75), (1, 0.5), (0, 0.875), (2, 0.4375), (1, 0.625)],
    [(1, 0.625), (0, 0.5625), (1, 1.0), (0, 0.875), (1, 0.4375)],
    [],
    [(2, 0.6875), (0, 0.8125), (1, 0.5625)],
]
FLAGS = {"min_confidence": 0.5, "most_per_class": 3, "least_per_class": 3}
CHOSEN = choose_at_once(SHARDS, 0.5, 3, 3)


def make_png(shard, record):
    """Returns the contents of an image of one color, another for each."""
    file = io.BytesIO()
    color = (60 * shard, 40 * record, 7)
    PIL.Image.new("RGB", (2, 3), color).save(file, "PNG")
    return file.getvalue()


def make_image(shard, record, number, confidence):
    return label_records.LabelledImage(
        make_png(shard, record),
        f"{shard}/{record}.png",
        np.array([number, (number + 1) % 3]),
        np.array([confidence, (1 - confidence) / 2], np.float32),
        TEACHER.fingerprint,
    )


def write_shard(path, images):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image in images:
            writer.write(label_records.make_record(image))


def write_labels(folder, shards):
    folder.mkdir()
    label_records.write_teacher(str(folder), TEACHER)
    for shard, rows in enumerate(shards):
        write_shard(
            folder / f"labels-{shard:05}-of-{len(shards):05}",
            [make_image(shard, n, *row) for n, row in enumerate(rows)],
        )


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels") / "labels"
    write_labels(folder, SHARDS)
    return folder


def select(labels, output, **flags):
    PROGRAM.run(labels=str(labels), output=str(output), **FLAGS | flags)


@pytest.fixture(scope="module")
def selected(labels):
    output = labels.parent / "selected"
    select(labels, output)
    return output


def read_shards(folder):
    """Returns the records of each shard."""
    return [
        list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
        for path in sorted(folder.glob("selected-*-of-00004"))
    ]


def read_tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_surest_are_written_with_their_copies(selected):
    found = collections.Counter()
    for shard, records in enumerate(read_shards(selected)):
        for record in records:
            image = label_records.read_record(record, TEACHER)
            number = int(image.name.removeprefix(f"{shard}/")[:-4])
            row = SHARDS[shard][number]
            assert record == label_records.make_record(
                make_image(shard, number, *row)
            )
            found[row[0], shard, number] += 1
    assert found == CHOSEN
    assert (selected / "labels.txt").read_text() == "cat\ndog\neel\n"
    assert label_records.read_teacher(str(selected)) == TEACHER
    dataset = open_records(str(selected))
    assert dataset.class_names == TEACHER.class_names
    assert dataset.train.size + dataset.validation.size == 9


def test_copies_are_mixed(tmp_path):
    write_labels(tmp_path / "labels", [[(n, 0.5) for n in range(3)]])
    select(
        tmp_path / "labels",
        tmp_path / "selected",
        most_per_class=40,
        least_per_class=40,
    )
    path = str(tmp_path / "selected" / "selected-00000-of-00001")
    records = list(tf.data.TFRecordDataset(path).as_numpy_iterator())
    assert sorted(collections.Counter(records).values()) == [40, 40, 40]
    neighbors = [a == b for a, b in itertools.pairwise(records)]
    assert 0.15 < np.mean(neighbors) < 0.5


def test_hard_labels_have_no_probabilities(labels, tmp_path):
    select(labels, tmp_path / "selected", hard=True)
    found = collections.Counter()
    for shard, records in enumerate(read_shards(tmp_path / "selected")):
        for record in records:
            features = tf.train.Example.FromString(record).features.feature
            assert label_records.PROBABILITIES_KEY not in features
            (name,) = features[NAME_KEY].bytes_list.value
            (label,) = features[LABEL_KEY].int64_list.value
            number = int(name.decode().removeprefix(f"{shard}/")[:-4])
            found[label - 1, shard, number] += 1
    assert found == CHOSEN


def test_report_counts(selected):
    report = json.loads((selected / "report.json").read_text())
    rows = [row for shard in SHARDS for row in shard]
    confidence = np.array([c for _, c in rows])
    classes = np.array([n for n, _ in rows])
    for number, row in enumerate(report["classes"]):
        of_class = confidence[classes == number]
        chosen = [c for (n, *_), c in CHOSEN.items() if n == number]
        assert row == {
            "name": TEACHER.class_names[number],
            "records": len(of_class),
            "confident": np.sum(of_class >= 0.5),
            "chosen": len(chosen),
            "copies": sum(chosen),
            "histogram": np.histogram(of_class, 20, (0, 1))[0].tolist(),
        }
    assert report["records"] == 13
    assert report["confident"] == 11
    assert report["chosen"] == len(CHOSEN) == 7
    assert report["copies"] == 9
    histogram = np.histogram(confidence, 20, (0, 1))[0]
    assert report["histogram"] == histogram.tolist()
    assert report["settings"]["min_confidence"] == 0.5


def test_pictures_and_table_show_what_is_reported(
    selected, labels, tmp_path, monkeypatch, capsys
):
    figures = []
    grids = []
    monkeypatch.setattr(
        matplotlib.figure.Figure,
        "savefig",
        lambda figure, path, dpi: (figures.append(figure), path.touch()),
    )
    monkeypatch.setattr(
        plots,
        "plot_images",
        lambda images, titles, path, columns: (
            grids.append((images, titles)),
            path.touch(),
        ),
    )
    output = tmp_path / "selected"
    shutil.copytree(selected, output)
    select(labels, output)
    assert capsys.readouterr().out.splitlines()[:5] == [
        "             images  fewest of a class  most",
        "labelled         13                  2     6",
        "confident        11                  1     5",
        "chosen            7                  1     3",
        "with copies       9                  3     3",
    ]
    report = json.loads((selected / "report.json").read_text())
    confidence, classes = (figure.axes[0].patches for figure in figures)
    assert confidence[0].get_data().values.tolist() == report["histogram"]
    assert [part.get_data().values.tolist() for part in classes] == [
        [5, 5, 1],
        [3, 3, 3],
    ]
    ((images, titles),) = grids
    assert titles == [
        "cat\nsurest, 87.5%",
        "cat\nleast sure, 81.2%",
        "dog\nsurest, 100.0%",
        "dog\nleast sure, 62.5%",
        "eel\nsurest, 68.8%",
        "eel\nleast sure, 68.8%",
    ]
    places = [(0, 2), (3, 1), (1, 2), (1, 0), (3, 0), (3, 0)]
    for image, (shard, record) in zip(images, places, strict=True):
        assert image.shape == (3, 2, 3)
        assert (image == [60 * shard, 40 * record, 7]).all()


def test_stopped_selection_goes_on(selected, labels, tmp_path, monkeypatch):
    output = tmp_path / "selected"
    replace = os.replace
    done = {}
    for name in (
        "selection.json",
        "00002.npy",
        "choices.npy",
        "report.json",
        "00001-last",
        "selected-00003-of-00004",
        "classes.png",
        "teacher.json",
        None,
    ):

        def replace_or_stop(source, target, name=name):
            path = pathlib.Path(target)
            assert path not in done
            if path.name == name:
                # Which a process that is killed leaves.
                shutil.copy(source, path.with_name(f"partial-of-{name}"))
                raise RuntimeError("stopped")
            replace(source, target)
            if path.parent.name == "predictions" or "-of-" in path.name:
                done[path] = path.read_bytes()

        monkeypatch.setattr(os, "replace", replace_or_stop)
        if name is None:
            select(labels, output)
        else:
            with pytest.raises(RuntimeError, match="stopped"):
                select(labels, output)
            assert not (output / "teacher.json").exists()
    assert len(done) == 8
    assert read_tree(output) == read_tree(selected)


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"fingerprint": "0f3b"}, "is of another teacher than"),
        ({"probabilities": [np.nan, 0.1]}, "has a probability that"),
        (
            {"probabilities": [0.875, 0.25]},
            "must have probabilities with the sum 0.6667 to 1, but has 1.125.",
        ),
    ],
)
def test_record_that_cannot_be_is_named(tmp_path, changes, wrong):
    folder = tmp_path / "labels"
    write_labels(folder, SHARDS)
    images = [make_image(1, record, 0, 0.5) for record in range(3)]
    images[2] = images[2]._replace(**changes)
    path = folder / "labels-00001-of-00004"
    write_shard(path, images)
    with pytest.raises(UserError) as raised:
        select(folder, tmp_path / "selected")
    assert str(raised.value).startswith(f"Record 2 of {path} {wrong}")
    assert "\n" not in str(raised.value)


def test_damaged_file_is_named(tmp_path):
    folder = tmp_path / "labels"
    write_labels(folder, SHARDS)
    path = folder / "labels-00001-of-00004"
    contents = bytearray(path.read_bytes())
    contents[len(contents) * 3 // 5] ^= 1
    path.write_bytes(contents)
    with pytest.raises(UserError, match=f"{path} is damaged .* at record 3;"):
        select(folder, tmp_path / "selected")


def test_class_without_images_is_named(labels, tmp_path):
    output = tmp_path / "selected"
    flags = {"min_confidence": 0.8125}
    with pytest.raises(UserError, match=r"1 of 3 classes .* of 0\.8125: eel$"):
        select(labels, output, **flags)
    select(labels, output, allow_empty_classes=True, **flags)
    report = json.loads((output / "report.json").read_text())
    assert [row["copies"] for row in report["classes"]] == [3, 3, 0]


def test_no_image_at_all_is_an_error(labels, tmp_path):
    with pytest.raises(UserError, match=r"3 of 3 classes .*: cat, dog, eel$"):
        select(
            f"{labels}/labels-00000-of-*",
            tmp_path / "selected",
            min_confidence=1.0,
            allow_empty_classes=True,
        )


def test_pattern_selects_among_some_files(labels, tmp_path):
    select(f"{labels}/labels-0000[03]-of-*", tmp_path / "selected")
    found = json.loads((tmp_path / "selected" / "report.json").read_text())
    assert found["records"] == 8
    names = sorted(path.name for path in tmp_path.glob("selected/selected-*"))
    assert names == ["selected-00000-of-00002", "selected-00001-of-00002"]


def test_other_selection_is_left_alone(labels, selected, tmp_path):
    tree = read_tree(selected)
    for flags, difference in (
        ({"min_confidence": 0.25}, r"min_confidence 0\.5, now 0\.25$"),
        ({"hard": True}, "selected, hard False, now True$"),
        ({"labels": f"{labels}/labels-*"}, "now .*labels-[*]$"),
    ):
        with pytest.raises(UserError, match=difference):
            select(**{"labels": labels, "output": selected} | flags)
    # As many files with the same names.
    folder = tmp_path / "labels"
    shutil.copytree(labels, folder)
    select(folder, tmp_path / "selected")
    write_shard(folder / "labels-00000-of-00004", [])
    with pytest.raises(UserError, match=r"selected, sha256 \w+, now \w+$"):
        select(folder, tmp_path / "selected")
    assert read_tree(selected) == tree


def test_wrong_flags_are_refused(labels, tmp_path):
    output = tmp_path / "selected"
    for flags, wrong in (
        ({"least_per_class": 4}, "must be at most --most_per_class"),
        ({"most_per_class": None}, "--most_per_class is missing"),
        ({"labels": tmp_path}, f"Received: {tmp_path}$"),
        ({"labels": f"{labels}/none-*"}, "Received: .*none-[*]$"),
        ({"labels": "none://labels"}, "cannot be looked for"),
        ({"output": labels}, "must be a new folder, .*, labels$"),
        (
            {"output": labels / "labels-00000-of-00004"},
            "--output cannot be read or written",
        ),
    ):
        with pytest.raises(UserError, match=wrong) as raised:
            select(**{"labels": labels, "output": output} | flags)
        assert "\n" not in str(raised.value)
    assert not output.exists()


def test_labels_that_are_not_whole_are_refused(labels, tmp_path):
    folder = tmp_path / "labels"
    shutil.copytree(labels, folder)
    (folder / "labels-00002-of-00004").unlink()
    with pytest.raises(UserError, match="Received: 3 of 4 in"):
        select(folder, tmp_path / "selected")
