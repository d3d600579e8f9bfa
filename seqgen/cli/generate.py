"""`seqgen generate`: text from a run, one text a line, or as JSON with the probability of every token; or images."""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqgen.cli import images, output
from seqgen.cli.options import (
    Device,
    Json,
    Module,
    Run,
    Seed,
    Step,
    makes_images,
    open_run,
    reading_named,
    refuse,
    row_for,
    training_file,
)
from seqgen.core.patterns import Expression

if TYPE_CHECKING:
    from seqgen.engine.generate import Text, TextGenerator
    from seqgen.engine.latent import Source

_METHODS = ("prior", "mixture")

_SEVERAL = {"count", "prompts", "source", "best_of", "unique", "novel", "match", "no_copy"}
"""Parameters that need texts to choose from, or whole texts."""

_WEIGHED = {"temperature", "top_k", "top_p", "min_p", "typical_p", "greedy"}
"""Parameters that say how a token is drawn from its distribution."""

_DRAWN = {"seed", "stop", "method", "steer", "strength", "fast", "repetition_penalty", "no_repeat_ngram_size"}
"""Other parameters that a search has no use for."""


def generate(
    context: typer.Context,
    run: Run,
    prompt: Annotated[str, typer.Option("--prompt", metavar="TEXT", help="Every text begins with it.")] = "",
    prompts: Annotated[
        str,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="Prompts, one a line, or the field text of .jsonl, with line breaks: --count texts for each.",
        ),
    ] = "",
    source: Annotated[
        str, typer.Option("--source", metavar="FILE", help="Conditions, one a line: each is answered --count times.")
    ] = "",
    count: Annotated[int, typer.Option("--count", metavar="N", help="How many texts, or images.")] = 1,
    seed: Seed = 0,
    label: images.Label = None,
    temperature: Annotated[
        float, typer.Option("--temperature", metavar="T", help="Below 1 surer, above 1 wilder; 0 is greedy.")
    ] = 1.0,
    top_p: Annotated[
        float, typer.Option("--top-p", metavar="P", help="Only the likeliest tokens that hold this mass.")
    ] = 1.0,
    top_k: Annotated[int, typer.Option("--top-k", metavar="K", help="Only the K likeliest tokens; 0: all.")] = 0,
    min_p: Annotated[
        float, typer.Option("--min-p", metavar="P", help="Only tokens at least P times as likely as the likeliest.")
    ] = 0.0,
    typical_p: Annotated[
        float,
        typer.Option("--typical-p", metavar="P", help="Only the tokens of most typical information, to this mass."),
    ] = 0.0,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the likeliest token.")] = False,
    stop: Annotated[
        list[str] | None,
        typer.Option("--stop", metavar="TEXT", help="A text ends before this string; may be repeated."),
    ] = None,
    min_new_tokens: Annotated[
        int, typer.Option("--min-new-tokens", metavar="N", help="Tokens after the prompt at least.")
    ] = 0,
    max_new_tokens: Annotated[
        int,
        typer.Option("--max-new-tokens", metavar="N", help="Tokens after the prompt at most; 0: the run's own limit."),
    ] = 0,
    bad_words: Annotated[
        list[str] | None,
        typer.Option(
            "--bad-word", metavar="WORD", help="A word that must not appear (masked, see above); may be repeated."
        ),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option("--require", metavar="WORD", help="A word that must appear (masked, see above); may be repeated."),
    ] = None,
    template: Annotated[
        str, typer.Option("--template", metavar="TEXT", help="The text, ? for each free character (masked, see above).")
    ] = "",
    pattern: Annotated[
        str, typer.Option("--pattern", metavar="REGEX", help="The whole text matches this (masked, see above).")
    ] = "",
    no_copy: Annotated[
        int, typer.Option("--no-copy", metavar="N", help="Never N tokens in a row that stand in the training text.")
    ] = 0,
    best_of: Annotated[
        int, typer.Option("--best-of", metavar="N", help="The likeliest of N texts, its end or --stop counted.")
    ] = 1,
    num_beams: Annotated[
        int, typer.Option("--num-beams", metavar="WIDTH", help="Search the --count likeliest texts; nothing is drawn.")
    ] = 0,
    repetition_penalty: Annotated[
        float, typer.Option("--repetition-penalty", metavar="X", help="Above 1: tokens already there become rarer.")
    ] = 1.0,
    no_repeat_ngram_size: Annotated[
        int,
        typer.Option(
            "--no-repeat-ngram-size", metavar="N", help="No N tokens in a row appear twice in a text; 0: off."
        ),
    ] = 0,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="NAME",
            help="Where latents come from: prior, mixture (VAE), metropolis, langevin (GAN: better single images, not "
            "a better set).",
        ),
    ] = "prior",
    steer: Annotated[
        list[str] | None,
        typer.Option(
            "--steer",
            metavar="CONDITION",
            help="Codes of texts with length=12, contains=WORD or label=YES_FILE:NO_FILE; may be repeated (text-vae).",
        ),
    ] = None,
    strength: Annotated[float, typer.Option("--strength", metavar="X", help="Weight of what --steer asks for.")] = 1.0,
    unique: Annotated[bool, typer.Option("--unique", help="No text twice.")] = False,
    novel: Annotated[bool, typer.Option("--novel", help="No line of the training text.")] = False,
    train: Annotated[
        str, typer.Option("--train", metavar="FILE", help="The training text for --novel, if it has moved.")
    ] = "",
    match: Annotated[
        str | None,
        typer.Option("--match", metavar="REGEX", help="Only texts in which this is found, by drawing again: exact."),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Quicker for one text; last bits may then depend on --count.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Into this file. Of images: .png a grid, .npz, a folder of files."),
    ] = None,
    columns: Annotated[
        int, typer.Option("--columns", metavar="N", help="Images in a row of the grid; 0: about as many as rows.")
    ] = 0,
    scale: Annotated[
        int,
        typer.Option("--scale", metavar="N", help="Times a grid enlarges its images; 0: to 48 pixels, one image not."),
    ] = 0,
    by_class: Annotated[bool, typer.Option("--by-class", help="A row of the grid for each class.")] = False,
    json: Json = False,
    stream: Annotated[bool, typer.Option("--stream", help="Show one text while it is written.")] = False,
    step: Step = None,
    device: Device = "auto",
    module: Module = None,
) -> None:
    """Write texts with a trained run.

    One text a line; of runs whose texts may hold line breaks JSON Lines, and on a terminal dashes between them. With
    --json one object a line. --out FILE.jsonl gives JSON Lines of any run. Objects hold the conditions too, by the
    names of the run's fields, so that score reads them back.
    Text k depends on the weights, the options, the seed and k alone: asking for more gives the same texts and more.

    --bad-word, --require, --template, --pattern and --no-copy mask, token by token, what would break them: every text
    meets them, but not as often as the model would write it among such texts. --match is exact: it draws until it is
    met.

    A run of images takes --count, --seed, --label, --method, --temperature, --out, --columns, --scale, --by-class,
    --json, --step and --device.
    """
    output.at_least(1, count=count, best_of=best_of)
    output.at_least(0, num_beams=num_beams, no_copy=no_copy, temperature=temperature)
    output.at_least(0, columns=columns, scale=scale)
    if makes_images(run):
        known = ("run", "count", "seed", "label", "method", "temperature", "out", "json")
        images.refuse(context, *known, "columns", "scale", "by_class", "step", "device", "module")
        images.generate(
            run,
            count=count,
            seed=seed,
            label=label or (),
            method=method,
            temperature=temperature,
            out=out,
            columns=columns,
            scale=scale,
            by_class=by_class,
            json=json,
            opening=(step, device, module),
        )
        return
    if columns or scale or by_class:
        raise output.CommandError("--columns, --scale and --by-class arrange images, and this run writes text")
    given = [name for name, value in (("--prompt", prompt), ("--prompts", prompts), ("--source", source)) if value]
    if len(given) > 1:
        raise output.CommandError(f"give {' or '.join(given)}, not both")
    if method not in _METHODS:
        raise output.CommandError(f"--method must be {' or '.join(_METHODS)} for text, got {method!r}")
    if strength != 1 and not steer:
        raise output.CommandError("--strength takes no effect without --steer")
    if train and not (novel or no_copy):
        raise output.CommandError("--train takes no effect without --novel or --no-copy")
    Expression(match or "", f"--match {match!r}")  # a wrong one is told before the run is opened
    if stream:
        refuse(context, "--stream shows one text while it is written", {*_SEVERAL, "num_beams", "out", "json"})
    if num_beams:
        refuse(
            context,
            "--num-beams searches and draws nothing",
            {*_SEVERAL - {"count", "prompts", "source"}, *_DRAWN, *_WEIGHED},
        )
        if count > num_beams:
            raise output.CommandError(f"--count must be at most {num_beams}, the width of --num-beams, got {count}")
    if greedy or temperature == 0:
        name = "--greedy" if greedy else "--temperature 0"
        refuse(context, f"{name} takes the likeliest token", _WEIGHED - ({"greedy"} if greedy else {"temperature"}))
    from seqgen.data.corpus import is_corpus
    from seqgen.data.text import read_lines

    generator = open_run(run, step, device, module)
    if label:
        raise output.CommandError("--label is for images; conditions of texts are lines of --source FILE")
    options: dict[str, Any] = {
        "seed": seed,
        "stop": tuple(stop or ()),
        "fast": fast,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "typical_p": typical_p,
        "greedy": greedy,
        "repetition_penalty": repetition_penalty,
        "no_repeat_ngram_size": no_repeat_ngram_size,
    }
    limits: dict[str, Any] = {
        "prompt": prompt,
        "min_new_tokens": min_new_tokens,
        "max_new_tokens": max_new_tokens,
        "bad_words": tuple(bad_words or ()),
        "require": tuple(require or ()),
        "template": template,
        "pattern": pattern,
    }
    with output.wrong_values(), reading_named(options=False):
        if steer or method != "prior":
            options["latents"] = _latents(generator, method, steer or [], strength)
        if stream:
            _stream(generator, prompt, options | limits)
            return
        kind = "" if json else output.kind_of_texts(out, one_line=generator.one_line)
        if source:
            limits["sources"] = read_sources(source, generator.settings.data.source)
        if prompts:
            limits["prompts"] = read_lines(prompts)
        if num_beams:
            texts = generator.search(count, num_beams=num_beams, **limits)
        else:
            options |= {"unique": unique, "match": match, "details": json, "best_of": best_of, "no_copy": no_copy}
            options["train_files"] = (train,) if train else ()
            if novel:
                own = not train or is_corpus(train)  # a corpus folder is no text to read
                options["novel_against"] = (
                    generator.own_text(options["train_files"]).train_lines if own else read_lines(training_file(train))
                )
            with _Counter(count * len(limits.get("sources") or limits.get("prompts") or [1])) as counter:
                texts = generator.texts(count, on_text=counter, **options, **limits)
    rows = [row_for(generator, text.text, text.source) for text in texts]
    if json:
        written = "".join(map(output.json_line, _detailed(texts, rows, seed)))
    else:
        written = output.of_texts([text.text for text in texts], kind, out, rows)
    if out is None:
        output.write(written)
    else:
        from seqgen.core import files

        files.write_text(out, written)
        output.say(f"{len(texts)} texts written to {out}")


