"""A run is a folder, and the folder is the model: settings in, settings back, and what a later session may change."""

import dataclasses
import importlib
import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias, cast

import torch

from seqgen._version import __version__
from seqgen.core import code as importing
from seqgen.core import config as settings_of
from seqgen.core import files, log, numerics
from seqgen.core.config import Train
from seqgen.core.errors import ConfigError, RunError
from seqgen.data import rewards
from seqgen.data.corpora import known
from seqgen.engine import page
from seqgen.engine.folder import CONFIG
from seqgen.engine.stored import FORMAT, read_changes, stored_sections
from seqgen.models._contract import ModelModule, check_module

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
"""One path or several."""

Module: TypeAlias = ModelModule | ModuleType | str | os.PathLike[str]
"""A model module of one's own, or the path of its file, which is imported only because the call names it."""

_DATA_ROOMS = {"text": "seqgen.data.prepare", "images": "seqgen.images.data"}

_ABOUT = ("version", "format")  # of a file of settings: who wrote it, no options

_LATER = ("steps", "log_every", "eval_every", "save_every", "keep", "patience", "device", "threads", "track")
MAY_CHANGE = frozenset(["data.files", "module", *(f"train.{name}" for name in _LATER)])
"""Options a later session may set anew: they do not rewrite the past (moved files are compared by their content)."""


@dataclass(frozen=True, repr=False)
class Settings:
    """Everything that decides what a run does; `sections()` is what config.toml holds."""

    name: str
    """The model, as on the command line: lm, seqgan, text-vae ..."""
    seed: int
    """One number from which all randomness of the run follows."""
    data: Any
    """Which rows, and how they are cut (the data room's DataConfig)."""
    tokenizer: Any
    """How text becomes ids (TokenizerConfig); None for images."""
    model: Any
    """The model module's own Config."""
    train: Train
    """How long, how fast, on what."""
    module: ModelModule = dataclasses.field(compare=False)
    """The model module itself; not stored."""
    code: str = ""
    """Where a module of one's own came from: its absolute path, or call:NAME; empty for a model of the package."""
    chosen: frozenset[str] = dataclasses.field(default=frozenset(), compare=False)
    """Options that were set by name, and are not changed to fit the data; not stored."""

    def __repr__(self) -> str:
        data = ", ".join(Path(file).name for file in self.data.files)
        return f"Settings({self.name}, data {data or 'not chosen'}, {self.train.steps} steps, seed {self.seed})"

    def _repr_html_(self) -> str:
        flat = settings_of.flat(self.sections())
        rows = [[escape(name), escape(json.dumps(value, ensure_ascii=False))] for name, value in flat.items()]
        table = page.table(["option", "value"], rows)
        return page.fragment(f"<details><summary>{escape(repr(self))}</summary>{table}</details>")

    def sections(self) -> dict[str, Any]:
        """Return plain nested values, valid as TOML and as input to `config(file=...)`."""
        parts = {"data": self.data, "tokenizer": self.tokenizer, "model": self.model, "train": self.train}
        plain = {name: settings_of.to_dict(part) for name, part in parts.items() if part is not None}
        own = {"module": self.code} if self.code else {}
        return {"name": self.name, "seed": self.seed, "version": __version__, "format": FORMAT, **own, **plain}

    def differences(self, other: "Settings") -> dict[str, tuple[Any, Any]]:
        """Return every option in which two settings differ, as {name: (this, other)}."""
        a, b = settings_of.flat(self.sections()), settings_of.flat(other.sections())
        return {key: (a.get(key), b.get(key)) for key in {**a, **b} if key not in _ABOUT and a.get(key) != b.get(key)}


_ROOMS = {"models": "", "images": "image-"}


def model_names(*, made: bool = False) -> list[str]:
    """Return the models of the package by their names on the command line, found by the names of their files.

    Each file of `models` is one, `text_vae.py` as text-vae; of `images` each with a line `DATA = ...`, `gan.py` as
    image-gan. One with a line `MADE_BY = ...` is not trained but made by another command, and named if `made`.
    """
    names = []
    for room, prefix in _ROOMS.items():
        folder = resources.files("seqgen").joinpath(room)
        for path in folder.iterdir() if folder.is_dir() else ():
            name, dot, ending = path.name.partition(".")
            if dot and ending == "py" and name[0] != "_":
                source = path.read_text("utf-8")
                if (not prefix or "\nDATA = " in source) and (made or "\nMADE_BY = " not in source):
                    names.append(prefix + name.replace("_", "-"))
    return sorted(names)


