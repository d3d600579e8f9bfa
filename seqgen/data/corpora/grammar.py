r"""Weighted grammars: readable text, and the exact probability of any line of it.

A grammar is a TOML file. Each rule lists its alternatives, one a line or separated by `|`; `3:` before one is its
weight (1 if left out); `<name>` stands for another rule, everything else for itself; nothing at all is the empty text.

    join = " "                      # between tokens: " " for words; "" where every character is a token
    start = "caption"

    [rules]
    caption = "3: <dog.a> <is> <colour> . | <dog.many> are <colour> ."
    colour = "black | white"
    is = "is | looks"

    [words.dog]                     # one list, several forms: rules dog.a and dog.many with the same weights
    forms = "a / many"
    words = '''
    2: a dog / dogs
    an old dog / old dogs
    '''

A rule may take other rules as arguments: `"pair(thing)" = "<thing.a> and <thing.a>"` is used as `<pair(dog)>`.
An entry of a word list may keep what is common outside braces: `{rides/ride} <bike> at night`.
A backslash takes the meaning from `<`, `>`, `|`, `/`, `:`, `{`, `}` or itself.
In place of `start`, a table `[labels]` with one alternative for each label makes labelled text: a line is then the
label, a tab and the text.

No rule may lead back to itself, so a grammar generates finitely many lines. That costs little (captions and verse need
no recursion) and buys much: every quantity has a closed form, no derivation is endless, and a line is read by one
memoised pass over (rule, position). An automaton would be as exact, but it copies a noun phrase into each place that
uses it, while the pass reads it once wherever it stands.
"""

import difflib
import hashlib
import math
import re
import struct
import tomllib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from seqgen.core.errors import DataError
from seqgen.data.corpora.known import corpora_folder

_NESTING = 200  # Rules within rules; deeper ones would meet Python's own limit on calls.
_KEYS = ("about", "join", "start", "labels", "rules", "words")
_NAME = r"[^\s<>|/:\\(),.]+(?:\.[^\s<>|/:\\(),.]+)*"
_CALL = re.compile(rf"({_NAME})(?:\(\s*({_NAME}(?:\s*,\s*{_NAME})*)\s*\))?")
_WEIGHT = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)):(?:\s+|$)")
_PIECE = re.compile(r"<([^<>]*)>|((?:\\[<>|/:{}\\]|[^<>\s])+)|([<>])")


@dataclass(frozen=True)
class Tree:
    """A derivation: a rule, what it was written out as, and the log-probability of that in nats."""

    rule: str
    children: tuple["Tree | str", ...]
    log_probability: float

    def tokens(self) -> list[str]:
        """Return the tokens under this tree, left to right."""
        return [token for child in self.children for token in ([child] if isinstance(child, str) else child.tokens())]

    def __str__(self) -> str:
        return "(" + " ".join([self.rule, *map(str, self.children)]) + ")"


@dataclass(frozen=True)
class _Alternative:
    log_probability: float
    items: tuple["str | _Rule", ...]  # tokens, and rules to be written out in their place


class _Rule:
    """One rule ready for use: cumulative probabilities to draw from, alternatives by the token they may begin with."""

    def __init__(self, name: str, weighted: list[tuple[float, tuple["str | _Rule", ...]]]) -> None:
        total = math.fsum(weight for weight, _ in weighted)
        self.name = name
        self.probabilities = [weight / total for weight, _ in weighted]
        self.cumulative = _bounds(self.probabilities)
        self.alternatives = [_Alternative(math.log(weight / total), items) for weight, items in weighted]
        firsts = [_first(alternative.items) for alternative in self.alternatives]
        readings = list(zip(self.alternatives, firsts, strict=True))
        self.may_be_empty = [alternative for alternative, (_, empty) in readings if empty]
        # in the order of the file, and what may be empty fits before any token
        self.by_first = {
            token: [alternative for alternative, (tokens, empty) in readings if empty or token in tokens]
            for token in set().union(*(tokens for tokens, _ in firsts))
        }


def _bounds(probabilities: Iterable[float]) -> list[float]:
    """Return cumulative sums; the last is exactly 1, so that no uniform below 1 falls past it."""
    return [*list(accumulate(probabilities))[:-1], 1.0]


def _first(items: tuple[str | _Rule, ...]) -> tuple[set[str], bool]:
    """Return the tokens that `items` may begin with, and whether they may be the empty text."""
    tokens: set[str] = set()
    for item in items:
        if isinstance(item, str):
            return tokens | {item}, False
        tokens |= item.by_first.keys()
        if not item.may_be_empty:
            return tokens, False
    return tokens, True


