"""`seqgen report`: the page that shows a run."""

from seqgen.cli import output
from seqgen.cli.options import Run


def report(run: Run) -> None:
    """Write a run's report.html anew and print its path."""
    from seqgen.engine.report import write_report

    output.write(f"{write_report(run)}\n")