def model_module(name: str) -> ModelModule:
    """Return the module of a model, found by its file name: text-vae is models/text_vae.py, image-gan images/gan.py.

    ConfigError for a name that no file has, and for a file that is no whole model module.
    """
    name = name.replace("_", "-")
    if name not in model_names(made=True):
        raise ConfigError(f"unknown model {name}{settings_of.suggestion(name, model_names())}")
    room, file = ("images", name.removeprefix("image-")) if name.startswith("image-") else ("models", name)
    path = f"seqgen.{room}.{file.replace('-', '_')}"
    module = importlib.import_module(path)
    check_module(module, f"{path.replace('.', '/')}.py")
    return cast(ModelModule, module)


def own_module(module: Module | None) -> ModelModule | None:
    """Return a model module of one's own, from its file where it is a path; ConfigError names what it lacks."""
    if module is None:
        return None
    named = isinstance(module, str | os.PathLike)
    found = importing.imported(module, option="--module") if named else module  # type: ignore[arg-type]
    check_module(found, str(module) if named else _origin(found))
    return cast(ModelModule, found)


def _origin(module: Any) -> str:
    """Return what stands for a module of one's own in the settings: its absolute path, or call:NAME without a file."""
    file = getattr(module, "__file__", None)
    return str(Path(file).absolute()) if file else f"call:{getattr(module, '__name__', type(module).__name__)}"


def data_room(kind: str) -> Any:
    """Return the module that prepares a model module's kind of data ("text" or "images")."""
    return importlib.import_module(_DATA_ROOMS[kind])


def preset_names() -> list[str]:
    """Return the named starting points shipped with the package."""
    return sorted(p.name.removesuffix(".toml") for p in resources.files("seqgen").joinpath("presets").iterdir())


def read_preset(name: str) -> dict[str, Any]:
    """Return a preset's settings as nested values."""
    if name not in preset_names():
        raise ConfigError(f"unknown preset {name}{settings_of.suggestion(name, preset_names())}")
    text = resources.files("seqgen").joinpath("presets", f"{name}.toml").read_text(encoding="utf-8")
    return settings_of.read_toml(text, name=f"preset {name}")


def config(
    model: str = "",
    data: Paths | None = None,
    *,
    preset: str | None = None,
    file: str | os.PathLike[str] | None = None,
    valid: Paths | None = None,
    overrides: Mapping[str, Any] | Iterable[str] = (),
    module: Module | None = None,
) -> Settings:
    """Return the settings of a run: dataclass defaults < preset < needs of a known set < TOML file < overrides.

    `data` and `valid` are paths or names of known sets, which stand for their training and their test part. `overrides`
    is `{"model.hidden": 512}` or `["model.hidden=512"]`. Without preset and file, the preset of the model's name or
    NAME-small is the start, if there is one. `module` is a model module of your own or the path of its file, then
    `model` only names it, and without it the file does. ConfigError lists every fault.
    """
    if preset and file:
        raise ConfigError(f"give --preset {preset} or --config {file}, not both")
    if file is not None:
        path = Path(file)
        if not path.is_file():
            raise ConfigError(f"{path}: no such settings file")
        base = settings_of.read_sections(path)
    else:
        base = read_preset(preset) if preset else {}
    own = own_module(module)
    file_name = "" if own is None else Path(_origin(own).removeprefix("call:")).stem
    name = (model or str(base.get("name", "")) or file_name).replace("_", "-")
    if not name:
        raise ConfigError(f"no model given; expected one of {', '.join(model_names())}")
    if base.get("name", name) != name:
        raise ConfigError(f"{preset or file} is for {base['name']}, not for {name}")
    if not base and own is None:
        model_module(name)  # an unknown model is named by its own name, not by that of its preset
        base = next((read_preset(p) for p in (name, f"{name}-small") if p in preset_names()), {})

    asked = _nested(overrides)
    for key in ("name", "version"):
        if asked.get(key, name) != name:
            raise ConfigError(f"{key} = {asked[key]} is no setting of {name}; the model is named by itself")
    given: dict[str, Any] = {}
    for option, paths in (("files", data), ("valid", valid)):
        if paths is not None:
            given[option] = (
                [os.fspath(paths)] if isinstance(paths, str | os.PathLike) else [os.fspath(p) for p in paths]
            )
    user = settings_of.merge(base if file is not None else {}, {"data": given}, asked)
    preset_only = {} if file is not None else base
    settings = build(settings_of.merge(preset_only, user, {"name": name}), module=own)
    preset_only = _gives_way(preset_only, settings, set(settings_of.flat(user)), settings.module)
    paths, needed = _known_sets(settings, settings.module.DATA)
    if getattr(settings.module, "STATELESS", False) and needed.get("data", {}).get("mode") == "stream":
        needed = settings_of.merge(needed, {"data": {"mode": "window"}})
    sections = settings_of.merge(preset_only, needed, user, {"name": name}, {"data": paths})
    return dataclasses.replace(build(sections, module=own), chosen=frozenset(settings_of.flat(user)))


