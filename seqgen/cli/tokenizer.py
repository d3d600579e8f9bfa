"""`seqgen tokenizer train|encode|decode`: tokenizers by themselves, without a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqgen.cli import output
from seqgen.cli.options import Command, Encoding, Field, Format, Json, Reading

if TYPE_CHECKING:
    from seqgen.data.tokenizers import Tokenizer

app = typer.Typer(
    name="tokenizer",
    help="Train a tokenizer; turn text into ids and back.",
    callback=output.help_or_command,
    invoke_without_command=True,
)

Where = Annotated[
    Path, typer.Argument(metavar="DIR", help="A run, or a folder that `tokenizer train` wrote.", show_default=False)
]
File = Annotated[str, typer.Argument(metavar="FILE", help="File of lines; - is standard input.")]


@app.command(cls=Command)
def train(
    words: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help="Files of text, and settings such as tokenizer.kind=bpe."),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Save the tokenizer in this folder.", show_default=False)
    ],
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Seed that draws a part of very large text.")] = 1,
    json: Json = False,
) -> None:
    """Learn a tokenizer from text and save it as a folder."""
    from seqgen.core import config
    from seqgen.core.errors import ConfigError
    from seqgen.data.prepare import DataConfig, reading
    from seqgen.data.text import read_records
    from seqgen.data.tokenizers import TokenizerConfig, train_tokenizer

    files = [word for word in words if "=" not in word]
    if not files:
        raise output.CommandError("FILE is missing; see: seqgen tokenizer train --help")
    given = config.parse_overrides(word for word in words if "=" in word)
    for section, options in given.items():
        if section not in ("tokenizer", "data"):
            name = f"{section}.{next(iter(options))}".removeprefix(".")
            raise ConfigError(f"unknown option {name}; tokenizer.* and data.* matter here: seqgen config lm lists them")
    chosen = config.build(TokenizerConfig, given.get("tokenizer", {}), section="tokenizer")
    if out.exists() and any(out.iterdir()):
        raise output.CommandError(f"{out} exists and is not empty; use another --out, or remove it")
    data = config.build(DataConfig, given.get("data", {}), section="data")
    tokenizer = train_tokenizer(chosen, read_records(files, **reading(data)).texts, seed=seed)
    tokenizer.save(out)
    if json:
        made = {"tokenizer": str(out), "kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size}
        output.write(output.json_line(made))
    said = f"{tokenizer.kind} tokenizer of {tokenizer.vocab_size} ids in {out}"
    output.say(f"{said}; next: seqgen corpus build FILE --tokenizer {out} --out DIR")


@app.command(cls=Command)
def encode(
    where: Where,
    file: File = "-",
    field: Field = "",
    format: Format = "auto",
    encoding: Encoding = "auto",
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Write tokens as they are stored, separated by tabs.")
    ] = False,
    json: Json = False,
) -> None:
    """Write the ids of every line, separated by spaces.

    Special ids (start, end) are not added.
    """
    tokenizer = _load(where)
    for row in tokenizer.encode(Reading([file], field, format, encoding).lines(file)):
        ids = row.tolist()
        shown = [tokenizer.id_to_token(i) for i in ids] if tokens else ids
        output.write(output.json_line(shown) if json else ("\t" if tokens else " ").join(map(str, shown)) + "\n")


@app.command(cls=Command)
def decode(where: Where, file: File = "-", json: Json = False) -> None:
    """Write the text of every line of ids.

    One text a line; of tokenizers whose tokens may hold line breaks JSON Lines, and on a terminal dashes between them.
    """
    from seqgen.data.formats import UNSAFE
    from seqgen.data.text import read_lines

    tokenizer = _load(where)
    rows = []
    for number, line in enumerate(read_lines(file), 1):
        words = line.strip().removeprefix("[").removesuffix("]").replace(",", " ").split()
        wrong = next((word for word in words if not word.isdecimal()), None)
        if wrong is not None:
            raise output.CommandError(
                f"{file}, line {number}: {wrong!r} is no id; expected numbers, as encode writes them"
            )
        rows.append([int(word) for word in words])
    texts = tokenizer.decode(rows)
    if json:
        output.write("".join(output.json_line({"text": text}) for text in texts))
        return
    kind = output.kind_of_texts(None, one_line=not any(map(UNSAFE.search, tokenizer.surfaces())))
    output.write(output.of_texts(texts, kind, None, [{"text": text} for text in texts]))


def _load(where: Path) -> "Tokenizer":
    from seqgen.data.tokenizers import load_tokenizer

    inner = where / "tokenizer"
    return load_tokenizer(inner if inner.is_dir() else where)
