"""Hard constraints on the text of a sample: regular languages over characters, lifted to tokens.

A constraint says which whole texts are allowed. All of them together become one finite automaton over characters
(patterns to an NFA by Thompson's construction, to a DFA by subsets, then intersected and minimised), and that one
becomes one over tokens: a word has many spellings in tokens, so each token's text is read character by character. A
table of (states, tokens) holds the next state, another how many tokens an allowed end is then still away: a token is
offered only if the text can be finished in the length left. Nothing here knows a model or a tokenizer, only the text
that each token adds. Beside it stands the block against copies, which is a set of token runs.
Shapes: B rows, S states, C classes of characters, V vocabulary.
"""

import itertools
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MOST_STATES = 20_000  # of an automaton over characters, before it is minimised
_MOST_CELLS = 1 << 28  # states times tokens, 6 bytes each
_MOST_WORK = 2_000_000  # steps of the construction, some seconds
_MOST_COMPARED = 2_000_000  # transitions looked at to minimise an automaton, a second
_MOST_GROUPS = 100  # inside each other
_MOST_REPEATS = 1000  # a counted repetition is written out
NEVER = int(np.iinfo(np.int16).max)  # a distance
GAP = -1
"""Stands for a token that is free, in rows of tokens."""
_LOST = "\ufffd"  # stands for bytes that are no character

# ------------------------------------------------------------------------------------------------------------ patterns


@dataclass(frozen=True)
class CharSet:
    """Which characters may stand in one place."""

    chars: frozenset[str] = frozenset()
    ranges: tuple[tuple[str, str], ...] = ()
    kinds: frozenset[str] = frozenset()
    """Letters of _KINDS."""
    negated: bool = False

    def __contains__(self, char: str) -> bool:
        found = (
            char in self.chars
            or any(low <= char <= high for low, high in self.ranges)
            or any(_KINDS[kind](char) for kind in self.kinds)
        )
        return found != self.negated


def _is_word(char: str) -> bool:
    return char.isalnum() or char == "_"


def _is_joined(char: str) -> bool:
    """Return whether a character next to a word would make it a longer word; in scripts without spaces none does."""
    return _is_word(char) and unicodedata.east_asian_width(char) not in "WF"


_KINDS: dict[str, Callable[[str], bool]] = {
    "d": str.isdecimal,
    "w": _is_word,
    "s": str.isspace,
    "D": lambda char: not char.isdecimal(),
    "W": lambda char: not _is_word(char),
    "S": lambda char: not char.isspace(),
    "joined": _is_joined,
}
_ANY = CharSet(negated=True)
_LINE = CharSet(frozenset("\n"), negated=True)
_APART = CharSet(kinds=frozenset(["joined"]), negated=True)


