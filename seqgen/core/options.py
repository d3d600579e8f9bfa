"""What can be asked of a generator of text: options as frozen dataclasses, without torch.

Each option is declared here once, with its default, its range and the help under it. The library's methods take them
as keyword arguments (`takes`), and the command line makes its flags from them.
"""

import ast
import functools
import inspect
import itertools
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Annotated, Any, Concatenate, Literal, ParamSpec, TypeVar

P = ParamSpec("P")
Options = TypeVar("Options")
Owner = TypeVar("Owner")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Option:
    """The range of a number, and how its flag is spelled on the command line."""

    metavar: str = ""
    """What stands for the value in help; without one N, X or TEXT by the type."""
    flag: str = ""
    """The flag, where it is not the option's name."""
    hidden: bool = False
    """Whether the library alone has it."""
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """Give pydantic the limits. Its own `Field` does the same and takes 0.1 s to import, at `seqgen --help`."""
        limits = {name: getattr(self, name) for name in ("ge", "gt", "le", "lt")}
        return handler(source) | {name: limit for name, limit in limits.items() if limit is not None}


def takes(
    options: Callable[P, Options],
) -> Callable[[Callable[[Owner, Options], Result]], Callable[Concatenate[Owner, P], Result]]:
    """Return what makes a method of one options object take that object's fields as arguments.

    Type checkers and editors see the fields with their types and defaults, and so does `help`.
    """
    shown = inspect.signature(options).parameters.values()
    fields = [one.replace(annotation=plain(one.annotation)) for one in shown]
    names = [one.name for one in fields]

    def decorate(method: Callable[[Owner, Options], Result]) -> Callable[Concatenate[Owner, P], Result]:
        @functools.wraps(method)
        def call(owner: Owner, /, *args: P.args, **given: P.kwargs) -> Result:
            unknown = next((name for name in given if name not in names), None)
            if unknown is not None:
                raise TypeError(f"{method.__qualname__}() got an unexpected keyword argument {unknown!r}")
            return method(owner, options(*args, **given))

        own = inspect.signature(method)
        call.__signature__ = own.replace(parameters=[next(iter(own.parameters.values())), *fields])  # type: ignore[attr-defined]
        return call

    return decorate


def plain(hint: Any) -> Any:
    """Return a type without what `Annotated` adds to it."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def help_texts(cls: type) -> dict[str, str]:
    """Return the string under each field of a settings dataclass, by field name; those of its bases too.

    pydantic's `use_attribute_docstrings` reads them of pydantic's own classes alone, not of dataclasses.
    """
    texts: dict[str, str] = {}
    for base in filter(is_dataclass, reversed(cls.__mro__)):
        for statement, following in itertools.pairwise(_bodies(base.__module__)[base.__name__]):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
                and isinstance(following.value.value, str)
            ):
                texts[statement.target.id] = " ".join(following.value.value.split())
    return texts


@functools.cache
def _bodies(module: str) -> dict[str, list[ast.stmt]]:
    """Return the statements of each class in a module."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What stands before a text."""

    prompt: Annotated[str, Option(metavar="TEXT")] = ""
    """The beginning of every text."""


@dataclass(frozen=True, kw_only=True)
class Request(Prompt):
    """What is wanted."""

    count: Annotated[int, Option(ge=1)] = field(default=1, kw_only=False)
    """How many texts for each prompt or source; or how many images."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Which tokens a text may have, and how many."""

    min_new_tokens: Annotated[int, Option(ge=0)] = 0
    """Tokens after the prompt before a text may end."""
    max_new_tokens: Annotated[int, Option(ge=0)] = 0
    """Tokens after the prompt at most, the end counted; 0: the run's own limit."""
    suppress_tokens: Annotated[tuple[int, ...], Option(hidden=True)] = ()
    """Token ids that never appear."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How a token is chosen from its distribution, in this order: temperature, filters, draw."""

    temperature: Annotated[float, Option(metavar="T", ge=0)] = 1.0
    """Divides the logits: below 1 the texts are safer, above 1 more varied; 0 is greedy."""
    top_k: Annotated[int, Option(metavar="K", ge=0)] = 0
    """Only the K most probable tokens; 0 turns it off."""
    top_p: Annotated[float, Option(metavar="P", gt=0, le=1)] = 1.0
    """Only the most probable tokens whose mass reaches P; 1 turns it off."""
    min_p: Annotated[float, Option(metavar="P", ge=0, le=1)] = 0.0
    """Only tokens at least P times as probable as the most probable one; 0 turns it off."""
    typical_p: Annotated[float, Option(metavar="P", ge=0, le=1)] = 0.0
    """Only the tokens nearest to the expected information, until mass P; 0 turns it off."""
    greedy: bool = False
    """Always the most probable token."""
    denoising_steps: Annotated[int, Option(ge=0)] = 0
    """Passes in which a run of masked unmasks a text, several tokens each; 0: one pass for each token."""

    @property
    def sure(self) -> bool:
        """Whether nothing is left to chance."""
        return self.greedy or self.temperature == 0


