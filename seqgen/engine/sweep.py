"""Settings searched for by held-out scores: trials of one training, in one storage that several processes share.

The search is Optuna's (Akiba et al. 2019; extra `sweep`): a tree-structured Parzen estimator proposes, and a trial is
ended at a validation where it is worse than the median of those before it. A trial is a run in its own folder; one
whose process is gone is continued from its last checkpoint.
Run: seqgen train lm --data captions --out runs/sweep --sweep ranges.toml --trials 20
"""

import hashlib
import json
import os
import socket
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqgen.core import files, log
from seqgen.core.config import to_toml
from seqgen.core.errors import ConfigError, MissingExtraError, RunError, SeqgenError
from seqgen.data.formats import table_row
from seqgen.engine import loop, plots
from seqgen.engine.progress import LIKELIHOOD, Progress
from seqgen.engine.run import Settings
from seqgen.engine.stored import stored_sections

Make = Callable[[list[str]], Settings]
"""From overrides, such as `model.hidden=64`, to settings; ConfigError where they cannot be."""


@dataclass(frozen=True)
class Range:
    """What one option is searched in: choices, or numbers from low to high."""

    option: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False

    def ends(self) -> tuple[Any, ...]:
        """Return the values that all others lie between, or all choices."""
        return self.choices or (self.low, self.high)

    def suggested(self, trial: Any) -> Any:
        """Return the value that a trial of Optuna is to take."""
        if self.choices:
            return trial.suggest_categorical(self.option, list(self.choices))
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.option, self.low, self.high, step=int(self.step or 1), log=self.log)
        return trial.suggest_float(self.option, self.low, self.high, step=self.step, log=self.log)


def read_ranges(path: Path, make: Make) -> list[Range]:
    """Return the ranges of a TOML file: `"train.lr" = {low = 1e-4, high = 1e-2, log = true}`, `"model.cell" = ["gru"]`.

    ConfigError names the option whose range is none, or whose ends `make` refuses.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file of ranges") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML ({error})") from None
    if not table:
        raise ConfigError(f'{path}: no ranges; expected lines such as "train.lr" = {{ low = 1e-4, high = 1e-2 }}')
    ranges = [_range(path, option, given) for option, given in _flat(table).items()]
    for one in ranges:
        if one.option.partition(".")[0] in ("data", "tokenizer"):
            raise ConfigError(f"{path}: {one.option} changes what held-out scores are of; sweep model.* and train.*")
        for value in one.ends():
            make([override(one.option, value)])
    return ranges


def _flat(table: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return the options of nested sections by their full names; a table with `low` is a range."""
    flat: dict[str, Any] = {}
    for name, given in table.items():
        if isinstance(given, dict) and "low" not in given and "high" not in given:
            flat |= _flat(given, f"{above}{name}.")
        else:
            flat[f"{above}{name}"] = given
    return flat


def _range(path: Path, option: str, given: Any) -> Range:
    if isinstance(given, list) and given:
        return Range(option, choices=tuple(given))
    known = {"low", "high", "step", "log"}
    numbers = isinstance(given, dict) and all(
        isinstance(given.get(name), int | float) and not isinstance(given[name], bool) for name in ("low", "high")
    )
    if not numbers or set(given) - known:
        raise ConfigError(
            f"{path}: {option} must be a list of choices or {{ low = , high = }} with step or log, got {given!r}"
        )
    if not given["low"] < given["high"] or (given.get("log") and given["low"] <= 0):
        least = " and above 0, where log = true" if given.get("log") else ""
        raise ConfigError(f"{path}: {option} must have low < high{least}, got {given['low']} and {given['high']}")
    if given.get("log") and given.get("step"):
        raise ConfigError(f"{path}: {option} has step and log; give one")
    whole = isinstance(given["low"], int) and isinstance(given["high"], int)
    step = given.get("step", 1 if whole else given["high"] - given["low"])
    kind = int if whole else int | float
    if not isinstance(step, kind) or isinstance(step, bool) or not 0 < step <= given["high"] - given["low"]:
        number = "an integer" if whole else "a number"
        raise ConfigError(f"{path}: {option} must have as step {number} > 0 and <= high - low, got {step!r}")
    if not isinstance(given.get("log", False), bool):
        raise ConfigError(f"{path}: {option} must have as log true or false, got {given['log']!r}")
    return Range(option, (), given["low"], given["high"], given.get("step"), bool(given.get("log")))


