import asyncio
import concurrent.futures
import pathlib

import numpy as np
import pytest

from export.command_line import InputError
from export.exported_model import ExportedModel
from export.formats import FORMATS
from export.serving import served_model
from export.serving.limits import Limits
from export.serving.metrics import Metrics
from tests.export.serving.conftest import make_file

LIMITS = Limits(4, 9, 2**20, 2**20, 1)


@pytest.fixture
def open_served(monkeypatch):
    """Opens a model of two classes that runs some functions."""

    def open_served(**runs):
        metadata = {
            "class_names": ["a", "b"],
            "image_size": 2,
            "channels": 1,
            "crop_fraction": 1.0,
        }
        opened = ExportedModel(FORMATS[0], metadata, runs)
        monkeypatch.setattr(served_model, "open_model", lambda path: opened)
        return served_model.ServedModel(
            pathlib.Path("model"),
            1,
            limits=LIMITS,
            decoders=concurrent.futures.ThreadPoolExecutor(1),
            slots=asyncio.Semaphore(LIMITS.max_queue),
            metrics=Metrics(),
        )

    return open_served


def test_what_is_no_probability_is_an_error(open_served):
    def classify(images):
        means = images.mean(axis=(1, 2))
        # White is too much for it.
        means[means == 255] = np.nan
        return np.concatenate([means, 1 - means], axis=-1)

    model = open_served(prepared=classify)
    white = np.full((3, 3, 1), 255, "float32")
    gray, other = asyncio.run(model.classify([white / 2, white]))
    assert gray.probabilities.tolist() == [127.5, -126.5]
    assert (gray.error, gray.status) == ("", 200)
    assert np.isnan(other.probabilities).all()
    assert other.error == "makes the model return what is no probability"
    assert other.status == 400


def test_error_of_the_model_is_raised(open_served):
    def classify(images):
        if images.any():
            raise RuntimeError("no memory")
        return images[:, 0, :, 0]

    model = open_served(prepared=classify)
    with pytest.raises(RuntimeError, match="no memory"):
        asyncio.run(model.classify([make_file(2, 2)] * 9))


def test_model_of_an_earlier_version_is_one_line(open_served):
    with pytest.raises(InputError, match="--model must have the signature"):
        open_served(image_bytes=None)
