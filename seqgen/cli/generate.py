"""`seqgen generate`: text from a run, one text a line, or as JSON with the probability of every token; or images."""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqgen.cli import images, output
from seqgen.cli.flags import Panel, names
from seqgen.cli.options import Open, Opening, Run, makes_images, open_run, reading_named, refuse, row_for, training_file
from seqgen.core.options import Beam, Constraints, Drawing, Lengths, Option, Request, Selection
from seqgen.core.patterns import Expression

if TYPE_CHECKING:
    from seqgen.engine.generate import Latents, Text, TextGenerator

_METHODS = ("prior", "mixture")


@dataclass(frozen=True, kw_only=True)
class Writing(Request):
    """What to write."""

    prompts: Annotated[str, Option(metavar="FILE")] = ""
    """File of prompts, one a line, or the field text of .jsonl, with line breaks: --count texts for each."""
    source: Annotated[str, Option(metavar="FILE")] = ""
    """File of conditions, one a line: each is answered --count times."""


@dataclass(frozen=True, kw_only=True)
class Kept(Selection):
    """Which texts are kept."""

    novel: bool = False
    """Keep no line of the training text."""
    train: Annotated[str, Option(metavar="FILE")] = ""
    """The training text for --novel and --no-copy, if it has moved."""


@dataclass(frozen=True, kw_only=True)
class Latent:
    """Where latents come from."""

    method: Annotated[str, Option(metavar="NAME")] = "prior"
    """Draw latents from prior, mixture (VAE), metropolis or langevin (GAN: better single images, not a better set)."""
    steer: Annotated[tuple[str, ...], Option(metavar="CONDITION")] = ()
    """Draw latents of texts with length=12, contains=WORD or label=YES_FILE:NO_FILE (text-vae); repeat for several."""
    strength: float = 1.0
    """Weight of what --steer asks for."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """Where the texts or images go."""

    out: Annotated[Path | None, Option(metavar="FILE")] = None
    """Write into this file: text, or for images a grid (.png), arrays (.npz) or a folder of files."""
    json: bool = False
    """Write JSON instead of text, an object a line."""
    stream: bool = False
    """Show one text while it is written."""


_SEVERAL = {"count", "prompts", "source", *names(Kept)} - {"train"}
"""Options that need texts to choose from, or whole texts."""

_DRAWN = names(Drawing) - names(Lengths)
"""Options of drawing a text, which a search does not use."""

_WEIGHED = _DRAWN - {"denoising_steps", "repetition_penalty", "no_repeat_ngram_size", "seed", "stop", "fast"}
"""Those of them that change how a token is drawn from its distribution."""


def generate(
    context: typer.Context,
    run: Run,
    writing: Annotated[Writing, Panel("What to write")],
    drawing: Annotated[Drawing, Panel("Sampling")],
    beam: Annotated[Beam | None, Panel("Beam search", switch="num_beams")],
    constraints: Annotated[Constraints, Panel("Constraints")],
    kept: Annotated[Kept, Panel("Constraints")],
    latent: Annotated[Latent, Panel("Latents")],
    grid: Annotated[images.Grid, Panel("Images")],
    result: Annotated[Result, Panel("Output")],
    opening: Opening,
) -> None:
    """Generate texts with a trained run.

    One text a line; of runs whose texts may hold line breaks JSON Lines, and on a terminal dashes between them. With
    --json one object a line. --out FILE.jsonl gives JSON Lines of any run. Objects hold the conditions too, by the
    names of the run's fields, so that score reads them back.
    Text k depends on the weights, the options, the seed and k alone: asking for more gives the same texts and more.

    Options marked (masked) hold token by token: every text meets them, but not as often as the model would write it
    among such texts. --match is exact: it draws until it is met.

    A run of images takes --count, --seed, --temperature, --method, --out, --json and the options of images and run.
    """
    if makes_images(run):
        known = {"run", "count", "seed", "method", "temperature", "out", "json", *names(images.Grid, Open)}
        images.refuse(context, *known)
        images.generate(
            run,
            count=writing.count,
            seed=drawing.seed,
            method=latent.method,
            temperature=drawing.temperature,
            grid=grid,
            out=result.out,
            json=result.json,
            opening=opening,
        )
        return
    _check(context, writing, drawing, beam, kept, latent, result)
    if grid.columns or grid.scale or grid.by_class:
        raise output.CommandError("--columns, --scale and --by-class arrange images, and this run writes text")
    generator = open_run(run, opening)
    if grid.label:
        raise output.CommandError("--label is for images; conditions of texts are lines of --source FILE")
    with output.wrong_values(), reading_named(options=False):
        if result.stream:
            how = vars(drawing) | vars(constraints) | {"latents": _latents(generator, latent)}
            _stream(generator, writing.prompt, how)
            return
        kind = "" if result.json else output.kind_of_texts(result.out, one_line=generator.one_line)
        blocks = _blocks(
            generator, writing, drawing, beam, constraints, kept, latent, details=result.json and generator.exact
        )
        if kind == "people":
            blocks = iter([[text for block in blocks for text in block]])
        count = 0
        with output.saving(result.out) as save:
            for texts in blocks:
                rows = [row_for(generator, text.text, text.source) for text in texts]
                if result.json:
                    save("".join(map(output.json_line, _detailed(texts, rows, drawing.seed))))
                else:
                    save(output.formatted([text.text for text in texts], kind, rows))
                count += len(texts)
    output.say_json_lines(kind, result.out)
    if result.out is not None:
        output.say(f"{count} texts written to {result.out}")


def _check(
    context: typer.Context,
    writing: Writing,
    drawing: Drawing,
    beam: Beam | None,
    kept: Kept,
    latent: Latent,
    result: Result,
) -> None:
    """Raise CommandError for options that exclude each other or take no effect, before the run is opened."""
    asked = {"--prompt": writing.prompt, "--prompts": writing.prompts, "--source": writing.source}
    given = [name for name, value in asked.items() if value]
    if len(given) > 1:
        raise output.CommandError(f"give {' or '.join(given)}, not both")
    if latent.method not in _METHODS:
        raise output.CommandError(f"--method must be {' or '.join(_METHODS)} for text, got {latent.method!r}")
    if latent.strength != 1 and not latent.steer:
        raise output.CommandError("--strength takes no effect without --steer")
    if kept.train and not (kept.novel or kept.no_copy):
        raise output.CommandError("--train takes no effect without --novel or --no-copy")
    if kept.attempts != Selection.attempts and not (kept.unique or kept.novel or kept.match):
        raise output.CommandError("--attempts takes no effect without --unique, --novel or --match")
    Expression(kept.match or "", f"--match {kept.match!r}")
    if result.stream:
        why = "--stream shows one text while it is written"
        refuse(context, why, {*_SEVERAL, "num_beams", "out", "json"})
    if beam:
        refuse(context, "--num-beams searches and draws nothing", {*names(Kept, Latent), *_DRAWN} - {"train"})
        if writing.count > beam.num_beams:
            most = f"--count must be at most {beam.num_beams}, the width of --num-beams"
            raise output.CommandError(f"{most}, got {writing.count}")
    if drawing.sure:
        name = "--greedy" if drawing.greedy else "--temperature 0"
        own = {"greedy"} if drawing.greedy else {"temperature"}
        refuse(context, f"{name} takes the likeliest token", _WEIGHED - own)


_BLOCK = 4096
"""Texts held at once, where they do not depend on each other."""


def _blocks(
    generator: "TextGenerator",
    writing: Writing,
    drawing: Drawing,
    beam: Beam | None,
    constraints: Constraints,
    kept: Kept,
    latent: Latent,
    *,
    details: bool,
) -> Iterator[list["Text"]]:
    """Yield the texts that the options ask for; those of one prompt among which none are chosen, block by block."""
    from seqgen.core.dist import world
    from seqgen.data.corpus import is_corpus
    from seqgen.data.text import read_lines

    options: dict[str, Any] = {"count": writing.count, "prompt": writing.prompt, **vars(constraints)}
    if writing.source:
        options["sources"] = read_sources(writing.source, generator.settings.data.source)
    if writing.prompts:
        options["prompts"] = read_lines(writing.prompts)
    if beam:
        yield generator.search(**options, **vars(beam))
        return
    files = (kept.train,) if kept.train else ()
    if kept.novel:
        own = not kept.train or is_corpus(kept.train)  # a corpus folder is no text to read
        options["novel_against"] = (
            generator.own_text(files).train_lines if own else read_lines(training_file(kept.train))
        )
    options |= vars(drawing) | {name: getattr(kept, name) for name in names(Selection)} | {"details": details}
    with _Counter(writing.count * len(options.get("sources") or options.get("prompts") or [1])) as counter:
        latents = _latents(generator, latent)
        options |= {"train_files": files, "latents": latents}
        together = writing.source or writing.prompts or kept.unique or kept.novel or kept.match is not None
        step = writing.count if together else min(writing.count, _BLOCK * world())
        for first in range(0, max(writing.count, 1), max(step, 1)):
            options["count"] = min(step, writing.count - first)
            counter.before = first
            yield generator.texts(first=first, on_text=counter, **options)


def _latents(generator: "TextGenerator", chosen: Latent) -> "Latents | None":
    """Return where the latents of a text VAE come from, if not from its prior."""
    from seqgen.engine.latent import LatentSpace

    if chosen.method == "prior" and not chosen.steer:
        return None
    space = LatentSpace(generator)
    mixture = space.mixture() if chosen.method == "mixture" else None
    if chosen.steer:
        conditions = [space.condition(words) for words in chosen.steer]
        return space.steered(conditions, strength=chosen.strength, mixture=mixture)
    assert mixture is not None
    return space.of_mixture(mixture)


def read_sources(file: str, fields: str) -> list[str]:
    """Read the conditions in a file: its lines, or of .jsonl and .tsv files the source fields, joined by tabs."""
    from seqgen.data.text import has_fields, read_lines

    if not has_fields([file]):
        return read_lines(file)
    columns = [read_lines(file, field=name.strip()) for name in fields.split(",")]
    return ["\t".join(values) for values in zip(*columns, strict=True)]


def _stream(generator: "TextGenerator", prompt: str, options: dict[str, Any]) -> None:
    output.write(prompt)
    for piece in generator.stream(prompt=prompt, **options):
        output.write(piece)
        output.flush()
    output.write("\n")


def _detailed(texts: Sequence["Text"], rows: Sequence[dict[str, str]], seed: int) -> Iterator[dict[str, Any]]:
    """Yield the rows with what is known of each text; its seed and index reproduce it alone."""
    for text, row in zip(texts, rows, strict=True):
        known = dataclasses.asdict(text)
        del known["source"]  # its fields stand in the row
        yield {"seed": seed, **known, **row}


class _Counter:
    """How many of many texts are done, on a terminal only."""

    def __init__(self, wanted: int) -> None:
        self._wanted, self.before = wanted, 0
        self._shown = wanted > 1000 and sys.stderr.isatty()

    def __enter__(self) -> "_Counter":
        return self

    def __call__(self, done: int) -> None:
        if self._shown:
            sys.stderr.write(f"\r{self.before + done}/{self._wanted} texts")
            sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        if self._shown:
            sys.stderr.write("\r\033[K")
