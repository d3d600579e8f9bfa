"""From files to batches: splits, conditions, limits, and every input that cannot be used."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqgen.core.errors import ConfigError, DataError
from seqgen.data.prepare import DataConfig, TextData, choose_mode, encode_sources, prepare, split_by_hash
from seqgen.data.text import records_of
from seqgen.data.tokenizers import ByteTokenizer, TokenizerConfig

LINES = [
    f"the {colour} {animal} {deed} ."
    for colour in ("red", "old", "big")
    for animal in ("dog", "cat", "cow", "owl")
    for deed in ("sleeps", "runs off", "eats a very big red cow")
]
PLAY = (
    "\n\n".join(f"{who}:\nWhat {what}, friend?" for who in ("ANN", "BOB") for what in ("news", "ails you", "now"))
    + "\n"
)


def prepared(tmp_path: Path, content: str, *, batch: int = 4, name: str = "a.txt", **settings: Any) -> TextData:
    """Data of one file; settings with a dot are the tokenizer's."""
    path = tmp_path / name
    path.write_bytes(content.encode())
    tokenizer = {
        key.removeprefix("tokenizer_"): settings.pop(key) for key in list(settings) if key.startswith("tokenizer_")
    }
    folder = tokenizer.pop("folder", None)
    return prepare(
        DataConfig(files=(str(path),), **settings),
        TokenizerConfig(**tokenizer),
        batch=batch,
        seed=1,
        device="cpu",
        tokenizer_folder=folder,
    )


def test_a_line_is_a_row_between_start_and_end(tmp_path: Path) -> None:
    data = prepared(tmp_path, "\n".join(LINES) + "\n\n")
    assert data.mode == "sentence"
    assert data.tokenizer.kind == "word"
    assert sorted(data.train_lines + data.valid_lines) == sorted(LINES)
    for corpus, lines in ((data.train, data.train_lines), (data.valid, data.valid_lines)):
        rows = corpus.ids.tolist()
        assert [(row[0], row[-1]) for row in rows] == [(2, 3)] * len(lines)
        assert data.tokenizer.decode(corpus.ids) == [
            " ".join(w if data.tokenizer.token_to_id(w) > 4 else "<unk>" for w in line.split()) for line in lines
        ]
        assert corpus.fingerprint == data.tokenizer.fingerprint
    assert data.valid_sources is None
    assert data.valid_characters == sum(len(line) + 1 for line in data.valid_lines)
    assert sum(batch.count for batch in data.validation()) == sum(len(line.split()) + 1 for line in data.valid_lines)
    longest = max(len(line.split()) for line in LINES) + 1
    assert data.facts == {
        "vocab_size": data.tokenizer.vocab_size,
        "source_vocab_size": 0,
        "pad": 0,
        "sep": 4,
        "start": 2,
        "stop": 3,
        "suppress_tokens": (0, 1, 2, 4),
        "max_length": longest,
    }
    resolved, tokenizer = data.resolved
    assert (resolved.mode, resolved.max_length, tokenizer.kind) == ("sentence", longest, "word")
    assert tokenizer.vocab_size == data.tokenizer.vocab_size


def test_resolved_settings_give_the_same_data(tmp_path: Path) -> None:
    for content in ("\n".join(LINES), PLAY * 20):
        data = prepared(tmp_path, content)
        again = prepare(data.resolved[0], data.resolved[1], batch=4, seed=1, device="cpu")
        assert again.resolved == data.resolved
        assert again.fingerprint == data.fingerprint
        assert again.tokenizer.fingerprint == data.tokenizer.fingerprint
        assert torch.equal(again.batches.at(3).inputs, data.batches.at(3).inputs)


@given(st.lists(st.sampled_from([*LINES, " " + LINES[0]]), min_size=2), st.floats(0.01, 0.99))
def test_equal_lines_fall_on_one_side(lines: list[str], share: float) -> None:
    distinct = {line.strip() for line in lines}
    rows = list(range(len(lines)))
    if len(distinct) == 1:
        with pytest.raises(DataError, match=r"^input, line 1: the only line, or equal to all others"):
            split_by_hash(records_of(lines), rows, share)
        return
    train, valid = split_by_hash(records_of(lines), rows, share)
    assert sorted(train + valid) == rows
    splits = [{lines[row].strip() for row in split} for split in (train, valid)]
    assert not splits[0] & splits[1]
    assert splits[0]
    assert splits[1]


