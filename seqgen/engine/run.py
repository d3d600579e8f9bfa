"""A run is a folder, and the folder is the model: settings in, settings back, and what a later sitting may change."""

import dataclasses
import importlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from seqgen._version import __version__
from seqgen.core import config as settings_of
from seqgen.core import files, log, numerics
from seqgen.core.config import Train
from seqgen.core.errors import ConfigError, RunError
from seqgen.data import known, rewards

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
"""One path or several."""

_DATA_ROOMS = {"text": "seqgen.data.sources", "images": "seqgen.images.data"}

_LATER = ("steps", "log_every", "eval_every", "save_every", "keep", "patience", "device", "threads")
MAY_CHANGE = frozenset(["data.files", *(f"train.{name}" for name in _LATER)])
"""Options a later sitting may set anew: they do not rewrite the past (moved files are compared by their content)."""


@dataclass(frozen=True)
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
    """The chapter's own Config."""
    train: Train
    """How long, how fast, on what."""
    chosen: frozenset[str] = dataclasses.field(default=frozenset(), compare=False)
    """Options that were set by name, and are not changed to fit the data; not stored."""

    def sections(self) -> dict[str, Any]:
        """Plain nested values, valid as TOML and as input to `config(file=...)`."""
        parts = {"data": self.data, "tokenizer": self.tokenizer, "model": self.model, "train": self.train}
        plain = {name: settings_of.to_dict(part) for name, part in parts.items() if part is not None}
        return {"name": self.name, "seed": self.seed, "version": __version__, **plain}

    def differences(self, other: "Settings") -> dict[str, tuple[Any, Any]]:
        """Every option in which two settings differ, as {name: (this, other)}."""
        a, b = _flat(self.sections()), _flat(other.sections())
        return {key: (a.get(key), b.get(key)) for key in {**a, **b} if key != "version" and a.get(key) != b.get(key)}


def _flat(sections: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in sections.items():
        flat |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {name: value}
    return flat


def chapter_names() -> list[str]:
    """The models there are, by their names on the command line: one per file of `models` and `images`."""
    files_of = {room: resources.files("seqgen").joinpath(room) for room in ("models", "images")}
    names = [p.name.removesuffix(".py") for p in files_of["models"].iterdir() if p.name.endswith(".py")]
    if files_of["images"].is_dir():
        names += [f"image_{room}" for room in ("gan", "vae") if files_of["images"].joinpath(f"{room}.py").is_file()]
    return sorted(name.replace("_", "-") for name in names if not name.startswith("_"))


def chapter(name: str) -> Any:
    """The module of a model, found by its file name: `text-vae` is models/text_vae.py, `image-gan` is images/gan.py."""
    name = name.replace("_", "-")
    if name not in chapter_names():
        raise ConfigError(f"unknown model {name}{settings_of.suggestion(name, chapter_names())}")
    room, file = ("images", name.removeprefix("image-")) if name.startswith("image-") else ("models", name)
    return importlib.import_module(f"seqgen.{room}.{file.replace('-', '_')}")


def data_room(kind: str) -> Any:
    """The module that prepares a chapter's kind of data ("text" or "images")."""
    return importlib.import_module(_DATA_ROOMS[kind])


def preset_names() -> list[str]:
    """The named starting points shipped with the package."""
    return sorted(p.name.removesuffix(".toml") for p in resources.files("seqgen").joinpath("presets").iterdir())


def read_preset(name: str) -> dict[str, Any]:
    """A preset's settings as nested values."""
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
    module: Any = None,
) -> Settings:
    """The settings of a run: dataclass defaults < preset < what a known set needs < TOML file < overrides.

    `data` and `valid` are paths or names of known sets, which stand for their training and their test part. `overrides`
    is `{"model.hidden": 512}` or `["model.hidden=512"]`. Without preset and file, the model's default
    preset is the start. `module` is a chapter of your own, then `model` only names it. ConfigError lists every fault.
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
    name = (model or str(base.get("name", ""))).replace("_", "-")
    if not name:
        raise ConfigError(f"no model given; expected one of {', '.join(chapter_names())}")
    if base.get("name", name) != name:
        raise ConfigError(f"{preset or file} is for {base['name']}, not for {name}")
    if not base and module is None:
        chapter(name)  # an unknown model is to be told by its own name, not by that of its preset
        base = read_preset(name if name in preset_names() else f"{name}-small")

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
    settings = build(settings_of.merge(preset_only, user, {"name": name}), module=module)
    preset_only = _gives_way(preset_only, settings, set(_flat(user)), module or chapter(name))
    paths, needed = _known_sets(settings, (module or chapter(name)).DATA)
    sections = settings_of.merge(preset_only, needed, user, {"name": name}, {"data": paths})
    return dataclasses.replace(build(sections, module=module), chosen=frozenset(_flat(user)))


def _gives_way(preset: dict[str, Any], settings: Settings, chosen: set[str], module: Any) -> dict[str, Any]:
    """A preset without the model options that give way to others that were chosen, as the model's GIVES_WAY says."""
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
    """data.files and data.valid with names of sets replaced by paths, and the settings the training sets need."""
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
        if known.named(name, kind) is not None:
            log.messages.warning(
                "the test part of %s chooses the best checkpoint, so scores on it will flatter; without --valid a part "
                "of the training data is held out",
                name,
            )
    paths = {
        "files": known.expanded(settings.data.files, "train", kind),
        "valid": known.expanded(settings.data.valid, "test", kind),
    }
    return {option: [str(path) for path in found] for option, found in paths.items()}, needed


