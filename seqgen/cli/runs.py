"""`seqgen runs`: the runs below a folder, and in which settings they differ.

seqgen runs
seqgen runs runs/captions --sort best --json
"""

import dataclasses
import json as encoding
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from seqgen.cli import output
from seqgen.cli.options import Json

if TYPE_CHECKING:
    from seqgen.engine.stored import Listed


def runs(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the runs are, at any depth.")] = Path("runs"),
    sort: Annotated[
        Literal["name", "best", "changed", "size"],
        typer.Option(
            "--sort", metavar="NAME", help="name, best (lowest score first), changed or size (largest first)."
        ),
    ] = "name",
    json: Json = False,
) -> None:
    """List runs, and the settings in which they differ.

    Each with its model, data, steps, state (training, finished, interrupted), best held-out score, and the settings in
    which the runs of its model differ. A folder that cannot be read is named with the reason. JSON is an object for
    each run.
    """
    from seqgen.engine.stored import differing, runs_below

    if not folder.is_dir():
        raise output.CommandError(f"{folder} is no folder; train a run with: seqgen train MODEL --out {folder}/NAME")
    found, broken = runs_below(folder)
    found.sort(key=lambda run: _place(run, sort))
    settings = differing(found)
    if json:
        for run, own in zip(found, settings, strict=True):
            output.write(output.json_line(_record(run, own)))
        for path, why in broken.items():
            output.write(output.json_line({"run": str(path), "broken": why}))
        return
    if not found and not broken:
        output.say(f"no run below {folder}; train one with: seqgen train MODEL --out {folder}/NAME")
    if found:
        _write(found, settings)
    for path, why in broken.items():
        output.say(why if why.startswith(str(path)) else f"{path}: {why}")


def _place(run: "Listed", sort: str) -> tuple[Any, ...]:
    keys: dict[str, tuple[Any, ...]] = {
        # scores of one kind stand together; runs without one come last
        "best": (run.best is None, run.metric, run.best),
        "changed": (-run.changed.timestamp(),),
        "size": (-run.size,),
    }
    return (*keys.get(sort, ()), str(run.folder))


def _record(run: "Listed", settings: dict[str, Any]) -> dict[str, Any]:
    record = {**dataclasses.asdict(run), "folder": str(run.folder), "changed": run.changed.isoformat("T", "seconds")}
    return {"run": record.pop("folder"), **record, "settings": settings}


def _write(found: list["Listed"], settings: list[dict[str, Any]]) -> None:
    names = ["run", "model", "data", "step", "state", "best held-out", "changed", "size", "settings that differ"]
    rows = [
        [
            *(str(run.folder), run.model, run.data, f"{run.step}/{run.steps}", run.state),
            "" if run.best is None else f"{run.best:.4g} {run.metric}".strip(),
            *(f"{run.changed:%Y-%m-%d %H:%M}", _size(run.size)),
            " ".join(f"{name}={_value(value)}" for name, value in own.items()),
        ]
        for run, own in zip(found, settings, strict=True)
    ]
    output.write(output.table(names, rows, left=[0, 1, 2, 4, 5, 8]))


def _value(value: Any) -> str:
    return value if isinstance(value, str) else encoding.dumps(value, ensure_ascii=False)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
