"""What one server takes on; without torch, for the command line."""

from dataclasses import dataclass
from typing import Annotated

from seqgen.core.options import Option


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a server."""

    rows: Annotated[int, Option(ge=1, le=256)] = 64
    """Texts of a run that are written at the same time."""
    queue: Annotated[int, Option(ge=0)] = 256
    """Texts that wait beside them; beyond that requests are answered with status 429."""
    max_tokens: Annotated[int, Option(ge=1)] = 1024
    """New tokens of a text at most."""
    max_prompt: Annotated[int, Option(ge=1)] = 4096
    """Tokens of a prompt at most."""
    max_body: Annotated[int, Option(ge=1)] = 1 << 18
    """Bytes of a request at most."""
    seconds: Annotated[float, Option(gt=0)] = 120.0
    """Seconds that a request may take, waiting included."""
