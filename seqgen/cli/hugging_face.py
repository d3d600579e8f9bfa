"""`seqgen import`: a GPT-2 checkpoint on disk as a run.

seqgen import gpt2-folder --out runs/gpt2
"""

from pathlib import Path
from typing import Annotated

import typer

from seqgen.cli import output
from seqgen.cli.options import Json


def import_(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="config.json, model.safetensors, and tokenizer.json or vocab.json and merges.txt.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Write the new run into this folder.", show_default=False)
    ],
    json: Json = False,
) -> None:
    """Make a run of a GPT-2 checkpoint of Hugging Face.

    Its texts begin behind <|endoftext|> and end with it. The run generates, scores and evaluates as any other, and
    `seqgen train gpt --from RUN` fine-tunes it. The checkpoint is local: nothing is fetched. Needs the extra hf.
    """
    from seqgen.engine.hugging_face import import_checkpoint

    import_checkpoint(folder, out)
    if json:
        output.write(output.json_line({"run": str(out)}))
    output.say(f"next: seqgen generate {out} --count 5")
