"""`seqgen play`: a run at the terminal: type a beginning, get texts, change how they are drawn, keep what you like.

seqgen play runs/captions
"""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from seqgen.cli import output
from seqgen.cli.options import Opening, Run, open_run, row_for
from seqgen.core.errors import ConfigError, SeqgenError
from seqgen.core.options import Choice, Option

if TYPE_CHECKING:
    from seqgen.engine.generate import TextGenerator

_HELP = """Type the beginning of a text, or nothing, and Enter. A line with [MASK] is filled; of a run with
conditions the line is the condition, several fields separated by tabs. A beginning with / is typed with two.
/again            other texts for the same line: the seed goes up by one
/keep N [FILE]    append text N to FILE, or the last one used, at first kept.txt
/NAME VALUE       set an option: {options}
/options          show them
/quit             end, as Ctrl-D does; Ctrl-C stops the present text"""


@dataclass(frozen=True, kw_only=True)
class Playing(Choice):
    """How texts are drawn, the names of the options of `generate`."""

    count: Annotated[int, Option(ge=1)] = 1
    """How many texts."""
    seed: int = 0
    """Seed of the random numbers."""
    max_new_tokens: Annotated[int, Option(ge=0)] = 0
    """Tokens after the beginning at most; 0: the run's own limit."""


def play(run: Run, *, opening: Opening) -> None:
    """Try a run at the terminal, text by text.

    Type a beginning, get texts; /help lists the commands, such as /temperature 0.7, /count 3 and /keep 1. Texts go to
    standard output, everything else to standard error, and lines may come through a pipe. The texts are those of
    generate with the same options.
    """
    session = _Session(open_run(run, opening))
    output.say("type a beginning and Enter; /help for commands, Ctrl-D to end")
    for line in _lines():
        try:
            with output.wrong_values():
                if not session.obey(line):
                    return
        except KeyboardInterrupt:
            output.write("\n")
            output.say("stopped")
        except output.OutputError:
            raise
        except SeqgenError as error:
            output.say(f"error: {error}")
        except OSError as error:
            output.say(f"error: {error.filename}: {error.strerror}")
        output.flush()


def _lines() -> Iterator[str]:
    """Yield the lines that are typed, with history and editing where the system has them, or come through a pipe."""
    typed = sys.stdin.isatty() and sys.stdout.isatty()
    if typed:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - from here on `input` edits
    while True:
        try:
            line = input("> ") if typed else sys.stdin.readline()
        except EOFError:
            output.say("")
            return
        except KeyboardInterrupt:
            if not typed:
                raise
            output.say("")  # there is no text to stop
            continue
        if not (typed or line):
            return
        yield line.removesuffix("\n")


@dataclass
class _Session:
    """What a person has set, and the texts of the last answer."""

    generator: "TextGenerator"
    options: Playing = field(default_factory=Playing)
    line: str | None = None
    """The last beginning."""
    texts: list[str] = field(default_factory=list)
    kept: Path | None = None

    def __post_init__(self) -> None:
        self.streams = self.generator.streams

    def obey(self, line: str) -> bool:
        """Do what a line asks; False to end. CommandError for a command that means nothing."""
        if not line.startswith("/") or line.startswith("//"):
            self.line = line.removeprefix("/")
            self._write()
            return True
        name, _, value = line[1:].strip().partition(" ")
        name, value = name.replace("-", "_"), value.strip()
        if name in ("quit", "exit"):
            return False
        if name == "help":
            sys.stderr.write(_HELP.format(options=", ".join(map(_typed, vars(self.options)))) + "\n")
        elif name == "options":
            output.say("  ".join(f"{_typed(name)} {value}" for name, value in vars(self.options).items()))
        elif name == "again":
            if self.line is None:
                raise output.CommandError("there is no beginning yet; type one")
            self.options = replace(self.options, seed=self.options.seed + 1)
            self._write()
        elif name == "keep":
            self._keep(value)
        elif name in vars(self.options):
            self._set(name, value)
        else:
            raise output.CommandError(f"unknown command /{name}; /help lists them, and // begins a text with /")
        return True

    def _set(self, name: str, value: str) -> None:
        from seqgen.core import config

        if value:
            try:
                self.options = config.build(Playing, vars(self.options) | {name: config.Typed(value)}, section="sample")
            except ConfigError as error:
                raise output.CommandError(str(error).replace(f"sample.{name}", _typed(name))) from None
        output.say(f"{_typed(name)} {getattr(self.options, name)}")

    def _write(self) -> None:
        """Write the texts of the present line, those that `generate` or `fill` writes."""
        assert self.line is not None
        self.texts = []
        for text in self._answers(self.line):
            self.texts.append(text)

    def _answers(self, line: str) -> Iterator[str]:
        """Yield whole texts, which are written here piece by piece where the run can."""
        from seqgen.engine.filling import MASK

        generator, asked = self.generator, vars(self.options)
        if MASK in line:
            fits = {name: value for name, value in asked.items() if name != "max_new_tokens"}
            for one in generator.fill([line], **fits):
                self._show(one.text)
                yield one.text
        elif generator.settings.data.source:
            for text in generator.generate(sources=[line], **asked):
                self._show(text)
                yield text
        elif not self.streams:
            for text in generator.generate(prompt=line, **asked):
                self._show(text)
                yield text
        else:
            drawn = {name: value for name, value in asked.items() if name != "count"}
            for k in range(self.options.count):
                pieces = generator.stream(prompt=line, index=k, **drawn)
                text = line + next(pieces, "")  # what is wrong with the line is told before any of it is shown
                self._begin()
                output.write(text)
                output.flush()
                for piece in pieces:
                    output.write(piece)
                    output.flush()
                    text += piece
                self._end(text)
                yield text

    def _show(self, text: str) -> None:
        self._begin()
        output.write(text)
        self._end(text)

    def _begin(self) -> None:
        """On a terminal, number several texts; what a pipe gets are texts alone."""
        if self.options.count > 1 and sys.stdout.isatty():
            output.write(f"{len(self.texts) + 1}  ")

    def _end(self, text: str) -> None:
        output.write("" if text.endswith("\n") else "\n")
        if "\n" in text:
            output.write("----\n")

    def _keep(self, value: str) -> None:
        """Append a text to a file: a line, or an object of JSON Lines where texts of the run may hold line breaks."""
        number, _, file = value.partition(" ")
        if not number.isdecimal() or not 1 <= int(number) <= len(self.texts):
            have = f"1 to {len(self.texts)}" if self.texts else "none yet"
            raise output.CommandError(f"/keep takes the number of a text, {have}; got {number!r}")
        one_line = self.generator.one_line
        self.kept = Path(file.strip()) if file.strip() else self.kept or Path("kept.txt" if one_line else "kept.jsonl")
        text = self.texts[int(number) - 1]
        source = self.line or "" if self.generator.settings.data.source else ""
        as_lines = one_line and self.kept.suffix != ".jsonl"
        with self.kept.open("a", encoding="utf-8") as kept:
            kept.write(f"{text}\n" if as_lines else output.json_line(row_for(self.generator, text, source)))
        output.say(f"kept in {self.kept}")


def _typed(name: str) -> str:
    return f"/{name.replace('_', '-')}"
