"""Running text keeps its line breaks: in what is generated, streamed, shown at validations and scored."""

import html
import re
from pathlib import Path

import pytest
from small_run import SMALL

from seqgen import metrics
from seqgen.core.errors import RunError
from seqgen.data.text import read_lines
from seqgen.engine import compare, curve, evaluate, loop
from seqgen.engine.generate import TextGenerator
from seqgen.engine.loading import load
from seqgen.engine.run import config

SONG = "my love\nburns in the rain\n\nmy heart\nwaits in the night\n\n"


@pytest.fixture(scope="module", params=["byte", "char", "word", "bpe", "unigram"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("running")
    (folder / "songs.txt").write_text(SONG * 30)
    mode = "window" if request.param == "bpe" else "stream"
    small = [*SMALL, f"data.mode={mode}", "data.window=12", f"tokenizer.kind={request.param}", "tokenizer.min_count=1"]
    if request.param in ("byte", "bpe", "unigram"):
        small.pop()
    loop.train(config("lm", folder / "songs.txt", overrides=[*small, "train.steps=60", "train.lr=0.02"]), folder / "r")
    return folder / "r"


@pytest.fixture(scope="module")
def generator(run: Path) -> TextGenerator:
    return load(run)


def test_generated_streamed_and_shown_text_has_the_line_breaks_of_its_tokens(
    run: Path, generator: TextGenerator
) -> None:
    texts = generator.texts(3, seed=1, max_new_tokens=40, details=True)
    newline = generator.tokenizer.id_to_token(generator.tokenizer.newline)
    for index, text in enumerate(texts):
        assert text.text.count("\n") == text.tokens.count(newline)
        assert "".join(generator.stream(seed=1, index=index, max_new_tokens=40)) == text.text
    assert any("\n\n" in text.text for text in texts)
    shown = read_lines(run / "samples" / "00000060.jsonl")
    assert shown == generator.generate(generator.settings.train.show)
    page = (run / "report.html").read_bytes().decode()  # a carriage return stays one
    assert all(html.escape(text) in page for text in shown)


def test_a_prompt_and_a_stop_may_hold_line_breaks(generator: TextGenerator) -> None:
    prompt = "my love\nburns in"
    text = generator.generate(prompt=prompt, max_new_tokens=40)[0]
    assert text.startswith(prompt)
    assert "\n" in text[len(prompt) :]
    cut = generator.generate(prompt=prompt, stop=["\n\n", "my"], max_new_tokens=40)[0]
    assert cut == prompt + re.split(r"\n\n|my", text[len(prompt) :])[0]
    own = generator.tokenizer.encode_stream(prompt).tolist()
    assert generator.tokenizer.decode_stream(own) == prompt


@pytest.mark.parametrize("stop", ["\n", " in", "ve"])
def test_values_belong_to_the_text_shown(stop: str, generator: TextGenerator) -> None:
    options = {"seed": 5, "prompt": "my", "temperature": 1.3, "max_new_tokens": 40, "details": True}
    whole = generator.texts(12, **options)
    cut = generator.texts(12, stop=[stop], **options)
    begin = generator.tokenizer.encode_stream("my").tolist()

    def decoded(tokens: list[str]) -> str:
        ids = [generator.tokenizer.token_to_id(token) for token in tokens]
        return generator.tokenizer.decode_stream([*begin, *ids])

    for text, shown in zip(whole, cut, strict=True):
        assert shown.text == "my" + text.text[2:].split(stop)[0]
        assert shown.finished == (stop in text.text[2:])
        count = len(shown.tokens)
        assert shown.tokens == text.tokens[:count]
        # all of the text is there but the space that a token not shown begins with, and no token more
        assert decoded(shown.tokens).startswith(shown.text.rstrip(" "))
        assert not shown.finished or count == 0 or len(decoded(shown.tokens[:-1])) < len(shown.text)
        assert shown.log_probs == text.log_probs[:count]
        assert shown.entropies == text.entropies[:count]
        assert shown.log_prob == sum(shown.log_probs)
    assert generator.texts(5, stop=[stop], **options) == cut[:5]
    best = generator.texts(4, stop=[stop], best_of=3, **options)

    def rank(k: int) -> tuple[bool, float]:
        """Whether anything is shown, and how likely the tokens are up to the end of the stop string, one by one."""
        tokens = whole[k].tokens
        ends = [n for n in range(len(tokens)) if stop in decoded(tokens[: n + 1])[len("my") :]]
        return bool(cut[k].tokens), sum(whole[k].log_probs[: min(ends, default=len(tokens)) + 1])

    expected = [cut[max(range(k, k + 3), key=rank)] for k in (0, 3, 6, 9)]
    assert best == expected
    assert generator.texts(2, stop=[stop], best_of=3, **options) == expected[:2]
    for index, shown in enumerate(cut[:3]):
        streamed = generator.stream(seed=5, index=index, prompt="my", temperature=1.3, max_new_tokens=40, stop=[stop])
        assert "my" + "".join(streamed) == shown.text


def test_constraints_see_the_line_breaks(generator: TextGenerator) -> None:
    pattern = "my [a-z]+\\n[a-z]+ in\\n"
    text = generator.generate(prompt="my", pattern=pattern, max_new_tokens=40)[0]
    assert re.fullmatch(pattern, text)


def test_the_score_of_a_text_of_several_lines_is_that_of_its_tokens(generator: TextGenerator) -> None:
    text = generator.texts(1, seed=2, max_new_tokens=12, details=True)[0]
    scored = generator.score([text.text])
    if generator.tokenizer.encode_stream(text.text).tolist() == [
        generator.tokenizer.token_to_id(t) for t in text.tokens
    ]:
        assert scored.tokens[0][:-1] == text.tokens
        assert scored.log_probs[0][:-1] == pytest.approx(text.log_probs, abs=1e-4)


def test_running_text_is_compared_line_by_line(run: Path, generator: TextGenerator) -> None:
    references = ["my heart burns", "", "waits in the rain\nmy love", "waits at night"]
    four = ["my heart burns", "waits in the rain", "my love", "waits at night"]
    written = [line for text in generator.generate(12, seed=1) for line in text.split("\n")[:-1] if line.strip()][:12]
    how = {"count": 12, "seed": 1}
    with pytest.warns(UserWarning, match="1 of 4 references also stand in the training text"):
        table = evaluate.evaluate(generator, references, **how)
    assert table.columns[0].lines == written
    assert table.columns[1].held_out == evaluate.drawn(four, 12, 1)
    bleu = metrics.bleu(written, four, tokenizer=evaluate.metric_tokenizer(four)).value
    expected = {"bleu_4": bleu, "nll_per_line": generator.score(four).nats / 4}
    for name, value in expected.items():
        score = table.columns[0].score(name)
        assert score is not None
        assert (score.value, score.signature.fields["unit"]) == (pytest.approx(value), "line")
    with pytest.warns(UserWarning, match="1 of 4 references"):
        compared = compare.compare([run], references, **how)
    with pytest.warns(UserWarning, match="1 of 4 references"):
        point = curve.curve(generator, references, temperatures=[1.0], **how).points[0]
    assert compared.entries[0].scores[0]["bleu_4"].value == pytest.approx(bleu)
    assert point.quality == pytest.approx(bleu)
    assert "unit" in compared.entries[1].scores[0]["bleu_4"].signature.fields


def test_text_without_line_breaks_has_no_lines_to_compare(
    generator: TextGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "generate", lambda count, **_: ["no end "] * count)
    with pytest.raises(RunError, match="wrote 0 whole lines in 9 texts, and 9 are to be compared"):
        evaluate.samples(generator, 9, seed=0, temperature=1.0)