class _Nfa:
    """States with edges for character sets and empty edges; state 0 is the start."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._work = 0
        self.sets: dict[CharSet, int] = {}
        self.edges: list[list[tuple[int, int]]] = []
        self.empty: list[list[int]] = []

    def count(self, steps: int) -> None:
        """Raise ValueError where building the automaton takes more steps than any sane constraint."""
        self._work += steps * (1 + len(self.edges) // 1000)  # sets of states are integers of as many bits
        if self._work > _MOST_WORK:
            raise ValueError(f"{self._name} has too many repetitions inside each other; use a simpler one")

    def state(self) -> int:
        self.count(1)
        self.edges.append([])
        self.empty.append([])
        return len(self.edges) - 1

    def edge(self, source: int, chars: CharSet, target: int) -> None:
        self.edges[source].append((self.sets.setdefault(chars, len(self.sets)), target))


Pattern = Callable[[_Nfa, int], int]
"""Adds itself to an automaton behind a state, and returns the state behind itself."""


def _one(chars: CharSet) -> Pattern:
    def add(nfa: _Nfa, at: int) -> int:
        end = nfa.state()
        nfa.edge(at, chars, end)
        return end

    return add


def _sequence(parts: Iterable[Pattern]) -> Pattern:
    parts = list(parts)

    def add(nfa: _Nfa, at: int) -> int:
        for part in parts:
            at = part(nfa, at)
        return at

    return add


def _either(parts: Iterable[Pattern]) -> Pattern:
    parts = list(parts)

    def add(nfa: _Nfa, at: int) -> int:
        end = nfa.state()
        for part in parts:
            nfa.empty[part(nfa, at)].append(end)
        return end

    return add


def _repeat(part: Pattern, least: int, most: int | None) -> Pattern:
    def add(nfa: _Nfa, at: int) -> int:
        for _ in range(least):
            at = part(nfa, at)
        end = nfa.state()
        nfa.empty[at].append(end)
        if most is None:
            nfa.empty[part(nfa, end)].append(end)
            return end
        for _ in range(most - least):
            at = part(nfa, at)
            nfa.empty[at].append(end)
        return end

    return add


def _literal(text: str) -> Pattern:
    return _sequence(_one(CharSet(frozenset(char))) for char in text)


def _containing(words: Iterable[str]) -> Pattern:
    """Match texts in which one of the words stands alone, not inside a longer word of a script that writes spaces."""
    words = list(words)

    def add(nfa: _Nfa, at: int) -> int:
        # one set of states around all words: with one around each, subsets would remember which words were found
        anywhere, apart, found, closing, end = (nfa.state() for _ in range(5))
        nfa.empty[at] += [anywhere, apart]
        nfa.empty[found].append(end)
        nfa.empty[closing].append(end)
        for source, chars, target in (
            (anywhere, _ANY, anywhere),
            (anywhere, _APART, apart),
            (closing, _APART, found),
            (found, _ANY, found),
        ):
            nfa.edge(source, chars, target)
        for word in words:
            last = _literal(word)(nfa, apart if _is_joined(word[0]) else anywhere)
            nfa.empty[last].append(closing if _is_joined(word[-1]) else found)
        return end

    return add


# --------------------------------------------------------------------------------------------------------- constraints


@dataclass(frozen=True)
class Constraint:
    """Which whole texts are allowed: those of a pattern, or all others."""

    name: str
    """In the words of whoever asked for it; errors say it."""
    pattern: Pattern
    forbids: bool = False


def regex(pattern: str) -> Constraint:
    r"""Allow texts that match a regular expression as a whole, from the first character to the last.

    Supported as in Python: literals, `.` (not the newline), `[a-z]`, `[^...]`, `\d \w \s \D \W \S`, `\n \t \r`, escaped
    punctuation, `( )`, `(?: )`, `|`, `* + ? {m} {m,} {m,n}`; `^` and `$` at the ends say nothing new. ValueError for
    everything else (back references, look-around, named groups, flags, `\b`), with the place.
    """
    shown = pattern if len(pattern) <= 100 else f"{pattern[:97]}..."
    return Constraint(f"the regular expression {shown!r}", _Parser(pattern).parse())


def template(text: str) -> Constraint:
    r"""Allow texts in which each `?` of the template is one free character, the rest as it is; `\?` is a `?`."""
    if not text:
        raise ValueError("a template must hold at least one character, got ''")
    parts = []
    characters = iter(text)
    for char in characters:
        if char == "\\":
            char = next(characters, "\\")
            parts.append(_literal(char))
        else:
            parts.append(_one(_LINE) if char == "?" else _literal(char))
    return Constraint(f"the template {text!r}", _sequence(parts))


def required_words(words: Sequence[str]) -> list[Constraint]:
    """Allow texts with each of the words, alone: "cat" is not in "category", but 猫 is in any text with it."""
    return [Constraint(f"the required word {word!r}", _containing([word])) for word in _checked(words)]


def bad_words(words: Sequence[str]) -> Constraint:
    """Allow texts with none of the words standing alone, as in `required_words`."""
    names = ", ".join(map(repr, _checked(words)[:5])) + (f" and {len(words) - 5} more" if len(words) > 5 else "")
    return Constraint(f"the forbidden words {names}", _containing(words), forbids=True)


def _checked(words: Sequence[str]) -> Sequence[str]:
    if isinstance(words, str):
        raise TypeError(f"expected a list of words, got the text {words!r}")
    if not words or not all(words):
        raise ValueError(f"expected words of at least one character, got {list(words)!r}")
    return words


class _Parser:
    """A regular expression read by recursive descent."""

    def __init__(self, pattern: str) -> None:
        self.text, self.at, self.depth = pattern, 0, 0

    def parse(self) -> Pattern:
        self._take("^")
        pattern = self._alternatives()
        if self.at < len(self.text):
            raise self._fault("an unbalanced )")
        return pattern

    def _alternatives(self) -> Pattern:
        parts = [self._concatenation()]
        while self._take("|"):
            parts.append(self._concatenation())
        return _either(parts) if len(parts) > 1 else parts[0]

    def _concatenation(self) -> Pattern:
        parts: list[Pattern] = []
        while self.at < len(self.text) and self._next() not in "|)":
            if self.text[self.at :] == "$":
                self.at += 1
                break
            parts.append(self._repeated())
        return _sequence(parts)

    def _repeated(self) -> Pattern:
        part = self._atom()
        counts = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        sign = self._next()
        if sign in counts:
            self.at += 1
            least, most = counts[sign]
        elif sign == "{":
            least, most = self._counts()
        else:
            return part
        self._take("?")  # a lazy repetition allows the same texts
        if self._next() in (*counts, "{"):
            raise self._fault("a repetition of a repetition")
        return _repeat(part, least, most)

    def _counts(self) -> tuple[int, int | None]:
        begin, end = self.at, self.text.find("}", self.at)
        first, comma, last = self.text[begin + 1 : end].partition(",")
        if end < 0 or not first.isdecimal() or not (last.isdecimal() or not last):
            raise self._fault("a { that begins no {m}, {m,} or {m,n}; a literal one is written \\{,")
        least = int(first)
        most = int(last) if last else None if comma else least
        if max(least, most or 0) > _MOST_REPEATS or (most is not None and most < least):
            raise self._fault(f"a repetition {self.text[begin : end + 1]} (0 <= m <= n <= {_MOST_REPEATS})")
        self.at = end + 1
        return least, most

    def _atom(self) -> Pattern:
        char = self._next()
        if char in "*+?{":
            raise self._fault(f"a {char} with nothing to repeat")
        if char in "^$":
            raise self._fault(f"a {char} inside (the whole text is matched)")
        self.at += 1
        if char == "(":
            if self._take("?") and not self._take(":"):
                self.at -= 1
                raise self._fault("a group (?...) other than (?: )")
            self.depth += 1
            if self.depth > _MOST_GROUPS:
                raise self._fault(f"more than {_MOST_GROUPS} groups inside each other")
            inner = self._alternatives()
            self.depth -= 1
            if not self._take(")"):
                raise self._fault("an unclosed (")
            return inner
        if char == "[":
            return _one(self._set())
        if char == ".":
            return _one(_LINE)
        return _one(self._escaped() if char == "\\" else CharSet(frozenset(char)))

    def _set(self) -> CharSet:
        negated = self._take("^")
        chars: set[str] = set()
        kinds: set[str] = set()
        ranges: list[tuple[str, str]] = []
        first = True
        while first or self._next() != "]":
            first = False
            low = self._member()
            if len(low.chars) == 1 and self._next() == "-" and self.text[self.at + 1 : self.at + 2] not in ("]", ""):
                self.at += 1
                high = self._member()
                (a,), (b,) = low.chars, high.chars or ("",)
                if not b or b < a:
                    raise self._fault("a range that does not rise")
                ranges.append((a, b))
            else:
                chars |= low.chars
                kinds |= low.kinds
        self.at += 1
        return CharSet(frozenset(chars), tuple(ranges), frozenset(kinds), negated)

    def _member(self) -> CharSet:
        if self.at >= len(self.text):
            raise self._fault("an unclosed [")
        char = self.text[self.at]
        self.at += 1
        return self._escaped() if char == "\\" else CharSet(frozenset(char))

    def _escaped(self) -> CharSet:
        char = self._next()
        self.at += 1
        if char in ("d", "w", "s", "D", "W", "S"):
            return CharSet(kinds=frozenset(char))
        if char in ("n", "t", "r"):
            return CharSet(frozenset({"n": "\n", "t": "\t", "r": "\r"}[char]))
        if not char or char.isalnum():
            self.at -= 2
            raise self._fault(f"the escape \\{char}")
        return CharSet(frozenset(char))

    def _next(self) -> str:
        return self.text[self.at : self.at + 1]

    def _take(self, char: str) -> bool:
        found = self._next() == char
        self.at += found
        return found

    def _fault(self, what: str) -> ValueError:
        shown = self.text if len(self.text) <= 100 else f"{self.text[:97]}..."
        return ValueError(f"regular expression {shown!r}: cannot use {what} at character {self.at + 1}")


# --------------------------------------------------------------------------------------------- automata over characters


@dataclass(frozen=True)
class _Dfa:
    """A complete automaton over classes of characters; state 0 is the start."""

    classes: dict[str, int]
    """The class of every character of the alphabet."""
    table: NDArray[np.int32]
    """(S, C): the next state."""
    accepting: NDArray[np.bool_]
    """(S,)."""


def _dfa(constraint: Constraint, alphabet: Sequence[str]) -> _Dfa:
    """Build a DFA by subset construction; characters that no set of the pattern tells apart share a class."""
    nfa = _Nfa(constraint.name)
    start = nfa.state()
    end = constraint.pattern(nfa, start)
    classes: dict[str, int] = {}
    members: dict[tuple[bool, ...], int] = {}
    for char in alphabet:
        classes[char] = members.setdefault(tuple(char in chars for chars in nfa.sets), len(members))

    closures: list[int] = []  # sets of states as the bits of an integer
    for state in range(len(nfa.edges)):
        reached, waiting = 1 << state, [state]
        while waiting:
            targets = nfa.empty[waiting.pop()]
            nfa.count(len(targets))
            for target in targets:
                if not reached >> target & 1:
                    reached |= 1 << target
                    waiting.append(target)
        closures.append(reached)

    numbers = {closures[start]: 0}
    rows: list[list[int]] = []
    waiting_sets = [closures[start]]
    for states in waiting_sets:
        by_set = [0] * len(nfa.sets)
        nfa.count(states.bit_count())
        for state in _bits(states):
            for which, target in nfa.edges[state]:
                by_set[which] |= closures[target]
        row = []
        for signature in members:
            target_set = 0
            for which, inside in enumerate(signature):
                if inside:
                    target_set |= by_set[which]
            if target_set not in numbers:
                numbers[target_set] = len(numbers)
                waiting_sets.append(target_set)
            row.append(numbers[target_set])
        rows.append(row)
        if len(numbers) > _MOST_STATES:
            raise ValueError(f"{constraint.name} needs more than {_MOST_STATES} states; use a simpler one")
    accepting = np.array([bool(states >> end & 1) for states in waiting_sets])
    return _minimal(_Dfa(classes, np.array(rows, np.int32), accepting != constraint.forbids))


def _bits(number: int) -> Iterable[int]:
    while number:
        low = number & -number
        yield low.bit_length() - 1
        number ^= low


def _both(first: _Dfa, second: _Dfa, name: str) -> _Dfa:
    """Intersect two automata."""
    pairs: dict[tuple[int, int], int] = {}
    classes = {
        char: pairs.setdefault((group, second.classes[char]), len(pairs)) for char, group in first.classes.items()
    }
    by_first, by_second = (np.array([pair[k] for pair in pairs], np.int64) for k in (0, 1))
    numbers = {(0, 0): 0}
    waiting = [(0, 0)]
    rows = []
    for a, b in waiting:
        row = []
        for pair in zip(first.table[a, by_first].tolist(), second.table[b, by_second].tolist(), strict=True):
            if pair not in numbers:
                numbers[pair] = len(numbers)
                waiting.append(pair)
            row.append(numbers[pair])
        rows.append(row)
        if len(numbers) > _MOST_STATES:
            raise ValueError(f"{name} together need more than {_MOST_STATES} states; use fewer")
    accepting = np.array([bool(first.accepting[a] and second.accepting[b]) for a, b in waiting])
    return _minimal(_Dfa(classes, np.array(rows, np.int32), accepting))


def _minimal(dfa: _Dfa) -> _Dfa:
    """Minimise the automaton (Moore 1956): split states until all of a group go to equal groups.

    A long one, which may take a round for each of its states, is left as it is: it says the same, in more states.
    """
    groups, count, work = dfa.accepting.astype(np.int64), 0, 0
    while True:
        work += dfa.table.size
        if work > _MOST_COMPARED:
            return dfa
        _, groups = np.unique(np.c_[groups, groups[dfa.table]], axis=0, return_inverse=True)
        groups = groups.reshape(-1)
        if groups.max() + 1 == count:
            break
        count = int(groups.max()) + 1
    # the start becomes number 0 again
    groups = np.where(groups == groups[0], 0, np.where(groups == 0, groups[0], groups))
    _, one_of_each = np.unique(groups, return_index=True)
    return replace(dfa, table=groups[dfa.table[one_of_each]].astype(np.int32), accepting=dfa.accepting[one_of_each])


# ------------------------------------------------------------------------------------------------ automata over tokens


@dataclass(frozen=True)
class Automaton:
    """Constraints over tokens. State 0 is before the text, where tokens may add another text than later on."""

    name: str
    """All constraints in words; errors say them."""
    next: Tensor
    """(S, V) int32: the state behind each token, -1 for none."""
    accepting: Tensor
    """(S,) bool: whether the text may end here."""
    distance: Tensor
    """(S,) int16: how many tokens the nearest allowed end is away; 32767: there is none."""
    away: Tensor
    """(S, V) int16: the same behind each token."""
    final: Tensor
    """(S,) bool: whether an allowed text is over here, because none goes on."""

    def without(self, ids: Iterable[int]) -> "Automaton":
        """Return the same constraints without these tokens; `distance` tells whether a text is still allowed."""
        table = self.next.numpy().copy()
        table[:, list(ids)] = -1
        return _automaton(self.name, table, self.accepting.numpy())

    def to(self, device: torch.device) -> "Automaton":
        """Return the same automaton with its tables on a device."""
        tables = (self.next, self.accepting, self.distance, self.away, self.final)
        return Automaton(self.name, *(table.to(device) for table in tables))

    def after(self, ids: Sequence[int]) -> int:
        """Return the state behind the tokens of a prompt. ValueError if no allowed text begins like that."""
        state = 0
        for token in ids:
            if self.away[state, token] == NEVER:
                raise ValueError(f"no text that begins with the prompt meets {self.name}")
            state = int(self.next[state, token])
        return state

    def allowed(self, states_b: Tensor, left: int) -> Tensor:
        """Return which tokens may come next if at most `left` may come after them, (B, V) bool."""
        return self.away[states_b] <= left


def gaps(ids: Sequence[int], vocab_size: int) -> Automaton:
    """Return the automaton of the rows of tokens equal to ids; `GAP` among them allows any token in its place."""
    table = np.full((len(ids) + 1, vocab_size), -1, np.int32)
    for state, token in enumerate(ids):
        table[state, slice(None) if token == GAP else token] = state + 1
    return _automaton("the text with gaps", table, np.arange(len(ids) + 1) == len(ids))


def _automaton(name: str, table: NDArray[np.int32], accepting: NDArray[np.bool_]) -> Automaton:
    """Return the automaton of a table (S, V) of next states, -1 for none, with the distances that follow from it."""
    distance = _distances(table, accepting).astype(np.int16)
    away = np.append(distance, np.int16(NEVER))[table]  # -1 is the last one
    final = accepting & (away == NEVER).all(1)
    return Automaton(name, *(torch.from_numpy(array) for array in (table, accepting, distance, away, final)))


def build(
    constraints: Sequence[Constraint],
    surfaces: Sequence[str],
    first: Sequence[str] | None = None,
    newline: int | None = None,
    silent: Sequence[int] = (),
) -> Automaton:
    """Build the automaton, over the tokens of a vocabulary, of the texts that meet all the constraints.

    `surfaces[i]` is the text that token i adds inside a line, `first[i]` what it adds at its beginning (the same if not
    given; a word tokenizer writes no space there). A line begins with the text and behind every token `newline`, if
    there is one; it has begun behind one of the tokens `silent`, which add no text there. Other tokens that add
    nothing, or bytes that are no character by themselves (U+FFFD), are not used under a constraint. ValueError names
    the constraints that no text can meet, alone or together.
    """
    if not constraints:
        raise ValueError("expected at least one constraint, got none")
    first = surfaces if first is None else first
    usable = [[text if text and _LOST not in text else "" for text in texts] for texts in (surfaces, first)]
    alphabet = sorted(set(itertools.chain.from_iterable(itertools.chain(*usable))))
    name = " and ".join(constraint.name for constraint in constraints)
    dfa: _Dfa | None = None
    for constraint in constraints:
        one = _dfa(constraint, alphabet)
        if not one.accepting.any():
            raise ValueError(f"no text that this vocabulary can write meets {constraint.name}")
        dfa = one if dfa is None else _both(dfa, one, name)
    assert dfa is not None
    begins = 1 if newline is None else len(dfa.table)  # states in which a line begins: the text's first, or any
    if (len(dfa.table) + begins) * len(surfaces) > _MOST_CELLS:
        raise ValueError(f"{name} needs {len(dfa.table)} states for each of {len(surfaces)} tokens; use a simpler one")
    inside = _lifted(dfa, usable[0], np.arange(len(dfa.table)))
    begin = _lifted(dfa, usable[1], np.arange(begins))
    begin[:, list(silent)] = np.arange(begins)[:, None]
    # the states in which a line begins stand first, the others move up
    table = np.concatenate([begin, inside])
    table[table >= 0] += begins
    if newline is not None:
        table[:, newline] -= np.where(table[:, newline] >= 0, begins, 0)
    accepting = np.concatenate([dfa.accepting[:begins], dfa.accepting])
    automaton = _automaton(name, table.astype(np.int32), accepting)
    if automaton.distance[0] == NEVER:
        raise ValueError(f"no text that this vocabulary can write meets {name}")
    return automaton


def _lifted(dfa: _Dfa, texts: Sequence[str], states: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the state behind each token from each of some states, (S, V); -1 for tokens without text."""
    longest = max(map(len, texts))
    classes = np.full((len(texts), longest), -1)
    for token, text in enumerate(texts):
        classes[token, : len(text)] = [dfa.classes[char] for char in text]
    reached = np.repeat(states[:, None], len(texts), 1)
    for place in range(longest):
        tokens = np.flatnonzero(classes[:, place] >= 0)
        reached[:, tokens] = dfa.table[reached[:, tokens], classes[tokens, place]]
    reached[:, [not text for text in texts]] = -1
    return reached


