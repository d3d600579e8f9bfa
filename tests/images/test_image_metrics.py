"""Numbers about images against brute force, closed forms, scipy and, where installed, torchmetrics and prdc."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from seqgen.images import metrics
from seqgen.metrics.distance import frechet_distance

RANDOM = np.random.default_rng(0)


def clouds(seed: int, n: int, m: int, d: int = 3) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)), random.normal(0.3, 1.2, (m, d))


def brute_coverage(real: Any, made: Any, k: int) -> tuple[float, float, float, float]:
    def distance(a: Any, b: Any) -> float:
        return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))

    def reach(rows: Any) -> list[float]:
        return [sorted(distance(a, b) for j, b in enumerate(rows) if j != i)[k - 1] for i, a in enumerate(rows)]

    reach_real, reach_made = reach(real), reach(made)
    between = [[distance(a, b) for b in made] for a in real]
    precision = sum(any(between[i][j] < reach_real[i] for i in range(len(real))) for j in range(len(made)))
    recall = sum(any(between[i][j] < reach_made[j] for j in range(len(made))) for i in range(len(real)))
    density = sum(between[i][j] < reach_real[i] for i in range(len(real)) for j in range(len(made)))
    covered = sum(min(between[i]) < reach_real[i] for i in range(len(real)))
    return precision / len(made), recall / len(real), density / (k * len(made)), covered / len(real)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10**6), st.integers(4, 14), st.integers(4, 14), st.integers(1, 3), st.integers(1, 4))
def test_coverage_equals_brute_force(seed: int, n: int, m: int, k: int, d: int) -> None:
    real, made = clouds(seed, n, m, d)
    found = metrics.coverage(real, made, k=k)
    expected = brute_coverage(real, made, k)
    assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(expected)


def test_coverage_over_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    real, made = clouds(1, 50, 41)
    whole = metrics.coverage(real, made, k=5)
    monkeypatch.setattr(metrics, "_BLOCK", 7)
    assert metrics.coverage(real, made, k=5) == whole


def test_coverage_of_a_lost_half_and_of_noise() -> None:
    real = np.concatenate([RANDOM.normal(0, 1, (300, 2)), RANDOM.normal(50, 1, (300, 2))])
    half = metrics.coverage(real, RANDOM.normal(0, 1, (600, 2)))
    assert half.precision > 0.9
    assert half.recall == pytest.approx(0.5, abs=0.05)
    assert half.coverage == pytest.approx(0.5, abs=0.05)
    noise = metrics.coverage(real, RANDOM.normal(500, 1, (600, 2)))
    assert (noise.precision, noise.recall, noise.density, noise.coverage) == (0, 0, 0, 0)


def test_coverage_needs_more_rows_than_neighbours() -> None:
    with pytest.raises(ValueError, match=r"^k must be in 1\.\.4, one less than the rows of a side; got 5$"):
        metrics.coverage(np.zeros((5, 2)), np.zeros((9, 2)), k=5)


def test_kernel_distance_equals_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = clouds(2, 9, 6)

    def kernel(x: Any, y: Any) -> float:
        return float((x @ y / 3 + 1) ** 3)

    within_a = np.mean([kernel(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j])
    within_b = np.mean([kernel(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j])
    across = np.mean([kernel(x, y) for x in a for y in b])
    assert metrics.kernel_distance(a, b) == pytest.approx(within_a + within_b - 2 * across)
    monkeypatch.setattr(metrics, "_BLOCK", 4)
    assert metrics.kernel_distance(a, b) == pytest.approx(within_a + within_b - 2 * across)


def test_kernel_distance_of_equal_distributions_is_zero_on_average() -> None:
    values = [metrics.kernel_distance(*(RANDOM.normal(size=(60, 4)) for _ in range(2))) for _ in range(60)]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(60)
    assert min(values) < 0


def test_standardised_rows_have_mean_0_and_deviation_1() -> None:
    rows = RANDOM.normal(5, 3, (100, 4))
    rows[:, 2] = 7.0
    first, second = metrics.standardised(rows, rows + 1)
    np.testing.assert_allclose(first.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(first.std(0), [1, 1, 0, 1], atol=1e-12)
    np.testing.assert_allclose((second - first)[:, 2], 1)


def images(count: int, size: int = 5, channels: int = 1, seed: int = 0) -> torch.Tensor:
    made = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, size, size), generator=made, dtype=torch.uint8)


@pytest.mark.parametrize(("n", "m"), [(6, 6), (6, 4), (1, 5)])
def test_sliced_wasserstein_of_one_pixel_is_that_of_the_line(n: int, m: int) -> None:
    """One pixel has one direction (or its opposite), along which the distance is that of sorted values."""
    a, b = images(n, 1, seed=1), images(m, 1, seed=2)
    x = np.sort(a.flatten().double().numpy() / 255).repeat(math.lcm(n, m) // n)
    y = np.sort(b.flatten().double().numpy() / 255).repeat(math.lcm(n, m) // m)
    expected = math.sqrt(((x - y) ** 2).mean())
    assert metrics.sliced_wasserstein(a, b, directions=3) == pytest.approx(expected, rel=1e-5)


def test_sliced_wasserstein_of_a_shift_is_its_length_over_the_root_of_the_pixels() -> None:
    a = images(40, 4) // 2
    shift = 51 / 255
    expected = shift  # every pixel moves, so the vector's length is shift * 4 and a direction sees it over sqrt(16)
    assert metrics.sliced_wasserstein(a, a + 51, directions=4000) == pytest.approx(expected, rel=0.05)
    assert metrics.sliced_wasserstein(a, a.flip(0)) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="images must have one size"):
        metrics.sliced_wasserstein(a, images(3, 5))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(1, 50), min_size=2, max_size=6), st.data())
def test_class_divergences_equal_scipys(real: list[int], data: st.DataObject) -> None:
    made = data.draw(st.lists(st.integers(0, 50), min_size=len(real), max_size=len(real)).filter(any))
    assert metrics.class_kl(made, real) == pytest.approx(stats.entropy(made, real), abs=1e-12)
    p, q = np.array(made) / sum(made), np.array(real) / sum(real)
    expected = (stats.entropy(p, (p + q) / 2) + stats.entropy(q, (p + q) / 2)) / 2
    assert metrics.class_js(made, real) == pytest.approx(expected, abs=1e-12)


def test_a_dropped_class_raises_the_class_kl() -> None:
    assert metrics.class_kl([10, 10, 10, 10], [10, 10, 10, 10]) == 0
    assert metrics.class_kl([10, 10, 20, 0], [10, 10, 10, 10]) == pytest.approx(0.5 * math.log(2))
    assert metrics.class_kl([1, 1], [1, 0]) == math.inf
    assert metrics.class_counts(torch.tensor([2, -1, 0, 2]), 4).tolist() == [1, 0, 2, 0]


def test_classifier_score_of_sure_and_of_unsure_classifiers() -> None:
    assert metrics.classifier_score(np.eye(4)) == pytest.approx(4.0)
    assert metrics.classifier_score(np.full((5, 4), 0.25)) == pytest.approx(1.0)
    p = RANDOM.dirichlet(np.ones(4), 30)
    assert metrics.classifier_score(p) == pytest.approx(math.exp(np.mean([stats.entropy(r, p.mean(0)) for r in p])))
    with pytest.raises(ValueError, match="probabilities must be"):
        metrics.classifier_score(np.zeros(3))


def test_pixel_statistics_are_numpys() -> None:
    x = images(7, 3)
    values = x.numpy() / 255
    found = metrics.pixel_statistics(x)
    assert found["mean"] == pytest.approx(values.mean())
    assert found["deviation"] == pytest.approx(values.std())
    assert found["variety"] == pytest.approx(values.std(0).mean())
    assert metrics.pixel_statistics(x[:1])["variety"] == 0


def test_errors_of_reconstruction_are_the_formulas() -> None:
    a, b = images(3, seed=1).double() / 255, images(3, seed=2).double() / 255
    np.testing.assert_allclose(metrics.squared_error(a, b), ((a - b) ** 2).mean((1, 2, 3)))
    p = b.clamp(1e-6, 1 - 1e-6)
    np.testing.assert_allclose(
        metrics.cross_entropy(a, b), -(a * p.log() + (1 - a) * (1 - p).log()).mean((1, 2, 3)), rtol=1e-9
    )


def test_structural_similarity_equals_brute_force() -> None:
    a, b = (images(2, 13, 3, seed=s).double() / 255 for s in (1, 2))
    b = (a + 0.3 * b).clamp(0, 1)
    grid = np.arange(11) - 5
    window = np.exp(-(grid[:, None] ** 2 + grid[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    expected = []
    for x, y in zip(a.numpy(), b.numpy(), strict=True):
        values = []
        for c in range(3):
            for i in range(3):
                for j in range(3):
                    p, q = x[c, i : i + 11, j : j + 11], y[c, i : i + 11, j : j + 11]
                    mp, mq = (window * p).sum(), (window * q).sum()
                    vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                    both = (window * (p - mp) * (q - mq)).sum()
                    light = (2 * mp * mq + 1e-4) / (mp**2 + mq**2 + 1e-4)
                    values.append(light * (2 * both + 9e-4) / (vp + vq + 9e-4))
        expected.append(np.mean(values))
    np.testing.assert_allclose(metrics.structural_similarity(a, b), expected, rtol=1e-9)


@pytest.mark.parametrize("size", [1, 2, 7, 8, 11, 28])
def test_structural_similarity_of_a_image_with_itself_is_1(size: int) -> None:
    a = images(2, size) / 255
    np.testing.assert_allclose(metrics.structural_similarity(a, a), 1.0)
    if size > 6:
        assert (metrics.structural_similarity(a, 1 - a) < 0.5).all()


def test_structural_similarity_needs_equal_shapes() -> None:
    with pytest.raises(ValueError, match="images must have one shape"):
        metrics.structural_similarity(torch.zeros(1, 1, 8, 8), torch.zeros(2, 1, 8, 8))


def test_nearest_is_the_brute_force_neighbour_and_a_copy_is_at_0() -> None:
    train, made = images(60, 4, seed=1), images(20, 4, seed=2)
    made[3] = train[17]
    distance, row = metrics.nearest(made, train)
    every = ((made[:, None].double() - train[None].double()) / 255).square().flatten(2).mean(2).sqrt()
    assert torch.equal(row, every.argmin(1))
    np.testing.assert_allclose(distance, every.min(1).values, rtol=1e-5, atol=1e-7)
    assert distance[3] == 0
    assert row[3] == 17


def test_factor_r2_is_1_for_linear_and_about_0_for_unrelated_factors() -> None:
    latents = RANDOM.normal(size=(2000, 5))
    factors = np.column_stack([latents @ RANDOM.normal(size=5) + 3, RANDOM.normal(size=2000), np.ones(2000)])
    linear, unrelated, fixed = metrics.factor_r2(latents, factors)
    assert linear == pytest.approx(1.0)
    assert abs(unrelated) < 0.02
    assert math.isnan(fixed)


@pytest.mark.filterwarnings("ignore")
def test_against_torchmetrics() -> None:
    functional = pytest.importorskip("torchmetrics.functional.image")
    kid = pytest.importorskip("torchmetrics.image.kid")
    fid = pytest.importorskip("torchmetrics.image.fid")
    a, b = (torch.from_numpy(x) for x in clouds(5, 40, 40, 8))
    ours = metrics.kernel_distance(a.numpy(), b.numpy())
    assert ours == pytest.approx(float(kid.poly_mmd(a, b, degree=3, gamma=None, coef=1.0)), rel=1e-5)
    theirs = fid._compute_fid(a.mean(0), torch.cov(a.T), b.mean(0), torch.cov(b.T))
    assert frechet_distance(a.numpy(), b.numpy()) == pytest.approx(float(theirs), rel=1e-6)
    x, y = images(3, 28, seed=1).float() / 255, images(3, 28, seed=2).float() / 255
    y = 0.7 * x + 0.3 * y
    # theirs averages windows that reach over the edge too, by reflection; the inner ones must be ours
    _, everywhere = functional.structural_similarity_index_measure(y, x, data_range=1.0, return_full_image=True)
    np.testing.assert_allclose(
        metrics.structural_similarity(x, y), everywhere[..., 5:-5, 5:-5].mean((1, 2, 3)), atol=2e-6
    )


def test_against_prdc() -> None:
    prdc = pytest.importorskip("prdc")
    real, made = clouds(6, 120, 90, 6)
    theirs = prdc.compute_prdc(real, made, nearest_k=5)
    ours = metrics.coverage(real, made, k=5)
    assert vars(ours) == pytest.approx({name: float(value) for name, value in theirs.items()})


# ------------------------------------------------------------------------------------- what is measured must be that


def test_structural_similarity_is_that_of_windows_inside_as_scipys_filter_gives_them() -> None:
    """scikit-image's convention: this filter, and a border of half a window left out."""
    a, b = images(1, 28, seed=1)[0, 0, :19].double() / 255, images(1, 28, seed=2)[0, 0, :19].double() / 255
    b = 0.6 * a + 0.4 * b

    def blurred(x: Any) -> Any:
        return ndimage.gaussian_filter(x, 1.5, truncate=3.5)[5:-5, 5:-5]

    x, y = a.numpy(), b.numpy()
    mx, my = blurred(x), blurred(y)
    vx, vy, both = blurred(x * x) - mx**2, blurred(y * y) - my**2, blurred(x * y) - mx * my
    expected = (2 * mx * my + 1e-4) * (2 * both + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    assert float(metrics.structural_similarity(a[None, None], b[None, None])) == pytest.approx(expected.mean())


def test_images_that_are_wider_than_high_are_measured() -> None:
    a, b = images(3, 28)[:, :, :6].double() / 255, images(3, 28, seed=1)[:, :, :6].double() / 255
    np.testing.assert_allclose(metrics.structural_similarity(a, a), 1.0)
    torch.testing.assert_close(
        metrics.structural_similarity(a, b), metrics.structural_similarity(a.mT.contiguous(), b.mT.contiguous())
    )


UNITS: dict[str, Any] = {
    "squared_error": metrics.squared_error,
    "cross_entropy": metrics.cross_entropy,
    "structural_similarity": metrics.structural_similarity,
}
BYTES: dict[str, Any] = {
    "sliced_wasserstein": metrics.sliced_wasserstein,
    "nearest": metrics.nearest,
    "pixel_statistics": lambda a, b: metrics.pixel_statistics(b),
}


@pytest.mark.parametrize("name", list(UNITS))
def test_what_lays_images_on_each_other_takes_floats_in_0_to_1_alone(name: str) -> None:
    measure, x = UNITS[name], images(2, 8)
    for wrong, message in (
        (x, "images must be floats in 0..1, got uint8; divide bytes by 255"),
        (x.float(), f"images must be floats in 0..1, got {x.min():g}..{x.max():g}"),
        (x.float() / 127.5 - 1, "images must be floats in 0..1, got -"),
        (torch.full((2, 1, 8, 8), math.nan), "images must be floats in 0..1, got nan..nan"),
        (x[0].float() / 255, "images must be (N, C, H, W), N > 0, got (1, 8, 8)"),
        (x[:0].float(), "images must be (N, C, H, W), N > 0, got (0, 1, 8, 8)"),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the beginning of the text is compared
            measure(wrong, wrong)
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize("name", list(BYTES))
def test_what_compares_sets_of_images_takes_bytes_alone(name: str) -> None:
    measure, x = BYTES[name], images(2, 8)
    for wrong, message in (
        (
            x.float() / 255,
            "images must be uint8, 0..255, got float32; floats in 0..1: seqgen.images.grids.as_bytes",
        ),
        (x[0], "images must be (N, C, H, W), N > 0, got (1, 8, 8)"),
        (x[:0], "images must be (N, C, H, W), N > 0, got (0, 1, 8, 8)"),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
            measure(x, wrong)
        assert str(caught.value) == message


@pytest.mark.parametrize("name", [*BYTES, *UNITS])
def test_images_that_are_no_tensor_are_refused(name: str) -> None:
    array = images(2, 8).numpy()
    with pytest.raises(TypeError, match=r"^images must be a torch.Tensor \(N, C, H, W\), got ndarray$"):
        (BYTES | UNITS)[name](array, array)


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ([0, 1], "list"),
        (torch.tensor([0.5]), r"float32 \(1,\)"),
        (torch.zeros(2, 2, dtype=torch.int64), r"int64 \(2, 2\)"),
    ],
)
def test_labels_that_are_no_integers_are_refused(labels: Any, found: str) -> None:
    with pytest.raises(TypeError, match=rf"^labels must be a torch.Tensor \(N,\) of integers, got {found}$"):
        metrics.class_counts(labels, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.standardised(np.ones((3, 4)), np.ones((3, 2))), "features must have one width, got D = 4 and"),
        (lambda: metrics.standardised(np.ones((0, 4))), "the first features must have at least 2 rows, got 0"),
        (lambda: metrics.class_kl([0, 0], [1, 2]), "counts of made images must be 0 or more and not all 0, got [0.0, "),
        (lambda: metrics.class_kl([1, 2], [0, 0]), "counts of real images must be 0 or more and not all 0, got [0.0, "),
        (lambda: metrics.class_js([-1, 2], [1, 2]), "counts of made images must be 0 or more and not all 0, got [-1.0"),
        (lambda: metrics.class_kl([1, 2], [1]), "counts must be two rows of as many classes, got shapes (2,), (1,)"),
        (lambda: metrics.class_counts(torch.tensor([3]), 3), "labels must be below 3, the number of classes; got 3"),
        (lambda: metrics.classifier_score([[2.0, 1.0]]), "probabilities must be 0 or more and sum to 1 in every row; "),
        (
            lambda: metrics.factor_r2(np.ones((4, 2)), np.ones(4)),
            "latents and factors must be (N, Z) and (N, J), N > 1",
        ),
    ],
)
def test_numbers_of_another_kind_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the beginning of the text is compared
        call()
    assert str(caught.value).startswith(message)
