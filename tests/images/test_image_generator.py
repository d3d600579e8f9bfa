"""What a trained run does with images: the same image for the same number, ends of paths, repairs, refusals."""

import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.ndimage import gaussian_filter

from seqgen.core import rng
from seqgen.core.errors import DataError, RunError
from seqgen.engine import loop
from seqgen.engine.evaluate import evaluate_images
from seqgen.engine.loading import load, load_image_generator
from seqgen.engine.run import config
from seqgen.images import metrics, scores
from seqgen.images.data import DataConfig, Split
from seqgen.images.generator import ImageGenerator, blurred
from seqgen.images.grids import as_bytes, grid, save_arrays
from seqgen.images.scores import strips
from seqgen.nn import latents as samplers

SMALL = ("train.batch=32", "train.eval_every=0", "train.save_every=0", "train.samples=0", "train.lr=5e-3")


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A VAE that rebuilds digits roughly, others that hardly learnt; nobody writes into them."""
    folder = tmp_path_factory.mktemp("runs")
    small_gan = ("model.generator_widths=[8, 4]", "model.critic_widths=[4, 8]", "model.latent=6", "train.steps=40")
    kinds: dict[str, tuple[str, tuple[str, ...]]] = {
        "vae": (
            "image-vae",
            ("train.steps=500", "model.net=mlp", "model.hidden=64", "model.latent=8", "model.beta=0.3"),
        ),
        "conditional": (
            "image-vae",
            ("train.steps=60", "model.widths=[8, 8]", "model.likelihood=bernoulli", "model.conditional=true"),
        ),
        "gan": ("image-gan", small_gan),
        "conditional-gan": ("image-gan", ("model.labels=concat", *small_gan)),
    }
    for name, (model, words) in kinds.items():
        loop.train(config(model, overrides=[*SMALL, *words]), folder / name)
    return {name: folder / name for name in kinds}


@pytest.fixture
def vae(runs: dict[str, Path]) -> ImageGenerator:
    return load_image_generator(runs["vae"])


@pytest.fixture
def gan(runs: dict[str, Path]) -> ImageGenerator:
    return load_image_generator(runs["gan"])


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("vae", {}),
        ("vae", {"temperature": 0.5}),
        ("vae", {"method": "mixture"}),
        ("gan", {}),
        ("gan", {"method": "metropolis"}),
        ("conditional", {}),
        ("conditional-gan", {"labels": ["7", "2", "2"]}),
        ("conditional-gan", {"method": "metropolis"}),
    ],
)
def test_image_k_does_not_depend_on_the_count(runs: dict[str, Path], kind: str, options: dict[str, Any]) -> None:
    generator = load_image_generator(runs[kind])
    whole = generator.generate(70, seed=3, **options)
    assert whole.dtype == torch.uint8
    assert whole.shape == (70, 1, 8, 8)
    for count in (1, 5, 65):
        assert torch.equal(generator.generate(count, seed=3, **options), whole[:count])
    assert not torch.equal(generator.generate(5, seed=4, **options), whole[:5])
    assert not torch.equal(whole[0], whole[1])


def test_langevin_images_stay_the_same_up_to_rounding(gan: ImageGenerator) -> None:
    whole = gan.generate(6, method="langevin", seed=3).int()
    assert (gan.generate(2, method="langevin", seed=3).int() - whole[:2]).abs().max() <= 1


def test_temperature_0_is_the_middle_of_the_prior(vae: ImageGenerator) -> None:
    same = vae.generate(3, temperature=0)
    assert torch.equal(same[0], same[1])
    assert torch.equal(same[:1], vae.decode(torch.zeros(1, 8)))


def test_labels_are_taken_in_turn(runs: dict[str, Path]) -> None:
    generator = load_image_generator(runs["conditional"])
    numbers = generator.labels(torch.arange(5), ["3", "0"])
    assert numbers is not None
    assert numbers.tolist() == [3, 0, 3, 0, 3]
    own = generator.labels(torch.arange(400))
    assert own is not None
    assert set(own.tolist()) == set(range(10))


def test_rebuilt_images_are_nearer_than_the_mean_image(vae: ImageGenerator) -> None:
    side = vae.images.valid
    x = side.pixels / 255
    rebuilt = vae.reconstruct(side.pixels) / 255
    mean = (vae.images.train.pixels / 255).mean(0, keepdim=True).expand_as(x)
    assert metrics.squared_error(x, rebuilt).mean() < 0.75 * metrics.squared_error(x, mean).mean()
    assert vae.encode(side.pixels).shape == (len(x), 8)


def test_paths_run_from_one_image_to_the_other(vae: ImageGenerator, gan: ImageGenerator) -> None:
    a, b = vae.images.valid.pixels[:2]
    path = vae.interpolate(a, b, steps=5)
    assert torch.equal(path[[0, -1]], vae.reconstruct(torch.stack([a, b])))
    assert path.shape == (5, 1, 8, 8)
    numbered = gan.interpolate(3, 11, steps=4, seed=2, spherical=True)
    assert torch.equal(numbered[[0, -1]], gan.generate(12, seed=2)[[3, 11]])


def test_paths_of_a_conditional_run_change_their_class_in_the_middle(runs: dict[str, Path]) -> None:
    generator = load_image_generator(runs["conditional-gan"])
    path = generator.interpolate(0, 0, steps=4, labels=["1", "8"])
    ends = [generator.interpolate(0, 0, steps=2, labels=[k])[0] for k in ("1", "8")]
    assert torch.equal(path, torch.stack([ends[0], ends[0], ends[1], ends[1]]))


def test_likelihood_and_critic_scores(runs: dict[str, Path], gan: ImageGenerator) -> None:
    conditional = load_image_generator(runs["conditional"])
    side = conditional.images.valid
    names = [conditional.config.classes[k] for k in side.labels[:70].tolist()]
    values = conditional.log_likelihood(side.pixels[:70], names, samples=20)
    assert values.shape == (70,)
    assert (values < 0).all()
    torch.testing.assert_close(conditional.log_likelihood(side.pixels[:5], names[:5], samples=20), values[:5])
    noise = torch.randint(0, 256, (70, 1, 8, 8), dtype=torch.uint8)
    assert conditional.log_likelihood(noise, names, samples=20).mean() < values.mean()
    assert gan.critic_scores(side.pixels[:5]).shape == (5,)


def test_a_repair_keeps_what_is_known_and_agrees_with_it(vae: ImageGenerator) -> None:
    image = vae.images.valid.pixels[4]
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:, 3:6] = True
    damaged = image.clone()
    damaged[:, mask] = 0
    found = vae.restore(damaged, mask=mask, count=6, steps=120, trust=0.1)
    assert found.pixels.shape == (6, 1, 8, 8)
    assert 0.3 < found.acceptance < 0.9

    def misfit(pixels: torch.Tensor) -> float:
        return float(((pixels.float() - image) / 255)[..., ~mask].square().mean())

    best_of_prior = min(misfit(p) for p in vae.generate(60))
    assert misfit(found.mean) < best_of_prior
    # what the mask hides must not matter
    damaged[:, mask] = 255
    again = vae.restore(damaged, mask=mask, count=6, steps=120, trust=0.1)
    assert torch.equal(found.pixels, again.pixels)
    # the model is less sure of what is hidden than when it sees it
    seen = vae.restore(image, noise=0.1, count=6, steps=120)
    assert found.deviation[:, mask].mean() > seen.deviation[:, mask].mean()


def test_denoising_and_enlarging_come_nearer_to_the_image(vae: ImageGenerator) -> None:
    image = vae.images.valid.pixels[2]
    clean = image[None] / 255
    noise = 0.3 * torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0))
    noisy = as_bytes(image / 255 + noise)
    found = vae.restore(noisy, noise=0.3, steps=120)
    assert metrics.squared_error(found.mean[None] / 255, clean) < metrics.squared_error(noisy[None] / 255, clean)
    small = torch.nn.functional.avg_pool2d(image.float(), 2).round().to(torch.uint8)
    large = vae.restore(small, scale=2, steps=120).mean[None] / 255
    blocks = small.repeat_interleave(2, 1).repeat_interleave(2, 2)[None] / 255
    assert metrics.squared_error(large, clean) < metrics.squared_error(blocks, clean)


def test_sharpening_and_clearing_come_nearer_to_the_image(vae: ImageGenerator) -> None:
    image = vae.images.valid.pixels[2]
    clean = image[None] / 255
    soft = as_bytes(blurred(clean, 1.0)[0])
    found = vae.restore(soft, blur=1.0, trust=0.03, steps=200)
    assert metrics.squared_error(found.mean[None] / 255, clean) < metrics.squared_error(soft[None] / 255, clean)
    hazy = as_bytes(0.6 + 0.4 * clean[0])
    found = vae.restore(hazy, haze=0.6, trust=0.03, steps=200)
    assert metrics.squared_error(found.mean[None] / 255, clean) < metrics.squared_error(hazy[None] / 255, clean)


def test_blurring_is_a_gaussian_filter_and_keeps_an_even_image() -> None:
    draws = torch.rand(2, 3, 15, 15, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inner = (slice(None), slice(None), slice(4, 11), slice(4, 11))  # where no weight reaches the border
    expected = torch.from_numpy(gaussian_filter(draws.numpy(), (0, 0, 1.2, 1.2), truncate=2.6))
    torch.testing.assert_close(blurred(draws, 1.2)[inner], expected[inner], rtol=0, atol=1e-12)
    even = torch.full((1, 1, 6, 6), 0.3, dtype=torch.float64)
    torch.testing.assert_close(blurred(even, 2.0), even)
    assert blurred(draws, 0) is draws


def test_a_generator_restores_too(runs: dict[str, Path]) -> None:
    generator = load_image_generator(runs["conditional-gan"])
    found = generator.restore(generator.generate(1)[0], noise=0.2, count=3, steps=40, label="5")
    assert found.pixels.shape == (3, 1, 8, 8)


def refused(error: type[Exception], call: Any) -> str:
    with pytest.raises(error) as caught:
        call()
    return str(caught.value)


def test_what_cannot_be_asked_is_one_clear_line(
    runs: dict[str, Path], vae: ImageGenerator, gan: ImageGenerator
) -> None:
    conditional, image = load_image_generator(runs["conditional"]), torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    assert refused(ValueError, lambda: vae.generate(0)) == "count must be an integer >= 1, got 0"
    assert refused(ValueError, lambda: vae.generate(1, temperature=-1)) == "temperature must be at least 0, got -1"
    assert refused(ValueError, lambda: vae.generate(1, method="metropolis")) == (
        "method = metropolis needs a critic of images, which a VAE has not; train image-gan"
    )
    assert refused(ValueError, lambda: gan.generate(1, method="mixture")) == (
        "method = mixture needs an encoder, which a GAN has not; train image-vae"
    )
    assert refused(DataError, lambda: vae.generate(1, labels=["3"])) == (
        "this run is not conditional: it was trained without classes, so none can be chosen"
    )
    assert refused(DataError, lambda: conditional.generate(1, labels=["11"])) == (
        "class '11' was never seen in training; known: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    )
    assert refused(DataError, lambda: conditional.encode(image)) == (
        "this run is conditional: name the class of the images (--label)"
    )
    assert refused(ValueError, lambda: vae.encode(image[..., :4])) == (
        "images must be (N, 1, 8, 8) uint8, got (1, 1, 8, 4)"
    )
    assert refused(ValueError, lambda: vae.restore(image[0])) == (
        "nothing to restore: give a mask, the image's noise, blur or haze, or a scale"
    )
    assert refused(ValueError, lambda: vae.restore(image[0], scale=2)) == (
        "this run makes images (1, 8, 8); to enlarge 2 times give (1, 4, 4), got (1, 8, 8)"
    )
    assert refused(ValueError, lambda: vae.restore(image[0], mask=torch.ones(8, 8))) == (
        "the mask must be (8, 8) and leave pixels known, got (8, 8)"
    )
    assert refused(RunError, lambda: load(runs["vae"])) == (
        f"{runs['vae']} makes images and no text; in Python: seqgen.load_image_generator"
    )


def test_images_that_have_moved_are_noticed(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (80, 1, 8, 8), dtype=torch.uint8)
    source = str(save_arrays(pixels, tmp_path / "some.npz"))
    words = [*SMALL, "train.steps=2", "model.widths=[4, 4]", f"data.files={source}"]
    loop.train(config("image-vae", overrides=words), tmp_path / "run")
    save_arrays(pixels + 1, source)
    message = refused(DataError, lambda: load_image_generator(tmp_path / "run").images)
    assert re.fullmatch(
        rf"{re.escape(source)} no longer holds the images of {re.escape(str(tmp_path / 'run'))} "
        r"\(SHA-256 \w{12}\.\.\., now \w{12}\.\.\.\); restore them",
        message,
    )


def test_images_are_read_to_fit_the_run(vae: ImageGenerator, tmp_path: Path) -> None:
    x = torch.randint(0, 256, (3, 3, 20, 20), dtype=torch.uint8)
    save_arrays(x, tmp_path / "x.npz")
    pixels, names = vae.read(tmp_path / "x.npz")
    assert pixels.shape == (3, 1, 8, 8)
    assert names == ["", "", ""]
    save_arrays(x, tmp_path / "x.npz", ["cat", "dog", "cat"])
    assert vae.read(tmp_path / "x.npz", size=4)[0].shape == (3, 1, 4, 4)
    assert vae.read(tmp_path / "x.npz")[1] == ["cat", "dog", "cat"]


def test_the_table_puts_the_run_beside_real_images(runs: dict[str, Path], vae: ImageGenerator) -> None:
    columns = {column.name: column for column in scores.table(vae, count=200)}
    assert list(columns) == ["prior", "mixture", "rebuilt", "real"]
    for column in columns.values():
        assert column.scores["ffd"].signature.fields["features"].startswith("classes-64/")
        assert 0 <= column.scores["coverage"].value <= 1
    assert columns["real"].scores["ffd"].value < columns["prior"].scores["ffd"].value
    assert columns["rebuilt"].scores["squared_error"].value < 0.1
    table = evaluate_images(runs["conditional"], count=200, samples=5)
    assert table.to_dict()["protocol"] == "ffd-2"
    conditional = {column.name: column for column in table.columns}
    assert float(conditional["prior"].likelihood["bits_per_dim"]) == pytest.approx(
        float(conditional["prior"].likelihood["nll_per_image"]) / 64 / np.log(2)
    )
    assert 0 <= conditional["prior"].scores["label_accuracy"].value <= 1


def test_every_column_has_as_many_images_and_says_so(vae: ImageGenerator) -> None:
    held_out = len(vae.images.valid.pixels)
    for count, size in ((500, held_out), (0, held_out), (140, 140)):
        columns = scores.table(vae, count=count, samples=0, methods=("prior",))
        assert {column.scores["ffd"].signature.fields["made"] for column in columns} == {str(size)}
        fewer = " (500 were asked for; no more are held out)" if count > size else ""
        assert columns[0].about == f"{size} images{fewer}, seed 0, latents from prior"
        for name, score in columns[0].scores.items():
            assert score.stored_interval is not None, name
            assert score.stored_interval[0] <= score.value <= score.stored_interval[1]
            assert not score.signature.differs(columns[-1].scores[name].signature), name
    kernel = columns[-1].scores["kernel_distance"]
    assert kernel.note == "within its noise of 0: it needs more images"


class Corners:
    """Four pixels of an image as its features."""

    kind = "pixels"
    signature = "corners-4"

    def encode(self, pixels: torch.Tensor) -> Any:
        rows = pixels[:, 0, [0, 2, 3, 5], [2, 3, 4, 2]].double().numpy() / 255
        return rows, np.ones((len(rows), 1))


def test_held_out_images_that_are_too_few_stand_apart_by_their_signature(vae: ImageGenerator) -> None:
    data = vae.images
    few = replace(data, valid=replace(data.valid, pixels=data.valid.pixels[:7], labels=data.valid.labels[:7]))
    given, real = scores.table_of({"given": data.train.pixels[:40]}, few, encoder=Corners())
    assert given.scores["ffd"].signature.fields["made"] == "40"
    assert "ffd" not in real.scores
    assert real.scores["variety"].signature.differs(given.scores["variety"].signature) == "made: 7 and 40"


def test_intervals_are_those_of_the_mean_and_never_too_narrow_for_a_distance(vae: ImageGenerator) -> None:
    """Leaving out one of ten values gives the standard error of a mean exactly; of FFD many draws tell the spread."""
    values = np.random.default_rng(0).normal(size=10)
    left_out = [float(np.delete(values, k).mean()) for k in range(10)]
    assert scores.jackknife_error(left_out) == pytest.approx(stats.sem(values))
    data = vae.images
    real = scores.reference(data, Corners())
    rows = torch.randint(len(data.train.pixels), (40, 60), generator=torch.Generator().manual_seed(1))
    found = [scores.signed_scores(255 - data.train.pixels[r], real)["ffd"] for r in rows]
    spread = np.std([score.value for score in found], ddof=1)
    halves = [(score.stored_interval[1] - score.stored_interval[0]) / 2 for score in found if score.stored_interval]
    assert spread * 0.8 < np.mean(halves) / 1.96 < spread * 1.8


@pytest.mark.parametrize(("name", "value"), [("precision", 1.0), ("recall", 0.0)])
def test_the_interval_of_all_images_or_of_none_is_wilsons(name: str, value: float, vae: ImageGenerator) -> None:
    """Copies of one training image lie among real ones, and no other real image lies among them."""
    data = vae.images
    few = replace(data, train=replace(data.train, pixels=data.train.pixels[:40], labels=data.train.labels[:40]))
    found = scores.signed_scores(few.train.pixels[:1].repeat(40, 1, 1, 1), scores.reference(few, Corners()))[name]
    expected = stats.binomtest(round(40 * value), 40).proportion_ci(method="wilson")
    assert found.value == value
    assert found.stored_interval == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_a_dropped_class_raises_the_class_kl_and_lowers_recall(vae: ImageGenerator) -> None:
    data = vae.images
    real = scores.own_reference(data)
    whole = scores.scores_of(data.train.pixels[:800], real)
    kept = data.train.pixels[data.train.labels != 3][:800]
    lost = scores.scores_of(kept, real)
    assert lost["class_kl"] > whole["class_kl"] + 0.05
    assert lost["recall"] < whole["recall"]
    assert lost["coverage"] < whole["coverage"]
    assert lost["ffd"] > whole["ffd"]
    assert whole["nearest_training"] == 0.0
    assert scores.signs(whole) == []


def test_signs_of_collapse_wait_for_images_that_look_real(vae: ImageGenerator) -> None:
    """Whatever classifier was trained: one class alone is a sign, and what no real image is like never is."""
    data = vae.images
    one_class = data.train.pixels[data.train.labels == 3][:160].repeat(2, 1, 1, 1)
    found = scores.scores_of(one_class, scores.own_reference(data))
    assert scores.signs(found)[0].startswith("collapse: some classes are hardly made")
    assert scores.signs(found | {"precision": 0.49}) == []
    one_image = {"precision": 1.0, "class_kl": 2.3, "recall": 0.0, "coverage": 0.01}
    assert scores.signs(one_image) == [
        "collapse: some classes are hardly made (class KL 2.30, real near 0)",
        "collapse: real images have no made neighbours (coverage 0.010)",
    ]


def test_features_of_ones_own_are_taken(vae: ImageGenerator) -> None:
    class Pixels:
        kind = "pixels"
        signature = "pixels-64"

        def encode(self, pixels: torch.Tensor) -> Any:
            flat = pixels.flatten(1).double().numpy() / 255
            return flat, np.ones((len(flat), 1))

    columns = evaluate_images(vae, count=200, encoder=Pixels(), methods=("prior",)).columns
    assert columns[0].scores["ffd"].signature.fields["features"] == "pixels-64"
    assert "class_kl" not in columns[0].scores


def test_samplers_of_latents_feed_the_decoder(vae: ImageGenerator) -> None:
    seeds = torch.arange(4)
    assert torch.equal(vae.decode(samplers.normals(seeds, 8).float()), as_bytes(vae.model.sample(seeds)))


class Dials:
    """A GAN whose pixel k shows latent dimension k alone, with a slope of its own."""

    encodes = False
    config = SimpleNamespace(conditional=False, latent=3)
    slopes = torch.tensor([0.05, -0.15, 0.1])

    def decode(self, latents: torch.Tensor, labels: Any = None) -> torch.Tensor:
        return (0.5 + self.slopes * latents)[:, None, None]


def test_a_traversal_moves_one_dimension_in_each_row_the_largest_change_first() -> None:
    toy = ImageGenerator(Dials(), DataConfig(), 1, torch.device("cpu"), None)
    pixels, dimensions = toy.traverse(4, steps=5, rows=2, span=2.0, seed=7)
    assert dimensions == [1, 2]
    center = rng.normals(rng.text_seeds(7, 4, 1), 3).float()[0]
    rows = []
    for k in dimensions:
        for value in (-2.0, -1.0, 0.0, 1.0, 2.0):
            latents = center.clone()
            latents[k] = value
            rows.append((0.5 + Dials.slopes * latents).clamp(0, 1) * 255)
    assert torch.equal(pixels, torch.stack(rows).round().to(torch.uint8)[:, None, None])


def test_sheets_show_neighbours_of_what_was_made_and_a_row_for_each_class(runs: dict[str, Path]) -> None:
    plain, conditional = (load_image_generator(runs[name]) for name in ("gan", "conditional-gan"))
    own = plain.images.train.pixels
    sheets = dict(strips(plain, plain.images, own[5:12], steps=7))
    assert set(sheets) == {"-between.png", "-neighbours.png"}
    sheet = np.asarray(sheets["-neighbours.png"])
    assert (sheet[:48] == sheet[50:]).all()  # a training image is its own neighbour
    sheets = dict(strips(conditional, conditional.images, own[:2], steps=3))
    expected = [conditional.generate(30, labels=[str(k // 3) for k in range(30)])[k] for k in range(30)]
    assert (np.asarray(sheets["-classes.png"]) == np.asarray(grid(torch.stack(expected), columns=3))).all()


class Toy:
    """A GAN of one pixel: latent code z gives Phi(z), and z is standard normal. Its critic's own logit is misled.

    The critic's feature is the log-odds of z under the mixture 0.35 N(-1, 0.5) + 0.65 N(1, 0.5) of real images.
    """

    encodes = False
    config = SimpleNamespace(conditional=False, latent=1)

    def decode(self, latents: torch.Tensor, labels: Any = None) -> torch.Tensor:
        return torch.special.ndtr(latents)[..., None, None].float()

    def sample(self, seeds: torch.Tensor, labels: Any = None) -> torch.Tensor:
        return self.decode(rng.normals(seeds, 1))

    def critic_output(self, images: torch.Tensor, labels: Any = None) -> Any:
        z = torch.special.ndtri(images.clamp(1 / 512, 1 - 1 / 512)).flatten(1).double()
        parts = [math.log(w) - ((z - m) / 0.5).square() / 2 - math.log(0.5) for w, m in ((0.35, -1), (0.65, 1))]
        odds = torch.logaddexp(*parts) + z.square() / 2
        return SimpleNamespace(features=odds.float(), logit=-2 * z[:, 0].float())


def test_chains_need_a_critic_of_single_images(gan: ImageGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gan, "config", replace(gan.config, pack=2))
    assert refused(ValueError, lambda: gan.generate(2, method="metropolis")) == (
        "chains follow a critic of single images; model.pack = 2 scores several"
    )


@pytest.mark.parametrize("method", ["metropolis", "langevin"])
def test_chains_reach_a_mixture_of_known_density_though_the_critics_logit_is_misled(method: Any) -> None:
    """Codes of real images are the mixture; what a chain gives is compared with its distribution function."""
    random = np.random.default_rng(0)
    real = np.where(random.random(3000) < 0.35, -1, 1) + 0.5 * random.normal(size=3000)
    pixels = (torch.special.ndtr(torch.from_numpy(real)) * 255).round().to(torch.uint8)[:, None, None, None]
    sides = [Split(part, torch.full((len(part),), -1)) for part in (pixels[:2000], pixels[2000:])]
    generator = ImageGenerator(Toy(), DataConfig(), 1, torch.device("cpu"), None)
    generator._images = SimpleNamespace(train=sides[0], valid=sides[1])  # type: ignore[assignment]
    made = generator.generate(2000, seed=2, method=method).flatten().double().numpy()

    def below(z: Any) -> Any:
        return 0.35 * stats.norm.cdf(z, -1, 0.5) + 0.65 * stats.norm.cdf(z, 1, 0.5)

    edges = stats.norm.ppf((np.arange(255) + 0.5) / 255)
    apart = np.abs([(made <= k).mean() - below(edge) for k, edge in enumerate(edges)]).max()
    from_prior = np.abs(stats.norm.cdf(edges) - below(edges)).max()
    assert apart < 0.06 < from_prior / 3
