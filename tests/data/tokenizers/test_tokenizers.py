"""Tokenizers against Python's own encodings, nltk and sentencepiece."""

import io
import json
import random
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.tokenize import word_tokenize

from seqgen.core.errors import ConfigError, DataError
from seqgen.data.ragged import Ragged
from seqgen.data.tokenizers import (
    SPECIALS,
    ByteTokenizer,
    CharTokenizer,
    Kind,
    PieceTokenizer,
    Tokenizer,
    TokenizerConfig,
    WordTokenizer,
    choose_kind,
    load_tokenizer,
    resolved,
    train_tokenizer,
)
from seqgen.data.tokenizers.kinds import kinds

ENGLISH = [
    "the quick brown fox jumps over the lazy dog.",
    "a dog's life: it isn't what you'd think, is it?",
    "  indented, with  two spaces and a trailing one ",
    "the fox and the dog are friends!",
]
CHINESE = ["床前明月光，疑是地上霜。", "举头望明月，低头思故乡。", "白日依山尽，黄河入海流。"]
SMILES = ["CC(=O)Cl", "c1ccccc1Br", "[NH4+]", "N[C@@H](C)C(=O)O"]
ATOMS = r"\[[^\]]+\]|Br|Cl|%\d\d|."
KINDS = ("byte", "char", "word", "bpe", "unigram")
FOUND = tuple(kinds())
"""The same, and any file of a kind that was added: it keeps the laws that need no knowledge of it."""

# Any text; U+2581 is SentencePiece's own sign for a space.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"))


def trained(kind: Kind, lines: list[str] = ENGLISH + CHINESE, **options: object) -> Tokenizer:
    return train_tokenizer(TokenizerConfig(kind=kind, **options), lines, seed=0)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    return {kind: trained(kind) for kind in FOUND}


@settings(deadline=None)
@given(lines=st.lists(TEXT, max_size=4))
def test_bytes_and_pieces_give_any_text_back(tokenizers: dict[str, Tokenizer], lines: list[str]) -> None:
    for kind in ("byte", "bpe", "unigram"):
        tokenizer = tokenizers[kind]
        ids = tokenizer.encode(lines)
        assert tokenizer.decode(ids) == tokenizer.decode(ids.tolist()) == lines
        assert all(
            tokenizer.unk not in row and tokenizer.unknown(line) == []
            for row, line in zip(ids.tolist(), lines, strict=True)
        )


@settings(deadline=None)
@given(
    lines=st.lists(
        st.text(st.one_of(st.sampled_from("".join(ENGLISH + CHINESE)), TEXT.filter(len).map(lambda t: t[0]))),
        max_size=4,
    )
)
def test_characters_are_looked_up_one_by_one(tokenizers: dict[str, Tokenizer], lines: list[str]) -> None:
    tokenizer = tokenizers["char"]
    known = {tokenizer.id_to_token(i): i for i in range(5, tokenizer.vocab_size)}
    assert tokenizer.encode(lines).tolist() == [[known.get(c, 1) for c in line] for line in lines]
    assert tokenizer.decode(tokenizer.encode(lines)) == [
        "".join(c if c in known else "\ufffd" for c in line) for line in lines
    ]
    assert [tokenizer.unknown(line) for line in lines] == [[c for c in line if c not in known] for line in lines]


@given(st.lists(TEXT, max_size=4))
def test_bytes_are_utf8_shifted_by_the_specials(lines: list[str]) -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.encode(lines).tolist() == [[byte + 5 for byte in line.encode()] for line in lines]


@given(st.lists(st.integers(0, 260), max_size=9))
def test_bytes_that_are_no_text_are_replaced(ids: list[int]) -> None:
    expected = bytes(i - 5 for i in ids if i >= 5).decode(errors="replace")
    assert ByteTokenizer().decode([ids, [70]]) == [expected, "A"]


