"""`seqgen train`: start a run, or continue it.

seqgen train lm --data captions.txt --out runs/captions model.hidden=512
seqgen train --out runs/captions
torchrun --nproc-per-node 2 -m seqgen train lm --data captions.txt --out runs/captions
"""

import json as encoding
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqgen.cli import output
from seqgen.cli.options import Json, Module
from seqgen.core import log
from seqgen.core.errors import DataError
from seqgen.engine.folder import is_run

if TYPE_CHECKING:
    from seqgen.engine.loop import Outcome
    from seqgen.engine.run import Settings

_SWEEP = "A search for settings (extra sweep)"


def train(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Name of the model: lm, ...; seqgen config lists them.", show_default=False
        ),
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
            "--data",
            metavar="FILE",
            help="Training data: a file, a folder, - or the name of a set (seqgen corpus list); repeat for several.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder of the run, new or begun.")] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="RUN", help="Begin with this run's weights, tokenizer and, without --data, its data."
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--tokenizer", metavar="RUN", help="Use the tokenizer of this run, as for runs that are to be mixed."
        ),
    ] = None,
    valid: Annotated[
        list[str] | None,
        typer.Option(
            "--valid",
            metavar="FILE",
            help="Held-out data: a file, or the test part of a set; repeat for several; without it a part of --data.",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset", metavar="NAME", help="Begin with the settings of this preset; seqgen config lists them."
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE", help="Begin with the settings of this TOML file, such as a run's config.toml."
        ),
    ] = None,
    module: Module = None,
    seeds: Annotated[
        str,
        typer.Option("--seeds", metavar="N,N", help="Train a run with each of these seeds, in DIR/seed-N."),
    ] = "",
    sweep: Annotated[
        Path | None,
        typer.Option(
            "--sweep",
            metavar="FILE",
            help="Search for settings in the ranges of this TOML file, each trial a run in DIR.",
            rich_help_panel=_SWEEP,
        ),
    ] = None,
    trials: Annotated[
        int,
        typer.Option(
            "--trials", metavar="N", help="Trials in all, those of other processes too.", rich_help_panel=_SWEEP
        ),
    ] = 20,
    storage: Annotated[
        str,
        typer.Option(
            "--storage",
            metavar="FILE|URL",
            help="Where trials are recorded, for several processes; without it DIR/sweep.log.",
            rich_help_panel=_SWEEP,
        ),
    ] = "",
    json: Json = False,
) -> None:
    """Train a model on text, or continue a run.

    A folder that already holds the run is continued from its last checkpoint, bit for bit; --out alone is enough then,
    but for a model of your own, whose --module is named each time. --json writes at the end what became of it.
    With --sweep FILE settings are searched for in ranges, such as "train.lr" = { low = 1e-4, high = 1e-2, log = true }
    or "model.cell" = ["lstm", "gru"]; DIR/best.toml has the best for --config. Repeat the command to continue, in
    several processes to share the work.
    """
    model, overrides = _split([word for word in (model, *(settings or ())) if word], data)
    if out is None:
        raise output.CommandError("--out DIR is missing: the folder of the run; see: seqgen train --help")
    if json and (seeds or sweep is not None):
        raise output.CommandError("--json is of one run; DIR/trials.tsv and seqgen compare --json tell of several")
    if seeds or sweep is not None:
        _several(seeds, sweep, trials, storage, out, source, tokenizer, overrides)
    elif storage or trials != 20:
        raise output.CommandError(f"{'--storage' if storage else '--trials'} takes no effect without --sweep")
    if "torch" not in sys.modules:  # a second or two without a word
        output.say(f"reading {_sources(data or [str(source or out)])} ...")
    from seqgen.engine import loop, progress
    from seqgen.engine import run as runs
    from seqgen.engine.progress import LIKELIHOOD

    chosen = None
    own = runs.own_module(module)
    # code is imported only where this command names it, never because a folder or a file of settings does
    rewards = [word.partition("=")[2] for word in overrides if word.partition("=")[0].strip() == "model.reward.kind"]
    reward = rewards[-1].strip("\"'") if rewards else None
    if seeds or sweep is not None:
        how: dict[str, Any] = {"preset": preset, "file": file, "valid": valid, "module": own}

        def made(more: list[str]) -> runs.Settings:
            return runs.config(model, data, overrides=[*overrides, *more], **how)

        if sweep is not None:
            _sweep(made, out, sweep, trials, storage)
        else:
            _seeds(made, out, _numbers(seeds), source_run=source, tokenizer_run=tokenizer, reward=reward)
        return
    if model or preset or file or (own is not None and not is_run(out)):
        chosen = runs.config(model, data, preset=preset, file=file, valid=valid, overrides=overrides, module=own)
    else:
        paths = {"data.files": data, "data.valid": valid}
        overrides += [f"{name}={encoding.dumps(given, ensure_ascii=False)}" for name, given in paths.items() if given]
    begun = chosen is None and is_run(out)
    settings_now = runs.read_settings(out, module=own) if begun else chosen
    decides = LIKELIHOOD if settings_now is None else str(getattr(settings_now.module, "DECIDES", LIKELIHOOD))
    shown = progress.display(decides)
    try:
        outcome = loop.train(
            chosen,
            out,
            module=own,
            source_run=source,
            overrides=[] if chosen is not None else overrides,
            tokenizer_run=tokenizer,
            reward=reward,
            progress=shown.show,
        )
    except DataError as error:
        if not data and str(error).endswith("no such file"):
            raise DataError(f"{error}; if the text has moved, give it with --data FILE") from None
        raise
    except KeyboardInterrupt:
        shown.close()
        again = f"seqgen train --out {out}" + (f" --module {module}" if module else "")
        output.say(f"stopped at once; {again} continues from the last checkpoint, if there is one")
        raise
    finally:
        shown.close()
    best = _best(outcome, decides)
    if json:
        ended = {"run": str(outcome.folder), "step": outcome.step, "reason": outcome.reason}
        output.write(
            output.json_line({**ended, "metric": decides, "best": best.get(decides), "best_step": best.get("step")})
        )
    output.say(_last_words(outcome, shown.seen, decides, f" --module {module}" if module else ""))
    if outcome.reason in ("interrupted", "terminated"):
        raise typer.Exit(130 if outcome.reason == "interrupted" else 143)