def test_a_line_stays_on_its_side_in_any_order_beside_other_lines() -> None:
    lines = [f"line {i}" for i in range(2000)]
    _, valid = split_by_hash(records_of(lines), range(2000), 0.1)
    held_out = {lines[row] for row in valid}
    assert abs(len(held_out) - 200) < 5 * (2000 * 0.1 * 0.9) ** 0.5
    more = [*lines[:500], "another"]
    random.Random(0).shuffle(more)
    _, valid = split_by_hash(records_of(more), range(len(more)), 0.1)
    assert {more[row] for row in valid} - {"another"} == held_out & set(more)


def test_a_held_out_file_overrides_the_split(tmp_path: Path) -> None:
    (tmp_path / "valid.txt").write_text("the dog sleeps .\n\nthe owl runs off .\n")
    data = prepared(tmp_path, "\n".join(LINES), valid=(str(tmp_path / "valid.txt"),))
    assert data.train_lines == LINES
    assert data.valid_lines == ["the dog sleeps .", "the owl runs off ."]
    play = prepared(tmp_path, PLAY * 9, valid=(str(tmp_path / "valid.txt"),), tokenizer_kind="byte")
    assert play.train.ids.values.numel() == len(PLAY * 9) + 1
    assert play.valid_characters == len("the dog sleeps .\n\nthe owl runs off .\n")


@pytest.mark.parametrize("kind", ["byte", "char"])
@pytest.mark.parametrize("mode", ["auto", "window"])
def test_running_text_keeps_its_newlines_and_ends_held_out(tmp_path: Path, kind: str, mode: str) -> None:
    text = PLAY * 20
    data = prepared(tmp_path, text, mode=mode, valid_share=0.2, window=5, tokenizer_kind=kind)
    assert data.mode == {"auto": "stream", "window": "window"}[mode]
    cut = int(len(text) * 0.8)
    newline = data.tokenizer.token_to_id("\n")
    for corpus, part in ((data.train, text[:cut]), (data.valid, text[cut:])):
        (row,) = corpus.ids.tolist()
        assert row[0] == newline == data.facts["start"]
        assert data.tokenizer.decode_stream(row[1:]) == part
    assert "\n".join(data.train_lines) == text[:cut].removesuffix("\n")
    assert data.facts["stop"] == -1
    assert data.facts["suppress_tokens"] == (0, 1, 2, 3, 4)
    assert data.facts["max_length"] == data.resolved[0].window == 5
    assert data.valid_characters == len(text) - cut
    assert sum(batch.count for batch in data.validation()) == data.valid_characters


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_running_words_end_lines_with_eos(tmp_path: Path, kind: str) -> None:
    text = PLAY * 20
    data = prepared(tmp_path, text, window=5, tokenizer_kind=kind)
    assert data.mode == "stream"
    train, valid = (corpus.ids.tolist()[0] for corpus in (data.train, data.valid))
    assert train[0] == valid[0] == data.facts["start"] == data.tokenizer.eos
    assert data.tokenizer.eos not in data.facts["suppress_tokens"]
    whole = data.tokenizer.decode_stream(train[1:]) + data.tokenizer.decode_stream(valid[1:])
    assert whole == text
    assert text[len(text) - data.valid_characters - 1] == "\n"
    assert len(text) - data.valid_characters == pytest.approx(0.9 * len(text), abs=30)


def test_conditions_stand_before_the_text_and_are_not_counted(tmp_path: Path) -> None:
    rows = [
        {"kind": kind, "stars": n, "text": f"{line} {kind}"} for n, line in enumerate(LINES) for kind in ("good", "bad")
    ]
    data = prepared(
        tmp_path,
        "\n".join(map(json.dumps, rows)),
        name="a.jsonl",
        source="kind,stars",
        target="text",
        tokenizer_min_count=1,
    )
    assert data.mode == "sentence"
    assert data.valid_sources
    expected = {row["text"]: f"{row['kind']}\t{row['stars']}" for row in rows}
    assert [expected[line] for line in data.valid_lines] == data.valid_sources
    assert data.valid.loss_from is not None
    tokenizer = data.tokenizer
    for ids, start, line, source in zip(
        data.valid.ids.tolist(), data.valid.loss_from.tolist(), data.valid_lines, data.valid_sources, strict=True
    ):
        kind, stars = [tokenizer.encode([part]).row(0).tolist() for part in source.split("\t")]
        text = tokenizer.encode([line]).row(0).tolist()
        assert ids == [2, *kind, 4, *stars, 4, *text, 3]
        assert ids[start + 1 :] == [*text, 3]
        assert encode_sources(tokenizer, [source]).tolist() == [[*kind, 4, *stars, 4]]
    counted = sum(batch.count for batch in data.validation())
    assert counted == sum(len(line.split()) + 1 for line in data.valid_lines)


