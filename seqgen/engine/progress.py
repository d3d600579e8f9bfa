"""How far a training is: lines or a bar on standard error, for the command line and the library alike."""

import contextlib
import importlib
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

from seqgen.core.log import say, watched
from seqgen.engine import page
from seqgen.engine.charts import Series, averaged, chart

LIKELIHOOD = "nll_per_token"
"""The score that decides where a model's file names no other."""

_REFRESH_S = 0.2
_QUIET_LINE_S = 30.0
_NOTEBOOK_S = 0.5


@dataclass(frozen=True)
class Progress:
    """What a progress display gets at every step."""

    step: int
    """Updates done."""
    steps: int
    """Updates in all."""
    scalars: dict[str, float]
    """The latest line of log.jsonl."""
    scores: dict[str, Any]
    """The latest validation."""
    message: str = ""
    """A sentence worth keeping on the screen, or ""."""
    part: str = ""
    """How far a validation is: `texts 512 of 1000`; "" outside of one."""
    samples: tuple[tuple[float, str], ...] = ()
    """Of the latest validation: temperatures, and a text that was drawn at each from the same seed."""


def display(decides: str) -> "Lines | Bar | Notebook":
    """Return what shows a training; `decides` names the score to show.

    A bar and a curve in a notebook, a bar on a terminal, lines elsewhere.
    """
    if _in_notebook():
        return Notebook(decides)
    return Bar(decides) if sys.stderr.isatty() else Lines(decides)


def _in_notebook() -> bool:
    """Return whether this is the kernel of a notebook; one that is, has imported IPython itself."""
    running = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return running is not None and "IPKernelApp" in running.config


def held_out(scores: dict[str, Any], decides: str) -> str:
    """Return the deciding score in words; of likelihood also per character where that is known."""
    if decides != LIKELIHOOD:
        return f"{decides} {scores[decides]:.4g}"
    words = f"{scores[decides]:.4g} nats per token"
    if scores.get("nll_per_character") is not None:
        words += f" ({scores['nll_per_character']:.4g} per character)"
    return words


class Lines:
    """Single lines, for a standard error that is no terminal: one for each validation, and one every half minute."""

    def __init__(self, decides: str) -> None:
        self.seen = False
        """Whether a step was made."""
        self._decides = decides
        self._pace = _Pace()
        self._said_at = time.monotonic()
        self._scores: dict[str, float] | None = None

    def show(self, progress: Progress) -> None:
        """Take every step and every message."""
        if progress.message:
            say(progress.message)
            return
        if progress.part:
            if time.monotonic() - self._said_at >= _QUIET_LINE_S:
                self._said_at = time.monotonic()
                say(f"step {progress.step}/{progress.steps}  validation: {progress.part}")
            return
        self.seen = True
        rate = self._pace.at(progress)
        judged = bool(progress.scores) and progress.scores is not self._scores
        if judged or time.monotonic() - self._said_at >= _QUIET_LINE_S:
            self._scores, self._said_at = progress.scores, time.monotonic()
            parts = [f"step {progress.step}/{progress.steps}", *_figures(progress, self._decides, judged=judged), rate]
            say("  ".join(part for part in parts if part))

    def close(self) -> None:
        """Close nothing: nothing is open."""


class Bar:
    """One line that moves, for a terminal; messages and validations stay above it."""

    def __init__(self, decides: str) -> None:
        self.seen = False
        """Whether a step was made."""
        self._decides = decides
        self._pace = _Pace()
        self._drawn_at = 0.0
        self._scores: dict[str, float] | None = None
        self._progress: Any = None

    def show(self, progress: Progress) -> None:
        """Take every step and every message."""
        if progress.message:
            say(progress.message)
            return
        if progress.part:
            self._draw(progress, f"validation: {progress.part}")
            return
        self.seen = True
        rate = self._pace.at(progress)
        if progress.scores and progress.scores is not self._scores:
            self._scores = progress.scores
            say("  ".join([f"step {progress.step}/{progress.steps}", *_figures(progress, self._decides, judged=True)]))
            for sample in _samples(progress, shutil.get_terminal_size().columns):
                say(sample)
        words = "  ".join(part for part in (*_figures(progress, self._decides, judged=False), rate) if part)
        self._draw(progress, words)

    def _draw(self, progress: Progress, words: str) -> None:
        now = time.monotonic()
        if now - self._drawn_at >= _REFRESH_S or (progress.step == progress.steps and not progress.part):
            self._drawn_at = now
            if self._progress is None:
                self._open(progress)
            self._progress.update(self._task, completed=progress.step, words=words)
            self._progress.refresh()

    def _open(self, progress: Progress) -> None:
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


