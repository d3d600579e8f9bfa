"""`seqgen serve`: trained runs as a service that speaks OpenAI's protocol, and a page for people."""

from pathlib import Path
from typing import Annotated

import typer

from seqgen.cli import output
from seqgen.cli.flags import Panel
from seqgen.cli.options import Json, Opening
from seqgen.serve.limits import Limits


def serve(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders.", show_default=False)],
    host: Annotated[str, typer.Option(metavar="NAME", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="Port; 0: any that is free.")] = 8000,
    token: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="Token that clients must send (Authorization: Bearer TEXT); or set SEQGEN_TOKEN, which other users of "
            "the machine cannot read. Needed to listen beyond this machine.",
            show_default=False,
        ),
    ] = "",
    json: Json = False,
    *,
    limits: Annotated[Limits, Panel("Limits")],
    opening: Opening,
) -> None:
    """Serve runs on a page and behind OpenAI's protocol.

    The server ends with Ctrl-C or SIGTERM. --json writes address and models once it listens.

    The page is at /: texts as they are written with the probability of each token, two texts and a slider between
    them for text VAEs, a grid of images. For programs a run is a model by its folder's name: /v1/models,
    /v1/completions, /v1/chat/completions, /v1/images/generations, /healthz. Texts of all clients are written together;
    text k of a request depends on its seed and options alone, as in generate.
    """
    if not 0 <= port <= 65535:
        raise output.CommandError(f"--port must be an integer in 0..65535, got {port}")
    from seqgen.serve.server import serve as run_server

    def ready(address: str, names: list[str]) -> None:
        if json:
            output.write(output.json_line({"address": address, "models": names}))
            output.flush()
        output.say(f"serving {', '.join(names)} at {address}/v1, for people at {address}/")

    run_server(runs, host=host, port=port, token=token, limits=limits, ready=ready, **vars(opening))
