"""Makes a web page that classifies images with the models of an export.

    python -m export.make_page --export_dir=runs/digits/export \
--output_dir=build/page --examples=runs/digits/scans

writes a folder of static files for any web server: the page, LiteRT.js, the
TensorFlow Lite files of the export, and up to eight images of a folder as
examples. Everything is computed in the visitor's browser, which asks no other
server for anything.

A page that was made before is replaced as a whole; a folder that holds
anything else is refused. LiteRT.js must have been fetched by

    npm ci --prefix export/web
"""

if __name__ == "__main__":
    from export.command_line import end_at_interrupt

    end_at_interrupt()

import itertools
import json
import os
import pathlib
import secrets
import shlex
import shutil
import zipfile

from export.command_line import InputError
from export.command_line import Parser
from export.command_line import run_program
from export.exported_model import hash_file
from export.formats import FORMATS
from export.image_files import find_images
from export.image_files import read_image
from export.preprocessing import decode_image

WEB = pathlib.Path(__file__).parent / "web"
PAGE_FILES = (
    "classifier.js",
    "drawing.js",
    "icon.svg",
    "image_file.js",
    "index.html",
    "model_file.js",
    "page.css",
    "page.js",
    "prepared_image.js",
    "resize.js",
    "result_view.js",
)
# Browsers without relaxed SIMD load the second pair; those of threads need
# headers that few servers send.
RUNTIME_FILES = {
    "core.js": "core/dist/index.js",
    "wasm-utils.js": "wasm-utils/dist/index.js",
    "litert_wasm_internal.js": "core/wasm/litert_wasm_internal.js",
    "litert_wasm_internal.wasm": "core/wasm/litert_wasm_internal.wasm",
    "litert_wasm_compat_internal.js": (
        "core/wasm/litert_wasm_compat_internal.js"
    ),
    "litert_wasm_compat_internal.wasm": (
        "core/wasm/litert_wasm_compat_internal.wasm"
    ),
}
# What a page holds, by which it is known.
_LIST_FILE = "models.json"
_MOST_EXAMPLES = 8


def _make_parser() -> Parser:
    parser = Parser("export.make_page", __doc__)
    parser.add_argument(
        "--export_dir",
        metavar="FOLDER",
        required=True,
        help="folder that export.export_model wrote",
    )
    parser.add_argument(
        "--output_dir",
        metavar="FOLDER",
        required=True,
        help="folder to make, or a page to replace",
    )
    parser.add_argument(
        "--examples",
        metavar="FOLDER",
        help=f"images, of which the first {_MOST_EXAMPLES} are shown",
    )
    return parser


def make_page(
    export_dir: pathlib.Path, output_dir: pathlib.Path, examples: str | None
) -> None:
    """Writes the files of a page.

    Args:
        export_dir: folder of an export with TensorFlow Lite files.
        output_dir: folder to make; an earlier page there is replaced.
        examples: image file, folder or pattern of images, if there are any.

    Raises:
        InputError: If something is missing, or would be lost.
    """
    models = _find_models(export_dir)
    runtime = _find_runtime()
    images = _read_examples(examples) if examples else []
    _check_output(output_dir)
    token = secrets.token_hex(4)
    # Beside it, hence on the same disk, so that it can be renamed.
    new = output_dir.absolute().with_name(f".{output_dir.name}.new-{token}")
    try:
        new.mkdir(parents=True)
        try:
            _write(new, models, runtime, images)
            _exchange(new, output_dir, token)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"--output_dir cannot be written: {error.strerror}. "
            f"Received: {output_dir}"
        ) from error


def _find_models(export_dir):
    """Returns the TensorFlow Lite files, by how their weights are kept."""
    models = {}
    for model_format in FORMATS:
        path = export_dir / model_format.file_name
        if path.suffix != ".tflite" or not model_format.recognizes(path):
            continue
        try:
            model_format.read_metadata(path)
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(
                "--export_dir must be written by export.export_model and be "
                f"whole, but the metadata of a file cannot be read: {error}. "
                f"Received: {path}"
            ) from error
        _, _, weights = model_format.name.partition("_")
        models[weights or "float32"] = path
    if not models:
        raise InputError(
            "--export_dir must be a folder that export.export_model wrote, "
            f"with a .tflite file in it. Received: {export_dir}"
        )
    return models


