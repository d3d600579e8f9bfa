"""The command `seqgen`: its commands, and its exit codes, and the messages of every error.

Exit codes: 0 ok, 1 a check failed or a loss is not finite, 2 usage or bad input, 3 a missing extra, 4 another process
of the same work was lost, 130 SIGINT, 141 whoever read the output has left, 143 SIGTERM.
"""

import atexit
import contextlib
import difflib
import gc
import logging
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Annotated, Any

import typer

from seqgen._version import __version__
from seqgen.cli import (
    compare,
    config,
    corpus,
    export,
    fill,
    generate,
    hugging_face,
    latent,
    mix,
    output,
    play,
    quality,
    refine,
    report,
    runs,
    score,
    serve,
    tokenizer,
    train,
)
from seqgen.cli.flags import with_flags
from seqgen.cli.options import Command
from seqgen.core.errors import PeerLostError, SeqgenError
from seqgen.core.log import abandon

# plain help: rich would take twice as long to draw it as everything else takes together
app = typer.Typer(name="seqgen", rich_markup_mode=None, pretty_exceptions_enable=False)
_COMMANDS: tuple[Callable[..., None], ...] = (
    train.train,
    hugging_face.import_,
    generate.generate,
    fill.fill,
    play.play,
    score.score,
    score.evaluate,
    score.bleu,
    score.self_bleu,
    compare.compare,
    compare.curve,
    mix.mix,
    refine.refine,
    report.report,
    runs.runs,
    export.export,
    serve.serve,
    config.config,
    config.doctor,
)
for command in _COMMANDS:
    name = command.__name__.rstrip("_").replace("_", "-")
    app.command(name, cls=score.BleuCommand if command in (score.bleu, score.self_bleu) else Command)(
        with_flags(command)
    )
app.add_typer(latent.app)
app.add_typer(tokenizer.app)
for command in (quality.filter_, quality.augment):
    corpus.app.command(command.__name__.rstrip("_"), cls=Command)(with_flags(command))
app.add_typer(corpus.app)

# the root of typer's errors of usage; where it lives depends on the version of typer, its first child does not
_UsageError: Any = typer.BadParameter.__base__


def _show_version(wanted: bool) -> None:
    if wanted:
        output.write(f"seqgen {__version__}\n")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def seqgen(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Neural sequence generation: train on text, sample, score, compare.

    \b
    seqgen train lm --data captions.txt --out runs/captions
    seqgen generate runs/captions --count 5 --seed 1
    seqgen evaluate runs/captions --references held-out.txt
    """
    output.help_or_command(context)


class _TerminatedError(BaseException):
    """End on SIGTERM: what is open is closed and what is half-written removed."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _TerminatedError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (`sys.argv` if none is given) and return its exit code; nothing is raised."""
    handler = logging.StreamHandler()
    handler.emit = _say_record  # type: ignore[method-assign]
    messages = logging.getLogger("seqgen")
    level = messages.level
    messages.addHandler(handler)
    messages.setLevel(logging.INFO)
    before: Any = None
    # a full collection looks at all that torch brought along, 80 ms a time and .35 s when the interpreter ends, and
    # finds nothing
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, 100 * old)
    atexit.register(gc.freeze)
    with warnings.catch_warnings():
        warnings.showwarning = _say_warning
        try:
            with contextlib.suppress(ValueError):  # not the main thread: signals belong to somebody else
                before = signal.signal(signal.SIGTERM, _terminate)
            return _run(arguments)
        finally:
            gc.set_threshold(young, middle, old)
            if before is not None:
                signal.signal(signal.SIGTERM, before)
            messages.removeHandler(handler)
            messages.setLevel(level)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = app(args=arguments, prog_name="seqgen", standalone_mode=False)
        output.flush()
        if "torch" in sys.modules:
            from seqgen.core import dist

            dist.stop()
        return int(code or 0)
    except SeqgenError as error:
        if isinstance(error, output.OutputError):
            abandon(sys.stdout)
        # the first process, which speaks otherwise, may be the one that was lost
        return _fail(error, error.exit_code, every_process=isinstance(error, PeerLostError))
    except _UsageError as error:
        return _fail(_usage(error, sys.argv[1:] if arguments is None else arguments), 2)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except _TerminatedError:
        return 143
    except output.PipeClosedError:
        abandon(sys.stdout)
        return 141
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or error, 2)
    except UnicodeError as error:
        return _fail(f"not UTF-8 ({error}); convert the text to UTF-8", 2)
    except Exception as error:
        if _is_out_of_memory(error):
            remedy = "lower train.batch, --count or the model's size"
            return _fail(f"out of memory ({_first_line(error)}); {remedy}", 2, every_process=True)
        if os.environ.get("SEQGEN_DEBUG") == "1":
            traceback.print_exc()
            return 1
        return _fail(
            f"{type(error).__name__}: {_first_line(error)}; this is a fault of seqgen, "
            "SEQGEN_DEBUG=1 before the command shows where",
            1,
            every_process=True,
        )


def _fail(message: object, code: int, *, every_process: bool = False) -> int:
    output.say(f"error: {message}", every_process=every_process)
    return code


def _usage(error: Any, arguments: Sequence[str]) -> str:
    """Rephrase typer's error: what was expected, what came, and where the help is."""
    kind, context = type(error).__name__, error.ctx
    where = context.command_path if context is not None else "seqgen"
    parameter = getattr(error, "param", None)
    name = "" if parameter is None else parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.metavar
    if kind == "NoSuchOption":
        near = difflib.get_close_matches(error.option_name, error.possibilities or (), n=1)
        words = f"unknown option {error.option_name}" + (f"; did you mean {near[0]}?" if near else "")
    elif kind == "MissingParameter":
        words = f"{name} is missing"
    elif kind == "BadParameter" and "valid integer" in error.message:
        words = f"{name} must be an integer, got {_given(parameter, arguments)}"
    elif kind == "BadParameter" and re.search("valid (number|float)", error.message):
        words = f"{name} must be a number, got {_given(parameter, arguments)}"
    elif choices := re.search("is not one of (.+)[.]", error.format_message()):
        words = f"{name} must be one of {choices[1].replace(chr(39), '')}, got {_given(parameter, arguments)}"
    elif unknown := re.match(r"No such command '(.+?)'", error.format_message()):
        known = context.command.commands
        inner = [f"{where} {name} {unknown[1]}" for name in known if unknown[1] in getattr(known[name], "commands", ())]
        near = [" or ".join(inner)] if inner else difflib.get_close_matches(unknown[1], known, n=1)
        words = f"unknown command {unknown[1]}; " + (
            f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        )
    else:
        line = " ".join(error.format_message().split()).rstrip(".")
        words = line[:1].lower() + line[1:]
    return f"{words}; see: {where} --help"


def _given(parameter: Any, arguments: Sequence[str]) -> str:
    """Return what was typed for an option: `--count x` or `--count=x`; typer's error does not say."""
    for i, word in enumerate(arguments):
        option, equals, value = word.partition("=")
        if option in parameter.opts:
            return repr(value if equals else arguments[i + 1])
    return "something else"


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def _is_out_of_memory(error: Exception) -> bool:
    # by name: torch must not be imported for an error that is not its own
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (
            isinstance(error, RuntimeError)
            and re.search("DefaultCPUAllocator|Storage size calculation overflowed", str(error)) is not None
        )
    )


def _say_record(record: logging.LogRecord) -> None:
    prefix = "warning: " if record.levelno >= logging.WARNING else ""
    output.say(prefix + record.getMessage())


def _say_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    output.say(f"warning: {message}")
