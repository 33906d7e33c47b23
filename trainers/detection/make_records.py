r"""Writes COCO's JSON and a folder of images as TFRecords with masks.

    python -m trainers.detection.make_records --annotations=instances.json \
        --images=photos --output=records/train --num_shards=4

writes records/train-00000-of-00004.tfrecord and so on, which
`trainers.train_detector` reads, and records/classes-train.txt, which is for its
--class_names: class n is category n. Objects are polygons or run-length codes;
crowds are kept as such. Image files are stored as they are.
"""

if __name__ == "__main__":
    from trainers.launch import launch

    launch("trainers.detection.make_records")

import concurrent.futures
import io
import os
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from absl import flags
from PIL import Image
from tqdm import tqdm

from trainers.detection import coco_annotations
from trainers.detection import records
from trainers.detection.installation import check_installation
from trainers.files import make_path
from trainers.files import replacing
from trainers.program import UserError
from trainers.program import refuse_arguments
from trainers.program import run_program

_ANNOTATIONS = flags.DEFINE_string(
    "annotations", None, "JSON file in COCO's form. Required."
)
_IMAGES = flags.DEFINE_string(
    "images", None, "Folder of the JPEG or PNG files that it names. Required."
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "Folder and begin of the names of the TFRecords, such as records/train. "
    "Required.",
)
_NUM_SHARDS = flags.DEFINE_integer(
    "num_shards", 1, "Number of TFRecords.", lower_bound=1
)
# What tf-models-official decodes; phones write MPO, a JPEG and more.
_FORMATS = ("JPEG", "MPO", "PNG", "BMP")


def make_records(
    annotations: str, images: str, output: str, num_shards: int
) -> list[str]:
    """Writes COCO's JSON and images as TFRecords, and the names of classes.

    Args:
        annotations: JSON file.
        images: folder of the files that it names.
        output: folder and begin of the names of the TFRecords.
        num_shards: number of TFRecords.

    Returns:
        Paths of the TFRecords.

    Raises:
        UserError: If the JSON is wrong, if an image is missing, damaged or of
            another size than it says, or if there is an output already.
    """
    folder, name = os.path.split(output)
    if not name:
        raise UserError(
            f"--output must end with the begin of a name. Received: {output}"
        )
    old = tf.io.gfile.glob(f"{output}-?????-of-?????.tfrecord")
    if old:
        raise UserError(
            "--output must not exist yet; remove it or choose another. "
            f"Received: {sorted(old)[0]}"
        )
    found = coco_annotations.read_annotations(annotations)
    if len(found.images) < num_shards:
        raise UserError(
            "--num_shards must be at most the number of images. Received: "
            f"{num_shards} for {len(found.images)} images"
        )
    paths = {
        entry["id"]: make_path(images) / entry["file_name"]
        for entry in found.images
    }
    for path in paths.values():
        if not path.exists():
            raise UserError(
                f"--images must hold each image of {annotations}. Received: no "
                f"{path}"
            )
    for _ in _map_in_threads(
        "Checking",
        lambda entry: _read_image(entry, paths[entry["id"]]),
        found.images,
    ):
        pass
    # So that each file holds all kinds; always the same order.
    order = np.random.default_rng(0).permutation(len(found.images))
    shuffled = [found.images[position] for position in order]
    written = records.write_records(
        _map_in_threads(
            "Writing",
            lambda entry: _make_example(
                entry, paths[entry["id"]], found.objects[entry["id"]]
            ),
            shuffled,
        ),
        output,
        num_shards,
    )
    with replacing(make_path(folder) / f"classes-{name}.txt") as temporary:
        temporary.write_text("".join(f"{n}\n" for n in found.class_names))
    if found.num_left_out:
        print(f"Left out {found.num_left_out} objects without height or width.")
    return written


def _map_in_threads(
    title: str, function: Callable, items: Iterable
) -> Iterator:
    """Yields a function's results in order, with a progress bar."""
    items = list(items)
    workers = os.cpu_count() or 1
    with (
        concurrent.futures.ThreadPoolExecutor(workers) as executor,
        tqdm(total=len(items), desc=title, unit=" images") as bar,
    ):
        # Not all at once, which may be more than fits into memory.
        for begin in range(0, len(items), 16 * workers):
            part = items[begin : begin + 16 * workers]
            for result in executor.map(function, part):
                yield result
                bar.update()


def _read_image(entry, path):
    try:
        contents = path.read_bytes()
        with Image.open(io.BytesIO(contents)) as image:
            kind, size = image.format, image.size
            image.load()
    # Pillow's decoders raise whatever they meet.
    except Exception as error:
        raise UserError(
            f"{path} must be an image file that can be read, whole. "
            f"Received: {str(error).splitlines()[0] or 'a damaged one'}"
        ) from error
    if kind not in _FORMATS:
        raise UserError(f"{path} must be a JPEG or PNG. Received: {kind}")
    if size != (entry["width"], entry["height"]):
        raise UserError(
            f"{path} must have the size that --annotations says, "
            f"{entry['width']} x {entry['height']} pixels. Received: "
            f"{size[0]} x {size[1]}"
        )
    return contents


def _make_example(entry, path, objects):
    height, width = entry["height"], entry["width"]
    masks = [
        coco_annotations.decode_mask(item, height, width) for item in objects
    ]
    return records.make_file_example(
        path.read_bytes(),
        image_id=entry["id"],
        name=entry["file_name"],
        boxes=np.array(
            [coco_annotations.find_box(item, height, width) for item in objects]
        ),
        classes=np.array([item["category_id"] for item in objects]),
        masks=np.array(masks).reshape(-1, height, width),
        are_crowds=np.array([bool(item.get("iscrowd")) for item in objects]),
        areas=np.array(
            [
                item.get("area", mask.sum())
                for item, mask in zip(objects, masks, strict=True)
            ]
        ),
    )


def main(argv: list[str]) -> None:
    refuse_arguments(argv)
    for flag in (_ANNOTATIONS, _IMAGES, _OUTPUT):
        if not flag.value:
            raise UserError(f"--{flag.name} is missing.")
    check_installation()
    if not make_path(_IMAGES.value).is_dir():
        raise UserError(f"--images must be a folder. Received: {_IMAGES.value}")
    written = make_records(
        _ANNOTATIONS.value, _IMAGES.value, _OUTPUT.value, _NUM_SHARDS.value
    )
    print(f"{len(written)} TFRecords, the first in {written[0]}")


def run() -> None:
    run_program(main)