class Notebook:
    """A bar with the loss over the steps below it, drawn anew in the place of one output of a notebook."""

    def __init__(self, decides: str) -> None:
        self.seen = False
        """Whether a step was made."""
        self._decides = decides
        self._pace = _Pace()
        self._drawn_at = 0.0
        self._handle: Any = None
        self._said: list[str] = []
        self._scalars: dict[str, float] | None = None
        self._scores: dict[str, Any] | None = None
        self._losses: list[tuple[float, float]] = []
        self._held_out: list[tuple[float, float]] = []

    def show(self, progress: Progress) -> None:
        """Take every step and every message."""
        if progress.message:
            self._said.append(progress.message)
            self._draw(progress, "")
            return
        words = f"validation: {progress.part}"
        if not progress.part:
            self.seen = True
            rate = self._pace.at(progress)
            self._note(progress)
            words = "  ".join(part for part in (*_figures(progress, self._decides, judged=False), rate) if part)
        if time.monotonic() - self._drawn_at >= _NOTEBOOK_S or (progress.step == progress.steps and not progress.part):
            self._draw(progress, words)

    def _note(self, progress: Progress) -> None:
        """Remember the points of the curve."""
        if progress.scalars and progress.scalars is not self._scalars:
            self._scalars = progress.scalars
            name = "loss" if "loss" in progress.scalars else next(iter(progress.scalars))
            self._losses.append((progress.step, progress.scalars[name]))
        if progress.scores.get(self._decides) is not None and progress.scores is not self._scores:
            self._scores = progress.scores
            self._held_out.append((progress.step, progress.scores[self._decides]))

    def _draw(self, progress: Progress, words: str) -> None:
        shown: Any = importlib.import_module("IPython.display")  # a notebook has it, and nobody else needs it
        self._drawn_at = time.monotonic()
        losses, how = averaged(self._losses)
        series = [Series(f"training, {how}", losses), Series(f"held-out {self._decides}", self._held_out, dots=True)]
        bar = f'<progress value="{progress.step}" max="{progress.steps}"></progress> {progress.step}/{progress.steps}'
        said = "".join(f"<br>{escape(sentence)}" for sentence in self._said)
        samples = "".join(f"<br>{escape(sample)}" for sample in _samples(progress, 200))
        drawn = shown.HTML(page.fragment(f"<p>{bar} {escape(words)}{said}</p>{chart(series)}<p>{samples}</p>"))
        if self._handle is None:
            self._handle = shown.display(drawn, display_id=True)
        else:
            self._handle.update(drawn)

    def close(self) -> None:
        """Close nothing: nothing is open."""


@contextlib.contextmanager
def shown_parts() -> Iterator[None]:
    """Show on standard error, while open, how far a long piece of work is (`core.log.part`).

    On a terminal that is one line that moves, elsewhere a line every half minute.
    """
    terminal = sys.stderr.isatty()
    wait = _REFRESH_S if terminal else _QUIET_LINE_S
    said_at, drawn = time.monotonic(), False

    def show(what: str, done: int, total: int) -> None:
        nonlocal said_at, drawn
        if time.monotonic() - said_at < wait:
            return
        said_at = time.monotonic()
        words = f"{what} {done} of {total}" if total else what
        if terminal:
            drawn = True
            sys.stderr.write(f"\r{words}\x1b[K")
            sys.stderr.flush()
        else:
            say(words)

    try:
        with watched(show):
            yield
    finally:
        if drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


class _Pace:
    """Steps per second since the first one was seen, validations included, and the time left at that rate."""

    def __init__(self) -> None:
        self._began = 0.0
        self._first = 0

    def at(self, progress: Progress) -> str:
        """Return `12.3 steps/s  1:02 left`; "" at the first step, where nothing is known, and at the last."""
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


def _samples(progress: Progress, width: int) -> list[str]:
    """Return a line for each sample of the latest validation, at most `width` signs long."""
    from rich.cells import cell_len, set_cell_size

    lines = [f"  T {temperature:<3g}  {' '.join(text.split())}" for temperature, text in progress.samples]
    return [line if cell_len(line) <= width else set_cell_size(line, width - 1) + "…" for line in lines]


def _figures(progress: Progress, decides: str, *, judged: bool) -> list[str]:
    """Return the training loss (or the model's first number) and the score that decides; more where it is new."""
    name = "loss" if "loss" in progress.scalars else next(iter(progress.scalars), "")
    figures = [f"{name} {progress.scalars[name]:.4g}"] if name else []
    scores = progress.scores
    if scores.get(decides) is not None:
        figures.append(f"held-out {held_out(scores, decides) if judged else format(scores[decides], '.4g')}")
    if judged and "self_bleu_4" in scores:
        figures.append(f"BLEU-4 {scores['bleu_4']:.3f}  Self-BLEU-4 {scores['self_bleu_4']:.3f}")
    return figures