def _gives_way(preset: dict[str, Any], settings: Settings, chosen: set[str], module: ModelModule) -> dict[str, Any]:
    """Drop a preset's model options that give way to chosen ones, as listed in the model's GIVES_WAY."""
    model = dict(preset.get("model", {}))
    for option, others in getattr(module, "GIVES_WAY", {}).items():
        stronger = [name for name in others if f"model.{name}" in chosen and _is_on(settings.model, name)]
        if stronger and option in model and f"model.{option}" not in chosen:
            log.messages.info(
                "model.%s = %s of the preset gives way to model.%s", option, model.pop(option), stronger[0]
            )
    return {**preset, "model": model}


def _is_on(section: Any, name: str) -> bool:
    defaults = {field.name: field.default for field in dataclasses.fields(section)}
    return bool(getattr(section, name) != defaults[name])


def _known_sets(settings: Settings, kind: str) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """Replace names of sets in data.files and data.valid by paths; return them and the settings the sets need."""
    needed: dict[str, Any] = {}
    for name in settings.data.files:
        entry = known.named(name, kind)
        if (
            kind == "images"
            and entry is None
            and name not in known.MADE_IMAGES
            and not Path(name).expanduser().exists()
        ):
            raise known.no_such_file(name, kind)
        needed = settings_of.merge(needed, entry.settings if entry is not None else {})
    for name in settings.data.valid:
        entry = known.named(name, kind)
        if entry is not None and all(file.use != "valid" for file in entry.files):
            log.messages.warning(
                "the test part of %s chooses the best checkpoint, so scores on it will flatter; without --valid a part "
                "of the training data is held out",
                name,
            )
    paths = {
        "files": known.expanded(settings.data.files, "train", kind),
        "valid": known.expanded(settings.data.valid, "valid", kind),
    }
    return {option: [str(path) for path in found] for option, found in paths.items()}, needed


def _nested(overrides: Mapping[str, Any] | Iterable[str]) -> dict[str, Any]:
    if isinstance(overrides, Mapping):
        return settings_of.nested(overrides)
    parsed = settings_of.parse_overrides(overrides)
    return settings_of.merge(parsed.pop("", {}), parsed)


def changed(settings: Settings, overrides: Mapping[str, Any] | Iterable[str]) -> Settings:
    """Return the settings with some options replaced."""
    asked = _nested(overrides)
    module = settings.module if settings.code else None
    made = build(settings_of.merge(settings.sections(), asked), module=module)
    paths, _ = _known_sets(made, made.module.DATA)
    made = build(settings_of.merge(made.sections(), {"data": paths}), module=module)
    return dataclasses.replace(made, chosen=settings.chosen | frozenset(settings_of.flat(asked)))


def build(sections: Mapping[str, Any], *, module: Module | None = None) -> Settings:
    """Return settings from nested values; every fault of every section is reported in one ConfigError."""
    name = sections.get("name")
    if not isinstance(name, str):
        raise ConfigError(f"name must be a model ({', '.join(model_names())}), got {sections.get('name', 'nothing')!r}")
    own = own_module(module)
    if own is not None and name in model_names():
        raise ConfigError(f"{name} is a model of the package; a module of your own needs another name")
    if own is None and sections.get("module"):
        raise ConfigError(_not_named("module", str(sections["module"]), "add --module {} to the command"))
    code, module = ("", model_module(name)) if own is None else (_origin(own), own)
    room = data_room(module.DATA)
    classes: dict[str, type] = {"data": room.DataConfig, "model": module.Config, "train": Train}
    if module.DATA == "text":
        classes["tokenizer"] = room.TokenizerConfig
    top = {"name", "seed", *_ABOUT, *classes}
    faults = [
        f"unknown option {key}{settings_of.suggestion(key, classes if isinstance(value, Mapping) else top)}"
        for key, value in sections.items()
        if key not in {"module", *top}
    ]
    parts: dict[str, Any] = {"tokenizer": None}
    for section, cls in classes.items():
        values = sections.get(section, {})
        if not isinstance(values, Mapping):
            faults.append(f"{section} must be a table of options, [{section}], got {values!r:.40}")
            continue
        try:
            parts[section] = settings_of.build(cls, values, section=section)
        except ConfigError as error:
            faults.append(str(error))
    try:
        seed = int(str(sections.get("seed", 1)))
    except ValueError:
        faults.append(f"seed must be an integer, got {str(sections['seed'])!r}")
    if faults:
        raise ConfigError("; ".join(faults))
    return Settings(name, seed, **parts, module=module, code=code)