def test_conditions_have_equally_many_fields() -> None:
    assert encode_sources(ByteTokenizer(), []).tolist() == []
    with pytest.raises(DataError) as caught:
        encode_sources(ByteTokenizer(), ["a\tb", "c"])
    assert str(caught.value) == "condition 2 has 1 fields (separated by tabs), the first has 2"


LONG = [*LINES, "the owl " * 20 + ".", "the dog " * 30 + "."]


def unseen(folder: Path) -> tuple[str]:
    """A file of held-out lines: those of the text with their words backwards."""
    path = folder / "unseen.txt"
    path.write_text("".join(f"{' '.join(reversed(line.split()))}\n" for line in LINES))
    return (str(path),)


def test_long_rows_are_an_error_that_names_the_first(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, "\n".join([*LINES, *LONG[-2:]]), max_length=20, valid=unseen(tmp_path))
    assert str(caught.value) == (
        f"2 of 38 training rows are longer than 20 tokens, the first (42 tokens) is {tmp_path}/a.txt, line 37; "
        "set data.max_length higher, data.long=cut or data.long=drop, or data.mode=stream for running text"
    )
    with pytest.raises(DataError, match=r"rows are longer than 1024 tokens, the first \(1201 tokens\) is "):
        prepared(tmp_path, "\n".join([*LINES, "x" * 1200]), tokenizer_kind="byte", valid=unseen(tmp_path))


def test_long_rows_are_cut_without_an_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = prepared(tmp_path, "\n".join(LONG), max_length=20, long="cut", valid=unseen(tmp_path))
    assert caplog.messages[0] == (
        "2 of 38 training rows are longer than 20 tokens and are cut; "
        f"the first (42 tokens) is {tmp_path}/a.txt, line 37"
    )
    rows = data.train.ids.tolist()
    assert rows[-1] == [2, *data.tokenizer.encode(["the dog " * 10]).row(0).tolist()]
    assert all(row[-1] == 3 for row in rows[:-2])
    assert data.facts["max_length"] == 20
    assert data.train_lines == LONG


def test_long_rows_are_dropped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = prepared(tmp_path, "\n".join(LONG), max_length=20, long="drop", valid=unseen(tmp_path))
    assert caplog.messages[0].startswith("2 of 38 training rows are longer than 20 tokens and are left out; the first")
    assert data.train_lines == LINES
    assert data.train.ids.rows == 36
    with pytest.raises(
        DataError, match=r"^38 of 38 training rows .* 2 tokens, and none are left; set data\.max_length"
    ):
        prepared(tmp_path, "\n".join(LONG), max_length=2, long="drop", valid=unseen(tmp_path))


def test_a_condition_that_fills_the_row_is_left_out(tmp_path: Path) -> None:
    rows = [{"q": "why " * n, "a": "because it is so"} for n in range(1, 12)]
    # the same answer to another question is another row
    (tmp_path / "b.jsonl").write_text(json.dumps({"q": "why not", "a": "because it is so"}) + "\n")
    data = prepared(
        tmp_path,
        "\n".join(map(json.dumps, rows)),
        name="a.jsonl",
        source="q",
        target="a",
        max_length=8,
        long="cut",
        valid=(str(tmp_path / "b.jsonl"),),
    )
    # start, q, sep and at least one token of the answer: at most six words of a question
    assert data.train.ids.rows == 6
    assert data.train.loss_from is not None
    assert bool((data.train.loss_from < data.train.ids.lengths - 1).all())


@pytest.mark.parametrize(
    ("lines", "mode"),
    [
        (LINES, "sentence"),
        (PLAY.split("\n"), "stream"),
        (["one line alone", ""], "stream"),
        (["x" * 1001, "y" * 1001, "z"], "stream"),
        ([*LINES, "", "", "", ""], "sentence"),
        (["x" * 1001, *LINES, "", *LINES], "sentence"),
    ],
)
def test_the_mode_is_chosen_from_the_text(lines: list[str], mode: str) -> None:
    assert choose_mode(DataConfig(), records_of(lines)) == mode


