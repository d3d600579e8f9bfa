"""Flags made from the fields of option dataclasses, in panels of a command's help.

    def generate(run: Run, sampling: Annotated[Sampling, Panel("Sampling")]) -> None: ...
    app.command()(with_flags(generate))  # --temperature, --top-p ... with the ranges and help of the fields

A parameter of the command that is such a dataclass is given with what was typed for its fields.
"""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from inspect import Parameter
from typing import Annotated, Any, Literal

import typer

from seqgen.cli import output
from seqgen.core.options import Option, help_texts, plain


@dataclass(frozen=True)
class Panel:
    """The part of a command's help in which the flags of a dataclass stand."""

    title: str
    switch: str = ""
    """The option without which the others have no meaning: 0 unless it is typed, and the dataclass is None then."""


def names(*classes: type) -> set[str]:
    """Return the names of the fields of dataclasses."""
    return {field.name for cls in classes for field in dataclasses.fields(cls)}


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with a flag for each field of its dataclasses in their place."""
    kept: list[str] = []
    panels: list[tuple[str, type, Panel, Collection[str]]] = []
    flags: dict[str, Parameter] = {}
    for parameter in inspect.signature(command).parameters.values():
        cls, *extras = typing.get_args(parameter.annotation) or [object]
        panel = next((extra for extra in extras if isinstance(extra, Panel)), None)
        if panel is None:
            kept.append(parameter.name)
            flags[parameter.name] = parameter.replace(kind=Parameter.KEYWORD_ONLY)
            continue
        cls = next(iter(typing.get_args(cls)), cls)  # of `Beam | None`: Beam
        own = {flag.name: flag for flag in _flags(cls, panel) if flag.name not in flags}
        flags |= own
        panels.append((parameter.name, cls, panel, own.keys()))

    @functools.wraps(command)
    def call(**given: Any) -> None:
        from seqgen.core import config  # late: pydantic is slow to import

        made: dict[str, Any] = {}
        for name, cls, panel, own in panels:
            if panel.switch and not given[panel.switch]:
                made[name] = None
                typed = (field for field in own if given[field] != flags[field].default)
                if (useless := next(typed, None)) is not None:
                    raise output.CommandError(f"{_flag(useless)} takes no effect without {_flag(panel.switch)}")
                continue
            values = {field: given[field] for field in names(cls) if given.get(field) is not None}
            with output.wrong_values():
                made[name] = config.build(cls, values, section="sample")
        command(**{name: given[name] for name in kept}, **made)

    call.__signature__ = inspect.Signature([*flags.values()])  # type: ignore[attr-defined]
    return call


def _flags(cls: type, panel: Panel) -> Iterator[Parameter]:
    """Yield the parameter of a command, as typer reads it, for each field that is not hidden."""
    texts, hints = help_texts(cls), typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        option = next((extra for extra in typing.get_args(hints[field.name]) if isinstance(extra, Option)), Option())
        if option.hidden:
            continue
        kind, default = plain(hints[field.name]), 0 if field.name == panel.switch else field.default
        if typing.get_origin(kind) in (tuple, Sequence):
            kind, default = list[str] | None, None
        base = next(iter(typing.get_args(kind)), kind) if typing.get_origin(kind) is not Literal else str
        metavar = option.metavar or {int: "N", float: "X", bool: None}.get(base, "TEXT")
        made = typer.Option(
            option.flag or _flag(field.name), metavar=metavar, help=texts[field.name], rich_help_panel=panel.title
        )
        yield Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, made])


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
