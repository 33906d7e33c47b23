"""Tests of the pictures of a run."""

import matplotlib.image
import numpy as np
import pytest

from trainers import plots


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, which are saved all the same."""
    found = []
    save = plots._save

    def record(figure, picture_file):
        found.append(figure)
        save(figure, picture_file)

    monkeypatch.setattr(plots, "_save", record)
    return found


@pytest.mark.parametrize("channels", [1, 3])
def test_batch_is_drawn_image_by_image(figures, tmp_path, channels):
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (7, 5, 3, channels)).astype(np.float32)
    labels = np.eye(7, dtype=np.float32)
    names = [f"class {number}" for number in range(7)]
    plots.plot_batch(images, labels, names, tmp_path / "batch.png")

    (axes,) = figures[0].axes
    assert read_titles(figures) == names
    places = set()
    for drawn, text, image in zip(axes.images, axes.texts, images, strict=True):
        array = np.asarray(drawn.get_array())
        np.testing.assert_array_equal(array, np.squeeze(np.rint(image)))
        left, right, bottom, top = drawn.get_extent()
        # In its proportions, below its own title.
        np.testing.assert_allclose(
            (right - left) / (bottom - top), image.shape[1] / image.shape[0]
        )
        x, y = text.get_position()
        assert left < x < right
        assert top - 0.1 < y < top
        places.add((left, top))
    assert len(places) == len(images)
    assert matplotlib.image.imread(tmp_path / "batch.png").std() > 0.1


def read_titles(figures):
    return [text.get_text() for text in figures[0].axes[0].texts]


@pytest.mark.parametrize("has_average", [False, True])
def test_curves_are_drawn_of_all_that_is_evaluated(
    figures, tmp_path, has_average
):
    columns = {
        "epoch": [0, 1],
        "accuracy": [0.1, 0.2],
        "loss": [5, 4],
        "val_accuracy": [0.3, 0.4],
        "val_loss": [3, 2],
    }
    if has_average:
        columns["val_average_accuracy"] = [0.5, 0.6]
        columns["val_average_loss"] = [1, 0]
    rows = [columns, *zip(*columns.values(), strict=True)]
    metrics = tmp_path / "metrics.csv"
    metrics.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    plots.plot_training_curves(metrics, tmp_path / "curves.png")
    for axes, metric in zip(figures[0].axes, ("loss", "accuracy"), strict=True):
        drawn = {
            line.get_label(): list(line.get_ydata()) for line in axes.lines
        }
        expected = {
            "training": columns[metric],
            "validation": columns[f"val_{metric}"],
        }
        if has_average:
            expected["average in validation"] = columns[f"val_average_{metric}"]
        assert drawn == expected


def test_only_class_is_named(figures, tmp_path):
    images = np.zeros((2, 5, 3, 3))
    plots.plot_batch(images, np.ones((2, 1)), ["cat"], tmp_path / "batch.png")
    assert read_titles(figures) == ["cat", "cat"]


def test_mixed_labels_name_two_classes(figures, tmp_path):
    images = np.zeros((4, 5, 3, 3))
    labels = np.array(
        [[0.7, 0.3, 0], [0.005, 0.01, 0.985], [0.25, 0, 0.75], [0, 1, 0]]
    )
    names = ["cat", "dog", "eel"]
    plots.plot_batch(images, labels, names, tmp_path / "batch.png")
    assert read_titles(figures) == [
        "70% cat\n30% dog",
        "eel",
        "75% eel\n25% cat",
        "dog",
    ]


def test_images_beyond_the_most_are_left_out(figures, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "_MOST_DRAWN_IMAGES", 5)
    images = np.zeros((7, 2, 2, 1))
    plots.plot_batch(images, np.eye(7), list("abcdefg"), tmp_path / "batch.png")
    assert read_titles(figures) == ["a", "b", "c", "d", "e"]
