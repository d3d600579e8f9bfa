"""Codes in use, against distributions whose moments are known, and on a small run."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from small_run import SMALL
from torch import Tensor

from seqgen.core import log, rng
from seqgen.core.errors import DataError, RunError
from seqgen.engine import checkpoint, latent, loop
from seqgen.engine.evaluate import evaluate
from seqgen.engine.latent import Condition, LatentSpace, overview
from seqgen.engine.loading import load
from seqgen.engine.report import write_report
from seqgen.engine.run import config
from seqgen.nn.latents import Mixture


@pytest.fixture(scope="module")
def folder(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose latent code is used; nobody writes into it but its report."""
    out = tmp_path_factory.mktemp("runs") / "vae"
    words = ["model.latent=4", "model.hidden=32", "model.kl_target=5", "train.steps=500", "train.lr=0.02"]
    words += ["model.input_dropout=0", "model.output_dropout=0", "model.word_dropout=0.6", "train.samples=0"]
    loop.train(config("text-vae", text, overrides=[*SMALL, *words, "train.batch=16"]), out)
    return out


@pytest.fixture
def space(folder: Path) -> LatentSpace:
    return LatentSpace(load(folder))


@pytest.fixture(scope="module")
def lines(text: Path) -> list[str]:
    return text.read_text().splitlines()


# ---- conditions and chains


def _linear(slope: Tensor, offset: float, sd: float, wanted: float) -> Condition:
    return Condition("linear", lambda z: -((z * slope).sum(1) + offset - wanted).square() / (2 * sd**2))


@pytest.mark.parametrize("strength", [1.0, 3.0])
def test_langevin_chains_reach_the_posterior_of_a_linear_gaussian_condition(
    space: LatentSpace, strength: float
) -> None:
    slope = torch.tensor([1.0, -0.5, 0.0, 2.0], dtype=torch.float64)
    draw = space.steered([_linear(slope, 0.3, 0.8, 2.0)], strength=strength)
    latents = draw(rng.text_seeds(1, 0, 3000)).double()
    precision = torch.eye(4, dtype=torch.float64) + strength * torch.outer(slope, slope) / 0.64
    covariance = precision.inverse()
    mean = covariance @ slope * strength * (2.0 - 0.3) / 0.64
    torch.testing.assert_close(latents.mean(0), mean, atol=0.06, rtol=0)
    torch.testing.assert_close(latents.T.cov(), covariance, atol=0.09, rtol=0)


def _mixture() -> Mixture:
    roots = torch.tensor([[[1.0, 0.0], [0.5, 0.7]], [[0.3, 0.0], [-0.1, 0.4]]], dtype=torch.float64)
    means = torch.tensor([[-2.0, 0.0], [1.5, 1.0]], dtype=torch.float64)
    return Mixture(torch.tensor([0.3, 0.7], dtype=torch.float64), means, roots)


def test_the_density_of_a_mixture_is_scipys() -> None:
    mixture, latents = _mixture(), torch.randn(40, 2, dtype=torch.float64)
    each = [
        weight * stats.multivariate_normal(mean, root @ root.T).pdf(latents)
        for weight, mean, root in zip(*(part.numpy() for part in (mixture.weights, mixture.means, mixture.roots)))  # noqa: B905
    ]
    torch.testing.assert_close(latent.log_density(mixture, latents), torch.from_numpy(np.log(sum(each))))