def override(option: str, value: Any) -> str:
    """Return a value as a setting is typed."""
    return f"{option}={json.dumps(value) if not isinstance(value, str) else value}"


# ------------------------------------------------------------------------------
# trials


def sweep(
    make: Make, out: Path, ranges: list[Range], *, trials: int, storage: str = "", say: Callable[[str], None]
) -> Path:
    """Run trials until the storage holds so many, and return the file with the settings of the best, `out`/best.toml.

    Beside it are trials.tsv, all trials from the best, and trials.png, what each option did to the score.

    `storage` is a file or a URL of a database, by default `out`/sweep.log; other processes may work on it at the same
    time. A trial that fails is recorded and the sweep goes on. MissingExtraError without Optuna, RunError for a storage
    of other settings, or where no trial has a score.
    """
    try:
        import optuna
    except ImportError:
        raise MissingExtraError("--sweep needs optuna; run: pip install 'neural-seqgen[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    out.mkdir(parents=True, exist_ok=True)
    settings = make([])
    study = _study(optuna, storage or str(out / "sweep.log"), settings, ranges)
    decides = str(getattr(settings.module, "DECIDES", LIKELIHOOD))
    while True:
        for trial in study.trials:
            if trial.state.name == "RUNNING" and _is_gone(trial.user_attrs.get(_PROCESS, "")):
                _queue_again(optuna, study, trial)
        begun = {trial.user_attrs[_FOLDER] for trial in study.trials if _FOLDER in trial.user_attrs}
        if len(begun) >= trials and all(trial.state.name != "WAITING" for trial in study.trials):
            return _written(optuna, study, out, ranges, decides)
        _run(optuna, study, make, out, ranges, decides, say)


_FOLDER, _PROCESS, _ERROR = "folder", "process", "error"
"""What a trial notes: its folder, where it runs, why it failed; of one folder the last trial counts."""


def _study(optuna: Any, storage: str, settings: Settings, ranges: list[Range]) -> Any:
    """Open or begin the study in a storage; RunError for one of other settings."""
    about = to_toml(settings.sections()) + repr(ranges)
    mark = hashlib.sha256(about.encode()).hexdigest()
    # neighbouring processes must not propose the same values, so the process is part of the seed
    sampler = optuna.samplers.TPESampler(seed=settings.seed * 100_003 + os.getpid())
    try:
        opened: Any = storage
        if "://" not in storage:
            opened = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(storage))
        study = optuna.create_study(storage=opened, sampler=sampler, study_name="seqgen", load_if_exists=True)
    except Exception as error:  # drivers of databases have errors of their own
        raise ConfigError(f"--storage {storage}: {str(error).splitlines()[0]}") from None
    if study.user_attrs.setdefault("settings", mark) != mark:
        raise RunError(f"{storage} holds a sweep of other settings or ranges; use another --out or --storage")
    study.set_user_attr("settings", mark)
    return study


def _queue_again(optuna: Any, study: Any, trial: Any) -> None:
    """Put a trial that was broken off in the queue, to be continued in its folder."""
    study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    study.enqueue_trial(trial.params, user_attrs={_FOLDER: trial.user_attrs[_FOLDER]})