def _find_runtime():
    folder = WEB / "node_modules" / "@litertjs"
    paths = {name: folder / file for name, file in RUNTIME_FILES.items()}
    missing = [path for path in paths.values() if not path.is_file()]
    if missing:
        web = os.path.relpath(WEB)
        raise InputError(
            "LiteRT.js must be fetched first: "
            f"npm ci --prefix {shlex.quote(web)} does it. Missing: {missing[0]}"
        )
    return paths


def _read_examples(examples):
    """Returns names and contents of image files."""
    images = []
    found = find_images([examples])
    for path, error in itertools.islice(found, _MOST_EXAMPLES):
        try:
            if error:
                raise ValueError(error)
            contents = read_image(path)
            decode_image(contents, channels=3)
        except ValueError as unreadable:
            raise InputError(
                f"--examples must be images, but {path} {unreadable}. "
                f"Received: {examples}"
            ) from unreadable
        images.append((os.path.basename(path), contents))
    return images


def _check_output(output_dir):
    """Raises an `InputError` if replacing a folder would lose something."""
    if not os.path.lexists(output_dir):
        return
    if output_dir.is_symlink() or not output_dir.is_dir():
        raise InputError(
            f"--output_dir must be a folder. Received: {output_dir}"
        )
    foreign = _find_foreign(output_dir)
    if foreign:
        raise InputError(
            "--output_dir must be new, empty or a page as it was written, "
            "because it is replaced; choose another, or move away what is "
            f"yours. Received: {output_dir}, which holds {foreign}"
        )


def _find_foreign(folder):
    """Returns a file that no page has here, or `None`."""
    try:
        written = dict(json.loads((folder / _LIST_FILE).read_bytes())["files"])
    except (OSError, ValueError, LookupError, TypeError):
        written = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            return name
        if path.is_dir():
            # Other folders would be lost even if they are empty.
            if not any(file.startswith(f"{name}/") for file in written):
                return name
        elif name == _LIST_FILE and written:
            continue
        elif name not in written:
            return name
        elif written[name] != hash_file(path):
            return f"{name} (changed)"
    return None


def _write(folder, models, runtime, images):
    for name in PAGE_FILES:
        shutil.copyfile(WEB / name, folder / name)
    (folder / "litert").mkdir()
    for name, path in runtime.items():
        shutil.copyfile(path, folder / "litert" / name)
    shutil.copyfile(
        WEB / "litert_license.txt", folder / "litert" / "LICENSE.txt"
    )
    site = {"models": [], "examples": []}
    for weights, path in models.items():
        shutil.copyfile(path, folder / path.name)
        size = path.stat().st_size
        site["models"].append(
            {"file": path.name, "weights": weights, "bytes": size}
        )
    if images:
        (folder / "examples").mkdir()
    for number, (name, contents) in enumerate(images, start=1):
        # Names of files may hold what no address does.
        file = f"examples/{number}{pathlib.PurePath(name).suffix.lower()}"
        (folder / file).write_bytes(contents)
        site["examples"].append({"file": file, "name": name})
    site["files"] = {
        path.relative_to(folder).as_posix(): hash_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    (folder / _LIST_FILE).write_text(json.dumps(site, indent=1))


def _exchange(new, output_dir, token):
    if not output_dir.exists():
        new.rename(output_dir)
        return
    # What came while the new page was written.
    _check_output(output_dir)
    old = new.with_name(f".{output_dir.name}.old-{token}")
    output_dir.rename(old)
    try:
        new.rename(output_dir)
    except OSError:
        old.rename(output_dir)
        raise
    shutil.rmtree(old)


def main(argv: list[str]) -> int:
    """Makes a page.

    Args:
        argv: the arguments, without the name of the program.

    Returns:
        The exit code.

    Raises:
        InputError: If the page cannot be made.
    """
    options = _make_parser().parse_args(argv)
    output_dir = pathlib.Path(options.output_dir)
    make_page(pathlib.Path(options.export_dir), output_dir, options.examples)
    print(
        f"The page is in {output_dir}; python -m http.server --bind 127.0.0.1 "
        f"--directory {shlex.quote(str(output_dir))} 8000 shows it at "
        "http://127.0.0.1:8000/"
    )
    return 0


def run() -> None:
    run_program(main)


if __name__ == "__main__":
    run()