def _nested(overrides: Mapping[str, Any] | Iterable[str]) -> dict[str, Any]:
    if not isinstance(overrides, Mapping):
        nested = settings_of.parse_overrides(overrides)
        return settings_of.merge(nested.pop("", {}), nested)
    nested = {}
    for key, value in overrides.items():
        section, _, option = key.rpartition(".")
        if section:
            nested.setdefault(section, {})[option] = value
        else:
            nested[key] = value
    return nested


def changed(settings: Settings, overrides: Mapping[str, Any] | Iterable[str], *, module: Any = None) -> Settings:
    """The settings with some options replaced."""
    asked = _nested(overrides)
    made = build(settings_of.merge(settings.sections(), asked), module=module)
    paths, _ = _known_sets(made, (module or chapter(made.name)).DATA)
    made = build(settings_of.merge(made.sections(), {"data": paths}), module=module)
    return dataclasses.replace(made, chosen=settings.chosen | frozenset(_flat(asked)))


def build(sections: Mapping[str, Any], *, module: Any = None) -> Settings:
    """Settings from nested values; every fault of every section is reported in one ConfigError."""
    if not isinstance(sections.get("name"), str) and module is None:
        raise ConfigError(
            f"name must be a model ({', '.join(chapter_names())}), got {sections.get('name', 'nothing')!r}"
        )
    module = module or chapter(str(sections["name"]))
    room = data_room(module.DATA)
    classes: dict[str, type] = {"data": room.DataConfig, "model": module.Config, "train": Train}
    if module.DATA == "text":
        classes["tokenizer"] = room.TokenizerConfig
    top = {"name", "seed", "version", *classes}
    faults = [f"unknown option {key}{settings_of.suggestion(key, top)}" for key in sections if key not in top]
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
    return Settings(str(sections["name"]), seed, **parts)


def stored_sections(folder: Path) -> dict[str, Any]:
    """The settings of a run as they stand, as nested values: config.toml and what later sittings changed."""
    path = folder / "config.toml"
    if not path.is_file():
        raise RunError(
            f"{folder} is not a run folder (no config.toml); train one with: seqgen train MODEL --out {folder}"
        )
    sections = settings_of.read_toml_file(path)
    wrong = [key for key in ("data", "model", "train") if not isinstance(sections.get(key), dict)]
    if wrong or not isinstance(sections.get("name"), str):
        raise RunError(f"{path}: {(wrong or ['name'])[0]} is missing or wrong; the file is altered")
    for change in read_changes(folder):
        sections = settings_of.merge(sections, _nested({key: new for key, (_, new) in change["settings"].items()}))
    return sections


