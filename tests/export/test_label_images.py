"""The program that labels images, on small shards."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

import export
from export import exported_model
from export.exported_model import open_model
from export.predict import classify_images
from tests.conftest import CLASS_NAMES
from tests.support import memory_files
from tests.support.programs import Program
from trainers.data.decoding import NO_IMAGE
from trainers.data.records import IMAGE_KEY
from trainers.data.records import NAME_KEY
from trainers.program import UserError
from trainers.pseudo_labels import label_records
from trainers.pseudo_labels import shards

ROOT = pathlib.Path(export.__file__).parent.parent
# Shards of 4, 4 and 3, in batches of 3, 1, 3, 1 and 3.
SETTINGS = {"images_per_shard": 4, "batch_size": 3, "top_k": 2}
NAMES = [
    "a/1.png",
    "a/2.png",
    "a/cut.png",
    "a/deep/3.png",
    "b/4.png",
    "b/5.png",
    "b/6.png",
    "b/none.png",
    "c/7.png",
    "c/8.png",
    "d.png",
]
BAD_NAMES = ["a/cut.png", "b/none.png"]
LABELLED = 9

# As a user's, but slower, to be killed within a shard.
_RUN_SLOWLY = """
import time
from export.labelling import shard_labeller

classify = shard_labeller._Model.classify

def classify_slowly(*arguments):
    time.sleep(0.4)
    return classify(*arguments)

shard_labeller._Model.classify = classify_slowly
from export import label_images

label_images.run()
"""


@pytest.fixture(scope="module")
def program():
    return Program("export.label_images")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images") / "photos"
    random = np.random.default_rng(0)
    for name in NAMES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = random.integers(0, 256, (*random.integers(16, 30, 2), 1))
        contents = tf.io.encode_png(image.astype(np.uint8)).numpy()
        if name == "a/cut.png":
            contents = contents[:60]
        elif name == "b/none.png":
            contents = b"no image"
        path.write_bytes(contents)
    return folder


@pytest.fixture(scope="module")
def model(export_dir):
    # It is opened in no time.
    return str(export_dir / "model.tflite")


@pytest.fixture(scope="module")
def labels(program, photos, model, tmp_path_factory):
    """Labels of the photos, by a program that was not stopped."""
    output = tmp_path_factory.mktemp("whole") / "labels"
    program.run(images=str(photos), output=str(output), model=model, **SETTINGS)
    return output


@pytest.fixture
def begun(labels, tmp_path):
    """A copy of the labels in which the last shard is not done."""
    output = shutil.copytree(labels, tmp_path / "labels")
    (output / "progress" / "00002.json").unlink()
    (output / "summary.json").unlink()
    (output / "partial-0-labels-00002-of-00003").write_bytes(b"half")
    return output


def read_labels(folder):
    """Returns what the records say, shard by shard."""
    teacher = label_records.read_teacher(str(folder))
    return [
        [
            label_records.read_record(record, teacher)
            for record in shards.read_records(path)
        ]
        for path, _ in shards.match_files(f"{folder}/labels-*")
    ]


def read_files(folder):
    """Returns the contents of all files."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def identify(folder, *names):
    """Returns what is another of a file that is written once more."""
    states = [(folder / name).stat() for name in names]
    return [(state.st_ino, state.st_mtime_ns) for state in states]


@pytest.mark.parametrize("format_name", ["tflite", "saved_model"])
def test_labels_are_what_predict_says(
    program, photos, labels, export_dir, tmp_path, format_name
):
    model_path = export_dir / "model.tflite"
    if format_name == "saved_model":
        model_path, labels = export_dir / "saved_model", tmp_path / "labels"
        program.run(
            images=str(photos),
            output=str(labels),
            model=str(model_path),
            **SETTINGS,
        )
    (predictions,) = classify_images(
        [str(photos)],
        open_model(model_path).runs["image_bytes"],
        CLASS_NAMES,
        top=2,
        batch_size=100,
    )
    expected = sorted(p for p in predictions if not p.error)
    found = read_labels(labels)
    assert [len(shard) for shard in found] == [3, 3, 3]
    found = [image for shard in found for image in shard]
    assert len(found) == len(expected) == LABELLED
    for image, prediction in zip(found, expected, strict=True):
        assert image.name == prediction.path
        assert image.contents == pathlib.Path(image.name).read_bytes()
        assert list(image.classes) == [c.index for c in prediction.classes]
        np.testing.assert_allclose(
            image.probabilities,
            [c.probability for c in prediction.classes],
            atol=1e-5,
        )
    teacher = label_records.read_teacher(str(labels))
    assert teacher.class_names == CLASS_NAMES
    assert teacher.top_k == 2
    assert teacher.model == str(model_path)


