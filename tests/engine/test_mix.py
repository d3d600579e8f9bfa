"""Mixtures as runs: weights of greatest likelihood, what gains nothing is left out, and faults are named."""

import random
from pathlib import Path

import numpy as np
import pytest
from small_run import SMALL

from seqgen.core.errors import DataError, RunError
from seqgen.core.log import messages
from seqgen.engine import loop, mix
from seqgen.engine.loading import load
from seqgen.engine.run import config


def unseen() -> list[str]:
    """Lines of the words of the small text, none of which it has: some of its kind, some of words in any order."""
    draw = random.Random(0)
    nouns, verbs, ends = ["cat", "dog", "man", "bird"], ["sees", "likes", "follows"], ["here", "there", "now"]
    lines = [f"the {a} {v} the {b} {c} {d} ." for a in nouns for v in verbs for b in nouns for c in ends for d in ends]
    lines += [" ".join([*draw.choices([*nouns, *verbs, *ends], k=6), "the ."]) for _ in range(250)]
    return draw.sample(lines, len(lines))


@pytest.fixture(scope="module")
def other(text: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mix") / "other"
    loop.train(config("lm", text, overrides=[*SMALL, "train.steps=40", "train.lr=0.02"]), out, tokenizer_run=trained)
    return out


def test_weights_are_those_of_greatest_likelihood() -> None:
    random_ = np.random.default_rng(1)
    log_p = np.log(random_.uniform(0.01, 1, (2, 400)))
    grid = np.linspace(0.0005, 0.9995, 1999)
    likelihood = [np.logaddexp(log_p[0] + np.log(1 - w), log_p[1] + np.log(w)).sum() for w in grid]
    assert mix.best_weights(log_p, [0, 1])[1] == pytest.approx(grid[int(np.argmax(likelihood))], abs=2e-3)
    three = mix.best_weights(np.vstack([log_p, log_p[:1] - 1]), [0, 1, 2])
    assert three[2] == pytest.approx(0, abs=2e-3)  # nowhere likelier than the first
    assert three.sum() == 1


def test_a_mixture_is_a_run_whose_likelihood_is_the_mixed_one(trained: Path, other: Path, tmp_path: Path) -> None:
    lines = unseen()
    result = mix.mix([trained, other, "kneser-ney"], lines, tmp_path / "mixed")
    weights = {part.name: part.weight for part in result.parts}
    assert sum(weights.values()) == pytest.approx(1)
    assert sum(weight > 0.01 for weight in weights.values()) > 1
    mixed = load(tmp_path / "mixed")
    some = lines[:20]
    parts = {str(run): load(run).score(some) for run in (trained, other)}
    counted = tmp_path / "counted"
    loop.train(
        config("kneser-ney", load(trained).settings.data.files[0], overrides=["train.samples=0"]),
        counted,
        tokenizer_run=trained,
    )
    parts["kneser-ney"] = load(counted).score(some)
    for i, got in enumerate(mixed.score(some).log_probs):
        wanted = sum(weights[name] * np.exp(scores.log_probs[i]) for name, scores in parts.items())
        np.testing.assert_allclose(got, np.log(wanted), rtol=1e-6)
    texts = mixed.generate(20, seed=1)
    assert texts[:3] == mixed.generate(3, seed=1)
    assert len(set(texts)) > 10
    with_word = mixed.generate(5, seed=1, require=["bird"], temperature=0.8, top_p=0.9)
    assert all("bird" in text for text in with_word)
    assert mixed.search(count=1, num_beams=3)[0].text


def test_a_part_that_gains_nothing_is_left_out(trained: Path, tmp_path: Path) -> None:
    result = mix.mix([trained, trained], unseen(), tmp_path / "same")
    assert [part.weight for part in result.parts] == [1, 0]
    assert (result.gain, result.parts[1].gain) == (0, pytest.approx(0, abs=1e-9))
    some = unseen()[:5]
    assert load(tmp_path / "same").score(some).per_line == pytest.approx(load(trained).score(some).per_line, rel=1e-9)


def test_lines_of_the_training_text_choose_no_weights(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained_on = load(trained).own_text().train_lines
    messages.addHandler(caplog.handler)
    with caplog.at_level("INFO", logger=messages.name):
        with_leaks = mix.mix([trained, "kneser-ney"], [*trained_on, *unseen()], tmp_path / "a")
    messages.removeHandler(caplog.handler)
    assert f"{len(trained_on)} held-out lines stand in the training text and are left out" in caplog.text
    assert with_leaks.parts[1].weight == mix.mix([trained, "kneser-ney"], unseen(), tmp_path / "b").parts[1].weight
    with pytest.raises(DataError, match=r"--held-out needs 500 lines that no run was trained on, got 0 and 131 of the"):
        mix.mix([trained], load(trained).own_text().train_lines, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_runs_that_cannot_be_mixed_are_named(text: Path, trained: Path, tmp_path: Path) -> None:
    chars = tmp_path / "chars"
    loop.train(config("lm", text, overrides=[*SMALL, "train.steps=1", "tokenizer.kind=char"]), chars)
    for subjects, fault in [
        ([trained, chars], "has another tokenizer than .*, and runs are mixed token by token; train one with"),
        (["kneser-ney", trained], "name a run first: kneser-ney takes its tokens and training lines from it"),
        ([tmp_path], "is not a run folder"),
    ]:
        with pytest.raises(RunError, match=fault):
            mix.mix(subjects, unseen(), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(RunError, match="is a run already; use another --out, or remove it"):
        mix.mix([trained], unseen(), chars)
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "notes").write_text("mine")
    with pytest.raises(RunError, match="exists and is not a run folder"):
        mix.mix([trained], unseen(), tmp_path / "file")