@given(st.lists(st.lists(st.sampled_from(["the", "dog", "fox", "?", "zebra", "</s>"])), max_size=4))
def test_words_are_split_at_white_space(rows: list[list[str]]) -> None:
    tokenizer = trained("word", ["the dog the fox ?", "the </s> dog"])
    known = {"the", "dog", "fox", "?", "</s>"}
    lines = ["  ".join(row) + "\t" for row in rows]
    assert tokenizer.decode(tokenizer.encode(lines)) == [
        " ".join(w if w in known else "<unk>" for w in row) for row in rows
    ]
    assert [tokenizer.unknown(line) for line in lines] == [[w for w in row if w not in known] for row in rows]
    assert all(tokenizer.eos not in row for row in tokenizer.encode(lines).tolist())


def test_the_word_unk_in_a_text_is_the_unknown_id() -> None:
    tokenizer = trained("word", ["the <unk> dog", "a <unk> fox"])
    assert tokenizer.encode(["<unk> the zebra"]).tolist() == [[1, tokenizer.token_to_id("the"), 1]]
    assert tokenizer.vocab_size == 5 + 4


def test_nltk_words_are_nltks() -> None:
    tokenizer = trained("auto", ENGLISH, words="nltk", min_count=1)
    lines = [*ENGLISH, 'he said "no" (twice). And left.']
    for line, decoded in zip(lines, tokenizer.decode(tokenizer.encode(lines)), strict=True):
        words = word_tokenize(line, preserve_line=True)
        assert decoded == " ".join(word if tokenizer.token_to_id(word) != 1 else "<unk>" for word in words)
    assert tokenizer.decode(tokenizer.encode(ENGLISH[1:2])) == ["a dog 's life : it is n't what you 'd think , is it ?"]


@given(st.lists(st.lists(st.sampled_from(["Cl", "Br", "[NH4+]", "C", "c", "1", "(", ")"]), max_size=8), max_size=4))
def test_a_pattern_that_tiles_the_text_is_joined_by_nothing(rows: list[list[str]]) -> None:
    tokenizer = trained("auto", [*SMILES, "c(1)"], pattern=ATOMS)
    lines = ["".join(row) for row in rows]
    ids = tokenizer.encode(lines)
    assert ids.lengths.tolist() == [len(row) for row in rows]
    assert tokenizer.decode(ids) == lines


def test_what_a_tiling_pattern_leaves_out_is_unknown(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = trained("auto", ["ab", "a#b", "a#"], pattern="[ab]", min_count=1)
    assert caplog.messages == [
        "tokenizer.pattern does not match all of the text: 1 different parts become unk, most often '#' (2 lines)"
    ]
    assert tokenizer.decode(tokenizer.encode(["ab", "a##b!"])) == ["ab", "a<unk>b<unk>"]
    assert tokenizer.unknown("a##b!") == ["##", "!"]


def test_a_pattern_with_white_space_between_is_joined_by_spaces(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = trained("auto", ["i1, i2", "i2"], pattern=r"\w+", min_count=1)
    assert tokenizer.decode(tokenizer.encode(["i2,i1", "i1  i3 i2"])) == ["i2 i1", "i1 <unk> i2"]
    assert caplog.messages == []


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@settings(deadline=None, max_examples=30)
@given(lines=st.lists(TEXT, max_size=3))
def test_pieces_are_sentencepieces_own(tokenizers: dict[str, Tokenizer], kind: str, lines: list[str]) -> None:
    tokenizer = tokenizers[kind]
    assert isinstance(tokenizer, PieceTokenizer)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    assert tokenizer.encode(lines).tolist() == theirs.encode(lines)
    assert [theirs.pad_id(), theirs.unk_id(), theirs.bos_id(), theirs.eos_id(), theirs.piece_to_id("<sep>")] == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert (tokenizer.pad, tokenizer.unk, tokenizer.bos, tokenizer.eos, tokenizer.sep) == (0, 1, 2, 3, 4)


def test_a_given_model_keeps_its_ids_and_gets_the_specials_it_lacks(tmp_path: Path) -> None:
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(ENGLISH), model_writer=writer, vocab_size=50, minloglevel=3, eos_id=-1
    )
    (tmp_path / "my.model").write_bytes(writer.getvalue())
    config = TokenizerConfig(model=str(tmp_path / "my.model"))
    tokenizer = train_tokenizer(config, [], seed=0)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=writer.getvalue())
    assert tokenizer.encode(ENGLISH).tolist() == theirs.encode(ENGLISH)
    assert (tokenizer.unk, tokenizer.bos, tokenizer.pad, tokenizer.eos, tokenizer.sep) == (0, 1, 50, 51, 52)
    assert tokenizer.vocab_size == 53
    assert [tokenizer.id_to_token(i) for i in (50, 51, 52)] == ["<pad>", "</s>", "<sep>"]
    assert [tokenizer.token_to_id(token) for token in ("<pad>", "</s>", "<sep>", "zebra")] == [50, 51, 52, 0]
    assert tokenizer.decode([[1, 50, 52, *theirs.encode("the fox"), 51]]) == ["the fox"]
    assert tokenizer.unknown("the \u00e9") == ["\u00e9"]
    assert resolved(config, tokenizer).kind == "unigram"
    tokenizer.save(tmp_path / "saved")
    assert (tmp_path / "saved/spm.model").read_bytes() == writer.getvalue()
    assert load_tokenizer(tmp_path / "saved").fingerprint == tokenizer.fingerprint
    with pytest.raises(ConfigError, match=r"^tokenizer\.kind = bpe, but .*my\.model is a unigram model$"):
        train_tokenizer(TokenizerConfig(kind="bpe", model=config.model), [], seed=0)


