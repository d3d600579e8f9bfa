"""`seqgen corpus list|inspect|build|sample|get`: text to train on, and what to know of it before."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from seqgen.cli import output
from seqgen.cli.options import Command, Encoding, Field, Format, Json, check_output, reading_named

app = typer.Typer(
    name="corpus",
    help="Find, make, fetch and inspect text.",
    callback=output.help_or_command,
    invoke_without_command=True,
)

Out = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Write into this file instead of standard output.")
]


@app.command("list", cls=Command)
def list_(json: Json = False) -> None:
    """List the text that can be had by name.

    Corpora and grammars that come with the package, what build makes, and public sets, with the place where they lie.
    """
    from seqgen.data.corpora import builders, grammar, known

    rows = [(name, "shipped", str(path)) for name, path in known.shipped().items()]
    rows += [(name, "grammar", f"seqgen corpus sample {name}") for name in grammar.grammars()]
    rows += [(name, "built here", f"seqgen corpus build {name}") for name in builders.BUILDERS]
    for name, public in known.read_catalogue().items():
        if not public.shipped:
            at_hand = str(public.folder() / public.files[0].path)
            where = at_hand if public.at_hand() else f"seqgen corpus get {name}"
            rows.append((name, f"public {public.kind}", where))
    if json:
        for name, kind, where in rows:
            output.write(output.json_line({"name": name, "kind": kind, "where": where}))
    else:
        output.write(output.table(["name", "kind", "where"], rows, left=(0, 1, 2)))


@app.command(cls=Command)
def inspect(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help="Files or folders of text; - is standard input.", show_default=False),
    ],
    field: Field = "text",
    format: Format = "auto",
    encoding: Encoding = "auto",
    json: Json = False,
) -> None:
    """Show what to know of a text before training on it."""
    from seqgen.data.corpora.known import expanded
    from seqgen.data.inspect import inspect_files

    with reading_named():
        found = inspect_files(expanded(files, "train"), field=field, format=format, encoding=encoding)
    if json:
        output.write(output.json_line(found.to_dict()))
    else:
        rows = [(row.name, row.value, row.advice) for row in found.rows()]
        output.write(output.table(["", "", ""], rows, left=(0, 1, 2)).split("\n", 2)[2])


@app.command(cls=Command)
def build(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE",
            help="Files or folders of text, and settings such as tokenizer.kind=bpe; or python-docs, python-code.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Write the corpus into this folder; python-docs and -code into a file."
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option("--tokenizer", metavar="DIR", help="Use the tokenizer of this run or folder."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Seed that draws a part of very large text.")] = 1,
    workers: Annotated[
        int,
        typer.Option("--workers", metavar="N", help="Processes that make ids; the corpus is the same for any number."),
    ] = 1,
    json: Json = False,
) -> None:
    """Build a corpus folder of ids from text of any size.

    It opens at once, and a build that broke off goes on when its command is repeated.
    Training takes the folder in the place of the text: seqgen train lm --data DIR. Or text from this machine's own
    Python. python-docs: sentences of Python's documentation. python-code: the source of its standard library. Both
    differ with the version of Python.
    """
    from seqgen.core import config
    from seqgen.core.config import suggestion
    from seqgen.core.errors import ConfigError
    from seqgen.data.corpora.builders import BUILDERS
    from seqgen.data.corpora.known import expanded, named
    from seqgen.data.packing import build_corpus
    from seqgen.data.prepare import DataConfig
    from seqgen.data.tokenizers import TokenizerConfig, saved_in

    output.at_least(1, workers=workers)
    files = [word for word in words if "=" not in word]
    if len(files) == 1 and not Path(files[0]).exists() and (files[0] in BUILDERS or out is None):
        if files[0] not in BUILDERS:
            raise output.CommandError(f"unknown corpus {files[0]}{suggestion(files[0], BUILDERS)}")
        if out is not None:
            check_output("--out", out, [], folder=False)
        _write(BUILDERS[files[0]](), out, json=json)
        return
    if not files:
        raise output.CommandError("FILE is missing; see: seqgen corpus build --help")
    if out is None:
        raise output.CommandError("--out DIR is missing: the folder of the corpus; see: seqgen corpus build --help")
    given = config.parse_overrides(word for word in words if "=" in word)
    for section, options in given.items():
        if section not in ("data", "tokenizer"):
            name = f"{section}.{next(iter(options))}".removeprefix(".")
            raise ConfigError(f"unknown option {name}; data.* and tokenizer.* matter here: seqgen config lm lists them")
    if tokenizer is not None and "tokenizer" in given:
        raise ConfigError(f"--tokenizer {tokenizer} and tokenizer.{next(iter(given['tokenizer']))}: give one")
    needed: dict[str, Any] = {}
    for entry in filter(None, (named(name, "text") for name in files)):
        needed = config.merge(needed, entry.settings)
    if tokenizer is not None:
        needed.pop("tokenizer", None)
    given = config.merge(needed, given)
    made = build_corpus(
        [str(file) for file in expanded(files, "train")],
        out,
        data=config.build(DataConfig, given.get("data", {}), section="data"),
        tokenizer=config.build(TokenizerConfig, given.get("tokenizer", {}), section="tokenizer"),
        tokenizer_folder=None if tokenizer is None else saved_in(tokenizer),
        seed=seed,
        workers=workers,
    )
    train, valid = made.meta["train"], made.meta["valid"]
    if json:
        tokens = {"train_tokens": train["tokens"], "valid_tokens": valid["tokens"]}
        output.write(output.json_line({"corpus": str(out), **tokens, "vocab_size": made.meta["vocab_size"]}))
    output.say(
        f"{train['tokens']:,} tokens to train on and {valid['tokens']:,} held out, {made.meta['tokenizer']['kind']} of "
        f"{made.meta['vocab_size']:,} ids, in {out}; next: seqgen train lm --data {out} --out RUN"
    )


@app.command(cls=Command)
def sample(
    grammar: Annotated[
        str,
        typer.Argument(
            metavar="GRAMMAR",
            help="Name of a grammar: captions, verse-zh, reviews, or a .toml file.",
            show_default=False,
        ),
    ],
    count: Annotated[int, typer.Option("--count", metavar="N", help="Number of lines.")] = 10,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Seed; line k depends on (seed, k) alone.")] = 1,
    out: Out = None,
    json: Json = False,
) -> None:
    """Write lines of a weighted grammar.

    A labelled grammar gives a header line first, and its lines are read as .tsv.
    """
    output.at_least(1, count=count)
    from seqgen.data.corpora.builders import grammar_lines
    from seqgen.data.corpora.grammar import Grammar

    if json and out is None:
        known = Grammar.load(grammar)
        names = ("label", "text") if known.labels else ("text",)
        for line in known.sample(count, seed):
            output.write(output.json_line(dict(zip(names, line.split("\t", len(names) - 1), strict=True))))
        return
    _write(grammar_lines(grammar, count, seed), out, json=json)


@app.command(cls=Command)
def get(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of a set that `corpus list` shows.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder of public sets; without it that of SEQGEN_DATA."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="WHEEL", help="The package that moses comes in, from pip download."),
    ] = None,
    json: Json = False,
) -> None:
    """Fetch a public set and print where its files lie.

    Their SHA-256 is checked, and an interrupted fetch goes on where it broke off.
    """
    from seqgen.data.corpora import known

    place = out or Path(os.environ.get("SEQGEN_DATA") or "data")
    if file is not None and name != "moses":
        raise output.CommandError("--file takes moses out of its package; other sets are fetched")
    if file is not None:
        from seqgen.data.corpora import moses

        found = moses.take(file, place)
    else:
        found = known.get(name, place, progress=_show_bytes if sys.stderr.isatty() else None)
    for path in found.values():
        output.write(output.json_line({"file": str(path)}) if json else f"{path}\n")
    output.say(
        f"train on it by its name: seqgen train MODEL --data {name} --out RUN"
        + ("" if place == Path(os.environ.get("SEQGEN_DATA") or "data") else f", with SEQGEN_DATA={place}")
    )


def _write(lines: Iterable[str], out: Path | None, *, json: bool) -> None:
    from seqgen.data.corpora.builders import write_lines

    if out is None:
        for line in lines:
            output.write(output.json_line({"text": line}) if json else line + "\n")
        return
    count = write_lines(out, lines)
    if json:
        output.write(output.json_line({"file": str(out), "lines": count}))
    output.say(f"{count} lines written to {out}")


def _show_bytes(name: str, done: int, total: int) -> None:
    of = f" of {total / 1e6:.1f}" if total else ""
    sys.stderr.write(f"\r\033[K{name}: {done / 1e6:.1f}{of} MB" + ("\n" if done == total else ""))
    sys.stderr.flush()
