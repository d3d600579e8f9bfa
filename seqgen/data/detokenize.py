"""The text of rows that grow token by token: each token costs the same, however long its row has become.

    texts = StopStrings(IncrementalDetokenizer(tokenizer, [prompt_ids], running=False), 1, ["\\n\\n"])
    for i in ids:
        print(*texts.add([0], [i]), end="")

A tokenizer's text of a token depends on little: whether a line begins with it, and which bytes of a character stand
before it. So a row is decoded from its last few tokens on, and what these add is the difference.
"""

from collections.abc import Sequence

from seqgen.data.tokenizers import Tokenizer

_KEPT = 8
"""Tokens that a row is decoded from: a character has four bytes at most, and UTF-8 is in step again after as many."""

_LOST = "\ufffd"
_UNSURE = 3
"""Characters at the end of a text that may change, where they stand for the first bytes of another."""


class IncrementalDetokenizer:
    """Rows of ids and the text behind each `prompt`; `running` text has line breaks.

    Joined, what `add` gives for a row, and its `rest` at the end, are the tokenizer's own text of the whole row.
    """

    def __init__(self, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], *, running: bool) -> None:
        self._tokenizer = tokenizer
        self._break = tokenizer.newline if running and tokenizer.newline == tokenizer.eos else -1
        self._ids = [self._last_line(list(prompt)) for prompt in prompts]
        self._given = [len(text) for text in tokenizer.decode(self._ids)]
        self._shorten(range(len(prompts)))

    def add(self, rows: Sequence[int], ids: Sequence[int]) -> list[str]:
        """Return the text that is sure behind one more id for each of some rows."""
        ends = [i == self._break for i in ids]
        for row, i, end in zip(rows, ids, ends, strict=True):
            if not end:
                self._ids[row].append(i)
        added = []
        for row, end, text in zip(rows, ends, self._tokenizer.decode([self._ids[row] for row in rows]), strict=True):
            sure = len(text) if end else max(len(text.rstrip(_LOST)), len(text) - _UNSURE)
            added.append(text[self._given[row] : sure] + "\n" * end)
            self._given[row] = 0 if end else max(sure, self._given[row])
            if end:
                self._ids[row] = []
        self._shorten([row for row in rows if len(self._ids[row]) >= 2 * _KEPT])
        return added

    def rest(self, row: int) -> str:
        """Return the end of a row's text that was not sure."""
        return self._tokenizer.decode([self._ids[row]])[0][self._given[row] :]

    def _last_line(self, ids: list[int]) -> list[int]:
        return ids[len(ids) - ids[::-1].index(self._break) :] if self._break in ids else ids

    def _shorten(self, rows: Sequence[int]) -> None:
        """Forget all but the last ids of some rows where their text has begun in them."""
        decode = self._tokenizer.decode
        last = [self._ids[row][-_KEPT:] for row in rows]
        for row, ids, whole, text in zip(
            rows, last, decode([self._ids[row] for row in rows]), decode(last), strict=True
        ):
            given = len(text) - (len(whole) - self._given[row])
            if given > 0:
                self._ids[row], self._given[row] = ids, given


class StopStrings:
    """Growing texts that end before the first of some strings, which may begin in one token and end in another."""

    def __init__(self, texts: IncrementalDetokenizer, rows: int, stop: Sequence[str]) -> None:
        self._texts, self._stop = texts, [text for text in stop if text]
        self._held = [""] * rows  # what may be the beginning of a stop string
        self.ends: list[list[int]] = [[0] for _ in range(rows)]
        """The characters of each row before its first token and behind each."""
        self.lengths = [0] * rows
        """Characters of each row that stay, those of its prompt not counted."""
        self.over = [False] * rows
        """Whether a row has come to a stop string."""

    def add(self, rows: Sequence[int], ids: Sequence[int]) -> list[str]:
        """Return the text that stays behind one more id for each of some rows."""
        return [self._stay(row, text) for row, text in zip(rows, self._texts.add(rows, ids), strict=True)]

    def rest(self, row: int) -> str:
        """Return the end of a row that has not come to a stop string."""
        return self._held[row] + self._texts.rest(row)

    def kept(self, row: int, text: str) -> int:
        """Return how many tokens a row's text of `lengths` characters has; a token counts if any word of it is shown.

        `text` is the row's text without the prompt. A token that is cut counts, but not for the space before its word.
        """
        ends, length = self.ends[row], self.lengths[row]
        count = next((n for n, end in enumerate(ends) if end >= length), len(ends) - 1)
        cut = ends[count] > length and not text[ends[count - 1] : length].strip()
        return count - cut

    def _stay(self, row: int, text: str) -> str:
        held = self._held[row] + text
        self.ends[row].append(self.lengths[row] + len(held))
        found = [at for at in map(held.find, self._stop) if at >= 0]
        self.over[row] = bool(found)
        stays = min(found) if found else len(held) - max((_begun(held, stop) for stop in self._stop), default=0)
        self._held[row] = held[stays:]
        self.lengths[row] += stays
        return held[:stays]


def _begun(text: str, stop: str) -> int:
    """Return how many characters at the end of a text are the first ones of a stop string."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
