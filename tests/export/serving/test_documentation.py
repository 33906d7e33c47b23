"""The commands of the documents, word for word."""

import json
import pathlib
import re
import shutil
import subprocess

import pytest

import export
from tests.export.serving.conftest import make_file

PAGE = pathlib.Path(export.__file__).parents[1] / "docs" / "deployment.md"


@pytest.mark.skipif(not shutil.which("curl"), reason="Needs curl.")
def test_curl_gets_answers(onnx_server, tmp_path):
    commands = re.findall("^curl .*", PAGE.read_text(), re.MULTILINE)
    assert len(commands) == 7
    (tmp_path / "scan.png").write_bytes(make_file(16, 16))
    answers = []
    for command in commands:
        ended = subprocess.run(
            command.replace("127.0.0.1:8501", onnx_server.address),
            shell=True,
            cwd=tmp_path,
            capture_output=True,
            check=True,
        )
        answers.append(json.loads(ended.stdout))
    names = [next(iter(answer)) for answer in answers]
    assert names == [
        "predictions",
        "predictions",
        "model_version_status",
        "model_spec",
        "model_name",
        "name",
        "ready",
    ]
    (row,) = answers[0]["predictions"]
    good, bad = answers[1]["predictions"]
    assert good == {"probabilities": row, "errors": ""}
    assert bad["errors"]
    assert answers[4]["outputs"][0]["data"] == row