def test_bad_images_are_left_out_and_named(photos, labels):
    assert json.loads((labels / "summary.json").read_text()) == {
        "shards": 3,
        "images": len(NAMES),
        "labelled": LABELLED,
        "bad": 2,
    }
    lines = (labels / "bad_images.txt").read_text().splitlines()
    bad = dict(line.split("\t") for line in lines)
    assert list(bad) == [f"{photos}/{name}" for name in BAD_NAMES]
    assert list(bad.values()) == ["is damaged or cut off", NO_IMAGE]
    progress = [
        json.loads((labels / "progress" / f"0000{n}.json").read_text())
        for n in range(3)
    ]
    assert [shard["images"] for shard in progress] == [4, 4, 3]
    assert [shard["labelled"] for shard in progress] == [3, 3, 3]
    assert [len(shard["bad"]) for shard in progress] == [1, 1, 0]


def test_what_is_said_at_the_end(program, photos, model, begun, capsys, caplog):
    program.run(images=str(photos), output=str(begun), model=model, **SETTINGS)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"9 of 11 images labelled, in 3 shards in {begun}"
    assert lines[1] == "2 left out; bad_images.txt says why"
    assert lines[2].startswith("3 of them now, ")
    # Beam misses a package for what is not used.
    assert caplog.text == ""


def test_done_shards_are_not_done_again(
    program, photos, model, labels, begun, monkeypatch
):
    done = [f"labels-0000{n}-of-00003" for n in range(2)]
    done += [f"progress/0000{n}.json" for n in range(2)]
    done += ["teacher.json", "inputs.json", "inputs.jsonl"]
    before = identify(begun, *done)
    values = {"images": str(photos), "output": str(begun), "model": model}
    program.run(**values, **SETTINGS)
    assert identify(begun, *done) == before
    assert read_files(begun) == read_files(labels)

    def refuse(*_):
        raise AssertionError("Nothing is left to do.")

    monkeypatch.setattr(program.module, "_run", refuse)
    # What changes no label may be another.
    program.run(**values, **SETTINGS | {"batch_size": 1})
    assert read_files(begun) == read_files(labels)


def test_killed_program_goes_on_to_the_same_labels(
    program, photos, model, labels, tmp_path
):
    output = tmp_path / "labels"
    values = {"images": photos, "output": output, "model": model, **SETTINGS}
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", _RUN_SLOWLY),
            *(f"--{name}={value}" for name, value in values.items()),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        while not (
            any(output.glob("progress/[0-9]*"))
            and any(output.glob("partial-*"))
        ):
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = [path.name for path in output.glob("progress/[0-9]*")]
    assert 1 <= len(done) < 3
    assert not (output / "summary.json").exists()
    names = [f"labels-{name[:5]}-of-00003" for name in done]
    before = identify(output, *names)
    program.run(images=str(photos), output=str(output), model=model, **SETTINGS)
    assert identify(output, *names) == before
    assert read_files(output) == read_files(labels)


