"""Pipelines of Apache Beam: their options, their errors, their runner."""

import logging
import sys

import apache_beam
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import DirectOptions
from apache_beam.options.pipeline_options import GoogleCloudOptions
from apache_beam.runners.portability import prism_runner
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to

from trainers.program import UserError
from trainers.pseudo_labels import pipelines


def fail_at_two(number):
    if number == 2:
        raise UserError("Shard 2 is damaged. Received: [a, b]")
    return number


def fail_otherwise(number):
    return 1 // (number - 2)


def make_build(function, expected=()):
    def build(pipeline):
        numbers = pipeline | apache_beam.Create([1, 2, 3])
        mapped = numbers | "Step" >> apache_beam.Map(function)
        assert_that(mapped, equal_to(expected))

    return build


@pytest.fixture(scope="module")
def options():
    return pipelines.parse_options([], "DirectRunner")


def test_options_are_read():
    arguments = ["--direct_num_workers=2", "--project=photos"]
    options = pipelines.parse_options(arguments, "DirectRunner")
    assert options.view_as(DirectOptions).direct_num_workers == 2
    assert options.view_as(GoogleCloudOptions).project == "photos"
    # Those who list and read files before a pipeline is made need them.
    assert FileSystems._pipeline_options is options


def test_processes_here_are_quiet_unless_they_are_told_otherwise():
    told = ["--default_sdk_harness_log_level=INFO"]
    for runner, arguments, level in (
        ("DirectRunner", [], "CRITICAL"),
        ("DirectRunner", told, "INFO"),
        ("DataflowRunner", [], None),
    ):
        options = pipelines.parse_options(arguments, runner).get_all_options()
        assert options["default_sdk_harness_log_level"] == level


@pytest.mark.parametrize("name", ["DirectRunner", "direct", "DataflowRunner"])
def test_runner_may_be_here_or_elsewhere(name):
    options = pipelines.parse_options([], name)
    assert pipelines.is_local(options) == (name != "DataflowRunner")


@pytest.mark.parametrize(
    ("argument", "error"),
    [
        ("--direct_num_worker=2", "direct_num_worker"),
        ("--direct_num_workers=two", "invalid int value: 'two'"),
        ("--direct_running_mode=fast", "invalid choice: 'fast'"),
        ("photos", "begin with --. Received: photos"),
        ("-p", "begin with --. Received: -p"),
    ],
)
def test_wrong_option_is_one_line(argument, error, capsys):
    with pytest.raises(UserError) as raised:
        pipelines.parse_options([argument], "DirectRunner")
    assert error in str(raised.value)
    assert "\n" not in str(raised.value)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["Nobody", "nowhere.Nobody", "Dataflow"])
def test_wrong_runner_is_one_line(name):
    options = pipelines.parse_options([], name)
    with pytest.raises(UserError, match="--runner must be") as raised:
        pipelines.run_pipeline(make_build(fail_at_two), options)
    assert "\n" not in str(raised.value)


def test_missing_beam_is_one_line(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("apache_b")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"pip install 'lambda-keras\[beam\]'"):
        pipelines.parse_options([], "DirectRunner")


def test_pipeline_runs_here_and_fetches_no_other_runner(options, monkeypatch):
    def refuse(*_):
        raise AssertionError("It would be fetched from GitHub.")

    monkeypatch.setattr(prism_runner.PrismRunner, "run_pipeline", refuse)
    pipelines.run_pipeline(make_build(float, [1.0, 2.0, 3.0]), options)


def test_error_of_a_worker_is_the_line_that_it_says(options, capfd, caplog):
    level = logging.getLogger("apache_beam").level
    with pytest.raises(UserError) as error:
        pipelines.run_pipeline(make_build(fail_at_two), options)
    assert str(error.value) == "Shard 2 is damaged. Received: [a, b]"
    assert capfd.readouterr().err == ""
    assert caplog.text == ""
    assert logging.getLogger("apache_beam").level == level


def test_other_errors_of_a_worker_stay_what_they_are(options):
    with pytest.raises(ZeroDivisionError):
        pipelines.run_pipeline(make_build(fail_otherwise), options)