class _Chart:
    """What each rule can write from each position of one line (the inside algorithm, memoised).

    `merge` joins two derivations of one span: `_log_add` for their sum, `max` for the best.
    """

    def __init__(self, tokens: list[str], merge: Callable[[float, float], float]) -> None:
        self.end = len(tokens)
        self.tokens = [*tokens, ""]  # no rule begins with "": one look-up less at the end of the line
        self.merge = merge
        self.memo: list[dict[_Rule, dict[int, float]]] = [{} for _ in self.tokens]

    def spans(self, rule: _Rule, start: int) -> dict[int, float]:
        """Return log-probability of `rule` over tokens[start:end], for each end it can reach."""
        known = self.memo[start].get(rule)
        if known is not None:
            return known
        found: dict[int, float] = {}
        for alternative in rule.by_first.get(self.tokens[start], rule.may_be_empty):
            ends = {start: alternative.log_probability}
            for item in alternative.items:
                ends = self.after(item, ends)
                if not ends:
                    break
            for end, value in ends.items():
                found[end] = self.merge(found[end], value) if end in found else value
        self.memo[start][rule] = found
        return found

    def after(self, item: str | _Rule, ends: dict[int, float]) -> dict[int, float]:
        """Return the ends that can be reached when `item` follows what ended at `ends`, and their log-probabilities."""
        if isinstance(item, str):
            return {end + 1: value for end, value in ends.items() if self.tokens[end] == item}
        following: dict[int, float] = {}
        for end, value in ends.items():
            for reached, inner in self.spans(item, end).items():
                both = value + inner
                following[reached] = self.merge(following[reached], both) if reached in following else both
        return following

    def tree(self, rule: _Rule, start: int, end: int) -> Tree:
        """Return the best derivation of tokens[start:end] by `rule`, which must reach `end` (chart by `max`)."""
        best: tuple[float, _Alternative, list[dict[int, float]]] | None = None
        for alternative in rule.by_first.get(self.tokens[start], rule.may_be_empty):
            steps = [{start: alternative.log_probability}]
            for item in alternative.items:
                steps.append(self.after(item, steps[-1]))
            value = steps[-1].get(end)
            if value is not None and (best is None or value > best[0]):
                best = (value, alternative, steps)
        assert best is not None, "a tree is asked for only where a span was found"
        value, alternative, steps = best
        children: list[Tree | str] = []
        for item, before in zip(reversed(alternative.items), reversed(steps[:-1]), strict=True):
            if isinstance(item, str):
                children.append(item)
                end -= 1
            else:
                inner = {at: self.spans(item, at).get(end, -math.inf) for at in before}
                at = max(before, key=lambda at: before[at] + inner[at])
                children.append(self.tree(item, at, end))
                end = at
        return Tree(rule.name, tuple(reversed(children)), value)


