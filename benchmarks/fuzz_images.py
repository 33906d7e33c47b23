r"""Classifies thousands of damaged files with every format of an export.

    python -m benchmarks.fuzz_images --count=10000

makes files of each kind of image, of which a third are left whole, and the
others cut off, flipped in some bits, said to be of another kind or to be
huge, filled with noise, or emptied. `python -m export.predict` classifies all
of them with each format, good ones and bad ones in the same batches; then the
whole ones alone. Prints for each format how many files it refused, how often
the process died or did not end, how many whole files got other probabilities
than alone, and the most memory that the process took; then how many of each
damage were refused, and where the formats disagree on what is an image.

Without --export_dir, a small network of random weights is exported, for images
of one channel. Some six minutes on two cores.
"""

import collections
import io
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from typing import NamedTuple

import keras
import numpy as np
import PIL.Image
from absl import flags
from absl import logging

import lambda_keras
from export import exporter
from export.formats import FORMATS
from export.trained_classifier import Classifier
from trainers.program import UserError
from trainers.program import refuse_arguments
from trainers.program import run_program

_COUNT = flags.DEFINE_integer(
    "count", 10_000, "Number of files.", lower_bound=1
)
_SEED = flags.DEFINE_integer("seed", 0, "Of all that is random.")
_EXPORT_DIR = flags.DEFINE_string(
    "export_dir", None, "Folder of an export. A small one is made without it."
)

# Of a process; the slowest format takes a tenth of it for a file.
_SECONDS_PER_FILE, _SECONDS_TO_START = 1.0, 120.0
_BATCH_SIZE = 16
# Of five hundred files, one is large and one huge.
_FIRST_LARGE = 250
# Below the limit, and far beyond it.
_LARGE, _HUGE = (9_400, 9_500), (12_000, 12_000)


class File(NamedTuple):
    """A file to classify.

    Attributes:
        name: of the file; what was done to it stands before the last number.
        contents: bytes.
        damage: what was done to it; "none" for a whole image.
    """

    name: str
    contents: bytes
    damage: str


class Outcome(NamedTuple):
    """What came of classifying files with a format.

    Attributes:
        records: what `export.predict` says of each file, by its name; none of
            a file that it did not come to.
        ends: why the process ended early, each time that it did.
        peak: bytes that the process held at the most.
        seconds: from start to end.
    """

    records: dict[str, dict]
    ends: list[str]
    peak: int
    seconds: float


