"""Labels images with an exported model, in a worker of Apache Beam."""

import collections
import concurrent.futures
import contextlib
import json
import threading
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence

import tensorflow as tf
from apache_beam.ml.inference.base import ModelHandler
from apache_beam.ml.inference.base import PredictionResult

from export.command_line import InputError
from export.exported_model import open_model
from export.image_files import MOST_BYTES
from export.image_files import read_image
from export.labelling.inputs import read_span
from export.labelling.output import name_progress
from export.labelling.output import name_shard
from export.labelling.teacher_model import compute_fingerprint
from export.labelling.teacher_model import fetching_model
from trainers.files import is_disk_full
from trainers.program import UserError
from trainers.pseudo_labels import label_records
from trainers.pseudo_labels import shards
from trainers.pseudo_labels.label_records import LabelledImage
from trainers.pseudo_labels.label_records import Teacher
from trainers.pseudo_labels.unlabelled import UnlabelledImage
from trainers.pseudo_labels.unlabelled import classify_images
from trainers.pseudo_labels.unlabelled import rank_classes

# A file system elsewhere answers after some time, and many at once.
_READERS = 16
# Its number, and which of `Plan.spans` it has.
Shard = tuple[int, tuple[int, int]]


class _Model:
    """A model that several threads share."""

    def __init__(self, classify):
        self._classify = classify
        # TensorFlow Lite's interpreter runs for one at a time.
        self._lock = threading.Lock()

    def classify(self, contents):
        with self._lock:
            return self._classify(contents)


class ShardLabeller(ModelHandler[Shard, PredictionResult, _Model]):
    """Reads, labels and writes shards, for `RunInference`.

    `RunInference` loads the model once in a process, and its threads share
    it. What it is given are not images but whole shards, each of which is read
    and written within `run_inference`: no image goes over the network but from
    and to its file, and a run that is killed has lost no shard that it had
    finished. Images that came out of a transform would be written after all
    of them are labelled.

    Args:
        output: folder of labels.
        shard_count: number of shards in all.
        are_records: see `Inputs`.
        teacher: whose labels they are; its model at a path that all workers
            can read.
        batch_size: images that are classified at once.
    """

    def __init__(
        self,
        output: str,
        *,
        shard_count: int,
        are_records: bool,
        teacher: Teacher,
        batch_size: int,
    ):
        super().__init__(min_batch_size=1, max_batch_size=1)
        self._output = output
        self._shard_count = shard_count
        self._are_records = are_records
        self._teacher = teacher
        self._batch_size = batch_size

    def load_model(self) -> _Model:
        """Opens the model, and checks that it is the teacher."""
        path = self._teacher.model
        with fetching_model(path) as local:
            try:
                model = open_model(local)
            except InputError as error:
                raise UserError(str(error)) from error
            fingerprint = compute_fingerprint(
                local, model.metadata["class_names"]
            )
        if fingerprint != self._teacher.fingerprint:
            raise UserError(
                "--model must stay the same while images are labelled, on all "
                f"machines. Received: another one at {path}"
            )
        return _Model(model.runs["image_bytes"])

    def run_inference(
        self, batch: Sequence[Shard], model: _Model, inference_args=None
    ) -> Iterable[PredictionResult]:
        """Labels shards, but for those that are done."""
        del inference_args
        for number, span in batch:
            target = name_shard(self._output, number, self._shard_count)
            progress = name_progress(self._output, number)
            try:
                # What failed elsewhere is run once more.
                if not shards.exists(progress) or not shards.exists(target):
                    self._label(number, span, model)
            except OSError as error:
                if is_disk_full(error):
                    raise
                raise UserError(
                    f"{target} cannot be written: {error}."
                ) from error
            yield PredictionResult(number, target)

    def _label(self, number, span, model):
        count = 0
        bad = []
        images = self._read(read_span(self._output, span))
        with (
            contextlib.closing(images),
            shards.replacing(
                name_shard(self._output, number, self._shard_count)
            ) as path,
            tf.io.TFRecordWriter(str(path)) as writer,
        ):
            for image, probabilities in classify_images(
                images, model.classify, self._batch_size
            ):
                count += 1
                if image.error:
                    bad.append({"name": image.name, "reason": image.error})
                    continue
                try:
                    record = self._make_record(image, probabilities)
                except ValueError as error:
                    raise UserError(
                        "--model must say how probable each class is, but what "
                        f"it says of image {count - 1} of shard {number} "
                        f"{error}. Received: {image.name}"
                    ) from error
                writer.write(record)
        progress = {"images": count, "labelled": count - len(bad), "bad": bad}
        with shards.replacing(name_progress(self._output, number)) as path:
            path.write_text(json.dumps(progress) + "\n")

    def _read(self, paths):
        if self._are_records:
            (path,) = paths
            return _read_records(path)
        return _read_images(paths, 2 * self._batch_size)

    def _make_record(self, image, probabilities):
        ranked = rank_classes(probabilities, self._teacher.class_names)
        classes = ranked[: self._teacher.top_k]
        return label_records.make_record(
            LabelledImage(
                image.contents,
                image.name,
                classes,
                probabilities[classes],
                self._teacher.fingerprint,
            )
        )


def _read_images(paths, ahead) -> Iterator[UnlabelledImage]:
    """Reads image files, of which some are read ahead."""
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        coming = collections.deque()
        try:
            for path in paths:
                coming.append(pool.submit(_read_image, path))
                if len(coming) > ahead:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for future in coming:
                future.cancel()


def _read_image(path):
    read = _read_remote if shards.is_remote(path) else read_image
    try:
        return UnlabelledImage(path, read(path), "")
    except ValueError as error:
        return UnlabelledImage(path, b"", str(error))


def _read_remote(path):
    try:
        contents = shards.read_part(path, 0, MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot be read: {error}") from error
    if len(contents) > MOST_BYTES:
        raise ValueError(f"has more than {MOST_BYTES >> 20} MiB")
    return contents


def _read_records(path) -> Iterator[UnlabelledImage]:
    with contextlib.closing(shards.read_records(path)) as records:
        for number, record in enumerate(records):
            try:
                contents, name = label_records.read_image(record)
            except ValueError as error:
                raise UserError(
                    f"Record {number} of {path} {error}."
                ) from error
            yield UnlabelledImage(name or f"{path}#{number}", contents, "")
