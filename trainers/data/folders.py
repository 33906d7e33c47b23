"""Folders with a folder of images for each class."""

import collections
import functools
import os
import pathlib

import numpy as np
import tensorflow as tf

from trainers.data.decoding import decode_image
from trainers.data.image_dataset import ImageDataset
from trainers.data.image_dataset import Split
from trainers.data.image_dataset import hold_out
from trainers.program import UserError

# What TensorFlow decodes, here and in an exported model.
_IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
_CONVERTIBLE_SUFFIXES = (".avif", ".heic", ".tif", ".tiff", ".webp")


def open_folder(root: pathlib.Path, channels: int = 3) -> ImageDataset:
    """Opens a folder of images.

    Files and folders whose names begin with a dot do not count: macOS leaves
    `._1.png` beside `1.png`. How many other files are not read is printed.

    Args:
        root: holds a folder of images for each class, or such folders for
            `train` and `validation` (or `val`, or `test`). Without the
            latter, a fifth of each class is held out.
        channels: 1 for grayscale or 3 for colors.

    Raises:
        UserError: If there is nothing to train on, if what bears an image's
            name is no file, if the classes of both folders differ, or if a
            folder may not be read.
    """
    try:
        return _open_folder(root, channels)
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be read: {error.strerror}. "
            f"Received: --dataset={root}"
        ) from error


def _open_folder(root, channels):
    ignored = collections.Counter()
    if (root / "train").is_dir():
        held_out = _find_held_out(root)
        class_names = _list_classes(root / "train")
        _check_classes(held_out, class_names)
        train = _list_images(root / "train", class_names, ignored)
        validation = _list_images(held_out, class_names, ignored)
    else:
        class_names = _list_classes(root)
        train, validation = hold_out(*_list_images(root, class_names, ignored))
    if ignored:
        print(f"Ignored in {root}: {_describe_ignored(ignored)}.")
    return ImageDataset(
        class_names=class_names,
        channels=channels,
        train=_split_files(*train, channels),
        validation=_split_files(*validation, channels),
    )


def _split_files(paths, labels, channels):
    def drop(positions):
        return _split_files(
            np.delete(paths, list(positions)),
            np.delete(labels, list(positions)),
            channels,
        )

    # Names of files are bytes, which need be no text.
    names = np.asarray([os.fsencode(path) for path in paths], object)
    return Split(
        tf.data.Dataset.from_tensor_slices(
            (names, np.asarray(labels, np.int64))
        ),
        size=len(labels),
        shuffle_buffer=len(labels),
        load=functools.partial(_read_image, channels=channels),
        describe=lambda position: _make_printable(paths[position]),
        drop=drop,
    )


def _read_image(path, channels):
    return decode_image(tf.io.read_file(path), channels)


def _make_printable(path):
    # In one line, whatever the name.
    return path if path.isprintable() else repr(path)


def _list_folders(root):
    names = []
    for entry in sorted(root.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            names.append(entry.name)
        elif entry.is_symlink() and not entry.exists():
            raise UserError(
                f"{entry} is a link to nothing, where a folder of images may "
                "be meant; mend or remove it."
            )
    return names


def _list_classes(root):
    names = _list_folders(root)
    if len(names) < 2:
        raise UserError(
            f"{root} must hold at least two folders of images, one for each "
            f"class. Received: {', '.join(names) or 'none'}"
        )
    return names


def _check_classes(held_out, class_names):
    names = set(_list_folders(held_out))
    unknown = sorted(names - set(class_names))
    if unknown:
        raise UserError(
            f"{held_out} must hold no class that is not in train, because "
            f"nothing is learned of it. Received: {', '.join(unknown)}"
        )
    missing = sorted(set(class_names) - names)
    if missing:
        raise UserError(
            f"{held_out} must hold images of each class in train, because the "
            "best epoch is chosen by them. Received: none of "
            f"{', '.join(missing)}"
        )


def _list_images(root, class_names, ignored):
    paths = []
    labels = []
    for label, class_name in enumerate(class_names):
        found = _list_class(root / class_name, ignored)
        paths += found
        labels += [label] * len(found)
    return paths, labels


def _list_class(folder, ignored):
    found = []
    others = collections.Counter()
    for path in sorted(folder.iterdir(), key=str):
        if path.name.startswith("."):
            continue
        if path.suffix.lower() in _IMAGE_SUFFIXES:
            # Reading a named pipe would wait forever.
            if not path.is_file():
                raise UserError(
                    f"{path} is a folder, a pipe or a link to nothing, not an "
                    "image file; remove or rename it."
                )
            found.append(str(path))
        elif not path.is_dir():
            others[path.suffix.lower() or "without a suffix"] += 1
    ignored += others
    if not found:
        raise UserError(
            f"{folder} must hold images. Received: "
            f"{_describe_ignored(others) if others else 'no files'}"
        )
    return found


def _describe_ignored(ignored):
    kinds = [f"{count} {kind}" for kind, count in sorted(ignored.items())]
    text = f"{', '.join(kinds)}; only {', '.join(_IMAGE_SUFFIXES)} are read"
    convertible = [kind for kind in _CONVERTIBLE_SUFFIXES if kind in ignored]
    if convertible:
        files = " ".join(f"*{kind}" for kind in convertible)
        text += (
            ", and ImageMagick converts others: `mogrify -format png "
            f"{files}` in each folder"
        )
    return text


def _find_held_out(root):
    for name in ("validation", "val", "test"):
        if (root / name).is_dir():
            return root / name
    raise UserError(
        f"{root} has a folder named train, so it must have one named "
        "validation, val or test besides."
    )
