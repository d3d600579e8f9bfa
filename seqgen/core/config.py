"""Settings: frozen dataclasses, one per section, checked once at the boundary.

Precedence: dataclass defaults < preset or TOML file < `section.option=value`. Unknown names are errors with a
suggestion, and all faults of one input are reported together. The string under a field is its help text. A field that
is a dataclass itself is a section of its section: `model.critic.hidden=128`, the TOML table [model.critic].
"""

import dataclasses
import difflib
import functools
import json
import math
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tomli_w
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from seqgen.core.errors import ConfigError
from seqgen.core.options import help_texts, plain

T = TypeVar("T")


@dataclass(frozen=True)
class Train:
    """How long, how fast and on what: the section `train`, the same for every model."""

    steps: Annotated[int, Field(ge=1)] = 2000
    """Optimizer updates in all; a finished run given more goes on from where it stopped."""
    batch: Annotated[int, Field(ge=1)] = 64
    """Rows (sentences, windows or images) per update, over all processes together."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Parts each batch is cut into, differentiated one after the other to save memory."""
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop", "adagrad"] = "adamw"
    """Update rule; rmsprop with a decay of .99, without momentum, as for the Wasserstein GAN with clipped weights."""
    lr: Annotated[float, Field(gt=0)] = 2e-3
    """Learning rate at the top of the schedule."""
    schedule: Literal["constant", "cosine", "linear", "inverse-sqrt"] = "cosine"
    """Learning rate after the warm-up; cosine and linear fall until `steps` and so depend on it."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps of linear rise to `lr`."""
    lr_end: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of `lr` left at the last step (cosine, linear)."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the first moment (adam, adamw)."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the second moment (adam, adamw)."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Momentum (sgd)."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled for adamw, L2 for the others."""
    clip: Annotated[float, Field(ge=0)] = 1.0
    """Largest norm of the whole gradient; 0 turns clipping off."""
    average_from: Annotated[int, Field(ge=-1)] = -1
    """Step from which validation and sampling use the running mean of the weights; -1: never."""
    average_trigger: Annotated[int, Field(ge=0)] = 0
    """Start averaging when a validation is worse than the best of all but the last n (Merity et al. 2018); 0: never."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """bf16: matrix products in bfloat16 by autocast; weights, moments and losses stay float32. auto: bf16 where the
    device has units for it, else fp32; decided when the run begins, and part of it from then on."""
    tf32: bool = False
    """On CUDA, float32 products in TensorFloat-32: faster, with 10 bits after the point in place of 23."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ..., or auto: a CUDA device if there is one."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 leaves torch's choice. Results are byte-identical for the same number."""
    log_every: Annotated[int, Field(ge=1)] = 50
    """Steps between lines of log.jsonl."""
    eval_every: Annotated[int, Field(ge=0)] = 500
    """Steps between validations and samples; 0: only at the end."""
    save_every: Annotated[int, Field(ge=0)] = 500
    """Steps between checkpoints; every validation saves one too; 0: only then."""
    keep: Annotated[int, Field(ge=1)] = 2
    """Latest checkpoints kept, beside the best one."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Stop after this many validations without a new best; 0: never."""
    samples: Annotated[int, Field(ge=0)] = 1000
    """Texts sampled and scored at each validation; 0: none."""
    show: Annotated[int, Field(ge=0)] = 20
    """How many of them are kept in samples/, always from the same seeds."""
    track: Literal["none", "tensorboard"] = "none"
    """tensorboard: write scalars, samples and images for it into the run's folder too (extra `track`)."""


def learning_rate(train: Train, step: int) -> float:
    """Return the learning rate of an update, a function of the step alone."""
    if step < train.warmup:
        return train.lr * (step + 1) / train.warmup
    if train.schedule == "constant":
        return train.lr
    if train.schedule == "inverse-sqrt":
        return train.lr * math.sqrt(max(1, train.warmup) / (step + 1))
    progress = min(1.0, (step - train.warmup) / max(1, train.steps - train.warmup))
    fall = 0.5 * (1 + math.cos(math.pi * progress)) if train.schedule == "cosine" else 1 - progress
    return train.lr * (train.lr_end + (1 - train.lr_end) * fall)