def make_image(number: int, random: np.random.Generator) -> tuple[str, bytes]:
    """Encodes a random image in one of the ways that are read.

    Args:
        number: chooses the way; each has its turn.
        random: the source of its size and its pixels.

    Returns:
        A name for the way, and the contents of the file.
    """
    height, width = random.integers(4, 80, 2)
    pixels = random.integers(0, 256, (height // 3 + 1, width // 3 + 1, 4))
    pixels = np.kron(pixels, np.ones((3, 3, 1))).astype("uint8")
    fading = PIL.Image.fromarray(pixels)
    inks = PIL.Image.fromarray(pixels, mode="CMYK")
    colors = fading.convert("RGB")
    gray, few = colors.convert("L"), colors.quantize(16)
    shades = PIL.Image.fromarray(pixels[..., 0].astype("uint16") * 257)
    moving = {"save_all": True, "append_images": [colors.rotate(180)]}
    turned = PIL.Image.Exif()
    turned[0x112] = int(random.integers(1, 9))
    ways = {
        "png": (colors, {}),
        "png_gray": (gray, {}),
        "png_palette": (few, {}),
        "png_transparent": (fading, {}),
        "png_16_bits": (shades, {}),
        "png_animated": (colors, moving),
        "jpeg": (colors, {}),
        "jpeg_gray": (gray, {}),
        "jpeg_cmyk": (inks, {}),
        "jpeg_progressive": (colors, {"progressive": True}),
        "jpeg_turned": (colors, {"exif": turned}),
        "bmp": (colors, {}),
        "bmp_palette": (few, {}),
        "bmp_transparent": (fading, {}),
        "gif": (few, {}),
        "gif_animated": (colors, moving),
        "webp": (colors, {}),
        "webp_transparent": (fading, {"lossless": True}),
        "webp_animated": (colors, moving),
    }
    kind = list(ways)[number % len(ways)]
    image, options = ways[kind]
    file = io.BytesIO()
    image.save(file, kind.partition("_")[0], **options)
    return kind, file.getvalue()


def cut_off(contents: bytes, random: np.random.Generator) -> bytes:
    return contents[: random.integers(1, len(contents))]


def flip_bits(contents: bytes, random: np.random.Generator) -> bytes:
    flipped = np.frombuffer(contents, np.uint8).copy()
    places = random.integers(0, len(flipped), random.integers(1, 9))
    np.bitwise_xor.at(flipped, places, 1 << random.integers(0, 8, len(places)))
    return flipped.tobytes()


def mistype(contents: bytes, random: np.random.Generator) -> bytes:
    """Puts the beginning of another kind before an image."""
    beginnings = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"BM", b"GIF89a")
    return beginnings[random.integers(len(beginnings))] + contents[8:]


def claim_a_size(contents: bytes, random: np.random.Generator) -> bytes:
    """Writes large numbers where the size of some kind stands."""
    claimed = bytearray(contents.ljust(32, b"\0"))
    sides = random.integers(2_000, 65_500, 2)
    begin = int(random.choice([6, 16, 18, 22, 24, 26]))
    pattern = random.choice(["<2H", ">2H", "<2I", ">2I"])
    packed = struct.pack(pattern, *map(int, sides))
    claimed[begin : begin + len(packed)] = packed
    jpeg = contents.find(b"\xff\xc0")
    if jpeg > 0:
        claimed[jpeg + 5 : jpeg + 9] = struct.pack(">2H", *map(int, sides))
    return bytes(claimed)


def fill_with_noise(contents: bytes, random: np.random.Generator) -> bytes:
    return contents[:4] + random.bytes(len(contents))


def empty(contents: bytes, random: np.random.Generator) -> bytes:
    del contents, random
    return b""


_DAMAGES: tuple[Callable, ...] = (
    cut_off,
    flip_bits,
    mistype,
    claim_a_size,
    fill_with_noise,
    empty,
)


def make_files(count: int, seed: int) -> Iterator[File]:
    """Makes files, of which every third is whole.

    Args:
        count: how many.
        seed: of all that is random.
    """
    # Few files need none of them, which take a while.
    large, bombs = (
        list(_make_large(size)) if count > _FIRST_LARGE else []
        for size in (_LARGE, _HUGE)
    )
    for number in range(count):
        random = np.random.default_rng((seed, number))
        kind, contents = make_image(number // 3, random)
        damage = "none"
        if number % 500 == _FIRST_LARGE:
            kind, contents = large[number // 500 % len(large)]
        elif number % 500 == _FIRST_LARGE + 1:
            kind, contents = bombs[number // 500 % len(bombs)]
            damage = "bomb"
        elif number % 3:
            do_damage = _DAMAGES[random.integers(len(_DAMAGES))]
            contents, damage = do_damage(contents, random), do_damage.__name__
        yield File(f"{kind}_{damage}_{number:06}", contents, damage)


def _make_large(size):
    """Yields files of some kilobytes that hold millions of pixels."""
    image = PIL.Image.new("1", size)
    for kind, made in (
        ("png", image),
        ("jpeg", image.convert("L")),
        ("gif", image.convert("P")),
        ("webp", image.convert("RGB")),
    ):
        file = io.BytesIO()
        try:
            made.save(file, kind)
        except (OSError, ValueError):
            continue
        yield f"large_{kind}", file.getvalue()


def classify(
    model: pathlib.Path, folder: pathlib.Path, names: list[str]
) -> Outcome:
    """Runs `python -m export.predict`, again where it ended early.

    Args:
        model: file or folder of an export.
        folder: where the files are.
        names: of the files.
    """
    records, ends, peak = {}, [], 0
    begin = time.monotonic()
    left = list(names)
    while left:
        found, end, memory = _run_predict(model, folder, left)
        records |= found
        peak = max(peak, memory)
        left = [name for name in left if name not in records]
        if not left:
            break
        ends.append(end)
        # Some file of this batch is why.
        left = left[_BATCH_SIZE:]
    return Outcome(records, ends, peak, time.monotonic() - begin)


def _run_predict(model, folder, names):
    """Returns records by name, the end of the process, and its peak."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "export.predict", "-"),
            *(f"--model={model}", "--format=json", "--top=1000000"),
            f"--batch_size={_BATCH_SIZE}",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    has_hung = threading.Event()

    def stop():
        has_hung.set()
        process.kill()

    limit = _SECONDS_TO_START + _SECONDS_PER_FILE * len(names)
    timer = threading.Timer(limit, stop)
    timer.start()
    paths = "".join(f"{folder / name}\n" for name in names).encode()
    writer = threading.Thread(target=_write, args=(process.stdin, paths))
    writer.start()
    records = {}
    for line in process.stdout:
        record = json.loads(line)
        records[pathlib.Path(record["path"]).name] = record
    # What it took, of this process alone.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    writer.join()
    timer.cancel()
    process.stdout.close()
    end = "hung" if has_hung.is_set() else f"exit code {process.returncode}"
    return records, end, usage.ru_maxrss * 1024


def _write(pipe, content):
    try:
        with pipe:
            pipe.write(content)
    # Whoever reads has died, which its exit code says.
    except BrokenPipeError:
        pass


def count_harmed(
    names: list[str], mixed: Outcome, alone: Outcome, tolerance: float
) -> int:
    """Counts whole files that bad ones beside them have changed.

    Args:
        names: of the whole files.
        mixed: of all files.
        alone: of the whole files.
        tolerance: the largest difference that is none, in a probability.
    """
    harmed = 0
    for name in names:
        first, second = (
            outcome.records.get(name, {}) for outcome in (mixed, alone)
        )
        if "classes" not in first or "classes" not in second:
            harmed += 1
            continue
        difference = _list_probabilities(first) - _list_probabilities(second)
        harmed += not np.abs(difference).max() <= tolerance
    return harmed


def _list_probabilities(record):
    ranked = sorted(record["classes"], key=lambda row: row["index"])
    return np.array([row["probability"] for row in ranked])


def export_small_network(folder: pathlib.Path) -> pathlib.Path:
    """Exports a network of random weights in all formats.

    Args:
        folder: where to write.

    Returns:
        The folder of the export.
    """
    keras.utils.set_random_seed(0)
    images = keras.Input((16, 16, 1))
    network = lambda_keras.build_lambda_resnet(
        26,
        (16, 16, 1),
        10,
        width_multiplier=1 / 8,
        stem_strides=1,
        lambda_layer=lambda filters: lambda_keras.LambdaConv(
            filters, scope_size=7
        ),
    )
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1)(images)
    model = keras.Model(images, network(scaled))
    random = np.random.default_rng(0)
    representative = random.integers(0, 256, (16, 20, 20, 1), np.uint8)
    names = [str(number) for number in range(10)]
    exporter.export_classifier(
        Classifier(model, names, 0.875),
        folder / "export",
        representative_images=list(representative),
        # Rounding changes much of what random weights say.
        min_agreement=0.0,
    )
    return folder / "export"


def fuzz(export_dir: pathlib.Path, count: int, seed: int) -> str:
    """Classifies damaged files with each format that is there.

    Args:
        export_dir: folder of an export.
        count: number of files.
        seed: of all that is random.

    Returns:
        The tables to print.
    """
    lines = [
        f"{'':22}{'refused':>9}{'ended early':>13}{'harmed':>8}{'seconds':>9}"
        f"{'memory':>10}"
    ]
    outcomes = {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        damages = {}
        for file in make_files(count, seed):
            (folder / file.name).write_bytes(file.contents)
            damages[file.name] = file.damage
        names = list(damages)
        whole = [name for name in names if damages[name] == "none"]
        for model_format in FORMATS:
            model = export_dir / model_format.file_name
            if not model.exists():
                continue
            outcome = classify(model, folder, names)
            alone = classify(model, folder, whole)
            # Sums in a batch of another size differ by some 1e-6.
            harmed = count_harmed(whole, outcome, alone, 1e-5)
            ends = [*outcome.ends, *alone.ends]
            refused = sum("error" in r for r in outcome.records.values())
            lines.append(
                f"{model_format.file_name:22}{refused:9}"
                f"{len(ends):13}{harmed:8}"
                f"{outcome.seconds:9.0f}{outcome.peak / 2**20:6.0f} MiB"
            )
            lines += [f"  {end}" for end in sorted(set(ends))]
            print("\n".join(lines[-1 - len(set(ends)) :]), flush=True)
            outcomes[model_format.file_name] = outcome
    lines += ["", f"{count} files, of which {len(whole)} are whole.", ""]
    lines += _format_damages(damages, outcomes)
    return "\n".join(lines)


def _format_damages(damages, outcomes):
    refused = collections.Counter(), collections.Counter()
    totals = collections.Counter(damages.values())
    disputed = []
    for name, damage in damages.items():
        errors = {
            "error" in outcome.records.get(name, {"error": ""})
            for outcome in outcomes.values()
        }
        refused[0][damage] += all(errors)
        refused[1][damage] += any(errors)
        if len(errors) > 1:
            disputed.append(name)
    yield f"{'':18}{'files':>8}{'refused by all':>17}{'by one at least':>18}"
    for damage, total in totals.items():
        yield (
            f"{damage:18}{total:8}{refused[0][damage]:17}"
            f"{refused[1][damage]:18}"
        )
    yield ""
    yield f"Formats disagree on {len(disputed)}: {', '.join(disputed[:20])}"


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    refuse_arguments(argv)
    with tempfile.TemporaryDirectory() as folder:
        if _EXPORT_DIR.value:
            export_dir = pathlib.Path(_EXPORT_DIR.value)
            if not (export_dir / exporter.REPORT_FILE).is_file():
                raise UserError(
                    "--export_dir must be what export.export_model wrote. "
                    f"Received: {export_dir}"
                )
        else:
            export_dir = export_small_network(pathlib.Path(folder))
        print(f"\n{fuzz(export_dir, _COUNT.value, _SEED.value)}")


def run() -> None:
    run_program(main)


if __name__ == "__main__":
    run()