@dataclass(frozen=True, kw_only=True)
class Sampling(Choice, Lengths):
    """How a token is chosen: the section `sample`. In this order: blocks, penalty, temperature, filters, draw."""

    repetition_penalty: Annotated[float, Option(ge=1e-3, le=1e3)] = 1.0
    """Divides positive logits of tokens already in prompt or text, multiplies negative ones; 1 turns it off."""
    no_repeat_ngram_size: Annotated[int, Option(ge=0)] = 0
    """No run of N tokens appears twice in prompt and text; 0 turns it off."""
    details: Annotated[bool, Option(hidden=True)] = False
    """Also give log-probabilities and entropies of every token."""

    def limit(self, own: int) -> int:
        """Return the most tokens of a text, where a model has a limit of its `own` or none (0); ValueError."""
        limit, least = self.max_new_tokens or own, self.min_new_tokens
        if limit < 1:
            raise ValueError("sample.max_new_tokens must be at least 1 for a model without a limit of its own, got 0")
        if least > limit:
            most = f"sample.max_new_tokens = {limit}" if self.max_new_tokens else f"the run's own limit of {limit}"
            raise ValueError(f"sample.min_new_tokens = {least} is more than {most}; ask for less, or allow more")
        return limit


@dataclass(frozen=True, kw_only=True)
class Drawing(Sampling):
    """How whole texts are drawn."""

    seed: Annotated[int, Option(metavar="S")] = 0
    """Seed of the random numbers; text k depends on (seed, k) alone: a larger count gives the same texts and more."""
    stop: Annotated[Sequence[str], Option(metavar="TEXT")] = ()
    """String that a text ends before; repeat for several."""
    fast: bool = False
    """Be quicker for few texts; the last bits may then depend on how many are drawn together."""
    precision: Annotated[Literal["run", "fp32", "bf16"], Option(metavar="NAME")] = "run"
    """Of the product that gives the next token's distribution: fp32, bf16, or run: that of its train.precision."""


@dataclass(frozen=True, kw_only=True)
class Beam(Lengths):
    """How the most probable texts are searched."""

    num_beams: Annotated[int, Option(ge=1)] = 8
    """Search the most probable texts, with N candidates for each prompt, instead of sampling."""
    length_penalty: Annotated[float, Option(ge=0)] = 1.0
    """Rank texts of L tokens by log p / L^X: 0 prefers short texts, 1 compares the mean per token."""
    num_beam_groups: Annotated[int, Option(ge=1)] = 1
    """Groups that the candidates are split into, for texts that differ; must divide the number of beams."""
    diversity_penalty: Annotated[float, Option(ge=0)] = 0.5
    """Nats that a token loses for every candidate of an earlier group that has just chosen it."""


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """What every text meets: token by token, what would break it is masked."""

    bad_words: Annotated[Sequence[str], Option(metavar="WORD", flag="--bad-word")] = ()
    """Word that must not appear (masked); repeat for several."""
    require: Annotated[Sequence[str], Option(metavar="WORD")] = ()
    """Word that must appear (masked); repeat for several."""
    template: Annotated[str, Option(metavar="TEXT")] = ""
    """The text, with ? for each free character (masked)."""
    pattern: Annotated[str, Option(metavar="REGEX")] = ""
    """Regular expression that the whole text matches (masked)."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which of the texts drawn are kept."""

    no_copy: Annotated[int, Option(ge=0)] = 0
    """Never N tokens in a row that stand in the training text (masked); 0 turns it off."""
    best_of: Annotated[int, Option(ge=1)] = 1
    """Keep the most probable of N texts, its end counted."""
    resample: Annotated[int | None, Option(metavar="N")] = None
    """Of a refined run: choose each text among N of its base, 1 to 256; by default 16, and 1 is the base itself."""
    unique: bool = False
    """Keep no text twice for a prompt."""
    match: Annotated[str | None, Option(metavar="REGEX")] = None
    """Keep only texts in which this regular expression is found."""
    attempts: Annotated[int, Option(ge=1)] = 20
    """Draw at most N times as many texts as are wanted, where some are rejected."""


@dataclass(frozen=True, kw_only=True)
class Filling(Choice):
    """How the gaps of given texts are filled."""

    count: Annotated[int, Option(ge=1)] = 1
    """How many fillings of each text."""
    seed: Annotated[int, Option(metavar="S")] = 0
    """Seed of the random numbers; filling k of a text depends on (seed, text, k) alone."""
    best_of: Annotated[int, Option(ge=1)] = 1
    """Keep of N fillings the one whose whole text is most probable; for runs that write from left to right."""
