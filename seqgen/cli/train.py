"""`seqgen train`: start a run, or continue it.

seqgen train lm --data captions.txt --out runs/captions model.hidden=512
seqgen train --out runs/captions
torchrun --nproc-per-node 2 -m seqgen train lm --data captions.txt --out runs/captions
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqgen.cli import output
from seqgen.core import log
from seqgen.core.errors import DataError

if TYPE_CHECKING:
    from seqgen.engine.loop import Outcome, Progress

_REFRESH_S = 0.2
_QUIET_LINE_S = 30.0
_LIKELIHOOD = "nll_per_token"


def train(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="lm, ...; seqgen config lists them.", show_default=False)
    ] = "",
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="section.option=value",
            help="Settings such as model.hidden=512; seqgen config MODEL explains them all.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", metavar="FILE", help="Training text: file, folder, .gz, .jsonl, .tsv, or -; may be repeated."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The run's folder, new or begun.")] = None,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="RUN", help="Begin with this run's weights and tokenizer.")
    ] = None,
    valid: Annotated[
        list[str] | None,
        typer.Option("--valid", metavar="FILE", help="Held-out text; without it a part of the data is held out."),
    ] = None,
    preset: Annotated[str | None, typer.Option("--preset", metavar="NAME", help="A named starting point.")] = None,
    file: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Settings as TOML, such as a run's config.toml.")
    ] = None,
) -> None:
    """Train a model on text, or continue a run.

    A folder that already holds the run is continued from its last checkpoint, bit for bit; --out alone is enough then.
    """
    model, overrides = _split([word for word in (model, *(settings or ())) if word], data)
    if out is None:
        raise output.CommandError("--out DIR is missing: the folder of the run; see: seqgen train --help")
    from seqgen.core import dist
    from seqgen.engine import loop
    from seqgen.engine import run as runs

    chosen = None
    if model or preset or file:
        chosen = runs.config(model, data, preset=preset, file=file, valid=valid, overrides=overrides)
    else:
        paths = {"data.files": data, "data.valid": valid}
        overrides += [f"{name}={json.dumps(given, ensure_ascii=False)}" for name, given in paths.items() if given]
    # code is imported only where this command names it, never because a folder or a file of settings does
    rewards = [word.partition("=")[2] for word in overrides if word.partition("=")[0].strip() == "model.reward"]
    decides = _deciding_score(chosen.name if chosen is not None else "", out)
    display = _Bar(decides) if sys.stderr.isatty() else _Lines(decides)
    try:
        begin = [] if chosen is not None else overrides
        reward = rewards[-1].strip("\"'") if rewards else None
        outcome = loop.train(chosen, out, source_run=source, overrides=begin, reward=reward, progress=display.show)
    except DataError as error:
        if not data and str(error).endswith("no such file"):
            raise DataError(f"{error}; if the text has moved, give it with --data FILE") from None
        raise
    except KeyboardInterrupt:
        display.close()
        output.say(f"stopped at once; seqgen train --out {out} continues from the last checkpoint, if there is one")
        raise
    finally:
        display.close()
    dist.stop()
    output.say(_last_words(outcome, display.seen, decides))
    if outcome.reason in ("interrupted", "terminated"):
        raise typer.Exit(130 if outcome.reason == "interrupted" else 143)


def _split(words: Sequence[str], data: Sequence[str] | None) -> tuple[str, list[str]]:
    """The model (or "") and the settings among the words after the options."""
    settings = [word for word in words if "=" in word]
    bare = [word for word in words if "=" not in word]
    model = bare[0] if bare and bare[0] == words[0] else ""
    wrong = next((word for word in bare[bool(model) :]), None)
    if "." in model or "/" in model:  # no model is called so: it is a path
        model, wrong = "", model
    if wrong is None:
        return model, settings
    if Path(wrong).exists() or data:
        raise output.CommandError(
            f"{wrong!r} is no setting (no =); --data is repeated, not followed by several files: --data {wrong}"
        )
    raise output.CommandError(f"{wrong!r} is no setting; expected section.option=value, for example model.hidden=512")


def _deciding_score(model: str, out: Path) -> str:
    """The score whose lowest value makes a checkpoint the best one, as the model's file says it."""
    from seqgen.engine import run as runs

    if not model and (out / "config.toml").is_file():
        model = str(runs.stored_sections(out)["name"])
    return str(getattr(runs.chapter(model), "DECIDES", _LIKELIHOOD)) if model else _LIKELIHOOD


