"""Runs pipelines of Apache Beam as programs with flags do."""

import contextlib
import io
import logging
import re
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

from trainers.program import UserError

# In whatever case.
_LOCAL_RUNNERS = ("direct", "directrunner")
_QUIET = "--default_sdk_harness_log_level=CRITICAL"
# What a runner adds to the text of what is raised in a worker.
_USER_ERROR = re.compile(r"UserError: (.*?)(?: \[while running|$)", re.M)


def parse_options(arguments: Sequence[str], runner: str):
    """Reads the options of Beam, which follow `--` on a command line.

    Beam's file systems then know them too.

    Args:
        arguments: such as `["--project=photos", "--region=europe-west1"]`.
        runner: such as `"DirectRunner"`, which runs here.

    Returns:
        An `apache_beam.options.pipeline_options.PipelineOptions`.

    Raises:
        UserError: If Beam is missing, does not know an option, or one has a
            wrong value.
    """
    try:
        # It tells of file systems that are not installed.
        with _logging_nothing():
            from apache_beam.io.filesystems import FileSystems
            from apache_beam.options.pipeline_options import PipelineOptions
    except ModuleNotFoundError as error:
        raise UserError(
            "Apache Beam is needed: pip install 'lambda-keras[beam]'. "
            f"Received: {error}"
        ) from error
    for argument in arguments:
        if not argument.startswith("--"):
            raise UserError(
                f"Flags, and options of Beam, begin with --. Received: "
                f"{argument}"
            )
    # Workers in processes of their own say all that they do.
    quiet = [_QUIET] if runner.lower() in _LOCAL_RUNNERS else []
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = PipelineOptions(
                [*quiet, *arguments, f"--runner={runner}"]
            )
            known = options.get_all_options(retain_unknown_options=True)
            unknown = set(known) - set(options.get_all_options())
    except SystemExit as error:
        reason = said.getvalue().strip().rpartition("error: ")[2]
        raise UserError(
            f"What follows -- must be options of Apache Beam: {reason}. "
            f"Received: {' '.join(arguments)}"
        ) from error
    if unknown:
        raise UserError(
            "What follows -- must be options of Apache Beam. "
            f"Received: {', '.join(sorted(unknown))}"
        )
    FileSystems.set_options(options)
    return options


def is_local(options) -> bool:
    """Returns whether what `parse_options` returned has pipelines run here."""
    from apache_beam.options.pipeline_options import StandardOptions

    runner = options.view_as(StandardOptions).runner
    return runner.lower() in _LOCAL_RUNNERS


def run_pipeline(build: Callable, options):
    """Builds a pipeline, runs it, and waits for its end.

    Args:
        build: function of an `apache_beam.Pipeline` that adds to it.
        options: what `parse_options` returned.

    Returns:
        An `apache_beam.runners.runner.PipelineResult`.

    Raises:
        UserError: If a worker raises one, or there is no such runner.
    """
    import apache_beam

    with contextlib.ExitStack() as stack:
        runner = None
        if is_local(options):
            runner = _make_local_runner(options)
            stack.enter_context(_logging_nothing())
        try:
            pipeline = apache_beam.Pipeline(runner, options)
        except (AttributeError, ImportError, ValueError) as error:
            raise UserError(
                "--runner must be one of Apache Beam's, with what it needs: "
                f"{' '.join(str(error).split())}"
            ) from error
        try:
            build(pipeline)
            result = pipeline.run()
            result.wait_until_finish()
        except Exception as error:
            # It comes as text from other processes.
            text = f"{type(error).__name__}: {error}"
            match = _USER_ERROR.search(text)
            if not match:
                raise
            raise UserError(match[1]) from error
        return result


def _make_local_runner(options):
    """Makes what `DirectRunner` falls back on.

    First, it would look for another one, a program in Go, on GitHub.
    """
    from apache_beam.portability.api import beam_provision_api_pb2
    from apache_beam.runners.portability.fn_api_runner import fn_runner
    from apache_beam.runners.portability.portable_runner import JobServiceHandle

    # The processes of its workers know the options by it.
    encoded = JobServiceHandle.encode_pipeline_options(
        options.get_all_options()
    )
    info = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
    return fn_runner.FnApiRunner(
        provision_info=fn_runner.ExtendedProvisionInfo(info)
    )


@contextlib.contextmanager
def _logging_nothing() -> Iterator[None]:
    """Has Beam not log within the block; what matters is raised too."""
    logger, root = logging.getLogger("apache_beam"), logging.getLogger()
    level = logger.level

    def is_of_others(record):
        return "apache_beam" not in record.pathname

    logger.setLevel(logging.CRITICAL + 1)
    # Some of Beam, and of its other processes, logs without its name.
    root.addFilter(is_of_others)
    try:
        yield
    finally:
        logger.setLevel(level)
        root.removeFilter(is_of_others)