def _is_gone(process: str) -> bool:
    """Return whether a process, HOST:ID, has ended; one of another machine may run."""
    host, _, number = process.partition(":")
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _run(
    optuna: Any, study: Any, make: Make, out: Path, ranges: list[Range], decides: str, say: Callable[[str], None]
) -> None:
    """Run one trial, and leave its state in the storage."""
    state = optuna.trial.TrialState
    trial = study.ask()
    folder = trial.user_attrs.get(_FOLDER, f"trial-{trial.number}")
    trial.set_user_attr(_FOLDER, folder)
    trial.set_user_attr(_PROCESS, f"{socket.gethostname()}:{os.getpid()}")
    chosen = [override(one.option, one.suggested(trial)) for one in ranges]
    judged: dict[str, Any] = {}

    def judge(progress: Progress) -> None:
        nonlocal judged
        if progress.scores is judged or progress.scores.get(decides) is None:  # no validation since the last call
            return
        judged = progress.scores
        trial.report(float(judged[decides]), progress.step)
        if progress.step < progress.steps and trial.should_prune():
            raise optuna.TrialPruned(f"ended at step {progress.step}, worse than the median")

    try:
        outcome = loop.train(make(chosen), out / folder, progress=judge)
        if outcome.reason in ("interrupted", "terminated"):
            _queue_again(optuna, study, trial)
            raise KeyboardInterrupt
        value = best(out / folder, decides)
    except optuna.TrialPruned as ended:
        study.tell(trial, state=state.PRUNED)
        say(f"{folder}: {' '.join(chosen)}: {ended}")
    except (SeqgenError, RuntimeError, ValueError, MemoryError) as error:
        trial.set_user_attr(_ERROR, str(error).splitlines()[0])
        study.tell(trial, state=state.FAIL)
        say(f"{folder}: {' '.join(chosen)}: failed: {str(error).splitlines()[0]}")
    else:
        study.tell(trial, value)
        say(f"{folder}: {' '.join(chosen)}: {decides} {value:.4f}, the best so far {study.best_value:.4f}")


def best(folder: Path, decides: str) -> float:
    """Return the lowest held-out score of a run; RunError where it has none."""
    values = [float(row[decides]) for row in log.read(folder / "scores.jsonl") if row.get(decides) is not None]
    if not values:
        raise RunError(f"{folder} has no {decides}; train.eval_every = 0 leaves a sweep nothing to compare")
    return min(values)


IMPORTANCE_FROM = 10
"""How many finished trials an estimate of what matters takes."""


def panels(optuna: Any, study: Any, ranges: list[Range]) -> list[plots.Panel]:
    """Return the scores of finished trials in their order and against each option.

    With enough trials an option's name says its importance, the share of the scores' variance that it explains in a
    random forest (functional ANOVA, Hutter et al. 2014).
    """
    done = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    values = [float(trial.value) for trial in done]
    shares: dict[str, float] = {}
    if len(done) >= IMPORTANCE_FROM and len(set(values)) > 1:
        forest = optuna.importance.FanovaImportanceEvaluator(seed=0)
        shares = optuna.importance.get_param_importances(study, evaluator=forest)
    shown = [plots.Panel("trial", [trial.number for trial in done], values, lowest=True)]
    for one in ranges:
        places = [trial.params[one.option] for trial in done]
        name = one.option + (f" (importance {shares[one.option]:.2f})" if one.option in shares else "")
        shown.append(plots.Panel(name, [str(place) for place in places] if one.choices else places, values, one.log))
    return shown


def _written(optuna: Any, study: Any, out: Path, ranges: list[Range], decides: str) -> Path:
    """Write trials.tsv, all trials from the best, trials.png and best.toml."""
    done = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    if not done:
        raise RunError(f"{out}: no trial was finished; {out / 'trials.tsv'} would hold nothing to choose from")
    names = [one.option for one in ranges]
    order = {"COMPLETE": 0, "PRUNED": 1, "FAIL": 2}
    last = {trial.user_attrs[_FOLDER]: trial for trial in study.trials if trial.state.name in order}
    rows = sorted(
        last.values(),
        key=lambda trial: (order[trial.state.name], trial.value if trial.state.name == "COMPLETE" else trial.number),
    )
    table = [("run", "state", "score", *names, "error")]
    for trial in rows:
        score = "" if trial.value is None else f"{trial.value:.6g}"
        own = [str(trial.params.get(name, "")) for name in names]
        table.append(
            (trial.user_attrs[_FOLDER], trial.state.name.lower(), score, *own, trial.user_attrs.get(_ERROR, ""))
        )
    files.write_text(out / "trials.tsv", "".join(map(table_row, table)))
    files.write_bytes(out / "trials.png", plots.png(plots.panels(panels(optuna, study, ranges), up=decides)))
    sections = stored_sections(out / study.best_trial.user_attrs[_FOLDER])
    for key in ("version", "format"):
        sections.pop(key, None)
    for key in ("files", "valid"):
        sections["data"].pop(key, None)
    files.write_text(out / "best.toml", to_toml(sections))
    return out / "best.toml"
