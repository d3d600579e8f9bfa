"""Running text keeps its line breaks: in what is generated, streamed, shown at validations and scored."""

import html
import re
from pathlib import Path

import pytest
from small_run import SMALL

from seqgen.engine import loop
from seqgen.engine.generate import Writer, load
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
def writer(run: Path) -> Writer:
    return load(run)


def test_generated_streamed_and_shown_text_has_the_line_breaks_of_its_tokens(run: Path, writer: Writer) -> None:
    texts = writer.texts(3, seed=1, max_new_tokens=40, details=True)
    newline = writer.tokenizer.id_to_token(writer.tokenizer.newline)
    for index, text in enumerate(texts):
        assert text.text.count("\n") == text.tokens.count(newline)
        assert "".join(writer.stream(seed=1, index=index, max_new_tokens=40)) == text.text
    assert any("\n\n" in text.text for text in texts)
    shown = (run / "samples" / "00000060.txt").read_text()
    assert shown == "\n----\n".join(writer.generate(writer.settings.train.show)) + "\n"
    assert html.escape(shown) in (run / "report.html").read_text()


def test_a_prompt_and_a_stop_may_hold_line_breaks(writer: Writer) -> None:
    prompt = "my love\nburns in"
    text = writer.generate(prompt=prompt, max_new_tokens=40)[0]
    assert text.startswith(prompt)
    assert "\n" in text[len(prompt) :]
    cut = writer.generate(prompt=prompt, stop=["\n\n", "my"], max_new_tokens=40)[0]
    assert cut == prompt + re.split(r"\n\n|my", text[len(prompt) :])[0]
    own = writer.tokenizer.encode_stream(prompt).tolist()
    assert writer.tokenizer.decode_stream(own) == prompt


def test_constraints_see_the_line_breaks(writer: Writer) -> None:
    pattern = "my [a-z]+\\n[a-z]+ in\\n"
    text = writer.generate(prompt="my", pattern=pattern, max_new_tokens=40)[0]
    assert re.fullmatch(pattern, text)


def test_the_score_of_a_text_of_several_lines_is_that_of_its_tokens(writer: Writer) -> None:
    text = writer.texts(1, seed=2, max_new_tokens=12, details=True)[0]
    scored = writer.score([text.text])
    if writer.tokenizer.encode_stream(text.text).tolist() == [writer.tokenizer.token_to_id(t) for t in text.tokens]:
        assert scored.tokens[0][:-1] == text.tokens
        assert scored.log_probs[0][:-1] == pytest.approx(text.log_probs, abs=1e-4)