_LARGEST = 2**63 - 1
"""The largest integer that tensors hold."""


class Typed(str):
    """The right side of `section.option=value` as it was typed; the option's own type decides how it is read."""

    __slots__ = ()


def parse_overrides(words: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Read `["model.hidden=512"]` as `{"model": {"hidden": Typed("512")}}`; options without a section are under ""."""
    parsed: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"{word!r} is no setting; expected section.option=value, for example model.hidden=512")
        name = name.strip()
        parsed = merge(parsed, nested({name if "." in name else f".{name}": Typed(value)}))
    return parsed


def nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{"model.critic.hidden": 8}` as `{"model": {"critic": {"hidden": 8}}}`."""
    result: dict[str, Any] = {}
    for name, value in options.items():
        for part in reversed(name.split(".")):
            value = {part: value}
        result = merge(result, value)
    return result


def flat(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values by their whole names, the reverse of `nested`."""
    found: dict[str, Any] = {}
    for name, value in sections.items():
        inner = flat(value) if isinstance(value, Mapping) else None
        found |= {name: value} if inner is None else {f"{name}.{k}": v for k, v in inner.items()}
    return found


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings, later ones winning option by option."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            old = result.get(key)
            result[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return result


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?`, or the list of known names where nothing is near."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"


def build(cls: type[T], mapping: Mapping[str, Any], *, section: str = "", base: T | None = None) -> T:
    """Return a section's dataclass from a mapping, `base` (the defaults) where that is silent.

    ConfigError lists every fault by its option name, in one line.
    """
    base = cls() if base is None else base
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    faults: list[str] = []
    values: dict[str, Any] = {}
    for name in sorted(mapping, key=lambda name: names.index(name) if name in names else -1):
        option, given = f"{section}.{name}".removeprefix("."), mapping[name]
        if name not in names:
            faults.append(f"unknown option {option}{suggestion(option, flat({section: to_dict(base)}))}")
            continue
        default = getattr(base, name)
        if dataclasses.is_dataclass(default):
            try:
                if not isinstance(given, Mapping):
                    raise ConfigError(
                        f"{option} is a section; set one of {', '.join(flat({option: to_dict(default)}))}"
                    )
                values[name] = build(type(default), given, section=option, base=default)
            except ConfigError as error:
                faults.append(str(error))
            continue
        hint, adapter = _checks(cls)[name]  # type: ignore[arg-type]
        value = _read_typed(given, hint)
        try:
            adapter.validate_python(value, strict=True)
        except ValidationError:
            shown = list(value) if isinstance(value, tuple) else value
            faults.append(f"{option} must be {_expected(hint)}, got {_shown(given, shown)}")
            continue
        if isinstance(value, int) and value > _LARGEST:
            faults.append(f"{option} must be an integer of at most 63 bits, got {value}")
        elif not option.startswith("model.") and isinstance(value, tuple) and "" in value:
            faults.append(f"{option} must not hold an empty text")
        else:
            values[name] = value
    if faults:
        raise ConfigError("; ".join(faults))
    return dataclasses.replace(base, **values)  # type: ignore[type-var]


def part(options: Any, cls: type[T], *, section: str = "") -> T:
    """Return those of the options that a dataclass has, checked as by `build`."""
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    return build(cls, {name: getattr(options, name) for name in names}, section=section)


@functools.cache
def _checks(cls: type) -> dict[str, tuple[Any, TypeAdapter[Any]]]:
    """Return the annotation of each option of a section, and what checks a value by it; making one takes 0.2 ms."""
    finite = ConfigDict(allow_inf_nan=False)
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        name: (hint, TypeAdapter(hint, config=None if dataclasses.is_dataclass(hint) else finite))
        for name, hint in hints.items()
    }


def _shown(given: Any, value: Any) -> str:
    return str.__repr__(given) if isinstance(given, Typed) and isinstance(value, str) else repr(value)


def _read_typed(value: Any, hint: Any) -> Any:
    """Return the value of an option; typed text is read as TOML, or as bare text where a text is expected."""
    if not isinstance(value, Typed):
        return tuple(value) if isinstance(value, list) else value
    is_list, text = typing.get_origin(plain(hint)) is tuple, str(value)
    if plain(hint) is str and not text.startswith(('"', "'")):
        return text
    # TOML has no .5, which people type
    number = re.fullmatch(r"([+-]?)(\.\d+(?:[eE][+-]?\d+)?)", text.strip())
    try:
        read = tomllib.loads(f"value = {text if number is None else '0'.join(number.groups())}")["value"]
    except (ValueError, RecursionError, KeyError):
        read = text
    return tuple(read) if isinstance(read, list) else (read,) if is_list else read


def _expected(hint: Any) -> str:
    """Return what a field accepts, in words: `an integer >= 1`, `one of adam, adamw, sgd`."""
    kind, limits = plain(hint), ""
    if typing.get_origin(hint) is Annotated:
        signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
        rules = [rule for made in typing.get_args(hint)[1:] for rule in getattr(made, "metadata", [made])]
        found = [(sign, getattr(rule, key, None)) for rule in rules for key, sign in signs.items()]
        limits = " and".join(f" {sign} {limit:g}" for sign, limit in found if limit is not None)
    origin = typing.get_origin(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_expected(part) for part in typing.get_args(kind))
    if origin in (tuple, Sequence):
        return f"a list, each item {_expected(typing.get_args(kind)[0])}"
    words = {int: "an integer", float: "a number", str: "a text", bool: "true or false", type(None): "nothing"}
    return words.get(kind, str(kind)) + limits


def describe(defaults: Any, *, section: str) -> list[tuple[str, str, str, str]]:
    """List every option of a section as (name, default, accepted values, help), those of its sections included."""
    cls, rows = type(defaults), []
    hints, texts = typing.get_type_hints(cls, include_extras=True), help_texts(cls)
    for field in dataclasses.fields(cls):
        name, default = f"{section}.{field.name}", getattr(defaults, field.name)
        if dataclasses.is_dataclass(default):
            rows += describe(default, section=name)
        else:
            shown = json.dumps(default, ensure_ascii=False)
            rows.append((name, shown, _expected(hints[field.name]), texts.get(field.name, "")))
    return rows


def to_dict(section: Any) -> dict[str, Any]:
    """Return a section as plain values, tuples as lists, as TOML and JSON hold them."""
    return dataclasses.asdict(
        section, dict_factory=lambda items: {k: list(v) if isinstance(v, tuple) else v for k, v in items}
    )


def to_toml(sections: Mapping[str, Any]) -> str:
    """Write nested plain values as TOML, a valid input again."""
    return tomli_w.dumps(sections)


def read_sections(path: Path) -> dict[str, Any]:
    """Return the settings in a TOML file as nested values; ConfigError names the file and what is no setting in it."""
    sections = read_toml_file(path)
    if not isinstance(sections.get("name", ""), str):
        raise ConfigError(f"{path}: name must be the name of a model, got {sections['name']!r}")
    for section in ("data", "tokenizer", "model", "train"):
        if not isinstance(sections.get(section, {}), dict):
            raise ConfigError(f"{path}: {section} must be a table of options, got {sections[section]!r}")
    return sections


def read_toml(text: str, *, name: str) -> dict[str, Any]:
    """Read TOML text as nested values; ConfigError names the file and the line."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        raise ConfigError(f"{name}: not TOML ({error})") from None


def read_toml_file(path: Path) -> dict[str, Any]:
    """Return the nested values of a TOML file; ConfigError names it."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start}); expected TOML") from None
    return read_toml(text, name=str(path))
