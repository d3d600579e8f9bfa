"""The command `seqgen`, also as `python -m seqgen` and under torchrun."""

import io
import os
import sys
from collections.abc import Sequence

from seqgen.cli import app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    _replace_closed_streams()
    for stream, errors in ((sys.stdout, "strict"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            # text here is UTF-8 whatever the locale says, and a newline is one byte
            stream.reconfigure(encoding="utf-8", errors=errors, newline="\n")
    return app.main(arguments)


def _replace_closed_streams() -> None:
    """Open the standard streams that the caller has closed, so that no other file gets their numbers.

    Reading this input and writing this output fail as on any broken device; messages are dropped.
    """
    for name, flags, mode in (("stdin", os.O_WRONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_WRONLY, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode, encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
