"""Vocabularies in torchtext's shape: against a stand-in with its rules, and the real thing where it is installed."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqgen.core.errors import DataError
from seqgen.data.tokenizers import TokenizerConfig, WordTokenizer, interop, train_tokenizer

PAGE = Path(__file__).parents[3] / "docs" / "torchtext.md"


def real_vocab(tokens: list[str]) -> Any:
    torchtext = pytest.importorskip("torchtext.vocab", reason="torchtext is not installed", exc_type=ImportError)
    return torchtext.vocab(dict.fromkeys(tokens, 1))


class StandIn:
    """What torchtext 0.18 offers, written from its documentation: list and dictionary, no default index at first."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens

    def get_itos(self) -> list[str]:
        return self.tokens


TOKENS = st.lists(st.text("abc<>é字", min_size=1, max_size=4), unique=True, min_size=1, max_size=8)


@given(tokens=TOKENS, other=st.text("abc", max_size=5))
def test_the_verbs_agree_with_a_list(tokens: list[str], other: str) -> None:
    vocab = interop.Vocab(tokens)
    assert len(vocab) == len(tokens)
    assert vocab.get_itos() == tokens == vocab.lookup_tokens(range(len(tokens)))
    assert vocab.get_stoi() == {token: i for i, token in enumerate(tokens)}
    assert vocab(tokens) == vocab.forward(tokens) == vocab.lookup_indices(tokens) == list(range(len(tokens)))
    assert (other in vocab) == (other in tokens)
    if other not in tokens:
        with pytest.raises(RuntimeError, match=r"is not in the vocabulary and no default index is set$"):
            vocab[other]
        vocab.set_default_index(7)
        assert vocab[other] == vocab.get_default_index() == 7


@given(tokens=TOKENS, at=st.integers(0, 8))
def test_an_inserted_token_moves_the_others(tokens: list[str], at: int) -> None:
    at = min(at, len(tokens))
    vocab = interop.Vocab(tokens)
    vocab.insert_token("new token", at)
    assert vocab.get_itos() == [*tokens[:at], "new token", *tokens[at:]]
    assert vocab.lookup_indices(vocab.get_itos()) == list(range(len(tokens) + 1))
    vocab.append_token("another one")
    assert vocab["another one"] == len(tokens) + 1


def test_wrong_calls_are_the_errors_of_torchtext() -> None:
    vocab = interop.Vocab(["a", "b"])
    with pytest.raises(RuntimeError, match=r"^index 2 is not in the vocabulary, 0 to 1$"):
        vocab.lookup_token(2)
    with pytest.raises(RuntimeError, match=r"^index -1 is not in the vocabulary, 0 to 1$"):
        vocab.lookup_token(-1)
    with pytest.raises(RuntimeError, match=r"^token 'a' is in the vocabulary already, at index 0$"):
        vocab.append_token("a")
    with pytest.raises(RuntimeError, match=r"^index 4 is not in the vocabulary, 0 to 2$"):
        vocab.insert_token("c", 4)


@pytest.mark.parametrize("make", [StandIn, interop.Vocab, real_vocab])
def test_a_vocabulary_becomes_a_tokenizer_and_its_rows_are_found(make: Any) -> None:
    vocab = make(["<unk>", "<pad>", "the", "cat", "<bos>", "sat"])
    tokenizer = interop.word_tokenizer(vocab)
    assert tokenizer.symbols == ("the", "cat", "sat")
    assert tokenizer.decode(tokenizer.encode(["the cat sat down"])) == ["the cat sat <unk>"]
    rows = interop.rows_of(vocab, tokenizer).tolist()
    names = [None if row < 0 else vocab.get_itos()[row] for row in rows]
    assert names == ["<pad>", "<unk>", "<bos>", None, None, "the", "cat", "sat"]


def test_the_same_calls_give_the_same_as_torchtext() -> None:
    tokens = ["<unk>", "a", "b", "c"]
    real, ours = real_vocab(tokens), interop.Vocab(tokens)
    for vocab in (real, ours):
        vocab.set_default_index(0)
        vocab.insert_token("x", 2)
        vocab.append_token("y")
    assert ours.get_itos() == real.get_itos()
    assert ours.get_stoi() == real.get_stoi()
    assert ours(["a", "zzz", "y"]) == real(["a", "zzz", "y"])


def test_a_tokenizer_goes_there_and_back() -> None:
    tokenizer = train_tokenizer(TokenizerConfig(kind="word", min_count=1), ["a b b c", "é 字"], seed=0)
    assert isinstance(tokenizer, WordTokenizer)
    vocab = interop.as_vocab(tokenizer)
    assert vocab(["b", "zzz", "字"]) == [tokenizer.token_to_id("b"), tokenizer.unk, tokenizer.token_to_id("字")]
    assert interop.word_tokenizer(vocab).fingerprint == tokenizer.fingerprint


def test_what_is_no_vocabulary_is_said() -> None:
    with pytest.raises(TypeError, match=r"^expected a torchtext Vocab \(something with get_itos\), got dict$"):
        interop.word_tokenizer({})  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"^the vocabulary holds nothing but special tokens$"):
        interop.word_tokenizer(interop.Vocab(["<unk>", "<pad>"]))


def table() -> list[tuple[str, str]]:
    rows = re.findall(r"^\| .* \| `(.+)` \| `(.+)` \|$", PAGE.read_text(encoding="utf-8"), re.M)
    assert len(rows) >= 20
    return rows


def test_every_call_of_the_page_gives_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    names: dict[str, Any] = {}
    exec(block, names)
    for code, expected in table():
        assert eval(code, names) == eval(expected), code