class Grammar:
    """A weighted grammar: lines of text, the exact log-probability of any line, and its best derivation.

    `labels` maps each label to its probability (empty where the grammar has none). `vocabulary` holds the distinct
    tokens, `derivations` counts the ways to write a line, `longest` and `shortest` are lengths in tokens, label not
    counted. `entropy` is that of the derivations in nats per line (label included): the entropy of the lines themselves
    where no line has two derivations, else an upper bound of it.
    """

    def __init__(self, source: str, *, where: str = "grammar") -> None:
        """Read the TOML text `source`; `where` names it in errors. Raises DataError with every fault found."""
        plan = _Plan(source, where)
        self.about: str = plan.about
        self.join: str = plan.join
        self.labels: dict[str, float] = plan.labels
        rules: dict[str, _Rule] = {}
        sizes: dict[str, _Size] = {}
        for name in plan.order:
            weighted = [
                (weight, tuple(item if isinstance(item, str) else rules[item.name] for item in items))
                for weight, items in plan.rules[name]
            ]
            rules[name] = _Rule(name, weighted)
            sizes[name] = _size(rules[name], sizes)
        self._start = {label: rules[name] for label, name in plan.start.items()}
        ends = {label: sizes[name] for label, name in plan.start.items()}
        priors = self.labels or {"": 1.0}
        self.entropy: float = sum(
            priors[label] * (size.entropy - math.log(priors[label])) for label, size in ends.items()
        )
        self.derivations: int = sum(size.derivations for size in ends.values())
        self.longest: int = max(size.longest for size in ends.values())
        self.shortest: int = min(size.shortest for size in ends.values())
        alternatives = [alternative for rule in rules.values() for alternative in rule.alternatives]
        self.vocabulary: list[str] = sorted({item for a in alternatives for item in a.items if isinstance(item, str)})

    def __repr__(self) -> str:
        labels = f", labels {', '.join(self.labels)}" if self.labels else ""
        return f"Grammar({len(self.vocabulary):,} tokens, {self.entropy:.4g} nats a line{labels})"

    @classmethod
    def load(cls, path_or_name: str | Path) -> "Grammar":
        """Return the grammar in a TOML file, or one that comes with the package by its name, such as "captions"."""
        path = Path(path_or_name)
        if not path.exists() and path.suffix != ".toml":
            here = grammars()
            if str(path_or_name) not in here:
                raise DataError(
                    f"no grammar {str(path_or_name)!r}: expected a TOML file or one of {', '.join(sorted(here))}"
                )
            path = here[str(path_or_name)]
        where = path.name if path.parent == corpora_folder() else str(path)
        try:
            source = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: not UTF-8 (byte {error.start}); convert the file to UTF-8") from None
        except OSError as error:
            raise DataError(f"{where}: cannot be read: {error.strerror}") from None
        return cls(source, where=where)

    def sample(self, count: int, seed: int = 0) -> list[str]:
        """Return `count` lines drawn independently; a labelled grammar's are `label TAB text`.

        Line k depends on (seed, k) alone, on every machine and Python version.
        """
        return [self._line(seed, k) for k in range(count)]

    def sample_records(self, count: int, seed: int = 0) -> list[dict[str, str]]:
        """Return the lines of `sample` as records: `{"label": ..., "text": ...}`, or `{"text": ...}` without."""
        fields = ("label", "text") if self.labels else ("text",)
        return [dict(zip(fields, line.split("\t"), strict=True)) for line in self.sample(count, seed)]

    def log_probability(self, line: str, *, label: str | None = None) -> float:
        """Return the exact log-probability of `line` in nats, over all its derivations; -inf if not grammatical.

        Of a labelled grammar: `label TAB text` gives the probability of both together, text alone its probability over
        all labels, and text with `label=` its probability given that label. Raises ValueError for an unknown label.
        """
        total = -math.inf
        for log_prior, rule, tokens in self._readings(line, label):
            chart = _Chart(tokens, _log_add)
            total = _log_add(total, log_prior + chart.spans(rule, 0).get(chart.end, -math.inf))
        return total

    def grammatical(self, line: str) -> bool:
        """Return whether the grammar can write `line`; with labels, `label TAB text` or text under any of them."""
        return self.log_probability(line) > -math.inf

    def parse(self, line: str, *, label: str | None = None) -> Tree | None:
        """Return the most probable derivation of `line`, the earlier alternative on a tie; None if not grammatical.

        `label` is as for `log_probability`, and a label's share of the probability is counted in the same way.
        """
        best: Tree | None = None
        for log_prior, rule, tokens in self._readings(line, label):
            chart = _Chart(tokens, max)
            value = log_prior + chart.spans(rule, 0).get(chart.end, -math.inf)
            if value > (best.log_probability if best else -math.inf):
                best = Tree(rule.name, chart.tree(rule, 0, chart.end).children, value)
        return best

    def _line(self, seed: int, k: int) -> str:
        """Expand line `k` of `seed` from the start rule, leftmost rule first."""
        uniforms = _uniforms(seed, k)
        label = list(self._start)[bisect_right(_bounds(self.labels.values()), next(uniforms))] if self.labels else ""
        tokens: list[str] = []
        stack: list[str | _Rule] = [self._start[label]]
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                tokens.append(item)
            else:
                # one number for every rule, a single alternative too: a second one then leaves other lines as they were
                chosen = item.alternatives[bisect_right(item.cumulative, next(uniforms))]
                stack.extend(reversed(chosen.items))
        text = self.join.join(tokens)
        return f"{label}\t{text}" if self.labels else text

    def _readings(self, line: str, label: str | None) -> Iterator[tuple[float, _Rule, list[str]]]:
        """Yield (log-probability of the label, start rule, tokens) for each label that `line` may be read under."""
        if label is not None and label not in self.labels:
            known = ", ".join(self.labels) or "none, this grammar has no labels"
            raise ValueError(f"unknown label {label!r}; expected one of: {known}")
        if not self.labels:
            yield 0.0, self._start[""], self._tokens(line)
            return
        if label is not None:
            yield 0.0, self._start[label], self._tokens(line)
            return
        written, tab, text = line.partition("\t")
        for name, probability in self.labels.items():
            if not tab or name == written:
                yield math.log(probability), self._start[name], self._tokens(text if tab else line)

    def _tokens(self, text: str) -> list[str]:
        if not self.join:
            return list(text)
        # not split(): two spaces in a row are no line of this grammar
        return text.split(self.join) if text else []


