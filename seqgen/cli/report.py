"""`seqgen report`: the page that shows a run."""

from seqgen.cli import output
from seqgen.cli.options import Json, Run


def report(run: Run, json: Json = False) -> None:
    """Write a run's report.html anew and print its path."""
    from seqgen.engine.report import write_report

    page = write_report(run)
    output.write(output.json_line({"report": str(page)}) if json else f"{page}\n")
