"""Trains, exports and uses a network that reads scanned digits.

    python -m examples.digits_demo

runs three programs of this project one after the other, and shows the command
line of each. The data come with scikit-learn; nothing is downloaded.
Everything is written to a new folder in runs/, and a summary at the end says
what is where, with a table of the formats. Takes some three minutes on two
cores.
"""

if __name__ == "__main__":
    from trainers.launch import launch

    launch("examples.digits_demo")

import csv
import json
import pathlib
import shlex
import subprocess
import sys
import time

from trainers import run_folder
from trainers.program import refuse_arguments
from trainers.program import run_program

_NUM_SCANS = 5


def run_step(*arguments: str) -> None:
    """Shows and runs `python -m` with arguments; exits if that fails."""
    print(f"\n$ python -m {shlex.join(arguments)}", flush=True)
    status = subprocess.run([sys.executable, "-m", *arguments]).returncode
    if status:
        sys.exit(status)


def write_scans(folder: pathlib.Path) -> list[str]:
    """Writes some of the digits that were held out of training as PNG files.

    Args:
        folder: folder to make.

    Returns:
        Their paths. The names say which digit it is.
    """
    import tensorflow as tf

    from trainers.data.datasets import open_dataset

    folder.mkdir()
    paths = []
    examples = open_dataset("digits").validation.examples.take(_NUM_SCANS)
    for number, (image, label) in enumerate(examples, start=1):
        path = folder / f"scan{number}_of_a_{label}.png"
        path.write_bytes(tf.io.encode_png(image).numpy())
        paths.append(str(path))
    return paths


def summarize(model_dir: pathlib.Path) -> str:
    """Returns what a run achieved and where its results are."""
    from export.export_folder import HTML_FILE
    from export.exporter import format_table

    results = json.loads((model_dir / run_folder.RESULTS_FILE).read_text())
    with open(model_dir / run_folder.METRICS_FILE, newline="") as file:
        *_, last = csv.DictReader(file)
    last_accuracy = float(last["val_accuracy"])
    return f"""
Accuracy on {results["examples"]} digits that were not trained on:
  {last_accuracy:.2%}  {run_folder.LAST_FILE}, after the last epoch
  {results["accuracy"]:.2%}  {run_folder.BEST_FILE}, the epoch that these \
same digits chose; this one is exported

Pictures: {model_dir / run_folder.CURVES_FILE}
          {model_dir / run_folder.CONFUSION_MATRIX_FILE}
Scans:    {model_dir / "scans"}
Exported: {model_dir / "export"}
Report:   {model_dir / "export" / HTML_FILE}

{format_table(model_dir / "export")}
"""


def main(argv: list[str]) -> None:
    from export.exporter import read_report

    refuse_arguments(argv)
    start = time.monotonic()
    model_dir = pathlib.Path("runs", time.strftime("digits-%Y%m%d-%H%M%S"))
    export_dir = model_dir / "export"

    run_step("trainers.train_classifier", f"--model_dir={model_dir}")
    best = model_dir / run_folder.BEST_FILE
    run_step("export.export_model", f"--model={best}")
    scans = write_scans(model_dir / "scans")
    for row in read_report(export_dir)["formats"].values():
        model = export_dir / row["file"]
        run_step("export.predict", *scans, f"--model={model}")

    print(summarize(model_dir))
    print(f"All this took {time.monotonic() - start:.0f} seconds.")
    print(
        f"To draw digits in a browser: make web EXPORT={export_dir}, then open "
        "http://127.0.0.1:8000/"
    )


def run() -> None:
    run_program(main)