@dataclass(frozen=True)
class _Size:
    """Closed-form counts of a rule; entropy in nats, lengths in tokens."""

    entropy: float
    derivations: int
    longest: int
    shortest: int


def _size(rule: _Rule, sizes: dict[str, _Size]) -> _Size:
    entropy, derivations, longest, shortest = 0.0, 0, 0, []
    for probability, alternative in zip(rule.probabilities, rule.alternatives, strict=True):
        inner = [sizes[item.name] for item in alternative.items if not isinstance(item, str)]
        literal = len(alternative.items) - len(inner)
        entropy += probability * (sum(size.entropy for size in inner) - alternative.log_probability)
        derivations += math.prod(size.derivations for size in inner)
        longest = max(longest, literal + sum(size.longest for size in inner))
        shortest.append(literal + sum(size.shortest for size in inner))
    return _Size(entropy, derivations, longest, min(shortest))


def grammars() -> dict[str, Path]:
    """Return the grammars that come with the package: name -> file."""
    return {path.stem: path for path in sorted(corpora_folder().glob("*.toml")) if path.stem != "known"}


@dataclass(frozen=True)
class _Reference:
    """Stands for the rule of that name; a plain string beside it is a token and stands for itself."""

    name: str


_Items = tuple[str | _Reference, ...]


@dataclass(frozen=True)
class _Definition:
    """A rule as the file has it: its parameters and the text of its weighted alternatives."""

    parameters: list[str]
    alternatives: list[tuple[float, str]]
    group: str  # what must be used at least once: the rule itself, or the whole word list


