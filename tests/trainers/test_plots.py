"""Tests of the picture of a batch."""

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

    axes = [axes for axes in figures[0].axes if axes.images]
    assert [each.get_title() for each in axes] == names
    for each, image in zip(axes, images, strict=True):
        drawn = np.asarray(each.images[0].get_array())
        np.testing.assert_array_equal(drawn, np.squeeze(np.rint(image)))
    assert matplotlib.image.imread(tmp_path / "batch.png").std() > 0.1


def test_mixed_labels_name_two_classes(figures, tmp_path):
    images = np.zeros((4, 5, 3, 3))
    labels = np.array(
        [[0.7, 0.3, 0], [0.005, 0.01, 0.985], [0.25, 0, 0.75], [0, 1, 0]]
    )
    names = ["cat", "dog", "eel"]
    plots.plot_batch(images, labels, names, tmp_path / "batch.png")
    titles = [axes.get_title() for axes in figures[0].axes]
    assert titles == ["70% cat\n30% dog", "eel", "75% eel\n25% cat", "dog"]


def test_images_beyond_the_most_are_left_out(figures, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "_MOST_DRAWN_IMAGES", 5)
    images = np.zeros((7, 2, 2, 1))
    plots.plot_batch(images, np.eye(7), list("abcdefg"), tmp_path / "batch.png")
    titles = [axes.get_title() for axes in figures[0].axes]
    assert titles == ["a", "b", "c", "d", "e", ""]
