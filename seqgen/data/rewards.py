"""Rewards of text: what a line is worth, a number for each. Built in, or a function of your own in a Python file.

    grammatical:captions     1 if the grammar (a name or a TOML file) can write the line, else 0
    length:5-12              1 if the line has 5 to 12 words
    regex:^a .* dog          1 if the pattern is found in the line
    python                   1 if the line parses as Python; it is not run
    chem:qed                 drug-likeness of the molecule that the line is, 0 if it is none (extra `chem`)
    similarity:CCO           Tanimoto similarity to a molecule, 0 if the line is none (extra `chem`)
    label:positive:FILE      probability of the label by a classifier fitted to FILE (.tsv, .jsonl: label and text)
    my_rewards.py:score      score(lines: list[str]) -> one number each
    call:score               the function `score` that was passed to `seqgen.train`

The last two are code. A file is imported by `imported` alone, for whoever named it in this call: settings that were
read from a run folder or a file of settings never lead to an import.
"""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from seqgen.core import code as importing
from seqgen.core.errors import ConfigError, MissingExtraError
from seqgen.core.patterns import Expression
from seqgen.data.corpora.grammar import Grammar
from seqgen.data.text import read_records

Reward = Callable[[list[str]], Sequence[float]]
"""Lines to numbers, as many."""

_KINDS = "grammatical:GRAMMAR, length:MIN-MAX, regex:PATTERN, python, chem:qed, similarity:SMILES, "
_KINDS += "label:NAME:FILE or FILE.py:FUNCTION"


def is_code(spec: str) -> bool:
    """Return whether a reward is a function of one's own."""
    kind, colon, _ = spec.partition(":")
    return bool(colon) and (kind == "call" or kind.endswith(".py"))


def named(code: Reward | str) -> str:
    """Return the spec that stands for code in the settings: FILE.py:FUNCTION with an absolute path, or call:NAME."""
    if callable(code):
        return f"call:{getattr(code, '__qualname__', type(code).__qualname__)}"
    file, colon, name = code.partition(":")
    return f"{Path(file).absolute()}:{name}" if colon and file.endswith(".py") else code


def reward(spec: str, code: Reward | None = None) -> Callable[[list[str]], list[float]]:
    """Return the reward that `spec` names; `code` is its function if it has one. Equal lines are scored once a call.

    ConfigError for a spec that cannot be followed, and, when called, for a function that raises, gives another count
    of numbers than it was given lines, or a number that is not finite.
    """
    kind, _, rest = spec.partition(":")
    if is_code(spec):
        if code is None:
            raise ConfigError(f"model.reward.kind = {spec} is code; pass it to seqgen.train as reward=")
        function = code
    elif kind == "grammatical" and rest:
        function = _grammatical(rest)
    elif kind == "length" and (match := re.fullmatch(r"(\d+)-(\d+)", rest)):
        function = _length(int(match[1]), int(match[2]))
    elif kind == "regex" and rest:
        function = _regex(rest)
    elif spec == "python":
        function = _python
    elif spec == "chem:qed":
        function = _chemistry(spec, lambda: _drug_likeness)
    elif kind == "similarity" and rest:
        function = _chemistry(spec, lambda: _similarity(rest))
    elif kind == "label" and rest.partition(":")[2]:
        label, _, file = rest.partition(":")
        function = _label(label, file)
    else:
        raise ConfigError(f"model.reward.kind must be critic, logit, constant, {_KINDS}, got {spec!r}")

    def judged(lines: list[str]) -> list[float]:
        distinct = list(dict.fromkeys(lines))
        values = dict(zip(distinct, _checked(spec, function, distinct), strict=True))
        return [values[line] for line in lines]

    return judged


def _checked(spec: str, function: Reward, lines: list[str]) -> list[float]:
    try:
        given = function(list(lines))
    except Exception as error:
        raise ConfigError(
            f"model.reward.kind {spec} raised {type(error).__name__}: {error} (given {len(lines)} lines, "
            f"the first {lines[0]!r})"
        ) from error
    try:
        values = [float(value) for value in given]
    except (TypeError, ValueError):
        raise ConfigError(f"model.reward.kind {spec} must return one number for each line, got {given!r:.80}") from None
    if len(values) != len(lines):
        raise ConfigError(f"model.reward.kind {spec} returned {len(values)} numbers for {len(lines)} lines")
    for value, line in zip(values, lines, strict=True):
        if not math.isfinite(value):
            raise ConfigError(f"model.reward.kind {spec} returned {value} for {line!r}; expected finite numbers")
    return values


def imported(code: str, what: str = "model.reward.kind") -> Reward:
    """Import a Python file and return its function, for FILE.py:FUNCTION; the file's own code runs.

    ConfigError, which names `what`, for a file that is not there, fails, or has no such function.
    """
    file, _, name = code.partition(":")
    module = importing.imported(file, option=what)
    function: Any = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigError(f"{what}: {file} has no function {name!r}; it has: {', '.join(known) or 'none'}")
    result: Reward = function
    return result


def _grammatical(name: str) -> Reward:
    grammar = Grammar.load(name)
    return lambda lines: [float(grammar.grammatical(line)) for line in lines]


def _length(shortest: int, longest: int) -> Reward:
    if shortest > longest:
        raise ConfigError(f"model.reward.kind = length:{shortest}-{longest}: no length is in this range")
    return lambda lines: [float(shortest <= len(line.split()) <= longest) for line in lines]


def _regex(pattern: str) -> Reward:
    found = Expression(pattern, f"model.reward.kind = regex:{pattern}").search
    return lambda lines: [float(found(line) is not None) for line in lines]


def _python(lines: list[str]) -> list[float]:
    from seqgen.metrics.domains import parses  # late, as below: what trains and writes without a reward starts sooner

    return [float(parses(line)) for line in lines]


def _chemistry(spec: str, made: Callable[[], Callable[[str], float]]) -> Reward:
    from seqgen.metrics import molecules

    try:
        molecules.molecule("C")
        of = made()
    except ModuleNotFoundError:
        raise MissingExtraError(
            f"model.reward.kind = {spec} needs rdkit; run: pip install 'neural-seqgen[chem]'"
        ) from None
    except ValueError as error:
        raise ConfigError(f"model.reward.kind = {spec}: {error}") from None
    return lambda lines: [of(line) for line in lines]


def _similarity(molecule: str) -> Callable[[str], float]:
    from seqgen.metrics import molecules

    return molecules.similarity(molecule)


def _drug_likeness(line: str) -> float:
    from seqgen.metrics import molecules

    found = molecules.molecule(line)
    return 0.0 if found is None else molecules.PROPERTIES["qed"](found)


def _label(label: str, file: str) -> Reward:
    """Build a logistic regression on words and pairs of words."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    records = read_records([file], source="label", target="text")
    labels = records.sources or []
    known = sorted(set(labels))
    if label not in known or len(known) < 2:
        raise ConfigError(f"model.reward.kind = label:{label}:{file}: expected {label} and another label, got {known}")
    words = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", lowercase=False, binary=True)
    classifier = make_pipeline(words, LogisticRegression(max_iter=1000))
    classifier.fit(records.texts, labels)
    column = list(classifier.classes_).index(label)
    return lambda lines: [float(row[column]) for row in classifier.predict_proba(lines)]
