"""Fashion-MNIST: 70,000 gray images of clothes, 28x28 pixels, ten classes.

Reference:
    - [Xiao et al., 2017](https://arxiv.org/abs/1708.07747)
"""

import gzip
import math
import pathlib
import zlib

import numpy as np

from trainers.data.image_dataset import ImageDataset
from trainers.data.image_dataset import split_arrays
from trainers.program import UserError

# Where Debian's package dataset-fashion-mnist puts the files.
_SYSTEM_FOLDER = pathlib.Path("/usr/share/datasets/fashion-mnist")
_CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
HOW_TO_GET_IT = (
    "fashion_mnist is not here; get it with `apt-get install "
    "dataset-fashion-mnist` or `tfds build fashion_mnist`, or say with "
    "--data_dir where its four .gz files are."
)


def find_folder(data_dir: str | None) -> pathlib.Path | None:
    """Returns where the four files are, `data_dir` first, or else `None`."""
    for folder in (data_dir, _SYSTEM_FOLDER):
        if folder and all(
            (pathlib.Path(folder) / name).is_file()
            for split in ("train", "t10k")
            for name in _name_files(split)
        ):
            return pathlib.Path(folder)
    return None


def read_folder(folder: pathlib.Path, channels: int = 1) -> ImageDataset:
    """Reads the four files; the 10,000 test images are held out.

    Args:
        folder: what `find_folder` returns.
        channels: 1, or 3 for the same image in each color.

    Raises:
        UserError: If a file is damaged.
    """
    splits = []
    for split in ("train", "t10k"):
        images_file, labels_file = _name_files(split)
        images = _read_idx(folder / images_file)
        labels = _read_idx(folder / labels_file)
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise UserError(
                f"{folder / labels_file} must hold a label for each image in "
                f"{images_file}. Received: {labels.shape} for {images.shape}"
            )
        if labels.max(initial=0) >= len(_CLASS_NAMES):
            raise UserError(
                f"{folder / labels_file} must hold labels from 0 to 9. "
                f"Received: {labels.max()}"
            )
        splits.append(
            split_arrays(images[..., np.newaxis], labels, channels=channels)
        )
    return ImageDataset(list(_CLASS_NAMES), channels, *splits)


def _name_files(split):
    return f"{split}-images-idx3-ubyte.gz", f"{split}-labels-idx1-ubyte.gz"


def _read_idx(path):
    """Reads an array of bytes in the format of MNIST.

    Two zero bytes, 8 for bytes, the number of axes; the length of each axis,
    32 bits, big-endian; the bytes.
    """
    try:
        contents = gzip.decompress(path.read_bytes())
        rank = contents[3]
        shape = np.frombuffer(contents, ">u4", count=rank, offset=4).tolist()
        values = np.frombuffer(contents, np.uint8, offset=4 + 4 * rank)
    except (OSError, EOFError, zlib.error, IndexError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}).") from error
    if contents[:3] != b"\0\0\x08" or math.prod(shape) != len(values):
        raise UserError(f"{path} must be an idx file of bytes, and whole.")
    return values.reshape(shape)