def _last_words(outcome: "Outcome", trained: bool, decides: str) -> str:
    """What happened, how good it is, and what to type next."""
    from seqgen.engine import run as runs

    out = outcome.folder
    if outcome.reason in ("interrupted", "terminated"):
        return f"{outcome.reason} at step {outcome.step}, saved; continue with: seqgen train --out {out}"
    words = f"{outcome.reason} at step {outcome.step}"
    if not trained:
        words = f"nothing to do: {out} is trained to step {outcome.step}"
    judged = [row for row in log.read(out / "scores.jsonl") if row.get(decides) is not None]
    if judged:
        best = min(judged, key=lambda row: float(row[decides]))
        words += f"; best held-out {_held_out(best, decides)} at step {best['step']}"
    if not trained:
        return f"{words}; to train longer: seqgen train --out {out} train.steps={2 * outcome.step}"
    if not (out / "tokenizer").is_dir():
        return f"{words}; next: seqgen report {out}"
    conditions = runs.stored_sections(out)["data"]["source"]
    return f"{words}; next: seqgen generate {out} " + ("--source FILE" if conditions else "--count 5")


def _held_out(scores: dict[str, Any], decides: str) -> str:
    """The deciding score in words; of likelihood also per character where that is known."""
    if decides != _LIKELIHOOD:
        return f"{decides} {scores[decides]:.4g}"
    words = f"{scores[decides]:.4g} nats per token"
    if scores.get("nll_per_character") is not None:
        words += f" ({scores['nll_per_character']:.4g} per character)"
    return words


class _Lines:
    """Single lines, for a standard error that is no terminal: one for each validation, and one every half minute."""

    def __init__(self, decides: str) -> None:
        self.seen = False
        """Whether a step was made."""
        self._decides = decides
        self._pace = _Pace()
        self._said_at = time.monotonic()
        self._scores: dict[str, float] | None = None

    def show(self, progress: "Progress") -> None:
        """Told about every step and every message."""
        if progress.message:
            output.say(progress.message)
            return
        self.seen = True
        rate = self._pace.at(progress)
        judged = bool(progress.scores) and progress.scores is not self._scores
        if judged or time.monotonic() - self._said_at >= _QUIET_LINE_S:
            self._scores, self._said_at = progress.scores, time.monotonic()
            parts = [f"step {progress.step}/{progress.steps}", *_figures(progress, self._decides, judged=judged), rate]
            output.say("  ".join(part for part in parts if part))

    def close(self) -> None:
        """Nothing is open."""


class _Bar:
    """One line that moves, for a terminal; messages and validations stay above it."""

    def __init__(self, decides: str) -> None:
        self.seen = False
        """Whether a step was made."""
        self._decides = decides
        self._pace = _Pace()
        self._drawn_at = 0.0
        self._scores: dict[str, float] | None = None
        self._progress: Any = None

    def show(self, progress: "Progress") -> None:
        """Told about every step and every message."""
        if progress.message:
            output.say(progress.message)
            return
        self.seen = True
        rate = self._pace.at(progress)
        if progress.scores and progress.scores is not self._scores:
            self._scores = progress.scores
            output.say(
                "  ".join([f"step {progress.step}/{progress.steps}", *_figures(progress, self._decides, judged=True)])
            )
        now = time.monotonic()
        if now - self._drawn_at >= _REFRESH_S or progress.step == progress.steps:
            self._drawn_at = now
            if self._progress is None:
                self._open(progress)
            words = "  ".join(part for part in (*_figures(progress, self._decides, judged=False), rate) if part)
            self._progress.update(self._task, completed=progress.step, words=words)
            self._progress.refresh()

    def _open(self, progress: "Progress") -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        # no refreshing thread: it would take turns with the training on the interpreter's lock
        self._progress = Bar(
            MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[words]}"),
            console=Console(stderr=True), auto_refresh=False, transient=True,
        )  # fmt: skip
        self._progress.start()
        self._task = self._progress.add_task("", total=progress.steps, words="")

    def close(self) -> None:
        """Give the terminal back."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class _Pace:
    """Steps per second since the first one was seen, validations included, and the time left at that rate."""

    def __init__(self) -> None:
        self._began = 0.0
        self._first = 0

    def at(self, progress: "Progress") -> str:
        """`12.3 steps/s  1:02 left`; "" at the first step, where nothing is known, and at the last."""
        if not self._began:
            self._began, self._first = time.monotonic(), progress.step
            return ""
        if progress.step == progress.steps:
            return ""
        rate = (progress.step - self._first) / max(time.monotonic() - self._began, 1e-9)
        left = int((progress.steps - progress.step) / rate)
        clock = (
            f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}" if left >= 3600 else f"{left // 60}:{left % 60:02d}"
        )
        return f"{rate:.3g} steps/s  {clock} left"


def _figures(progress: "Progress", decides: str, *, judged: bool) -> list[str]:
    """The training loss (or what the model tells first), and the score that decides; more where it is new."""
    name = "loss" if "loss" in progress.scalars else next(iter(progress.scalars), "")
    figures = [f"{name} {progress.scalars[name]:.4g}"] if name else []
    scores = progress.scores
    if scores.get(decides) is not None:
        figures.append(f"held-out {_held_out(scores, decides) if judged else format(scores[decides], '.4g')}")
    if judged and "self_bleu_4" in scores:
        figures.append(f"BLEU-4 {scores['bleu_4']:.3f}  Self-BLEU-4 {scores['self_bleu_4']:.3f}")
    return figures