@pytest.mark.parametrize("content", [b"", b"text, no model", b"\x0a\xff", b"\x12\x00"])
def test_a_file_that_is_no_model_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.model"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"^tokenizer\.model: .*a\.model: (not a|a) SentencePiece model"):
        train_tokenizer(TokenizerConfig(model=str(path)), [], seed=0)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        train_tokenizer(TokenizerConfig(model=str(tmp_path / "no.model")), [], seed=0)
    assert str(caught.value) == f"tokenizer.model: {tmp_path}/no.model cannot be read (No such file or directory)"


@pytest.mark.parametrize("kind", KINDS)
def test_surfaces_spell_the_line(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = tokenizers[kind]
    surfaces = tokenizer.surfaces()
    assert len(surfaces) == tokenizer.vocab_size
    assert [surfaces[i] for i in (tokenizer.pad, tokenizer.unk, tokenizer.bos, tokenizer.eos, tokenizer.sep)] == [
        ""
    ] * 5
    line = ENGLISH[0]
    spelt = "".join(surfaces[i] for i in tokenizer.encode([line]).row(0).tolist())
    assert spelt == (line if kind in ("byte", "char") else " " + line)


@pytest.mark.parametrize("kind", FOUND)
def test_ids_and_tokens_name_each_other(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = tokenizers[kind]
    assert [tokenizer.id_to_token(i) for i in range(5)] == list(SPECIALS)
    assert all(tokenizer.token_to_id(tokenizer.id_to_token(i)) == i for i in range(tokenizer.vocab_size))
    assert tokenizer.token_to_id("no such token") == tokenizer.unk


@pytest.mark.parametrize("kind", FOUND)
def test_a_saved_tokenizer_comes_back_the_same(tmp_path: Path, tokenizers: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = tokenizers[kind]
    tokenizer.save(tmp_path / "a/b")
    loaded = load_tokenizer(tmp_path / "a/b")
    assert type(loaded) is type(tokenizer)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode(ENGLISH).tolist() == tokenizer.encode(ENGLISH).tolist()


def test_tokens_with_newlines_and_separators_are_saved(tmp_path: Path) -> None:
    tokenizer = CharTokenizer(["\n", "\u2028", '"', "\\", "\x85"])
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, CharTokenizer)
    assert loaded.symbols == tokenizer.symbols


def test_every_option_that_changes_ids_changes_the_fingerprint() -> None:
    made = [
        ByteTokenizer(),
        ByteTokenizer(lowercase=True),
        CharTokenizer(["a", "b"]),
        CharTokenizer(["b", "a"]),
        CharTokenizer(["a", "b"], lowercase=True),
        WordTokenizer(["a", "b"]),
        WordTokenizer(["a", "b"], words="nltk"),
        WordTokenizer(["a", "b"], pattern="."),
        WordTokenizer(["a", "b"], pattern=".", joiner=""),
        WordTokenizer(["a", "b"], lowercase=True),
        trained("bpe"),
        trained("bpe", lowercase=True),
        trained("unigram"),
    ]
    assert len({tokenizer.fingerprint for tokenizer in made}) == len(made)


def test_altered_files_are_refused(tmp_path: Path) -> None:
    trained("char").save(tmp_path)
    vocabulary = tmp_path / "vocab.txt"
    good = vocabulary.read_text()
    vocabulary.write_text(good.replace('"e"', '"E"'))
    with pytest.raises(DataError, match=r": altered: the files' fingerprint is not the one stored in tokenizer\.json$"):
        load_tokenizer(tmp_path)
    vocabulary.write_text(good[:-3])
    with pytest.raises(DataError, match=r"vocab\.txt: not one JSON string per line"):
        load_tokenizer(tmp_path)
    vocabulary.unlink()
    with pytest.raises(DataError, match=r"vocab\.txt: cannot be read \(No such file or directory\); the tokenizer's"):
        load_tokenizer(tmp_path)
    description = tmp_path / "tokenizer.json"
    description.write_text(json.dumps({"format": 2, "kind": "char"}))
    with pytest.raises(DataError, match=r"tokenizer\.json: 'lowercase' is missing or wrong; the file is altered$"):
        load_tokenizer(tmp_path)
    description.write_text(json.dumps({"format": 99}))
    with pytest.raises(DataError, match=r"tokenizer\.json: expected format 2; it was written by another version or"):
        load_tokenizer(tmp_path)
    with pytest.raises(DataError, match=r"/none: no tokenizer\.json; expected a folder that a tokenizer was saved in$"):
        load_tokenizer(tmp_path / "none")


@pytest.mark.parametrize("kind", FOUND)
def test_training_does_not_depend_on_anything_but_the_text(kind: Kind) -> None:
    assert trained(kind).fingerprint == trained(kind).fingerprint
    if kind in ("char", "word"):
        mixed = ENGLISH + CHINESE
        random.Random(0).shuffle(mixed)
        assert trained(kind, mixed).fingerprint == trained(kind).fingerprint


@settings(deadline=None)
@given(st.lists(st.sampled_from([*ENGLISH, "", "new words"]), min_size=1, max_size=5))
def test_running_text_comes_back(lines: list[str]) -> None:
    text = "\n".join(lines)
    for kind in KINDS:
        tokenizer = (
            trained(kind, ["\n".join(ENGLISH)] if kind == "char" else ENGLISH, min_count=1)
            if kind in ("char", "word")
            else STREAM[kind]
        )
        ids = tokenizer.encode_stream(text).tolist()
        expected = (
            "\n".join(" ".join(line.split()) for line in lines).replace("new words", "<unk> <unk>")
            if kind == "word"
            else text
        )
        assert tokenizer.decode_stream(ids) == expected
        assert tokenizer.newline == (tokenizer.token_to_id("\n") if kind in ("byte", "char") else tokenizer.eos)
        assert ids.count(tokenizer.newline) == text.count("\n")


STREAM = {kind: trained(kind, ENGLISH) for kind in ("byte", "bpe", "unigram")}

LOSSLESS = {
    **STREAM,
    "char of running text": trained("char", ["\n".join(ENGLISH)], min_count=1),
    "char of lines": trained("char", ENGLISH, min_count=1),
    "covering pattern": trained("word", SMILES, pattern=ATOMS, min_count=1),
}
OTHERS = {
    "split": trained("word", ENGLISH, min_count=1),
    "split, lower": trained("word", ENGLISH, min_count=1, lowercase=True),
    "nltk": trained("word", ENGLISH, min_count=1, words="nltk"),
    "pattern with gaps": trained("word", ENGLISH, min_count=1, pattern=r"\w+|[^\w\s]"),
    "char, lower": trained("char", ENGLISH, min_count=1, lowercase=True),
    "byte, lower": trained("byte", lowercase=True),
}


def running(*letters: str) -> st.SearchStrategy[str]:
    """Any text with line breaks, and text of given parts."""
    return st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.lists(st.sampled_from(letters)).map("".join))


@pytest.mark.parametrize("name", LOSSLESS)
@settings(deadline=None)
@given(text=running(*"".join(ENGLISH), *"C=O1n[]Brl\n\n\r\u2581\u2028\0", "<unk>", "<s>", "<0x0A>", "\n  "))
def test_a_lossless_tokenizer_gives_known_running_text_back(name: str, text: str) -> None:
    tokenizer = LOSSLESS[name]
    assert tokenizer.lossless
    back = tokenizer.decode_stream(tokenizer.encode_stream(text).tolist())
    assert back.count("\n") == text.count("\n")
    assert back == text or any(map(tokenizer.unknown, text.split("\n")))


@pytest.mark.parametrize("name", OTHERS)
@settings(deadline=None)
@given(
    text=running(*ENGLISH[0].split(), "THE", "zebra", "<unk>", "\n", " ", "  ", "\n\n", "\t", "'", "\u0130", ".", '"')
)
def test_another_keeps_the_line_breaks_and_reads_its_own_text_as_it_was(name: str, text: str) -> None:
    tokenizer = OTHERS[name]
    assert not tokenizer.lossless
    ids = tokenizer.encode_stream(text).tolist()
    back = tokenizer.decode_stream(ids)
    assert back.count("\n") == text.count("\n")
    assert tokenizer.encode_stream(back).tolist() == ids


@pytest.mark.parametrize("kind", FOUND)
def test_ids_outside_the_vocabulary_are_named(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = tokenizers[kind]
    size = tokenizer.vocab_size
    for bad in (size, -1):
        with pytest.raises(DataError) as caught:
            tokenizer.decode([[], [5, 6], [7, bad]])
        assert str(caught.value) == f"id {bad} at row 2, position 1 is outside the vocabulary, 0 to {size - 1}"
    with pytest.raises(TypeError, match=r"^ids must be integers, got 1\.0 \(float\)$"):
        tokenizer.decode([[1.0]])  # type: ignore[list-item]


@pytest.mark.parametrize("kind", FOUND)
def test_half_a_surrogate_pair_is_named(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    with pytest.raises(DataError) as caught:
        tokenizers[kind].encode(["fine", "a\ud83d"])
    assert str(caught.value) == (
        "line 2: lone surrogate U+D83D at character 2; decode the text with errors='replace' before handing it over"
    )
    with pytest.raises(TypeError, match=r"^lines must be a list of str, got one str; put it into a list$"):
        tokenizers[kind].encode("one line")


@pytest.mark.parametrize("kind", KINDS)
def test_lower_is_the_same_as_lower_case_text(kind: Kind) -> None:
    lines = ["The DOG", "\u0130stanbul"]
    lowercase = trained(kind, [line.lower() for line in ENGLISH + lines])
    assert (
        trained(kind, [line.upper() for line in ENGLISH] + lines, lowercase=True).encode(lines).tolist()
        == lowercase.encode([line.lower() for line in lines]).tolist()
    )


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        (["a man is walking .", "two dogs , one cat .", "is it ? yes !"] * 9, "word"),
        (["A man is walking.", "Two dogs, one cat.", "Is it? Yes!"] * 9, "bpe"),
        (["a man is walking", "a dog is walking", "a man is running"] * 9, "word"),
        (["each line holds entirely different words", "so nothing recurs anywhere here"], "bpe"),
        (CHINESE, "char"),
        (["\u5e8a \u524d \u660e \u6708 \u5149 \uff0c", "\u7591 \u662f \u5730 \u4e0a \u971c \u3002"], "word"),
        (["emma", "olivia"], "char"),
        (SMILES, "char"),
    ],
)
def test_the_kind_is_chosen_from_the_text(lines: list[str], kind: str) -> None:
    assert choose_kind(TokenizerConfig(), lines) == kind
    assert train_tokenizer(TokenizerConfig(), lines, seed=0).kind == kind


def test_words_seen_once_teach_the_unknown_where_they_are_few() -> None:
    many = ["a b c d e f g h i j"] * 10
    assert trained("word", [*many, "rare"]).token_to_id("rare") == 1
    assert trained("word", [*many[:1], "rare"]).token_to_id("rare") > 4
    assert trained("word", [*many, "rare"], min_count=1).token_to_id("rare") > 4
    assert trained("word", [*many, "rare"], symbols=("rare", "suppress_tokens")).token_to_id("suppress_tokens") == 6
    assert trained("char", ["ab" * 50, "c"]).token_to_id("c") > 4


def test_a_smaller_vocabulary_keeps_the_most_frequent() -> None:
    tokenizer = trained("word", ["a a a b b c", "c c c z"], vocab_size=8)
    assert [tokenizer.id_to_token(i) for i in range(5, 8)] == ["c", "a", "b"]


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_automatic_sizes_work_for_any_text(kind: Kind) -> None:
    for lines in (["a"], ["ab ab", "\t"], CHINESE, ["".join(map(chr, range(0x4E00, 0x5400)))], ["x" * 50_000]):
        tokenizer = trained(kind, lines)
        assert tokenizer.decode(tokenizer.encode(lines)) == lines


@pytest.mark.parametrize(
    ("options", "lines", "message"),
    [
        (
            {"kind": "word", "vocab_size": 100},
            ["a b c"],
            "tokenizer.vocab_size = 100, but the text has only 3 words seen 1 times or more, and 5 ids are special; "
            "use 0 (automatic) or at most 8",
        ),
        (
            {"kind": "char", "vocab_size": 100, "min_count": 2},
            ["abca"],
            "tokenizer.vocab_size = 100, but the text has only 1 characters seen 2 times or more, "
            "and 5 ids are special; use 0 (automatic) or at most 6",
        ),
        (
            {"kind": "char", "vocab_size": 5},
            ["abca"],
            "tokenizer.vocab_size = 5 leaves no room for characters beside 5 special ids and 0 tokenizer.symbols; "
            "use 0 (automatic) or more",
        ),
        (
            {"kind": "bpe", "vocab_size": 263},
            ["abca"],
            "tokenizer.vocab_size = 263 is too small for bpe: the text has 3 characters, "
            "and 256 bytes and 5 special ids come on top; use 0 (automatic) or at least 265",
        ),
        (
            {"kind": "bpe", "vocab_size": 9999},
            ["abca"],
            "tokenizer.vocab_size = 9999 is more than the text supports; use 0 (automatic) or at most 273",
        ),
        (
            {"kind": "bpe"},
            [" ", "\t"],
            "the text holds nothing but white space; a tokenizer cannot be trained on it",
        ),
        ({"pattern": "x+"}, ["abc"], "tokenizer.pattern = 'x+' matches nothing in the text"),
    ],
)
def test_a_vocabulary_the_text_does_not_support_is_one_line(
    options: dict[str, object], lines: list[str], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        train_tokenizer(TokenizerConfig(**options), lines, seed=0)  # type: ignore[arg-type]
    assert str(caught.value) == message


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_the_size_an_error_allows_is_allowed(kind: Kind) -> None:
    with pytest.raises(
        DataError, match=r"is more than the text supports; use 0 \(automatic\) or at most \d+$"
    ) as caught:
        trained(kind, ENGLISH, vocab_size=20_000)
    limit = int(str(caught.value).rsplit(" ", 1)[1])
    assert trained(kind, ENGLISH, vocab_size=limit).vocab_size == limit
    with pytest.raises(DataError, match=r"use 0 \(automatic\) or at least \d+$") as caught:
        trained(kind, ENGLISH, vocab_size=262)
    least = int(str(caught.value).rsplit(" ", 1)[1])
    assert trained(kind, ENGLISH, vocab_size=least).vocab_size == least


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"pattern": "(a"},
            "tokenizer.pattern = '(a' is no regular expression: missing ), unterminated subpattern at position 0",
        ),
        (
            {"pattern": "a", "words": "nltk"},
            "tokenizer.pattern and tokenizer.words = nltk both cut words; give one",
        ),
        (
            {"pattern": "a", "kind": "bpe"},
            "tokenizer.pattern makes words, but tokenizer.kind = bpe is given; leave one out",
        ),
        (
            {"words": "nltk", "model": "a.model"},
            "tokenizer.words = nltk makes words, but tokenizer.model is given; leave one out",
        ),
        (
            {"kind": "char", "symbols": ("Cl",)},
            "tokenizer.symbols holds 'Cl', but kind char takes single characters; use kind word or bpe",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        train_tokenizer(TokenizerConfig(**options), ENGLISH, seed=0)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_settings_without_effect_are_said(caplog: pytest.LogCaptureFixture) -> None:
    trained("byte", vocab_size=300, symbols=("x",))
    trained("bpe", min_count=3)
    assert caplog.messages == [
        "tokenizer.vocab_size takes no effect with tokenizer.kind = byte",
        "tokenizer.symbols takes no effect with tokenizer.kind = byte",
        "tokenizer.min_count takes no effect with tokenizer.kind = bpe",
    ]


def test_symbols_are_pieces_of_their_own() -> None:
    tokenizer = trained("bpe", symbols=("<title>",))
    ids = tokenizer.encode(["a<title>dog"]).row(0).tolist()
    assert tokenizer.token_to_id("<title>") in ids
    assert tokenizer.decode([ids]) == ["a<title>dog"]


def test_a_ragged_on_any_width_can_be_decoded() -> None:
    tokenizer = trained("word", ["a b c"])
    ids = tokenizer.encode(["a b", "c"])
    narrow = Ragged(ids.values.short(), ids.offsets)
    assert tokenizer.decode(narrow) == ["a b", "c"]


def test_too_much_text_for_sentencepiece_is_drawn_from_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqgen.data.tokenizers.subword._MOST_CHARACTERS", 300)
    lines = [f"{a}{b} {b}{a}" for a in "abcdefghijklmnop" for b in "qrstuvwxyzabcdef"]
    config = TokenizerConfig(kind="bpe", vocab_size=320)
    first, again, other = (train_tokenizer(config, lines, seed=seed).fingerprint for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("kind", "file", "content", "message"),
    [
        ("char", "vocab.txt", '"ab"\n" "\n', "altered: vocab.txt does not fit tokenizer.json"),
        ("char", "vocab.txt", '"\\ud800"\n', "altered: vocab.txt does not fit tokenizer.json"),
        ("word", "vocab.txt", '"\\ud800"\n', "altered: vocab.txt does not fit tokenizer.json"),
        ("word", "vocab.txt", '5\n"a"\n', r"vocab.txt: not one JSON string per line \(5 is no string\)"),
        ("word", "vocab.txt", "", "altered: the files' fingerprint is not the one stored"),
        ("bpe", "tokenizer.json", "unigram", "spm.model is a bpe model, tokenizer.json says 'unigram'; it is altered"),
        ("bpe", "tokenizer.json", "other", "tokenizer.json: no tokenizer kind is called 'other'; the file is altered"),
        ("word", "tokenizer.json", "char", "altered: vocab.txt does not fit tokenizer.json"),
        ("byte", "tokenizer.json", "char", r"vocab.txt: cannot be read \(No such file or directory\)"),
    ],
)
def test_a_folder_of_another_kind_is_one_line(
    tmp_path: Path, tokenizers: dict[str, Tokenizer], kind: str, file: str, content: str, message: str
) -> None:
    tokenizers[kind].save(tmp_path)
    if file == "tokenizer.json":
        stored = json.loads((tmp_path / file).read_text())
        content = json.dumps({**stored, "kind": content})
    (tmp_path / file).write_text(content)
    with pytest.raises(DataError, match=message):
        load_tokenizer(tmp_path)