def test_two_processes_write_the_same_labels(
    program, photos, model, labels, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    output = tmp_path / "labels"
    with pytest.raises(SystemExit) as end:
        program.start(
            f"--images={photos}",
            f"--output={output}",
            f"--model={model}",
            *(f"--{name}={value}" for name, value in SETTINGS.items()),
            "--",
            "--direct_num_workers=2",
            "--direct_running_mode=multi_processing",
        )
    assert not end.value.code
    assert read_files(output) == read_files(labels)


def test_labels_of_something_else_are_not_mixed(
    program, photos, model, begun, export_dir, tmp_path
):
    more = shutil.copytree(photos, tmp_path / "more")
    before = read_files(begun)
    values = {"images": str(photos), "output": str(begun), "model": model}
    for changes, received in (
        ({"top_k": 3}, "top_k 2, now 3"),
        ({"images_per_shard": 3}, "shards 3, now 4"),
        ({"images": str(more)}, "sha256 "),
        ({"images": f"{photos}/a"}, "files 11, now 4"),
        ({"model": str(export_dir / "model.onnx")}, "fingerprint "),
    ):
        with pytest.raises(UserError, match="choose another one") as error:
            program.run(**SETTINGS | values | changes)
        assert f"Received: {begun}, " in str(error.value)
        assert received in str(error.value)
    (begun / "inputs.json").write_text("{}")
    with pytest.raises(UserError, match=r"inputs\.json is damaged"):
        program.run(**values, **SETTINGS)
    (begun / "inputs.json").unlink()
    with pytest.raises(UserError, match=r"00000-of-00003 without inputs\.json"):
        program.run(**values, **SETTINGS)
    del before["inputs.json"]
    assert read_files(begun) == before


def make_example(contents, name=None):
    features = {IMAGE_KEY: contents, NAME_KEY: name}
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                key: tf.train.Feature(
                    bytes_list=tf.train.BytesList(value=[value])
                )
                for key, value in features.items()
                if value is not None
            }
        )
    ).SerializeToString()


@pytest.fixture
def record_dir(photos, tmp_path):
    """TFRecords: four images, two of them with names, and no image at all."""
    folder = tmp_path / "records"
    folder.mkdir()
    for number, names in enumerate((NAMES[:4], NAMES[4:6], [])):
        path = folder / f"train-0000{number}-of-00003"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for index, name in enumerate(names):
                contents = (photos / name).read_bytes()
                given = name.encode() if index % 2 else None
                writer.write(make_example(contents, given))
    return folder


def test_each_file_of_records_is_a_shard(
    program, record_dir, photos, labels, model
):
    output = record_dir.with_name("labels")
    program.run(
        images=str(record_dir), output=str(output), model=model, **SETTINGS
    )
    found = read_labels(output)
    assert [[image.name for image in shard] for shard in found] == [
        [f"{record_dir}/train-00000-of-00003#0", NAMES[1], NAMES[3]],
        [f"{record_dir}/train-00001-of-00003#0", NAMES[5]],
        [],
    ]
    known = {i.contents: i for shard in read_labels(labels) for i in shard}
    for image in (image for shard in found for image in shard):
        expected = known[image.contents]
        np.testing.assert_array_equal(image.classes, expected.classes)
        np.testing.assert_allclose(
            image.probabilities, expected.probabilities, atol=1e-6
        )
    bad = (output / "bad_images.txt").read_text()
    assert bad == (
        f"{record_dir}/train-00000-of-00003#2\tis damaged or cut off\n"
    )
    summary = json.loads((output / "summary.json").read_text())
    assert summary == {"shards": 3, "images": 6, "labelled": 5, "bad": 1}


def test_damaged_record_is_one_line_and_costs_no_other_shard(
    program, record_dir, model, capfd
):
    path = record_dir / "train-00001-of-00003"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    output = record_dir.with_name("labels")
    values = {"images": str(record_dir), "output": str(output), "model": model}
    with pytest.raises(UserError) as error:
        program.run(**values, **SETTINGS)
    assert str(error.value) == (
        f"{path} is damaged or cut off at record 1; copy or write it once more."
    )
    assert "Traceback" not in capfd.readouterr().err
    assert not (output / "labels-00001-of-00003").exists()
    assert not (output / "progress" / "00001.json").exists()
    assert list(output.glob("partial-*")) == []