def read_settings(folder: Path, *, module: Any = None) -> Settings:
    """The settings of a run as they stand; `module` is needed for a chapter of one's own."""
    try:
        return build(stored_sections(folder), module=module)
    except ConfigError as error:
        path = str(folder / "config.toml")
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


def read_changes(folder: Path) -> list[dict[str, Any]]:
    """What later sittings changed, oldest first: {"step", "settings": {name: [old, new]}}."""
    path = folder / "changes.json"
    changes = files.read_json(path) if path.is_file() else []
    try:
        for change in changes:
            if not all(len(pair) == 2 for pair in change["settings"].values()):
                raise TypeError
    except (TypeError, KeyError, AttributeError):
        raise RunError(f"{path}: not a list of changes; the file is altered") from None
    return list(changes)


def settle(
    folder: Path, stored: Settings, asked: Settings, step: int, *, processes: tuple[int, int] = (1, 1)
) -> list[str]:
    """Accept or refuse what a new sitting asks of an existing run, and record it; returns sentences worth saying.

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
    if changes[-1:] != [change]:  # a sitting that broke off before its first checkpoint has said so already
        files.write_json(folder / "changes.json", [*changes, change])
    said = [f"{key} is now {_toml(new)}, was {_toml(old)}" for key, (old, new) in sorted(differences.items())]
    if "train.steps" in differences and stored.train.schedule in ("cosine", "linear"):
        said.append(f"the {stored.train.schedule} schedule ends at the new train.steps: the learning rate jumps here")
    if before != now:
        said.append(
            f"{now} process{'es' * (now > 1)} from here on, {before} before: what follows is not what {before} gave"
        )
    return said


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def trusted_code(
    settings: Settings, reward: rewards.Reward | str | None, folder: Path, stored: Settings | None
) -> rewards.Reward | None:
    """The function behind model.reward, imported from its file where this call names that; None where it is no code.

    RunError where the settings alone lead to code: a run folder or a file of settings may come from anybody.
    """
    spec = str(getattr(settings.model, "reward", ""))
    if not rewards.is_code(spec):
        return None
    if callable(reward):
        return reward
    if reward is not None:
        return rewards.imported(spec)
    if spec.startswith("call:"):
        raise RunError(f"{folder}: model.reward = {spec} is a function; pass it again: seqgen.train(..., reward=...)")
    word = shlex.quote(f"model.reward={spec}")
    how = f"seqgen train --out {shlex.quote(str(folder))} {word}" if stored else f"add {word} to the command"
    raise RunError(
        f"{folder}: model.reward is code, and {spec.rpartition(':')[0]} is imported only where the command names it; "
        f"if you trust that file: {how}"
    )


def code_hash(settings: Settings) -> dict[str, str]:
    """What env.json says of the Python file of the reward; {} where there is none."""
    file, _, _ = str(getattr(settings.model, "reward", "")).partition(":")
    return {"reward_sha256": files.sha256_file(Path(file))} if file.endswith(".py") else {}


def with_facts(settings: Settings, facts: Mapping[str, Any], data: Any, tokenizer: Any, *, batch: int) -> Settings:
    """The settings with what the data decided filled in: sizes, special ids, the batch, and every `auto` replaced."""
    known = {field.name for field in dataclasses.fields(settings.model)}
    filled = {key: tuple(v) if isinstance(v, list) else v for key, v in facts.items() if key in known}
    model = dataclasses.replace(settings.model, **filled)
    train = dataclasses.replace(settings.train, batch=batch)
    return dataclasses.replace(settings, data=data, tokenizer=tokenizer, model=model, train=train)


def environment(device: torch.device, command: list[str] | None = None) -> dict[str, Any]:
    """What the machine and the software are, for env.json."""
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
    """The device an option names; ConfigError where it is unknown or absent."""
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
