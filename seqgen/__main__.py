"""The command `seqgen`, also as `python -m seqgen` and under torchrun."""

import io
import sys
from collections.abc import Sequence

from seqgen.cli import app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    for stream, errors in ((sys.stdout, "strict"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            # text here is UTF-8 whatever the locale says, and a newline is one byte
            stream.reconfigure(encoding="utf-8", errors=errors, newline="\n")
    return app.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