def _several(
    seeds: str,
    sweep: Path | None,
    trials: int,
    storage: str,
    out: Path,
    source: Path | None,
    tokenizer: Path | None,
    overrides: list[str],
) -> None:
    """Refuse what does not go with several runs."""
    if seeds and sweep is not None:
        raise output.CommandError("--seeds and --sweep: give one; sweep first, then train --config best.toml --seeds")
    if sweep is None and (storage or trials != 20):
        raise output.CommandError(f"{'--storage' if storage else '--trials'} takes no effect without --sweep")
    if sweep is not None and source is not None:
        raise output.CommandError("--from is not for a sweep: its trials begin anew")
    if sweep is not None and tokenizer is not None:
        raise output.CommandError("--tokenizer is not for a sweep: each trial makes its own")
    if seeds and any(word.partition("=")[0] == "seed" for word in overrides):
        raise output.CommandError("--seeds and seed=: give one")
    if is_run(out):
        raise output.CommandError(f"{out} is a run; several runs go into a folder of their own: give another --out")
    output.at_least(1, trials=trials)


def _numbers(seeds: str) -> list[int]:
    words = seeds.split(",")
    if not all(word.strip().isdecimal() for word in words) or len({int(word) for word in words}) < len(words):
        raise output.CommandError(f"--seeds must be different integers separated by commas, got {seeds!r}")
    return [int(word) for word in words]


def _sweep(made: "Callable[[list[str]], Settings]", out: Path, ranges: Path, trials: int, storage: str) -> None:
    from seqgen.engine import sweep as sweeping

    best = sweeping.sweep(made, out, sweeping.read_ranges(ranges, made), trials=trials, storage=storage, say=output.say)
    tables = f"{out / 'trials.tsv'} and, drawn, in {out / 'trials.png'}"
    output.say(f"all trials are in {tables}; next: seqgen train --config {best} --data FILE --out RUN")