def test_python_lines_are_training_text(tmp_path: Path) -> None:
    data = prepare(DataConfig(), TokenizerConfig(), batch=4, seed=1, device="cpu", extra_input=iter(LINES))
    assert sorted(data.train_lines + data.valid_lines) == sorted(LINES)
    (tmp_path / "a.txt").write_text("\n".join(LINES))
    files = DataConfig(files=(str(tmp_path / "a.txt"),), max_length=12)
    with pytest.raises(DataError, match=r"1 of \d+ (training|held-out) rows .* is input, line 1; "):
        prepare(files, TokenizerConfig(), batch=4, seed=1, device="cpu", extra_input=["the dog " * 9])


def test_a_saved_tokenizer_is_used_as_it_is(tmp_path: Path) -> None:
    first = prepared(tmp_path, "\n".join(LINES))
    first.tokenizer.save(tmp_path / "tokenizer")
    again = prepared(tmp_path, "\n".join(LINES[::-1][:20]), tokenizer_folder=tmp_path / "tokenizer")
    assert again.tokenizer.fingerprint == first.tokenizer.fingerprint
    play = prepared(tmp_path, "\n\n".join(LINES), window=5, tokenizer_folder=tmp_path / "tokenizer")
    assert play.mode == "stream"
    assert play.tokenizer.fingerprint == first.tokenizer.fingerprint
    with pytest.raises(DataError) as caught:
        prepared(
            tmp_path, "\n".join(f"{i} green apes sing" for i in range(40)), tokenizer_folder=tmp_path / "tokenizer"
        )
    assert str(caught.value).startswith("the given tokenizer does not know 100% of the text, for example '")
    assert str(caught.value).endswith("; use text like the one it was made for, or train a new tokenizer")


def test_other_text_is_seen_before_its_tokenizer_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepared(tmp_path, "\n".join(LINES))
    first.tokenizer.save(tmp_path / "tokenizer")
    (tmp_path / "other.txt").write_text("\n".join(f"{i} green apes sing" for i in range(40)))
    seen: list[str] = []

    def other(fingerprint: str) -> None:
        seen.append(fingerprint)
        raise KeyError("other text")

    monkeypatch.chdir(tmp_path)
    data = DataConfig(files=("other.txt",), mode="sentence")
    config = TokenizerConfig()
    with pytest.raises(KeyError, match="other text"):
        prepare(data, config, batch=2, seed=1, device="cpu", tokenizer_folder=tmp_path / "tokenizer", check=other)
    # and it is the fingerprint that is made in the end, of a file that is kept by its whole path
    made = prepare(data, config, batch=2, seed=1, device="cpu", check=seen.append)
    assert seen == [made.fingerprint, made.fingerprint]
    assert made.resolved[0].files == (str(tmp_path / "other.txt"),)


def test_the_fingerprint_is_of_content_and_reading_not_of_place(tmp_path: Path) -> None:
    content = "\n".join(LINES)
    first = prepared(tmp_path, content)
    moved = prepared(tmp_path, content, name="b.txt", batch=2, valid_share=0.5)
    assert moved.fingerprint == first.fingerprint
    others = [prepared(tmp_path, content + "\nmore"), prepared(tmp_path, content, mode="stream", window=5)]
    assert len({data.fingerprint for data in (first, *others)}) == 3


def test_settings_without_effect_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prepared(tmp_path, "\n".join(LINES), window=7, jitter=True)
    prepared(tmp_path, PLAY * 20, window=7, max_length=9, bucket=3, valid=unseen(tmp_path), valid_share=0.3)
    assert caplog.messages == [
        "data.window takes no effect with data.mode = sentence",
        "data.jitter takes no effect with data.mode = sentence",
        "data.max_length takes no effect with data.mode = stream",
        "data.bucket takes no effect with data.mode = stream",
        "data.valid_share takes no effect with data.valid",
    ]