class _Plan:
    """A grammar file read and checked: every rule with its arguments filled in, innermost first in `order`."""

    def __init__(self, source: str, where: str) -> None:
        self.where, self.lines = where, source.splitlines()
        self.faults: list[str] = []
        self.definitions: dict[str, _Definition] = {}
        self.rules: dict[str, list[tuple[float, _Items]]] = {}
        self.order: list[str] = []
        self.labels: dict[str, float] = {}
        self.start: dict[str, str] = {}
        try:
            table = tomllib.loads(source)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not valid TOML: {str(error)[0].lower()}{str(error)[1:]}") from None
        for key in table:
            if key not in _KEYS:
                self._fault(f"unknown key {key!r}; {_meant(key, _KEYS) or 'known: ' + ', '.join(_KEYS)}", rule=key)
        self.about = self._text(table, "about", "")
        self.join = self._text(table, "join", " ")
        if self.join not in ("", " "):
            self._fault(f'join must be " " (words) or "" (characters), got {self.join!r}', rule="join")
        self._read_rules(self._table(table, "rules"), "")
        for name, value in self._table(table, "words").items():
            self._read_words(name, value)
        self._stop_at_faults()
        self._read_start(table)
        self._stop_at_faults()
        used: set[str] = set()
        for name in self.start.values():
            self._visit(name, [], used)
        self._stop_at_faults()
        for name, definition in self.definitions.items():
            if definition.group not in used:
                used.add(definition.group)
                self._fault(
                    f"rule {definition.group!r} is never used; remove it, or refer to <{name}>", rule=definition.group
                )
        self._stop_at_faults()

    def _fault(self, message: str, *, rule: str = "", written: str = "") -> None:
        """Note a fault, with the line on which `rule` is defined, or the first on which `written` stands."""
        pattern = rf"^\s*(\[words\.|[\"'])?{re.escape(rule)}\b" if rule else re.escape(written)
        number = next((n for n, line in enumerate(self.lines, 1) if re.search(pattern, line)), None)
        self.faults.append(f"line {number}: {message}" if number else message)

    def _stop_at_faults(self) -> None:
        if self.faults:
            raise DataError(f"{self.where}, " + "; ".join(dict.fromkeys(self.faults)))

    def _text(self, table: dict[str, object], key: str, default: str) -> str:
        value = table.get(key, default)
        if isinstance(value, str):
            return value
        self._fault(f"{key} must be a string, got {value!r}", rule=key)
        return default

    def _table(self, table: dict[str, object], key: str) -> dict[str, object]:
        value = table.get(key, {})
        if isinstance(value, dict):
            return value
        self._fault(f"{key} must be a table, got {value!r}", rule=key)
        return {}

    def _read_rules(self, table: dict[str, object], prefix: str) -> None:
        """Take the rules of a table; `noun.one = ...` is a table in TOML and the rule noun.one here."""
        for key, value in table.items():
            name = prefix + key
            if isinstance(value, dict):
                self._read_rules(value, name + ".")
                continue
            if not isinstance(value, str):
                self._fault(f"rule {name!r} must be a string with its alternatives, got {value!r}", rule=key)
                continue
            if not _CALL.fullmatch(name):
                self._fault(f"rule name {name!r} must be a word, or a word with parameters in brackets", written=key)
                continue
            head, parameters = _call(name)
            self._define(head, _Definition(parameters, self._alternatives(value, name), name))

    def _read_words(self, name: str, value: object) -> None:
        """Take a word list: one rule for each form."""
        if not isinstance(value, dict) or value.keys() != {"forms", "words"}:
            self._fault(f"words.{name} must be a table with `forms` and `words`", rule=name)
            return
        forms = [form.strip() for form in self._text(value, "forms", "").split("/")]
        columns: list[list[tuple[float, str]]] = [[] for _ in forms]
        for weight, text in self._alternatives(self._text(value, "words", ""), name):
            for column, written in zip(columns, self._forms(text, forms, name), strict=True):
                column.append((weight, written))
        for form, column in zip(forms, columns, strict=True):
            self._define(f"{name}.{form}", _Definition([], column, name))

    def _forms(self, text: str, forms: list[str], name: str) -> list[str]:
        """Return a word list's entry written out in each form: {ride/rides} <bike> -> ride <bike>, rides <bike>."""
        parts = re.split(r"((?<!\\)\{.*?(?<!\\)\})", text) if re.search(r"(?<!\\)\{", text) else ["{" + text + "}"]
        written = [""] * len(forms)
        for part in parts:
            cells = _split(part[1:-1], "/") if part.startswith("{") else [part]
            if len(forms) % len(cells) or (len(cells) == 1 and len(forms) > 1 and part.startswith("{")):
                wanted = f"{len(forms)} forms ({' / '.join(forms)})"
                self._fault(f"words.{name}: expected {wanted}, got {text.strip()!r}", written=text)
                break
            # {bike/bikes} serves four forms too: its cells are taken in turn
            written = [before + cells[number % len(cells)] for number, before in enumerate(written)]
        return written

    def _define(self, name: str, definition: _Definition) -> None:
        if name in self.definitions:
            self._fault(f"rule {name!r} is defined twice", rule=name)
        self.definitions[name] = definition

    def _alternatives(self, text: str, name: str) -> list[tuple[float, str]]:
        """Read a rule's weighted alternatives. Blank lines are layout; nothing between two bars is the empty text."""
        weighted: list[tuple[float, str]] = []
        block = "\n" in text
        for line in text.split("\n"):
            if block and not line.strip():
                continue
            for part in _split(line, "|"):
                match = _WEIGHT.match(part)
                weight = float(match[1]) if match else 1.0
                if not 0 < weight < math.inf:
                    self._fault(f"rule {name!r}: a weight must be above 0, got {part.strip()!r}", written=part.strip())
                weighted.append((weight, part[match.end() :] if match else part))
        if not weighted:
            self._fault(f"rule {name!r} has no alternative", rule=name)
        return weighted

    def _read_start(self, table: dict[str, object]) -> None:
        labels = self._table(table, "labels")
        if bool(labels) == ("start" in table):
            self.faults.append(
                "expected either start = RULE or a table [labels], " + ("got both" if labels else "got none")
            )
            return
        if not labels:
            self.start[""] = self._text(table, "start", "")
            self._sound(*_call(self.start[""]), "start")
            return
        weights: dict[str, float] = {}
        for label, value in labels.items():
            alternatives = self._alternatives(value, label) if isinstance(value, str) else []
            if len(alternatives) != 1 or "\t" in label or not label:
                self._fault(f"label {label!r} must be one alternative, got {value!r}", rule=label)
                continue
            weights[label] = alternatives[0][0]
            # a space keeps the name apart from every name that a file can hold
            self.start[label] = f"label {label}"
            self.definitions[self.start[label]] = _Definition([], [(1.0, alternatives[0][1])], self.start[label])
        total = math.fsum(weights.values())
        self.labels = {label: weight / total for label, weight in weights.items()}

    def _visit(self, name: str, path: list[str], used: set[str]) -> None:
        """Fill in rule `name` and those it needs, depth first, so that `order` has the innermost first."""
        if name in self.rules:
            return
        if name in path:
            circle = " -> ".join([*path[path.index(name) :], name])
            self._fault(f"rule {name!r} leads back to itself ({circle}); spell the repetition out", written=f"<{name}>")
            return
        if len(path) >= _NESTING:
            self._fault(f"rules are nested more than {_NESTING} deep at {name!r}", rule=name)
            return
        head, given = (name, []) if name in self.definitions else _call(name)
        definition = self.definitions[head]
        used.add(definition.group)
        arguments = dict(zip(definition.parameters, given, strict=True))
        weighted = [(weight, self._items(text, arguments)) for weight, text in definition.alternatives]
        for _, items in weighted:
            for item in items:
                if not isinstance(item, str):
                    self._visit(item.name, [*path, name], used)
        self.rules[name] = weighted
        self.order.append(name)

    def _items(self, text: str, arguments: dict[str, str]) -> _Items:
        """Return tokens and references of one alternative, the rule's arguments filled in."""
        items: list[str | _Reference] = []
        for reference, literal, stray in _PIECE.findall(text):
            if literal:
                written = re.sub(r"\\([<>|/:{}\\])", r"\1", literal)
                items.extend([written] if self.join else written)
            elif stray or not _CALL.fullmatch(reference.strip()):
                got = text.strip()
                self._fault(f"expected <rule>, got {got!r}; write \\< for the sign itself", written=got)
            else:
                head, given = _call(reference.strip())
                name, given = _filled(head, arguments), [_filled(argument, arguments) for argument in given]
                if self._sound(name, given, f"<{reference}>"):
                    items.append(_Reference(f"{name}({', '.join(given)})" if given else name))
        return tuple(items)

    def _sound(self, name: str, given: list[str], written: str) -> bool:
        """Return whether a reference to rule `name` can be followed; `written` is how the file has it."""
        before = len(self.faults)
        definition = self.definitions.get(name)
        if definition is None:
            meant = _meant(name, self.definitions)
            self._fault(f"undefined rule <{name}>" + (meant and f"; {meant}"), written=written)
        elif len(given) != len(definition.parameters):
            self._fault(f"{written} has {len(given)} arguments, but the rule is {definition.group!r}", written=written)
        for argument in given:
            # an argument must be a part of some name, or a rule that passes on x.y for its x would never end
            if not any(f".{argument}." in f".{known}." for known in self.definitions):
                self._fault(f"no rule has {argument!r} in its name, the argument in {written}", written=written)
        return len(self.faults) == before