def _distances(table: NDArray[np.int32], accepting: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return how many tokens the nearest accepting state is away from each, (S,); 32767 for never."""
    states = len(table)
    sources, targets = [], []
    for state, row in enumerate(table):
        reached = np.flatnonzero(np.bincount(row + 1, minlength=states + 1)[1:])
        sources.append(np.full(len(reached), state))
        targets.append(reached)
    source, target = np.concatenate(sources), np.concatenate(targets)
    distance = np.where(accepting, 0, NEVER)
    for steps in range(1, NEVER):
        nearer = source[(distance[target] == steps - 1) & (distance[source] == NEVER)]
        if not len(nearer):
            break
        distance[nearer] = steps
    return distance


# ------------------------------------------------------------------------------------------------------------ no copies


@dataclass(frozen=True)
class NoCopy:
    """The runs of N tokens that stand in a training text, so that sampling can avoid them; made by `no_copy`."""

    n: int
    contexts: Tensor
    """(R,) int64, rising: the hash of each run's first N - 1 tokens."""
    following: Tensor
    """(R,) int64: each run's last token."""
    most: int
    """Runs at most that share their first N - 1 tokens."""

    def to(self, device: torch.device) -> "NoCopy":
        """Return the same index on a device."""
        return replace(self, contexts=self.contexts.to(device), following=self.following.to(device))

    def completions(self, history_bl: Tensor) -> Tensor:
        """Return the ids (B, most) that would complete a run which stands in the training text, -1 for no more.

        `history_bl` (B, L) is what each row has so far, -1 where there is nothing; too short, it completes none.
        """
        length = history_bl.shape[1]
        tail = history_bl[:, max(0, length - self.n + 1) :] if self.n > 1 else history_bl[:, :0]
        hashes = _hashes(tail)[:, None]
        low, high = torch.searchsorted(self.contexts, hashes), torch.searchsorted(self.contexts, hashes, right=True)
        place = low + torch.arange(self.most, device=low.device)
        return torch.where(place < high, self.following[place.clamp(max=len(self.following) - 1)], -1)


def no_copy(values: Tensor, offsets: Tensor, n: int, *, ignore: Sequence[int] = ()) -> NoCopy:
    """Index the runs of `n` tokens of a training text: ids `values` (T,), row r values[offsets[r] : offsets[r + 1]].

    Runs do not cross rows; those that hold an id of `ignore` (start, end, separator) do not count. A run is known by a
    64-bit hash of its first n - 1 tokens: none is missed, one in some 10^19 is taken for another. ValueError if n < 1.
    """
    if n < 1:
        raise ValueError(f"no_copy must be an integer >= 1, got {n}")
    values = values.long()
    count = max(0, len(values) - n + 1)
    inside = torch.ones(count, dtype=torch.bool, device=values.device)
    ends = offsets[1:-1].long().to(values.device)
    for back in range(1, n):  # a run that begins up to n - 1 tokens before a row's end would cross it
        cut = ends - back
        inside[cut[(cut >= 0) & (cut < count)]] = False
    for place in range(n):
        for token in ignore:
            inside &= values[place : place + count] != token
    begins = inside.nonzero().squeeze(1)
    contexts = _hashes(values[begins[:, None] + torch.arange(n - 1, device=values.device)])
    following = values[begins + n - 1]
    by_token = following.argsort(stable=True)
    order = by_token[contexts[by_token].argsort(stable=True)]
    contexts, following = contexts[order], following[order]
    new = torch.ones(len(order), dtype=torch.bool, device=values.device)
    new[1:] = (contexts[1:] != contexts[:-1]) | (following[1:] != following[:-1])
    contexts, following = contexts[new], following[new]
    runs = torch.searchsorted(contexts, contexts, right=True) - torch.searchsorted(contexts, contexts)
    most = int(runs.amax()) if len(runs) else 0
    return NoCopy(n, contexts, following, most)


def _hashes(ids_nk: Tensor) -> Tensor:
    """Return a 64-bit number for each row of ids, (N,) int64."""
    result = torch.zeros(len(ids_nk), dtype=torch.int64, device=ids_nk.device)
    for column in ids_nk.unbind(1):
        result = (result ^ (column + 1)) * -7046029254386353131  # the odd constant of splitmix64
        result = result ^ (result >> 29)
    return result
