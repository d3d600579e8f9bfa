"""What a run's folder says of itself, read without torch: its settings, how far it is, how good, and how runs differ.

Run: seqgen runs
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from seqgen.core import config as settings_of
from seqgen.core import files, log
from seqgen.core.errors import RunError, SeqgenError
from seqgen.engine.folder import CONFIG, is_run

FORMAT = 1
"""Of run folders: it rises when older ones can no longer be read (docs/renamed.toml has the names before 1)."""

_SHOWN = ("name", "version", "format", "data.files", "train.steps")
"""Settings that every row of a list shows anyway, or that say nothing of the model."""
_FACTS = (
    *("vocab_size", "source_vocab_size", "start", "stop", "sep", "pad", "suppress_tokens", "max_length"),
    *("channels", "size", "classes", "class_counts", "unlabelled", "seed"),
)
"""Settings of a model that are filled in from the data and the tokenizer."""


def stored_sections(folder: Path) -> dict[str, Any]:
    """Return the settings of a run as they stand, nested: config.toml and what later sessions changed."""
    path = folder / CONFIG
    if not is_run(folder):
        raise RunError(f"{folder} is not a run folder (no {CONFIG}); train one with: seqgen train MODEL --out {folder}")
    sections = settings_of.read_toml_file(path)
    wrong = [key for key in ("data", "model", "train") if not isinstance(sections.get(key), dict)]
    if wrong or not isinstance(sections.get("name"), str):
        raise RunError(f"{path}: {(wrong or ['name'])[0]} is missing or wrong; the file is altered")
    if sections.get("format") != FORMAT:
        raise RunError(
            f"{folder} has run format {sections.get('format', 'none')} (seqgen {sections.get('version', 'unknown')}), "
            f"this version reads {FORMAT}; train it again, or use the version that wrote it"
        )
    for change in read_changes(folder):
        sections = settings_of.merge(
            sections, settings_of.nested({key: new for key, (_, new) in change["settings"].items()})
        )
    return sections


def read_changes(folder: Path) -> list[dict[str, Any]]:
    """Return what later sessions changed, oldest first: {"step", "settings": {name: [old, new]}}."""
    path = folder / "changes.json"
    changes = files.read_json(path) if path.is_file() else []
    try:
        for change in changes:
            if not all(len(pair) == 2 for pair in change["settings"].values()):
                raise TypeError
    except (TypeError, KeyError, AttributeError):
        raise RunError(f"{path}: not a list of changes; the file is altered") from None
    return list(changes)


@dataclass(frozen=True)
class Listed:
    """A run, as its folder says."""

    folder: Path
    model: str
    data: str
    """The names of its files."""
    step: int
    steps: int
    state: str
    """training (a process has the folder now), finished, interrupted."""
    best: float | None
    """The best held-out score; None before the first validation, and for runs that are not trained."""
    metric: str
    """What that score is; empty where it is not known."""
    best_step: int | None
    changed: datetime
    """When a file of it was last written."""
    size: int
    """Bytes on disk."""
    settings: dict[str, Any]
    """Every setting by its name on the command line, but for those above and those filled in from the data."""


def find(folder: Path) -> Iterator[Path]:
    """Yield the run folders at or below a folder, sorted; what only has checkpoints is a broken one."""
    if is_run(folder) or (folder / "checkpoints").is_dir():
        yield folder
        return
    for inner in sorted(folder.iterdir()):
        # a link may lead upwards: it is looked at, not into
        if inner.is_dir() and not files.is_hidden(inner.name) and (not inner.is_symlink() or is_run(inner)):
            with contextlib.suppress(PermissionError):
                yield from find(inner)


def listed(folder: Path) -> Listed:
    """Return what a run's folder says; SeqgenError or OSError where it is broken."""
    sections = stored_sections(folder)
    steps = int(sections["train"].get("steps", 0))
    saved = sorted((folder / "checkpoints").glob("step-*/state.json"))
    if not saved:
        state = dict[str, Any](step=0, best_score=None, best_step=None, since_best=0)
    else:
        state = files.read_object(saved[-1], step=int, since_best=int)
    logged, scores = log.read(folder / "log.jsonl"), log.read(folder / "scores.jsonl")
    busy = files.in_use(folder)
    step = max(state["step"], *(row.get("step", 0) for row in logged[-1:])) if busy and logged else state["step"]
    patience = int(sections["train"].get("patience", 0))
    # runs that other commands made have one checkpoint, of step 0, and no log
    ended = step >= steps or (saved and not logged and not step) or (patience and state["since_best"] >= patience)
    best, best_step = state.get("best_score"), state.get("best_step")
    row = next((row for row in scores if row["step"] == best_step), {})
    paths = [path for path in folder.rglob("*") if path.is_file()]
    flat = {
        name: value
        for name, value in settings_of.flat(sections).items()
        if name not in _SHOWN and not (name.startswith("model.") and name.rpartition(".")[2] in _FACTS)
    }
    return Listed(
        folder,
        model=sections["name"],
        data=" ".join(Path(name).name for name in sections["data"].get("files", ())),
        step=step,
        steps=steps,
        state="training" if busy else "finished" if ended else "interrupted",
        best=best,
        metric=next((name for name, value in row.items() if name != "step" and value == best), ""),
        best_step=best_step,
        changed=datetime.fromtimestamp(max(path.stat().st_mtime for path in paths)).astimezone(),
        size=sum(path.stat().st_size for path in paths),
        settings=flat,
    )


def runs_below(folder: Path) -> tuple[list[Listed], dict[Path, str]]:
    """Return the runs at or below a folder, and of each broken one the reason in a line."""
    runs, broken = [], {}
    for path in find(folder):
        if not is_run(path):
            broken[path] = f"checkpoints without {CONFIG}"
            continue
        try:
            runs.append(listed(path))
        except (SeqgenError, OSError, UnicodeError, ValueError, TypeError) as error:
            broken[path] = " ".join(str(error).split())
    return runs, broken


def differing(runs: Sequence[Listed]) -> list[dict[str, Any]]:
    """Return of each run the settings in which the runs of its model differ, in the order of the files."""
    values: dict[tuple[str, str], set[str]] = {}
    for run in runs:
        for name, value in run.settings.items():
            values.setdefault((run.model, name), set()).add(_shown(value))
    return [{name: value for name, value in run.settings.items() if len(values[run.model, name]) > 1} for run in runs]


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
