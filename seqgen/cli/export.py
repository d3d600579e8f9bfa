"""`seqgen export`: a trained run as a folder for others.

seqgen export runs/captions --format onnx --out captions-onnx
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from seqgen.cli import output
from seqgen.cli.options import Json, Module, Open, Run
from seqgen.core.options import help_texts


def export(
    run: Run,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Write into this new folder.", show_default=False)],
    format: Annotated[
        Literal["onnx", "safetensors"],
        typer.Option("--format", help="onnx: one step as a graph; safetensors: a run without its training."),
    ] = "onnx",
    verify: Annotated[
        bool,
        typer.Option("--verify/--no-verify", help="Keep the folder only if it gives what seqgen gives."),
    ] = True,
    step: Annotated[int | None, typer.Option("--step", metavar="N", help=help_texts(Open)["step"])] = None,
    module: Module = None,
    json: Json = False,
) -> None:
    """Export a run as ONNX or safetensors.

    The folder has the weights, the tokenizer, config.json and a model card written from the run's own figures; nothing
    in it is a pickle. onnx needs the extra export and takes runs of lm, gpt, seqgan and hmm: the check compares logits
    and greedy tokens on held-out text. safetensors takes every run and is one that seqgen opens.

    \b
    seqgen export runs/captions --out captions-onnx
    """
    from seqgen.engine.export import export as write

    with output.wrong_values():
        folder = write(run, out, format=format, verify=verify, step=step, module=module)
    if json:
        output.write(output.json_line({"folder": str(folder), "format": format, "verified": verify}))
    output.say(f"{format} in {folder}; how it is used: {folder}/README.md")
