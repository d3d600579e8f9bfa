"""`seqgen latent reconstruct|interpolate|encode|restore`: what a run with latents can do, a text VAE or one of images.

Images have their own half of each command, in `images`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqgen.cli import images, output
from seqgen.cli.flags import names, with_flags
from seqgen.cli.options import Command, Json, Open, Opening, Run, Seed, makes_images, open_run, read_for, row_for

if TYPE_CHECKING:
    from seqgen.engine.latent import LatentSpace

app = typer.Typer(
    name="latent",
    help="Use the latents of a text VAE or a run of images.",
    callback=output.help_or_command,
    invoke_without_command=True,
)

Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="Write into this file; images into .png, .npz or a folder of files."),
]
File = Annotated[
    str,
    typer.Argument(
        metavar="FILE", help="File of texts, one a line; or images as --data takes them, # for the held-out ones."
    ),
]


def open_latent_space(run: Path, opening: Open, label: list[str] | None) -> "LatentSpace":
    """Load the text VAE of a run folder; --label is refused."""
    from seqgen.engine.latent import LatentSpace

    generator = open_run(run, opening)
    if label:
        raise output.CommandError("--label is for images; this run writes text")
    return LatentSpace(generator)


def filled(space: "LatentSpace", file: str, count: int = 0) -> tuple[list[int], list[str], list[str] | None]:
    """Read the first `count` texts of a file (0: all) that are not blank: line numbers, texts and, if there are any,
    conditions."""
    records = read_for(space.generator, file)
    rows = [row for row, text in enumerate(records.texts) if text.strip()][: count or None]
    if not rows:
        raise output.CommandError(f"{file}: only blank lines; expected texts")
    sources = None if records.sources is None else [records.sources[row] for row in rows]
    return [records.numbers[row] for row in rows], [records.texts[row] for row in rows], sources


def reconstruct(
    context: typer.Context,
    run: Run,
    file: File,
    count: Annotated[int, typer.Option("--count", metavar="N", help="Take only the first N; 0: all.")] = 0,
    temperature: Annotated[
        float,
        typer.Option(
            "--temperature", metavar="T", help="Draw words at this temperature; 0: take the most probable ones."
        ),
    ] = 0.0,
    toward: Annotated[
        str, typer.Option("--toward", metavar="FILE", help="Move every latent towards those of the lines of this file.")
    ] = "",
    away: Annotated[
        str, typer.Option("--away", metavar="FILE", help="Move every latent away from those of the lines of this file.")
    ] = "",
    strength: Annotated[
        float,
        typer.Option(
            "--strength",
            metavar="X",
            help="Distance of that move; 1: from the mean of the one file to that of the other.",
        ),
    ] = 1.0,
    label: images.Label = None,
    seed: Seed = 0,
    out: Out = None,
    json: Json = False,
    *,
    opening: Opening,
) -> None:
    """Write each text again from its latent alone.

    The closer the lines are to those of the file, the more the latent holds. With --toward and --away, two files of
    lines that differ in one thing, that thing is changed. --json shows text and reconstruction side by side.
    Images go into --out, each above its reconstruction.
    """
    output.at_least(0, count=count, temperature=temperature)
    if makes_images(run):
        images.refuse(context, "run", "file", "count", "out", "label", *names(Open))
        images.reconstruct(run, file=file, count=count, out=out, label=label or (), opening=opening)
        return
    if bool(toward) != bool(away):
        raise output.CommandError("--toward and --away belong together: give a file of lines for each")
    if strength != 1 and not toward:
        raise output.CommandError("--strength takes no effect without --toward and --away")
    space = open_latent_space(run, opening, label)
    kind = "" if json else output.kind_of_texts(out, one_line=space.generator.one_line)
    _, lines, sources = filled(space, file, count)
    with output.wrong_values():
        move = None
        if toward:
            move = strength * space.direction(filled(space, toward)[1:], filled(space, away)[1:])
        texts = space.reconstruct(lines, sources, step=move, seed=seed, temperature=temperature)
    asked = sources or [""] * len(lines)
    if json:
        rows = [row_for(space.generator, a, source) for a, source in zip(lines, asked, strict=True)]
        made = [{**row, "reconstruction": b} for row, b in zip(rows, texts, strict=True)]
        written = "".join(map(output.json_line, made))
    else:
        rows = [row_for(space.generator, b, source) for b, source in zip(texts, asked, strict=True)]
        written = output.of_texts(texts, kind, out, rows)
    output.write_or_save(written, out, f"{len(texts)} texts")


def interpolate(
    context: typer.Context,
    run: Run,
    a: Annotated[
        str,
        typer.Argument(
            metavar="A", help="Where to begin: a text, or an image (#3 for held-out image 3); empty: drawn by --seed."
        ),
    ] = "",
    b: Annotated[str, typer.Argument(metavar="B", help="Where to end, likewise.")] = "",
    steps: Annotated[
        int, typer.Option("--steps", metavar="N", help="Number of texts or images, both ends included.")
    ] = 7,
    spherical: Annotated[
        bool, typer.Option("--spherical", help="Interpolate along the great circle instead of the line.")
    ] = False,
    source: Annotated[str, typer.Option("--source", metavar="TEXT", help="Condition of all of the texts.")] = "",
    traverse: Annotated[
        bool, typer.Option("--traverse", help="Vary the latent of image A instead, one dimension in each row.")
    ] = False,
    label: images.Label = None,
    seed: Seed = 0,
    out: Out = None,
    json: Json = False,
    *,
    opening: Opening,
) -> None:
    """Interpolate between two texts or images.

    The texts or images between them are decoded from interpolated latents.
    """
    output.at_least(2, steps=steps)
    if makes_images(run):
        known = ("run", "a", "b", "steps", "spherical", "traverse", "out", "label", "seed", *names(Open))
        images.refuse(context, *known)
        images.interpolate(
            run,
            a=a,
            b=b,
            steps=steps,
            spherical=spherical,
            traverse=traverse,
            out=out,
            label=label or (),
            seed=seed,
            opening=opening,
        )
        return
    if traverse:
        raise output.CommandError("--traverse is for images; this run writes text")
    space = open_latent_space(run, opening, label)
    kind = "jsonl" if json else output.kind_of_texts(out, one_line=space.generator.one_line)
    with output.wrong_values():
        path = space.interpolate(a, b, steps=steps, spherical=spherical, source=source or None, seed=seed)
    rows = [row_for(space.generator, text, source) for text in path]
    written = "".join(map(output.json_line, rows)) if json else output.of_texts(path, kind, out, rows)
    output.write_or_save(written, out, f"{len(path)} texts")


def encode(
    context: typer.Context,
    run: Run,
    file: File,
    nearest: Annotated[
        int, typer.Option("--nearest", metavar="N", help="Show the N training texts with the nearest latents instead.")
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Write mean latents, a row each, into this file: .npy or .npz (float32), .csv or .jsonl.",
        ),
    ] = None,
    label: images.Label = None,
    json: Json = False,
    *,
    opening: Opening,
) -> None:
    """Encode texts or images as latents, or find neighbours.

    Neighbours come as lines of number, distance, training text, separated by tabs; with --json an object a line.
    """
    output.at_least(0, nearest=nearest)
    if makes_images(run):
        images.refuse(context, "run", "file", "out", "label", *names(Open))
        images.encode(run, file=file, out=out, label=label or (), opening=opening)
        return
    if (out is None) == (nearest == 0):
        raise output.CommandError("give either --out FILE.npy, for the latents, or --nearest N, for their neighbours")
    if out is not None:
        images.check_latents_file(out)
    space = open_latent_space(run, opening, label)
    numbers, lines, sources = filled(space, file)
    if nearest:
        found = space.nearest(lines, sources, count=nearest)
        for number, line, near in zip(numbers, lines, found, strict=True):
            if json:
                neighbours = [{"text": text, "distance": far} for text, far in near]
                output.write(output.json_line({"line": number, "text": line, "nearest": neighbours}))
            else:
                output.write("".join(f"{number}\t{far:.4f}\t{text}\n" for text, far in near))
        return
    assert out is not None
    images.write_latents(space.encode(lines, sources)[0], out)


for command in (reconstruct, interpolate, encode, images.restore):
    app.command(cls=Command)(with_flags(command))
