"""Runs pipelines of Apache Beam as programs with flags do."""

import contextlib
import io
import re
from collections.abc import Callable
from collections.abc import Sequence

from trainers.program import UserError

# What a runner adds to the text of what is raised in a worker.
_USER_ERROR = re.compile(r"UserError: (.*?)(?: \[while running|$)", re.M)


def parse_options(arguments: Sequence[str], runner: str):
    """Reads the options of Beam, which follow `--` on a command line.

    Args:
        arguments: such as `["--project=photos", "--region=europe-west1"]`.
        runner: such as `"DirectRunner"`, which runs here.

    Returns:
        An `apache_beam.options.pipeline_options.PipelineOptions`.

    Raises:
        UserError: If Beam does not know one, or it has a wrong value.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    options = PipelineOptions([*arguments, f"--runner={runner}"])
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
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
    return options


def run_pipeline(build: Callable, options):
    """Builds a pipeline, runs it, and waits for its end.

    Args:
        build: function of an `apache_beam.Pipeline` that adds to it.
        options: what `parse_options` returned.

    Returns:
        An `apache_beam.runners.runner.PipelineResult`.

    Raises:
        UserError: If a worker raises one.
    """
    import apache_beam

    try:
        pipeline = apache_beam.Pipeline(options=options)
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