def read_settings(folder: Path, *, module: Module | None = None) -> Settings:
    """Return the settings of a run as they stand; `module` is needed, and used, for a model of one's own."""
    sections = stored_sections(folder)
    spec = str(sections.get("module", ""))
    if module is None and spec:
        how = f"seqgen train --out {shlex.quote(str(folder))} --module {{}}, or --module {{}} after another command"
        raise RunError(f"{folder}: {_not_named('module', spec, how)}")
    try:
        return build(sections, module=module if spec else None)
    except ConfigError as error:
        path = str(folder / CONFIG)
        raise error if str(error).startswith(path) else ConfigError(f"{path}: {error}") from None


def on_own_data(settings: Settings, stored: Settings) -> Settings:
    """Return the settings with the data of a run and how it is read, but for what was chosen otherwise."""
    if stored.name != settings.name:
        return settings
    parts: dict[str, Any] = {}
    for name in ("data", "tokenizer"):
        own = getattr(settings, name)
        if own is not None:
            names = [field.name for field in dataclasses.fields(own)]
            chosen = {option: getattr(own, option) for option in names if f"{name}.{option}" in settings.chosen}
            parts[name] = dataclasses.replace(getattr(stored, name), **chosen)
    return dataclasses.replace(settings, **parts)


_TEXT_OF = ("files", "valid", "valid_share", "format", "encoding", "field", "source", "target")
_IMAGES_OF = ("labels", "size", "colour", "count", "labelled")


def on_data_of(settings: Settings, source: Settings) -> Settings:
    """Return the settings with the files of another run, read and held out as there, but for what was chosen."""
    options = {field.name for field in dataclasses.fields(settings.data)} & set(vars(source.data))
    taken = [name for name in (*_TEXT_OF, *_IMAGES_OF) if name in options and f"data.{name}" not in settings.chosen]
    data = dataclasses.replace(settings.data, **{name: getattr(source.data, name) for name in taken})
    return dataclasses.replace(settings, data=data)


def reconcile_settings(
    folder: Path, stored: Settings, asked: Settings, step: int, *, processes: tuple[int, int] = (1, 1)
) -> list[str]:
    """Accept or refuse what a new session asks of an existing run, and record it; returns notes on it.

    `processes`: how many trained before, and now. RunError lists every option that would rewrite the past.
    """
    differences = stored.differences(asked)
    refused = {key: pair for key, pair in differences.items() if key not in MAY_CHANGE}
    if refused:
        listed = "; ".join(f"{key} = {_toml(old)}, now {_toml(new)}" for key, (old, new) in sorted(refused.items()))
        raise RunError(f"{folder} was trained with {listed}; use another --out, or the stored settings")
    before, now = processes
    if not differences and before == now:
        return []
    change: dict[str, Any] = {"step": step, "settings": {k: list(v) for k, v in differences.items()}}
    change |= {"processes": [before, now]} if before != now else {}
    changes = read_changes(folder)
    if changes[-1:] != [change]:  # a session that broke off before its first checkpoint has recorded it already
        files.write_json(folder / "changes.json", [*changes, change])
    notes = [f"{key} is now {_toml(new)}, was {_toml(old)}" for key, (old, new) in sorted(differences.items())]
    if "train.steps" in differences and stored.train.schedule in ("cosine", "linear"):
        notes.append(f"the {stored.train.schedule} schedule ends at the new train.steps: the learning rate jumps here")
    if before != now:
        notes.append(
            f"{now} process{'es' * (now > 1)} from here on, {before} before: what follows is not what {before} gave"
        )
    return notes


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def trusted_code(
    settings: Settings, reward: rewards.Reward | str | None, folder: Path, stored: Settings | None
) -> rewards.Reward | None:
    """Return the function behind model.reward.kind, imported if this call names its file; None if it is no code.

    RunError where the settings alone lead to code: a run folder or a file of settings may come from anybody.
    """
    spec = _reward(settings)
    if not rewards.is_code(spec):
        return None
    if callable(reward):
        return reward
    if reward is not None:
        return rewards.imported(spec)
    how = f"seqgen train --out {shlex.quote(str(folder))} model.reward.kind={{}}"
    how = how if stored else "add model.reward.kind={} to the command"
    raise RunError(f"{folder}: {_not_named('model.reward.kind', spec, how)}")


