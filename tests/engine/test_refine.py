"""Refined runs: the same files from the same lines, text k alone, likelihoods that add up, no run without a gain."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.optimize import approx_fprime
from small_run import SMALL

from seqgen.core import config as settings_of
from seqgen.core import rng
from seqgen.core.errors import DataError, RunError
from seqgen.engine import derived, loop, refine
from seqgen.engine.loading import load
from seqgen.engine.run import config
from seqgen.models import mixture


@pytest.fixture(scope="module")
def lines(trained: Path) -> list[str]:
    """What the run writes at a higher temperature: text that is like its own, and not the same."""
    known = {line.strip() for line in load(trained).own_text().train_lines}
    return [text for text in load(trained).generate(2200, seed=9, temperature=1.3) if text not in known][:800]


@pytest.fixture(scope="module", params=["sums", "gru"])
def made(
    request: pytest.FixtureRequest, trained: Path, lines: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[refine.Refinement, Path]]:
    out = tmp_path_factory.mktemp("refine") / "refined"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refine, "_EPOCHS", 2)
        yield refine.refine(trained, lines, out, samples=1000, critic=request.param), out


def test_a_refined_run_gains_on_lines_held_back(
    made: tuple[refine.Refinement, Path], lines: list[str], trained: Path
) -> None:
    result, out = made
    assert result.written
    sixteen = result.gains[1]
    assert (sixteen.candidates, result.fitted + result.held_back) == (16, len(lines))
    assert sixteen.nats_per_line > 2 * sixteen.error > 0
    assert 0.5 < result.auroc <= 1
    assert 0 < result.ess < 1
    held_back = lines[1::2]
    base, refined = load(trained).score(held_back), load(out).score(held_back)
    assert refined.resample == 16
    gained = sum(refined.per_line) - sum(base.per_line)
    assert gained / len(held_back) == pytest.approx(sixteen.nats_per_line, abs=1e-4)
    assert load(out).score(held_back[:9], resample=1).per_line == pytest.approx(base.per_line[:9], abs=1e-9)


def test_text_k_depends_on_its_own_candidates_alone(made: tuple[refine.Refinement, Path], trained: Path) -> None:
    run, base = load(made[1]), load(trained)
    texts = run.texts(count=40, seed=3)
    assert run.texts(count=3, seed=3) == texts[:3]
    candidates = base.generate(count=160, seed=3)
    for k, text in enumerate(run.texts(count=10, seed=3, resample=16)):
        assert 16 * k <= text.index < 16 * k + 16
        assert text.text == candidates[text.index]
    assert run.generate(count=8, seed=3, resample=1, temperature=0.7) == base.generate(8, seed=3, temperature=0.7)
    assert len({text.text for text in texts}) > 20
    begun = run.texts(count=4, prompts=["the dog", "the"], seed=1)
    assert all(text.text.startswith(text.prompt) for text in begun)
    assert [t.text for t in begun[:4]] == run.generate(count=4, prompt="the dog", seed=1)
    assert len(set(run.generate(count=12, unique=True))) == 12


def test_the_same_lines_make_the_same_files(
    made: tuple[refine.Refinement, Path], lines: list[str], trained: Path, tmp_path: Path
) -> None:
    critic = load(made[1]).settings.model.critic
    assert refine.refine(trained, lines, tmp_path / "again", samples=1000, critic=critic) == made[0]
    for name in ("config.toml", "checkpoints"):
        paths = sorted(p for p in [made[1] / name, *(made[1] / name).rglob("*")] if p.is_file())
        assert paths
        for path in paths:
            assert (tmp_path / "again" / path.relative_to(made[1])).read_bytes() == path.read_bytes()


def test_texts_of_the_run_itself_gain_nothing_and_nothing_is_written(trained: Path, tmp_path: Path) -> None:
    own = load(trained).generate(count=4000, seed=9)
    result = refine.refine(trained, own, tmp_path / "same", samples=1000)
    assert not result.written
    assert result.gains[1].nats_per_line < 2 * result.gains[1].error
    assert not (tmp_path / "same").exists()


def test_lines_that_any_part_of_a_mixture_was_trained_on_are_left_out(
    trained: Path, lines: list[str], tmp_path: Path
) -> None:
    (tmp_path / "other.txt").write_text("".join(f"{line}\n" for line in lines[:200]))
    loop.train(
        config("lm", tmp_path / "other.txt", overrides=[*SMALL, "train.steps=1"]),
        tmp_path / "other",
        tokenizer_run=trained,
    )
    generator, other = load(trained), load(tmp_path / "other")
    part = settings_of.to_dict(other.settings.model)
    both = mixture.Config(models=("lm", "lm"), settings=(part, part), weights=(0.5, 0.5))
    settings = replace(generator.settings, name="mixture", model=both, module=mixture)
    origin = {"mixed_from": [str(trained), str(tmp_path / "other"), "kneser-ney"]}
    derived.write(tmp_path / "mixed", generator, settings, mixture.Model(both), origin)
    mixed = load(tmp_path / "mixed")
    theirs = other.own_text().train_lines
    assert derived.seen(mixed, mixed.own_text()) == {*generator.own_text().train_lines, *theirs}
    assert set(theirs) & set(lines)


def test_the_fit_is_the_minimum_of_its_loss() -> None:
    noise = torch.randn(500, 3, dtype=torch.float64, generator=rng.generator("fit"))
    positive, negative = noise[:200] + 0.5, noise[200:]

    def loss(w: torch.Tensor) -> float:
        scores = torch.as_tensor(negative) @ torch.as_tensor(w)
        mean = float((scores.exp().mean()).log() - (positive @ torch.as_tensor(w)).mean())
        return mean + 0.05 * float((torch.as_tensor(w) ** 2).sum())

    weights = refine.fitted(positive, negative, 0.1)
    assert abs(approx_fprime(weights.numpy(), loss, 1e-6)).max() < 1e-3
    # log N(.5, 1) - log N(0, 1) = x / 2 + constant
    wide = torch.randn(40_000, 1, dtype=torch.float64, generator=rng.generator("wide"))
    assert float(refine.fitted(wide[:20_000] + 0.5, wide[20_000:], 0.0)) == pytest.approx(0.5, abs=0.02)


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    real, made = torch.tensor([2.0, 0.5, 1.0]).double(), torch.tensor([1.0, 0.0]).double()
    pairs = [(a > b) + (a == b) / 2 for a in real.tolist() for b in made.tolist()]
    assert refine.auroc(real, made) == pytest.approx(sum(pairs) / len(pairs))


def test_texts_of_one_model_cannot_be_told_apart_and_those_of_another_can(trained: Path) -> None:
    run = load(trained)
    test = refine.TwoSampleTest(run)
    own, others = run.generate(count=1200, seed=1), run.generate(count=600, seed=2)
    noise = 4 * (1 / (6 * 300)) ** 0.5 / 2**0.5  # four standard errors: of a half 1 / (6 n), and there are two
    assert test.auroc(own[:600], own[600:]) == pytest.approx(0.5, abs=noise)
    assert test.auroc(own[:600], run.generate(count=600, seed=3, temperature=1.6)) > 0.5 + 2 * noise
    assert test.auroc(own[:600], [*others[:300], *["the dog now ."] * 300]) > 0.6
    with pytest.raises(DataError, match="a two-sample test needs at least 100 generated lines, got 3"):
        test.auroc(own, own[:3])


def test_a_run_that_copies_its_training_text_is_refused(trained: Path, lines: list[str], tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("the cat sees the dog here .\nthe man likes the bird now .\n" * 200)
    loop.train(
        config("kneser-ney", tmp_path / "few.txt", overrides=["train.samples=0", "train.steps=1"]),
        tmp_path / "copies",
        tokenizer_run=trained,
    )
    with pytest.raises(RunError, match=r"copies writes lines of its training text: \d+ of 1000 texts; a critic has"):
        refine.refine(tmp_path / "copies", lines, tmp_path / "new", samples=1000)
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_refined_is_named(
    trained: Path, made: tuple[refine.Refinement, Path], lines: list[str], tmp_path: Path
) -> None:
    own = load(trained).own_text().train_lines
    with pytest.raises(DataError, match=r"needs 500 lines that no run was trained on, got 0 and 131 of the training"):
        refine.refine(trained, own, tmp_path / "new")
    with pytest.raises(RunError, match="is a run of refined and cannot be refined; these can: lm, gpt, seqgan"):
        refine.refine(made[1], lines, tmp_path / "new")
    with pytest.raises(RunError, match="is a run already; use another --out, or remove it"):
        refine.refine(trained, lines, made[1])
    assert not (tmp_path / "new").exists()
    run = load(made[1])
    with pytest.raises(ValueError, match=r"^temperature must be left out: a refined run keeps one of 16 texts that"):
        run.generate(temperature=0.5)
    with pytest.raises(ValueError, match=r"^require must be left out"):
        run.generate(require=["dog"])
    with pytest.raises(ValueError, match=r"^resample must be in 1\.\.256, got 257"):
        run.generate(resample=257)
    with pytest.raises(RunError, match="a run of lm has no critic to choose by; make one with: seqgen refine"):
        load(trained).generate(resample=16)
    with pytest.raises(RunError, match="chooses among whole texts; a stream goes token by token"):
        next(run.stream())
    with pytest.raises(RunError, match="a search for the likeliest goes token by token"):
        run.search()


def test_lines_that_the_run_cannot_write_take_no_part_and_gain_nothing(
    made: tuple[refine.Refinement, Path], lines: list[str], trained: Path, tmp_path: Path
) -> None:
    """An unknown word tells real text from texts of the run at once, and no number of candidates brings it."""
    result, out = made
    with_unknown = [f"{line} xyzzy" for line in lines[:300]]
    mixed = [line for pair in zip(with_unknown, lines[:300], strict=True) for line in pair] + lines[300:]
    critic = load(out).settings.model.critic
    again = refine.refine(trained, mixed, tmp_path / "again", samples=1000, critic=critic)
    assert (again.fitted + again.held_back, again.gains) == (len(lines), result.gains)
    base, refined = load(trained).score(with_unknown[:9]), load(out).score(with_unknown[:9])
    assert refined.per_line == pytest.approx(base.per_line, abs=1e-9)
    with pytest.raises(DataError, match=r"needs 500 lines of tokens that the run writes, got 300 and 300 with others"):
        refine.refine(trained, mixed[:600], tmp_path / "few", samples=1000)