@pytest.mark.parametrize(("least", "warned"), [(1, True), (2, False)])
def test_a_token_that_is_never_learnt_is_said(
    least: int, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "held-out.txt").write_text("a b unheard\na a b b b b b\n")
    for name, mode in (("a.txt", "sentence"), ("b.txt", "stream")):
        (tmp_path / name).write_text("a b once\n" + "a b\n" * 20)
        data = DataConfig(files=(str(tmp_path / name),), valid=(str(tmp_path / "held-out.txt"),), mode=mode, window=3)
        caplog.clear()
        prepare(data, TokenizerConfig(kind="word", min_count=least), batch=2, seed=1, device="cpu")
        seen = [message for message in caplog.messages if "never learnt" in message]
        assert len(seen) == warned
        if warned:
            share = {"sentence": 1 / 14, "stream": 1 / 13}[mode]  # of 10 words, 2 ends, and 2 starts or 1
            assert seen[0].startswith(f"{100 * share:.1f} % of the held-out tokens are outside the vocabulary")


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ("", {}, "{path}: empty; expected text, one or more lines"),
        ("\n \n", {}, "{path}, line 1: only blank lines; expected text"),
        (
            "one line",
            {"mode": "sentence"},
            "{path}, line 1: the only line, or equal to all others, so none can be held out; "
            "give more lines, data.valid, or data.mode=stream for running text",
        ),
        (
            "ab",
            {"tokenizer_kind": "byte", "valid_share": 0.01},
            "{path}, line 1: running text of 3 characters is too short to hold out 1% of it; "
            "give more text or data.valid",
        ),
        (
            "a line of text, not long",
            {"tokenizer_kind": "byte"},
            "the training text has 23 tokens, fewer than train.batch * (data.window + 1) = 4 * 65 = 260; "
            "use a smaller batch or window, or more text",
        ),
        (
            "a\nb\nc",
            {},
            "the training text has 2 rows, fewer than train.batch = 4; use a smaller train.batch or more text",
        ),
    ],
)
def test_text_that_cannot_be_used_is_one_line(
    tmp_path: Path, content: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, content, **settings)
    assert str(caught.value) == message.format(path=tmp_path / "a.txt")


def test_no_text_and_contradicting_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        prepare(DataConfig(), TokenizerConfig(), batch=4, seed=1, device="cpu")
    assert str(caught.value) == "no training text; give --data FILE, a folder, or - for standard input"
    with pytest.raises(ConfigError) as caught_config:
        prepared(tmp_path, '{"a": 1, "b": 2}', name="a.jsonl", source="a", target="b", mode="stream")
    assert str(caught_config.value) == (
        "data.source needs data.mode = sentence, got stream: a condition belongs to one row"
    )
    with pytest.raises(ConfigError, match=r"^data\.source needs rows with fields; lines from Python have none$"):
        prepare(
            DataConfig(files=(str(tmp_path / "a.jsonl"),), source="a", target="b"),
            TokenizerConfig(),
            batch=1,
            seed=1,
            device="cpu",
            extra_input=["line"],
        )


@settings(deadline=None, max_examples=25)
@given(
    lines=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r"), max_size=12), min_size=12
    )
)
def test_any_lines_are_prepared_or_refused_in_one_line(lines: list[str]) -> None:
    try:
        data = prepare(DataConfig(), TokenizerConfig(), batch=2, seed=1, device="cpu", extra_input=lines)
    except DataError as error:
        assert "\n" not in str(error)  # noqa: PT017 - most lines can be used, and what is raised otherwise is looked at
        return
    assert data.batches.at(7).count > 0
    assert sum(batch.count for batch in data.validation()) > 0


@pytest.mark.parametrize(
    ("name", "mode", "kind"),
    [
        ("image-coco/train.txt", "sentence", "bpe"),
        ("snli/valid.txt", "sentence", "word"),
        ("wikitext-2/valid.txt", "stream", "word"),
        ("tinyshakespeare.txt", "stream", "bpe"),
        ("tang-poems.txt", "sentence", "word"),
        ("names.txt", "sentence", "char"),
        ("zinc-smiles/sample.txt", "sentence", "char"),
    ],
)
def test_public_sets_are_read_as_they_are_meant(public_set: Any, name: str, mode: str, kind: str) -> None:
    data = prepare(
        DataConfig(files=(str(public_set(f"text/{name}")),)), TokenizerConfig(), batch=16, seed=1, device="cpu"
    )
    assert (data.mode, data.tokenizer.kind) == (mode, kind)


def test_equal_rows_that_are_held_out_together_are_said(caplog: pytest.LogCaptureFixture) -> None:
    for other in ("a man", "a cat", "a bird"):  # whichever has the lower hash is held out
        lines = [other, *["a dog"] * 40]
        training, held_out = split_by_hash(records_of(lines), range(41), 0.1)
        if len(held_out) == 40:
            assert len(training) == 1
            break
    assert caplog.messages == [
        "input, line 2: 40 equal rows were held out together, as equal texts are never in both splits: 1 rows to "
        "train on, 40 held out; give held-out text of your own with data.valid=FILE, or each text once"
    ]