def _latents(generator: "TextGenerator", method: str, steer: Sequence[str], strength: float) -> "Source":
    """Where the latents of a text VAE come from, if not from its prior."""
    from seqgen.engine.latent import LatentSpace

    space = LatentSpace(generator)
    mixture = space.mixture() if method == "mixture" else None
    if steer:
        return space.steered([space.condition(words) for words in steer], strength=strength, mixture=mixture)
    assert mixture is not None
    return space.of_mixture(mixture)


def read_sources(file: str, fields: str) -> list[str]:
    """The conditions in a file: its lines, or of .jsonl and .tsv files the run's source fields, joined by tabs."""
    from seqgen.data.text import has_fields, read_lines

    if not has_fields([file]):
        return read_lines(file)
    columns = [read_lines(file, field=name.strip()) for name in fields.split(",")]
    return ["\t".join(values) for values in zip(*columns, strict=True)]


def _stream(generator: "TextGenerator", prompt: str, options: dict[str, Any]) -> None:
    output.write(prompt)
    for piece in generator.stream(**options):
        output.write(piece)
        output.flush()
    output.write("\n")


def _detailed(texts: Sequence["Text"], rows: Sequence[dict[str, str]], seed: int) -> Iterator[dict[str, Any]]:
    """The rows with what is known of each text; with its seed and index it can be made again alone."""
    for text, row in zip(texts, rows, strict=True):
        known = dataclasses.asdict(text)
        del known["source"]  # its fields stand in the row
        yield {"seed": seed, **known, **row}


class _Counter:
    """How many of many texts are done, on a terminal only."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._shown = wanted > 1000 and sys.stderr.isatty()

    def __enter__(self) -> Callable[[int], None]:
        return self._show

    def _show(self, done: int) -> None:
        if self._shown:
            sys.stderr.write(f"\r{done}/{self._wanted} texts")
            sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        if self._shown:
            sys.stderr.write("\r\033[K")