def _meant(name: str, known: Iterable[str]) -> str:
    """Return a question with the known name most like `name`; empty where none is."""
    return "".join(f"did you mean {close!r}?" for close in difflib.get_close_matches(name, known, 1))


def _split(text: str, sign: str) -> list[str]:
    """Split `text` at each `sign` that no backslash precedes."""
    parts = [""]
    for piece in re.findall(r"\\.|[^\\]|\\$", text):
        if piece == sign:
            parts.append("")
        else:
            parts[-1] += piece
    return parts


def _call(name: str) -> tuple[str, list[str]]:
    """Split a rule's name from its arguments: pair(dog, cat) -> pair, [dog, cat]."""
    head, _, inner = name.partition("(")
    return head.strip(), [part.strip() for part in inner.rstrip(")").split(",")] if inner else []


def _filled(name: str, arguments: dict[str, str]) -> str:
    """Return `name` with each part that is a parameter replaced: who.one -> person.one, state.rhyme -> state.ing."""
    return ".".join(arguments.get(part, part) for part in name.split("."))


def _log_add(a: float, b: float) -> float:
    """Return log(exp(a) + exp(b)) without overflow."""
    low, high = (a, b) if a < b else (b, a)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def _uniforms(seed: int, k: int) -> Iterator[float]:
    """Yield endless uniforms in [0, 1) with 53 bits, a function of (seed, k) alone."""
    block = 0
    while True:
        # hash (seed, k), do not add: neighbouring seeds would share lines; a hash is also the same in every version
        digest = hashlib.blake2b(f"{seed}/{k}/{block}".encode()).digest()
        for word in struct.unpack("<8Q", digest):
            yield (word >> 11) * 2.0**-53
        block += 1