def _seeds(made: "Callable[[list[str]], Settings]", out: Path, seeds: list[int], **how: Any) -> None:
    """Train a run for each seed, and say how far their held-out scores are apart."""
    from seqgen.engine import loop, progress
    from seqgen.engine.progress import LIKELIHOOD

    values = []
    for seed in seeds:
        settings, folder = made([f"seed={seed}"]), out / f"seed-{seed}"
        decides = str(getattr(settings.module, "DECIDES", LIKELIHOOD))
        shown = progress.display(decides)
        try:
            outcome = loop.train(settings, folder, progress=shown.show, **how)
        finally:
            shown.close()
        output.say(f"seed {seed}: " + _last_words(outcome, True, decides, "").partition("; next:")[0])
        if outcome.reason in ("interrupted", "terminated"):
            raise typer.Exit(130 if outcome.reason == "interrupted" else 143)
        judged = [float(row[decides]) for row in log.read(folder / "scores.jsonl") if row.get(decides) is not None]
        values += [min(judged)] if judged else []
    if values:
        mean = sum(values) / len(values)
        output.say(f"{decides} {mean:.4f} ({min(values):.4f} to {max(values):.4f}) over {len(values)} seeds")
    output.say(f"next: seqgen compare {out} --references FILE")


def _split(words: Sequence[str], data: Sequence[str] | None) -> tuple[str, list[str]]:
    """Return the model (or "") and the settings among the words after the options."""
    settings = [word for word in words if "=" in word]
    bare = [word for word in words if "=" not in word]
    model = bare[0] if bare and bare[0] == words[0] else ""
    wrong = next((word for word in bare[bool(model) :]), None)
    if "." in model or "/" in model:  # no model is called so: it is a path
        model, wrong = "", model
    if wrong is None:
        return model, settings
    if wrong.endswith(".py"):
        raise output.CommandError(f"{wrong!r} is no setting (no =); a model of your own is: --module {wrong}")
    if Path(wrong).exists() or data:
        raise output.CommandError(
            f"{wrong!r} is no setting (no =); --data is repeated, not followed by several files: --data {wrong}"
        )
    raise output.CommandError(f"{wrong!r} is no setting; expected section.option=value, for example model.hidden=512")


def _sources(names: Sequence[str]) -> str:
    """Return what is read, in a few words."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return ("standard input" if names[0] == "-" else names[0]) + more


def _best(outcome: "Outcome", decides: str) -> dict[str, Any]:
    """Return the scores of the validation that decides, none where there was no validation."""
    judged = [row for row in log.read(outcome.folder / "scores.jsonl") if row.get(decides) is not None]
    return min(judged, key=lambda row: float(row[decides]), default={})


def _last_words(outcome: "Outcome", trained: bool, decides: str, own: str) -> str:
    """Return what happened, how good it is, and what to type next; `own` names the file of a model of one's own."""
    from seqgen.engine.progress import held_out
    from seqgen.engine.stored import stored_sections

    out = outcome.folder
    if outcome.reason in ("interrupted", "terminated"):
        return f"{outcome.reason} at step {outcome.step}, saved; continue with: seqgen train --out {out}{own}"
    words = f"{outcome.reason} at step {outcome.step}"
    if not trained:
        words = f"nothing to do: {out} is trained to step {outcome.step}"
    if best := _best(outcome, decides):
        words += f"; best held-out {held_out(best, decides)} at step {best['step']}"
    if not trained:
        return f"{words}; to train longer: seqgen train --out {out}{own} train.steps={2 * outcome.step}"
    if not (out / "tokenizer").is_dir():
        return f"{words}; next: seqgen generate {out}{own} --count 16"
    conditions = stored_sections(out)["data"]["source"]
    return f"{words}; next: seqgen generate {out}{own} " + ("--source FILE" if conditions else "--count 5")
