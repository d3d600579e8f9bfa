"""Text that grows token by token is the text of the whole row; it ends where `str.find` finds a stop string."""

from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqgen.data.detokenize import IncrementalDetokenizer, StopStrings
from seqgen.data.tokenizers import Tokenizer, TokenizerConfig, train_tokenizer

LINES = ["the quick brown fox jumps over the lazy dog.", "  indented, with  two spaces ", "é, ü und ß: 床前明月光。"]


def made(kind: str, **options: object) -> Tokenizer:
    lines = ["\n".join(LINES)] if kind == "char" else LINES
    return train_tokenizer(TokenizerConfig(kind=kind, **options), lines, seed=0)  # type: ignore[arg-type]


TOKENIZERS = {kind: made(kind) for kind in ("byte", "char", "word", "bpe", "unigram")}
TOKENIZERS["pattern"] = made("word", pattern="..?")


class Counting:
    """A tokenizer that counts the ids it decodes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.newline, self.eos = tokenizer, tokenizer.newline, tokenizer.eos
        self.seen = 0

    def decode(self, rows: list[list[int]]) -> list[str]:
        self.seen += sum(map(len, rows))
        return self.tokenizer.decode(rows)


def rows_of(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    """Ids of any kind: those of text, single ones, and runs of bytes that are parts of characters."""
    text = st.text(st.sampled_from([*"abdeox é床 \n😀\ufffd"]), max_size=20).map(tokenizer.encode_stream)
    parts = st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=12)
    return st.lists(st.one_of(text.map(lambda ids: ids.tolist()), parts), max_size=6).map(
        lambda parts: list(chain.from_iterable(parts))
    )


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_the_pieces_are_the_text_of_the_row_behind_its_prompt(kind: str, running: bool, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[kind]
    prompts = [tokenizer.encode_stream(text).tolist() for text in ("", "the fox\n\nis", "床 " * 9)]
    if not running:
        prompts = tokenizer.encode(["", "the fox", "床 " * 9]).tolist()
    ids = data.draw(rows_of(tokenizer))
    growing = IncrementalDetokenizer(tokenizer, prompts, running=running)
    pieces = [growing.add([0, 1, 2], [i] * 3) for i in ids]
    for row, prompt in enumerate(prompts):
        whole = [*prompt, *ids]
        text = tokenizer.decode_stream(whole) if running else tokenizer.decode([whole])[0]
        begin = tokenizer.decode_stream(prompt) if running else tokenizer.decode([prompt])[0]
        assert begin + "".join(piece[row] for piece in pieces) + growing.rest(row) == text


@pytest.mark.parametrize("kind", ["byte", "bpe", "word"])
def test_every_token_costs_the_same(kind: str) -> None:
    counting = Counting(TOKENIZERS[kind])
    growing = IncrementalDetokenizer(counting, [[]], running=True)  # type: ignore[arg-type]
    ids = counting.tokenizer.encode(["the fox and the lazy dog é床 " * 200]).row(0).tolist()
    costs = []
    for i in ids:
        before = counting.seen
        growing.add([0], [i])
        costs.append(counting.seen - before)
    assert max(costs[100:]) == max(costs[-100:]) <= 50


@settings(deadline=None, max_examples=200)
@given(
    text=st.text(st.sampled_from("ab \n"), max_size=30),
    stop=st.lists(st.text(st.sampled_from("ab \n"), min_size=1, max_size=4), min_size=1, max_size=2),
    kind=st.sampled_from(["char", "byte"]),
)
def test_a_text_stays_to_the_first_stop_string_that_is_complete(text: str, stop: list[str], kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode_stream(text).tolist()
    complete = next((n for n in range(len(text) + 1) if any(s in text[:n] for s in stop)), None)
    expected = text if complete is None else text[: min(text.find(s) for s in stop if s in text[:complete])]
    growing = StopStrings(IncrementalDetokenizer(tokenizer, [[]], running=True), 1, stop)
    shown = ""
    for i in ids:
        shown += growing.add([0], [i])[0]
        assert expected.startswith(shown)
        if growing.over[0]:
            break
    assert growing.over[0] == (complete is not None)
    if growing.over[0]:
        assert growing.lengths[0] == growing.kept(0, text) == len(expected)  # a token is a character here
    assert shown + growing.rest(0) * (complete is None) == expected


@pytest.mark.parametrize(
    ("text", "stop", "kept"), [("a dog", "og", 2), ("a dog", "dog", 1), ("a dog", " dog", 1), ("a dog", "a", 0)]
)
def test_a_token_that_is_cut_counts_where_a_part_of_its_word_is_shown(text: str, stop: str, kept: int) -> None:
    tokenizer = train_tokenizer(TokenizerConfig(kind="word"), [text], seed=0)
    growing = StopStrings(IncrementalDetokenizer(tokenizer, [[]], running=False), 1, [stop])
    for i in tokenizer.encode([text]).row(0).tolist():
        if not growing.over[0]:
            growing.add([0], [i])
    assert growing.lengths[0] == text.index(stop)
    assert growing.kept(0, text) == kept