def test_record_without_image_is_one_line(program, record_dir, model):
    for record, reason in (
        (b"no example", "is no tf.train.Example"),
        (make_example(None, b"a.png"), f"has no {IMAGE_KEY}"),
    ):
        path = record_dir / "train-00001-of-00003"
        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(record)
        with pytest.raises(UserError) as error:
            program.run(
                images=str(path),
                output=str(record_dir.with_name("labels")),
                model=model,
            )
        assert str(error.value) == f"Record 0 of {path} {reason}."
        shutil.rmtree(record_dir.with_name("labels"))


def test_all_may_be_elsewhere(program, photos, labels, model, monkeypatch):
    there = {
        f"memory://bucket/photos/{name}": contents
        for name, contents in read_files(photos).items()
    }
    there["memory://bucket/model.tflite"] = pathlib.Path(model).read_bytes()
    monkeypatch.setattr(memory_files, "contents", there)
    values = {
        "images": "memory://bucket/photos",
        "output": "memory://bucket/labels",
        "model": "memory://bucket/model.tflite",
    }
    program.run(**values, **SETTINGS)
    expected = [image for shard in read_labels(labels) for image in shard]
    found = read_labels("memory://bucket/labels")
    found = [image for shard in found for image in shard]
    for image, local in zip(found, expected, strict=True):
        assert image.name == local.name.replace(str(photos), values["images"])
        assert image.contents == local.contents
        np.testing.assert_array_equal(image[2], local[2])
        np.testing.assert_array_equal(image[3], local[3])
        assert image.fingerprint == local.fingerprint
    names = {
        path.removeprefix("memory://bucket/labels/")
        for path in there
        if path.startswith("memory://bucket/labels/")
    }
    assert names == set(read_files(labels))
    before = dict(there)
    del there["memory://bucket/labels/progress/00001.json"]
    there["memory://bucket/labels/partial-0-labels-00001-of-00003"] = b"half"
    program.run(**values, **SETTINGS)
    assert there == before


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (np.nan, "has a probability that is no number"),
        (0.2, "must have probabilities with the sum 1, but has 2"),
    ],
)
def test_what_is_no_probability_is_one_line(
    program, photos, model, tmp_path, monkeypatch, value, problem
):
    def classify(contents):
        rows = np.full((len(contents), 10), value, np.float32)
        return rows, [""] * len(contents)

    monkeypatch.setattr(
        exported_model, "_load", lambda *_: {"image_bytes": classify}
    )
    with pytest.raises(UserError) as error:
        program.run(
            images=f"{photos}/a/*.png", output=str(tmp_path / "x"), model=model
        )
    assert problem in str(error.value)
    assert "image 0 of shard 0" in str(error.value)
    assert f"Received: {photos}/a/1.png" in str(error.value)


def test_model_that_changes_is_one_line(
    program, photos, export_dir, tmp_path, monkeypatch
):
    path = tmp_path / "model.tflite"
    shutil.copy(export_dir / "model.tflite", path)
    run = program.module._run

    def replace_and_run(*arguments):
        shutil.copy(export_dir / "model_dynamic.tflite", path)
        run(*arguments)

    monkeypatch.setattr(program.module, "_run", replace_and_run)
    with pytest.raises(UserError, match="--model must stay the same"):
        program.run(
            images=str(photos), output=str(tmp_path / "x"), model=str(path)
        )


@pytest.mark.parametrize(
    ("flag", "value", "problem"),
    [
        ("model", "", "--model is missing"),
        ("output", "", "--output is missing"),
        ("images", "nowhere", "--images must name image files"),
        ("images", "nowhere://a", "It cannot be looked for"),
        ("model", "nowhere", "--model must be a SavedModel folder"),
        ("model", "nowhere://a", "--model cannot be copied"),
        ("output", "nowhere://a", "--output cannot be read or written"),
        ("output", "/dev/null/a", "--output cannot be read or written"),
        ("runner", "Nobody", "--runner must be"),
    ],
)
def test_wrong_flag_is_one_line(
    program, photos, model, tmp_path, flag, value, problem
):
    values = {
        "images": str(photos),
        "output": str(tmp_path / "labels"),
        "model": model,
    }
    with pytest.raises(UserError, match=problem) as error:
        program.run(**values | {flag: value})
    assert "\n" not in str(error.value)