def _reward(settings: Settings) -> str:
    """Return model.reward.kind, empty where the model has none."""
    return str(getattr(getattr(settings.model, "reward", None), "kind", ""))


def _not_named(option: str, spec: str, how: str) -> str:
    """Return why code that settings name is not imported, and `how` a command names its file, {} in it."""
    if spec.startswith("call:"):
        name, kind = ("module", "module") if option == "module" else ("reward", "function")
        return f"{option} = {spec} is a {kind}; pass it again: seqgen.train(..., {name}=...)"
    file = re.sub(r"([.]py):[^:]*$", r"\1", spec)
    return (
        f"{option} is code, and {file} is imported only where the command names it; if you trust that file: "
        + how.replace("{}", shlex.quote(spec))
    )


def code_hashes(settings: Settings) -> dict[str, str]:
    """Return what env.json says of the Python files of the model and of the reward; {} where there are none."""
    code = {"module_sha256": Path(settings.code), "reward_sha256": Path(_reward(settings).partition(":")[0])}
    return {key: files.sha256_file(file) for key, file in code.items() if file.suffix == ".py" and file.is_file()}


def changed_code(folder: Path, settings: Settings) -> list[str]:
    """Return a sentence for each Python file that is not as the run began with; an equal hash proves nothing else."""
    before = files.read_object(folder / "env.json", data_sha256=str)
    what = {"module_sha256": "the model", "reward_sha256": "model.reward.kind"}
    changed = [what[key] for key, value in code_hashes(settings).items() if before.get(key) != value]
    return [f"the file of {name} has changed since this run began" for name in changed]


def with_facts(settings: Settings, facts: Mapping[str, Any], data: Any, tokenizer: Any, *, batch: int) -> Settings:
    """Return the settings with what the data decided: sizes, special ids, the batch, every `auto` replaced."""
    if facts.get("source_vocab_size") and not hasattr(settings.model, "source_vocab_size"):
        raise ConfigError(
            f"{settings.name} reads conditions and text alike: it needs data.source_tokenizer=shared, got "
            f"{data.source_tokenizer}; seq2seq has an encoder of its own for conditions"
        )
    model, train = _filled(settings.model, facts), dataclasses.replace(settings.train, batch=batch)
    return dataclasses.replace(settings, data=data, tokenizer=tokenizer, model=model, train=train)


def with_precision(settings: Settings, stored: Settings | None, device: torch.device) -> Settings:
    """Return the settings with `auto` decided: as the run has it or, where it begins, by what the device has."""
    if settings.train.precision != "auto":
        return settings
    found: Any = "bf16" if numerics.bf16_units(device) else "fp32"
    found = found if stored is None else stored.train.precision
    return dataclasses.replace(settings, train=dataclasses.replace(settings.train, precision=found))


def _filled(section: Any, facts: Mapping[str, Any]) -> Any:
    """Return a section with the facts that it has fields for, its own sections likewise."""
    values = {}
    for name, now in ((field.name, getattr(section, field.name)) for field in dataclasses.fields(section)):
        if dataclasses.is_dataclass(now):
            values[name] = _filled(now, facts)
        elif name in facts:
            values[name] = tuple(facts[name]) if isinstance(facts[name], list) else facts[name]
    return dataclasses.replace(section, **values)


def environment(device: torch.device, command: list[str] | None = None) -> dict[str, Any]:
    """Return what the machine and the software are, for env.json."""
    import numpy

    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "seqgen": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "device": str(device),
        "gpu": gpu,
        "threads": torch.get_num_threads(),
        **numerics.facts(device),
        "command": command if command is not None else ["seqgen", *sys.argv[1:]],
    }


def choose_device(name: str) -> torch.device:
    """Return the device an option names; ConfigError where it is unknown or absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        why = "; sampling needs double precision, which mps has not" if name.startswith("mps") else ""
        raise ConfigError(f"train.device must be auto, cpu or cuda[:N], got {name!r}{why}")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ConfigError(f"train.device is {name}, but torch sees {torch.cuda.device_count()} CUDA devices")
    return device