def test_a_length_is_expected_by_the_line_that_made_it() -> None:
    latents = torch.randn(5000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slope = torch.tensor([2.0, 0.0, -1.0], dtype=torch.float64)
    noise = torch.randn(5000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    condition = latent.length_condition("length=9", 9, latents, latents @ slope + 10 + 1.5 * noise)
    at = torch.randn(50, 3, dtype=torch.float64)
    expected = torch.distributions.Normal(at @ slope + 10, 1.5).log_prob(torch.tensor(9.0)) + math.log(1.5)
    expected = expected + 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(condition.log_probability(at), expected, atol=0.15, rtol=0.1)


def test_a_property_has_the_odds_that_made_it() -> None:
    latents = torch.randn(20000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    odds = latents @ torch.tensor([1.5, -2.0], dtype=torch.float64) - 0.5
    has = torch.rand(20000, generator=torch.Generator().manual_seed(1)) < odds.sigmoid()
    condition = latent.property_condition("contains=x", latents, has)
    at = torch.randn(50, 2, dtype=torch.float64)
    expected = torch.nn.functional.logsigmoid(at @ torch.tensor([1.5, -2.0], dtype=torch.float64) - 0.5)
    torch.testing.assert_close(condition.log_probability(at), expected, atol=0.3, rtol=0.1)
    message = r"^contains=x holds for 3 of 20000 known texts; to learn it takes 10 of either kind at least$"
    with pytest.raises(DataError, match=message):
        latent.property_condition("contains=x", latents, torch.arange(20000) < 3)


@pytest.mark.parametrize("mixture", [False, True])
@pytest.mark.parametrize("words", ["contains=dog", "contains=sees the cat"])
def test_steered_latents_are_likelier_to_have_what_was_asked_for(space: LatentSpace, words: str, mixture: bool) -> None:
    base = space.mixture(3) if mixture else None
    # that many, because "dog" tells little here: of 300 the means differ by less than their errors
    condition, seeds = space.condition(words), rng.text_seeds(0, 0, 3000)
    plain = space.of_mixture(base)(seeds) if base else space.model.prior(seeds)
    draws = [space.steered([condition], mixture=base, strength=strength)(seeds) for strength in (1.0, 4.0)]
    values = [float(condition.log_probability(latents.double()).mean()) for latents in (plain, *draws)]
    assert values[0] < values[1] < values[2]


@pytest.mark.parametrize("words", ["contains=dog", "length=7"])
def test_a_steered_text_does_not_depend_on_how_many_are_asked_for(space: LatentSpace, words: str) -> None:
    condition = Condition(words, lambda z: -(z - 1).square().sum(1)) if "length" in words else space.condition(words)
    draw = space.steered([condition])
    assert space.generator.generate(2, latents=draw, seed=4) == space.generator.generate(20, latents=draw, seed=4)[:2]
    mixture = space.of_mixture(space.mixture(3))
    assert (
        space.generator.generate(3, latents=mixture, seed=4) == space.generator.generate(9, latents=mixture, seed=4)[:3]
    )


@pytest.mark.parametrize("words", ["dog", "length=", "length=0", "length=x", "contains=", "label=a", "size=3"])
def test_no_condition(space: LatentSpace, words: str) -> None:
    expected = f"{words!r} is no condition; expected length=12, contains=WORD or label=YES_FILE:NO_FILE"
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole text is compared
        space.condition(words)
    assert str(error.value) == expected


def test_a_label_is_learnt_from_two_files(space: LatentSpace, lines: list[str], tmp_path: Path) -> None:
    sides = [[line for line in lines if line.startswith(f"the {a}")] for a in ("cat", "dog")]
    (tmp_path / "cats.txt").write_text("\n".join(sides[0]))
    (tmp_path / "dogs.txt").write_text("\n".join(sides[1]))
    condition = space.condition(f"label={tmp_path / 'cats.txt'}:{tmp_path / 'dogs.txt'}")
    # in the mean: a single line of so small a VAE may lie on the other side
    cats, dogs = (condition.log_probability(space.encode(side)[0].double()).mean() for side in sides)
    assert cats > dogs


# ---- texts and latents


def test_latents_come_in_the_order_of_the_lines(space: LatentSpace, lines: list[str]) -> None:
    mean, log_variance = space.encode(lines)
    assert mean.shape == log_variance.shape == (144, 4)
    for row in (0, 17, 143):
        torch.testing.assert_close(space.encode([lines[row]])[0][0], mean[row])
    mixed = ["a", *lines[:2], "the cat ."]
    with pytest.raises(DataError, match=r"^text 1 \('a'\) holds no token that this run knows; use words of"):
        space.encode(mixed)
    with pytest.raises(DataError, match=r"^'the the .* has 41 tokens with its end; this run encodes 8 at most$"):
        space.encode([" ".join(["the"] * 40)])
    with pytest.raises(DataError, match=r"^no texts to encode$"):
        space.encode([])


def test_a_path_ends_at_the_reconstructions_of_its_ends(space: LatentSpace, lines: list[str]) -> None:
    for spherical in (False, True):
        path = space.interpolate(lines[0], lines[100], steps=5, spherical=spherical)
        assert len(path) == 5
        assert [path[0], path[-1]] == space.reconstruct([lines[0], lines[100]])
    assert space.interpolate("", "", steps=3, seed=2) == space.interpolate("", "", steps=3, seed=2)
    with pytest.raises(ValueError, match=r"^steps must be at least 2, both ends included; got 1$"):
        space.interpolate(lines[0], lines[1], steps=1)


def test_reconstructions_hold_more_of_a_text_than_other_texts_do(space: LatentSpace, lines: list[str]) -> None:
    made = space.reconstruct(lines)
    same = sum(a == b for line, text in zip(lines, made, strict=True) for a, b in zip(line.split(), text.split()))  # noqa: B905
    others = sum(
        a == b
        for line, text in zip(lines, made[50:] + made[:50], strict=True)
        for a, b in zip(line.split(), text.split())  # noqa: B905
    )
    assert same > 1.1 * others


def test_a_direction_is_the_difference_of_means(space: LatentSpace, lines: list[str]) -> None:
    step = space.direction((lines[:10], None), (lines[10:30], None))
    mean, _ = space.encode(lines)
    torch.testing.assert_close(step, mean[:10].mean(0) - mean[10:30].mean(0))
    assert space.reconstruct(lines[:3], step=step) == space.write(mean[:3] + step)


def test_a_training_text_is_its_own_nearest_neighbour(space: LatentSpace) -> None:
    found = space.nearest(space.known.lines[:20], count=3)
    for near in found:
        assert near[0][1] == pytest.approx(0, abs=1e-4)
        assert len({text for text, _ in near}) == 3
        assert [far for _, far in near] == sorted(far for _, far in near)


def test_a_run_without_latents_is_named(trained: Path) -> None:
    message = r"^a run of lm has no latents; train one: seqgen train text-vae --data FILE$"
    with pytest.raises(RunError, match=message):
        LatentSpace(load(trained))


# ---- likelihood


def test_the_likelihood_is_the_models_own_and_its_parts_add_up(space: LatentSpace, lines: list[str]) -> None:
    found = space.likelihood(lines[:50], samples=20)
    assert found["nll_per_line"] == pytest.approx(space.generator.score(lines[:50]).nats / 50)
    assert found["nll_per_token"] == pytest.approx(
        found["nll_per_line"] * 50 / sum(len(x.split()) + 1 for x in lines[:50])
    )
    assert found["nll_per_line"] < found["bound_per_line"]
    assert found["bound_per_line"] == pytest.approx(found["reconstruction"] + found["kl"], abs=0.2)
    assert 1 <= found["effective_latents"] <= 20
    assert 0 < found["mutual_information"] < found["information_ceiling"] == pytest.approx(math.log(50))
    assert found["reconstruction"] < found["reconstruction_without_latent"]
    assert 0 < found["token_accuracy"] < 1
    with pytest.raises(ValueError, match=r"^samples must be at least 1, got 0$"):
        space.likelihood(lines, samples=0)


def test_a_part_of_the_lines_is_spread_over_all(space: LatentSpace, lines: list[str]) -> None:
    assert space.likelihood(lines, samples=2, count=12) == space.likelihood(lines[::12], samples=2)


def test_evaluate_has_the_likelihood_beside_the_scores_of_samples(folder: Path, held_out: list[str]) -> None:
    table = evaluate(folder, held_out[:30], latents=5, baselines=False)
    first = table.columns[0]
    assert float(first.likelihood["kl"]) > 0
    assert float(first.likelihood["active_units"]) >= 1
    assert "bleu_4" in first.scores
    assert first.about.endswith("; nll of 30 references by 5 latents each, an upper bound")


def test_validations_tell_what_the_latent_says(folder: Path) -> None:
    scores: list[dict[str, Any]] = list(log.read(folder / "scores.jsonl"))
    assert {"kl", "mutual_information", "information_ceiling", "active_units", "reconstruction_without_latent"} <= set(
        scores[-1]
    )
    events = checkpoint.read_state(folder, checkpoint.steps(folder)[-1])["events"]
    assert "the latent code is used" in events[-1]["event"]


def test_the_report_shows_a_map_of_latents_and_paths(folder: Path) -> None:
    page = write_report(folder).read_text()
    held_out = len(load(folder).own_text().valid_lines)
    assert page.partition('class="map"')[2].count("<circle") == page.count("<title>the ") == held_out
    assert page.count('<ol class="path">') == min(10, held_out // 2)
    assert 'aria-label="KL, nats, ' in page
    assert 'aria-label="factor of the KL, ' in page
    assert "mutual information of data" not in page  # one validation makes no curve
    interpolations = overview(LatentSpace(load(folder))).interpolations
    assert page.count("<li>the ") == sum(len(path.between) for path in interpolations)


def test_a_way_goes_from_text_to_text_and_says_nothing_twice_in_a_row(space: LatentSpace) -> None:
    held_out = space.generator.own_text().valid_lines
    way = overview(space, steps=40).interpolations[0]
    assert [way.begin, way.end] == list(held_out[:2])
    assert [way.between[0], way.between[-1]] == space.reconstruct([way.begin, way.end])
    path = space.interpolate(way.begin, way.end, steps=40)
    assert way.between == [text for text, before in zip(path, ["", *path], strict=False) if text != before]
    assert len(way.between) < 40
