"""Image runs on the command line: what is written is what the library makes, and wrong calls are one clear line."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Ended, call
from PIL import Image
from scipy import linalg

import seqgen
from seqgen.cli import images
from seqgen.engine import run as runs
from seqgen.engine.evaluate import image_references
from seqgen.images import features, reading
from seqgen.images.generator import ImageGenerator
from seqgen.images.grids import grid, save_arrays, save_each, save_grid

Seqgen = Callable[..., Ended]

# one sample is shown and not scored, so that training needs no features
SMALL = ("train.batch=32", "train.eval_every=0", "train.save_every=0", "train.lr=5e-3", "train.samples=1")


@pytest.fixture(scope="session")
def feature_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features")


@pytest.fixture(autouse=True)
def quick_features(home: Path, feature_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(feature_cache))
    monkeypatch.setattr(features, "_LEAST_STEPS", 150)


def trained(folder: Path, model: str, *words: str) -> Path:
    ended = call("train", model, "--data", "digits", "--out", folder, *SMALL, *words)
    assert ended.code == 0, ended.err
    return folder


@pytest.fixture(scope="session")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VAE of digits; what a test leaves in its folder no other test reads."""
    return trained(tmp_path_factory.mktemp("images") / "vae", "image-vae", "train.steps=60", "model.widths=[8, 8]")


@pytest.fixture(scope="session")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional VAE with a likelihood."""
    words = ("train.steps=20", "model.widths=[8, 8]", "model.conditional=true", "model.likelihood=bernoulli")
    return trained(tmp_path_factory.mktemp("images") / "conditional", "image-vae", *words)


@pytest.fixture(scope="session")
def gan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional GAN."""
    words = ("train.steps=10", "model.generator_widths=[8, 4]", "model.critic_widths=[4, 8]", "model.labels=concat")
    return trained(tmp_path_factory.mktemp("images") / "gan", "image-gan", *words)


def pixels(path: Path) -> torch.Tensor:
    """A PNG file as (C, H, W)."""
    with Image.open(path) as image:
        array = np.asarray(image)
    return torch.from_numpy(array.copy())[None] if array.ndim == 2 else torch.from_numpy(array.transpose(2, 0, 1))


def generator(run: Path) -> ImageGenerator:
    return seqgen.load_image_generator(run)


# ------------------------------------------------------------------------------------------------------------ generate


def test_a_grid_shows_the_images_of_the_library(seqgen: Seqgen, vae: Path, tmp_path: Path) -> None:
    ended = seqgen("generate", vae, "--count", 9, "--seed", 4, "--out", tmp_path / "grid.png")
    assert (ended.code, ended.out) == (0, "")
    assert ended.err == f"9 images written to {tmp_path / 'grid.png'}\n"
    made = generator(vae).generate(9, seed=4)
    with Image.open(tmp_path / "grid.png") as sheet:
        assert np.array_equal(np.asarray(sheet), np.asarray(grid(made)))


def test_without_out_the_path_is_the_result(seqgen: Seqgen, gan: Path) -> None:
    ended = seqgen("generate", gan, "--count", 2)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"{gan / 'generated.png'}\n"
    assert (gan / "generated.png").is_file()


def test_one_image_is_written_at_its_own_size_or_the_scale_asked_for(seqgen: Seqgen, vae: Path, tmp_path: Path) -> None:
    made = generator(vae).generate(3)
    assert seqgen("generate", vae, "--count", 1, "--out", tmp_path / "x.png").code == 0
    assert torch.equal(pixels(tmp_path / "x.png"), made[0])
    assert seqgen("generate", vae, "--count", 1, "--scale", 3, "--out", tmp_path / "x.png").code == 0
    assert torch.equal(pixels(tmp_path / "x.png"), made[0].repeat_interleave(3, 1).repeat_interleave(3, 2))
    assert seqgen("generate", vae, "--count", 3, "--columns", 3, "--scale", 2, "--out", tmp_path / "x.png").code == 0
    assert pixels(tmp_path / "x.png").shape == (1, 16, 3 * 16 + 2 * 2)


def test_a_grid_has_a_row_for_each_class(seqgen: Seqgen, gan: Path, tmp_path: Path) -> None:
    words = ("--count", 5, "--label", 7, "--label", 2, "--by-class", "--scale", 1, "--out", tmp_path / "x.png")
    assert seqgen("generate", gan, *words).code == 0
    made = generator(gan).generate(5, labels=["7", "2"])
    white = torch.full((1, 8, 8), 255, dtype=torch.uint8)
    rows = torch.stack([made[1], made[3], white, made[0], made[2], made[4]])
    save_grid(rows, tmp_path / "expected.png", columns=3, zoom=1)
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "expected.png").read_bytes()


def test_a_run_named_without_data_goes_on_with_its_own(seqgen: Seqgen, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", images=random.integers(0, 256, (80, 8, 8)))
    words = ("train", "image-vae", "--out", tmp_path / "run", *SMALL, "model.widths=[4, 4]", "data.count=60")
    assert seqgen(*words, "--data", tmp_path / "x.npz", "train.steps=2").code == 0
    ended = seqgen(*words, "train.steps=3")
    assert (ended.code, "finished at step 3" in ended.err) == (0, True), ended.err
    assert runs.read_settings(tmp_path / "run").data.files == (str(tmp_path / "x.npz"),)
    ended = seqgen(*words, "--data", "digits", "train.steps=3")
    assert (ended.code, "was trained on other images" in ended.err) == (2, True)


def test_single_files_of_known_classes_are_read_again_with_their_labels(
    seqgen: Seqgen, gan: Path, tmp_path: Path
) -> None:
    words = ("--count", 5, "--label", 7, "--label", 2, "--out", tmp_path / "each", "--json")
    ended = seqgen("generate", gan, *words)
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert [line["label"] for line in lines] == ["7", "2", "7", "2", "7"]
    made = generator(gan).generate(5, labels=["7", "2"])
    for k, line in enumerate(lines):
        assert (line["seed"], line["index"]) == (0, k)
        assert torch.equal(pixels(Path(line["file"])), made[k])
    source = reading.read(str(tmp_path / "each"))
    assert source.labels is not None
    assert sorted(source.labels.tolist()) == ["2", "2", "7", "7", "7"]


def test_arrays_are_data_again(seqgen: Seqgen, conditional: Path, tmp_path: Path) -> None:
    assert seqgen("generate", conditional, "--count", 40, "--out", tmp_path / "made.npz").code == 0
    source = reading.read(str(tmp_path / "made.npz"))
    one = generator(conditional)
    assert np.array_equal(source.pixels, one.generate(40)[:, 0].numpy())
    assert source.labels is not None
    assert source.labels.tolist() == one.label_names(40)


def test_a_class_cannot_name_a_place_outside_the_folder(seqgen: Seqgen, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", images=random.integers(0, 256, (80, 8, 8)), labels=["../up", "/down"] * 40)
    words = ("train.steps=2", "model.widths=[4, 4]", "model.conditional=true")
    ended = call("train", "image-vae", "--data", tmp_path / "x.npz", "--out", tmp_path / "run", *SMALL, *words)
    assert ended.code == 0, ended.err
    assert seqgen("generate", tmp_path / "run", "--count", 8, "--out", tmp_path / "each").code == 0
    assert {path.name for path in (tmp_path / "each").iterdir()} <= {"_up", "_down"}
    assert {path.name for path in tmp_path.iterdir()} == {"x.npz", "run", "each"}


@pytest.mark.parametrize("method", ["mixture", "metropolis"])
def test_methods_draw_other_latents(seqgen: Seqgen, vae: Path, gan: Path, method: str, tmp_path: Path) -> None:
    run = vae if method == "mixture" else gan
    assert seqgen("generate", run, "--count", 3, "--method", method, "--out", tmp_path / "a.npz").code == 0
    made = torch.from_numpy(reading.read(str(tmp_path / "a.npz")).pixels)[:, None]
    assert torch.equal(made, generator(run).generate(3, method=method))  # type: ignore[arg-type]
    assert not torch.equal(made, generator(run).generate(3))


# ---------------------------------------------------------------------------------- reconstruct, interpolate, encode


def test_images_stand_above_their_reconstructions(seqgen: Seqgen, vae: Path, tmp_path: Path) -> None:
    ended = seqgen("latent", "reconstruct", vae, "#", "--count", 20, "--out", tmp_path / "pairs.png")
    assert ended.code == 0
    assert "20 images and their reconstructions written to" in ended.err
    assert "mean squared error 0.0" in ended.err
    one = generator(vae)
    given = one.images.valid.pixels[:20]
    made, white = one.reconstruct(given), torch.full((12, 1, 8, 8), 255, dtype=torch.uint8)
    expected = torch.cat([given[:16], made[:16], given[16:], white, made[16:], white])
    with Image.open(tmp_path / "pairs.png") as sheet:
        assert np.array_equal(np.asarray(sheet), np.asarray(grid(expected, columns=16)))


def test_a_conditional_run_knows_the_classes_of_what_it_reads(
    seqgen: Seqgen, conditional: Path, tmp_path: Path
) -> None:
    assert seqgen("latent", "encode", conditional, "#", "--out", tmp_path / "own.npy").code == 0
    one = generator(conditional)
    side = one.images.valid
    names = [str(k) for k in side.labels.tolist()]
    assert np.array_equal(np.load(tmp_path / "own.npy"), one.encode(side.pixels, names).numpy())
    assert seqgen("generate", conditional, "--count", 4, "--out", tmp_path / "made.npz").code == 0
    assert seqgen("latent", "encode", conditional, tmp_path / "made.npz", "--out", tmp_path / "made.npy").code == 0
    again = one.encode(one.generate(4), one.label_names(4)).numpy()
    assert np.array_equal(np.load(tmp_path / "made.npy"), again)
    assert (
        seqgen(
            "latent", "encode", conditional, tmp_path / "made.npz", "--label", 3, "--out", tmp_path / "other.npy"
        ).code
        == 0
    )
    assert not np.array_equal(np.load(tmp_path / "other.npy"), again)


def test_a_strip_runs_from_one_image_to_the_other(seqgen: Seqgen, vae: Path, gan: Path, tmp_path: Path) -> None:
    assert seqgen("latent", "interpolate", vae, "#1", "#2", "--steps", 4, "--out", tmp_path / "a.npz").code == 0
    one = generator(vae)
    a, b = one.images.valid.pixels[1:3]
    strip = torch.from_numpy(reading.read(str(tmp_path / "a.npz")).pixels)[:, None]
    assert torch.equal(strip, one.interpolate(a, b, steps=4))
    ended = seqgen("latent", "interpolate", gan, "--label", 1, "--label", 8, "--steps", 5, "--seed", 3, "--spherical")
    assert ended.out == f"{gan / 'path.png'}\n"
    path = generator(gan).interpolate(0, 1, steps=5, seed=3, spherical=True, labels=["1", "8"])
    save_grid(path, tmp_path / "expected.png", columns=5)
    assert (gan / "path.png").read_bytes() == (tmp_path / "expected.png").read_bytes()


def test_a_traversal_has_a_row_for_each_dimension(seqgen: Seqgen, vae: Path, gan: Path, tmp_path: Path) -> None:
    ended = seqgen("latent", "interpolate", vae, "#3", "--traverse", "--steps", 5, "--out", tmp_path / "a.npz")
    one = generator(vae)
    images, dimensions = one.traverse(one.images.valid.pixels[3], steps=5)
    assert torch.equal(torch.from_numpy(reading.read(str(tmp_path / "a.npz")).pixels)[:, None], images)
    assert f"rows: latent dimensions {', '.join(map(str, dimensions))} of 16, from -3 to 3" in ended.err
    assert (
        seqgen("latent", "interpolate", gan, "--traverse", "--label", 1, "--seed", 3).out
        == f"{gan / 'traversal.png'}\n"
    )
    save_grid(generator(gan).traverse(seed=3, steps=7, labels=["1"])[0], tmp_path / "expected.png", columns=7)
    assert (gan / "traversal.png").read_bytes() == (tmp_path / "expected.png").read_bytes()


def test_latents_are_written_as_the_name_says(seqgen: Seqgen, vae: Path, tmp_path: Path) -> None:
    for ending in ("npy", "npz", "csv", "jsonl"):
        assert seqgen("latent", "encode", vae, "#", "--out", tmp_path / f"latents.{ending}").code == 0
    latents = np.load(tmp_path / "latents.npy")
    assert np.array_equal(np.load(tmp_path / "latents.npz")["latents"], latents)
    with (tmp_path / "latents.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == [f"z{k}" for k in range(latents.shape[1])]
    assert np.array_equal(np.array(rows, np.float32), latents)
    lines = (tmp_path / "latents.jsonl").read_text().splitlines()
    assert np.array_equal(np.array([json.loads(line)["latent"] for line in lines], np.float32), latents)


# -------------------------------------------------------------------------------------------------- evaluate and report


def test_runs_of_the_same_images_stand_in_one_table(
    seqgen: Seqgen, vae: Path, gan: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    twin = trained(
        tmp_path_factory.mktemp("twin") / "vae", "image-vae", "train.steps=60", "model.widths=[8, 8]", "seed=2"
    )
    ended = seqgen("compare", vae, gan, twin, "--count", 150, "--json")
    entries = {entry["name"]: entry["scores"] for entry in json.loads(ended.out)["entries"]}
    assert list(entries) == [f"{vae}, prior", f"{vae}, mixture", str(gan), "real images"]
    assert [len(scores) for scores in entries.values()] == [2, 2, 1, 1]
    for name, scores, run, method in (
        ("prior", entries[f"{vae}, prior"], vae, "prior"),
        ("gan", entries[str(gan)], gan, ""),
    ):
        words = ["--method", method] if method else []
        columns = json.loads(seqgen("evaluate", run, "--count", 150, "--json", *words).out)["columns"]
        for metric, score in scores[0].items():
            assert score["value"] == columns[0]["scores"][metric]["value"], (name, metric)
    table = seqgen("compare", vae, gan, "--count", 150).out.splitlines()
    assert (
        table[0] == "|  | ffd ↓ | precision ↑ | recall ↑ | density ↑ | coverage ↑ | class_kl ↓ | nearest_training ≈ |"
    )
    assert len(table) == 6
    assert all(" [" in cell for row in table[4:6] for cell in row.split("|")[2:-1]), "intervals beside each number"


def test_runs_of_different_images_are_not_compared(seqgen: Seqgen, vae: Path, run: Path, tmp_path: Path) -> None:
    shapes = tmp_path / "shapes"
    ended = seqgen(
        "train", "image-vae", "--data", "shapes", "--out", shapes, *SMALL, "train.steps=2", "model.widths=[8, 8]"
    )
    assert ended.code == 0, ended.err
    assert seqgen("compare", vae, shapes, "--count", 150).err.endswith(
        f"error: {shapes} was trained on other images than {vae}: compare runs of the same ones\n"
    )
    assert seqgen("compare", vae, run).err == "error: runs of images are compared with each other, not with text\n"


def test_evaluate_shows_the_table_and_leaves_it_in_the_report(seqgen: Seqgen, vae: Path, gan: Path) -> None:
    ended = seqgen("evaluate", vae, "--count", 150, "--json")
    assert ended.code == 0, ended.err
    table = json.loads(ended.out)
    assert table["protocol"] == "ffd-2"
    assert [column["name"] for column in table["columns"]] == ["prior", "mixture", "rebuilt", "real"]
    assert json.loads((vae / "evaluation.json").read_text()) == table
    report = (vae / "report.html").read_text()
    for what in ("samples", "between", "rebuilt", "plane"):
        assert f"<figcaption>{what}</figcaption>" in report
    assert 'aria-label="loss, training' in report
    assert "150 images, seed 0, latents from mixture" in report
    words = ("--method", "metropolis", "--method", "prior", "--count", 130)
    shown = seqgen("evaluate", gan, *words).out
    head = shown.splitlines()[0].split()
    assert head == ["protocol", "ffd-2", "metropolis", "prior", "real", "to", "real"]
    assert "label_accuracy" in shown
    assert re.search(r"ffd +[\d.]+ ±[\d.e+]+ +[\d.]+ ±[\d.e+]+ +[\d.]+ ±[\d.e+]+ +[+-][\d.]+", shown)
    assert (gan / "report.html").read_text().count("<figcaption>between</figcaption>") == 1
    assert seqgen("report", gan).out == f"{gan / 'report.html'}\n"


FEATURES = """
def corners(images):
    assert images.shape[1:] == (1, 8, 8), "images of another size"
    return images[:, 0, [0, 2, 3, 5], [2, 3, 4, 2]].float() / 255


def numbers(images):
    return images[:, 0, 0, 0]
"""


@pytest.fixture
def given(seqgen: Seqgen, vae: Path, tmp_path: Path) -> Path:
    """A folder with images of another program, larger and in colour, and an archive and arrays of the same."""
    held_out = generator(vae).images.valid.pixels[:140]
    large = held_out.repeat_interleave(2, 2).repeat_interleave(2, 3).expand(-1, 3, -1, -1).contiguous()
    save_each(large, tmp_path / "given")
    save_arrays(large, tmp_path / "given.npz")
    (tmp_path / "own.py").write_text(FEATURES)
    return tmp_path / "given"


def test_images_of_other_programs_are_scored_beside_real_ones(seqgen: Seqgen, vae: Path, given: Path) -> None:
    """They are held-out digits drawn larger, so that they score as the column of held-out digits does."""
    tables = [
        json.loads(seqgen("evaluate", file, "--references", "digits", "--json").out)["columns"]
        for file in (given, given.with_suffix(".npz"))
    ]
    assert tables[0] == tables[1]
    found, real = tables[0]
    assert (found["name"], found["about"], real["name"]) == ("given", "140 of 140 given images", "real")
    for name, score in found["scores"].items():
        assert score["fields"] == real["scores"][name]["fields"], name
        assert score["interval"][0] <= score["value"] <= score["interval"][1]
    assert found["scores"]["precision"]["value"] > 0.9
    assert found["scores"]["nearest_training"]["value"] == pytest.approx(
        real["scores"]["nearest_training"]["value"], abs=0.02
    )
    ended = seqgen("compare", vae, given, "--count", 500)
    entries = [line.split("|")[1].strip().replace("\\", "") for line in ended.out.splitlines()[2:6]]
    assert entries == [f"{vae}, prior", f"{vae}, mixture", str(given), "real images"]
    assert "140 images of each: no more are held out, or lie in a file\n" in ended.err
    assert seqgen("compare", given).err == (
        "error: nothing to compare with: give at least one run, whose images are the real ones\n"
    )
    assert seqgen("evaluate", given).err == (
        f"error: --references is missing: the real images, a set or a path; {given} has images\n"
    )
    assert seqgen("evaluate", given, "--references", "digts").err == (
        "error: digts: no such file, and no set is called so; did you mean digits?\n"
    )


def test_features_of_ones_own_are_named_on_the_command_line(
    seqgen: Seqgen, gan: Path, given: Path, tmp_path: Path
) -> None:
    """By closed form: the Frechet distance of means and covariances that numpy and scipy give."""
    own, digits = tmp_path / "own.py", ("--references", "digits", "--json")
    side = generator(gan).images
    save_arrays(side.valid.pixels[:140], tmp_path / "same.npz")
    found = json.loads(seqgen("evaluate", tmp_path / "same.npz", *digits, "--features", f"{own}:corners").out)
    ffd = found["columns"][0]["scores"]["ffd"]
    assert re.fullmatch(r"own\.py:corners/[0-9a-f]{8}", ffd["fields"]["features"])
    # the split of a set of references is that of seed 0: whichever images are learnt there
    real = image_references("digits")
    a, b = (
        x[:, 0, [0, 2, 3, 5], [2, 3, 4, 2]].double().numpy() / 255 for x in (real.train.pixels, side.valid.pixels[:140])
    )

    def distance(x: np.ndarray, y: np.ndarray) -> float:
        root = linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
        return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root))

    assert ffd["value"] == pytest.approx(distance(a, b), rel=1e-6)
    assert seqgen("evaluate", gan, "--count", 20, "--features", f"{own}:corners").code == 0
    assert seqgen("compare", gan, given, "--count", 20, "--features", f"{own}:corners").code == 0
    np.save(tmp_path / "made.npy", b)
    np.save(tmp_path / "real.npy", a)
    words = ("--references", tmp_path / "real.npy", "--features", tmp_path / "made.npy", "--json")
    found, held_out = json.loads(seqgen("evaluate", given, *words).out)["columns"]
    assert set(found["scores"]) == {"ffd", "kernel_distance", "precision", "recall", "density", "coverage"}
    assert found["scores"]["ffd"]["fields"] == {"features": "given-4", "made": "140", "real": str(len(a) - 140)}
    assert found["scores"]["ffd"]["value"] == pytest.approx(distance(a, b), rel=0.2)  # of all but 140 real rows
    assert held_out["about"] == f"140 of {len(a)} rows of real images, compared with the other {len(a) - 140}"


WRONG_FEATURES = [
    ("given", "DIR/own.py:nothing", "--features: DIR/own.py has no function 'nothing'; it has: corners, numbers"),
    ("given", "DIR/absent.py:f", "--features: DIR/absent.py: no such file"),
    ("given", "inception", "--features must be FILE.py:FUNCTION, got inception"),
    ("given", "DIR/made.npy", "with --features FILE.npy --references is a .npy of features too, got digits"),
    ("gan", "DIR/made.npy", "--features FILE.npy goes with a file or folder of images; a run makes its own anew"),
    ("text", "DIR/own.py:corners", "--features is for images; features of text: --judge RUN"),
]


@pytest.mark.parametrize(("subject", "features", "message"), WRONG_FEATURES, ids=lambda value: str(value)[:20])
def test_wrong_features_are_one_clear_line(
    seqgen: Seqgen, gan: Path, text: Path, given: Path, tmp_path: Path, subject: str, features: str, message: str
) -> None:
    np.save(tmp_path / "made.npy", np.zeros((3, 2)))
    words = ["--features", features.replace("DIR", str(tmp_path))]
    if subject != "gan":
        words += ["--references", "digits"]
    ended = seqgen("evaluate", {"gan": gan, "given": given, "text": text}[subject], *words)
    assert (ended.code, ended.out, ended.err) == (2, "", f"error: {message.replace('DIR', str(tmp_path))}\n")


def test_features_that_are_no_row_for_each_image_are_refused(seqgen: Seqgen, given: Path, tmp_path: Path) -> None:
    words = ("--references", "digits", "--features", f"{tmp_path / 'own.py'}:numbers")
    ended = seqgen("evaluate", given, *words)
    assert re.fullmatch(
        r"error: features own\.py:numbers/\w{8} must be a row of numbers for each of 500 images, got shape \(500,\)\n",
        ended.err,
    )
    np.save(tmp_path / "made.npy", np.zeros((3, 2)))
    words = ("--references", tmp_path / "made.npy", "--features", tmp_path / "made.npy")
    assert seqgen("evaluate", given, *words).err == (
        f"error: --features {tmp_path / 'made.npy'} has 3 rows, but {given} has 140 images\n"
    )


# ------------------------------------------------------------------------------------------------------------- restore


def test_only_damaged_pixels_are_repaired(seqgen: Seqgen, vae: Path, tmp_path: Path) -> None:
    words = ("--count", 2, "--steps", 10)
    assert seqgen("latent", "restore", vae, "#3", "--mask", "2,1,3,4", *words, "--out", tmp_path / "all").code == 0
    names = {path.name for path in (tmp_path / "all").iterdir()}
    assert names == {"given.png", "restored.png", "unsure.png", "000000.png", "000001.png"}
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[1:5, 2:5] = True
    image = generator(vae).images.valid.pixels[3]
    restored = pixels(tmp_path / "all" / "restored.png")
    assert torch.equal(pixels(tmp_path / "all" / "given.png"), image)
    assert torch.equal(restored[:, ~mask], image[:, ~mask])
    assert not torch.equal(restored, image)
    # the same mask as an image
    save_grid(255 * mask[None, None].to(torch.uint8), tmp_path / "mask.png", zoom=1)
    ended = seqgen(
        "latent", "restore", vae, "#3", "--mask", tmp_path / "mask.png", *words, "--out", tmp_path / "one.png"
    )
    assert ended.code == 0
    assert "2 chains accepted" in ended.err
    assert torch.equal(pixels(tmp_path / "one.png"), restored)


def test_noise_and_scale_give_images_of_the_runs_size(seqgen: Seqgen, conditional: Path, tmp_path: Path) -> None:
    words = ("--count", 2, "--steps", 4)
    save_grid(generator(conditional).images.valid.pixels[:1, :, ::2, ::2], tmp_path / "small.png", zoom=1)
    assert (
        seqgen("latent", "restore", conditional, tmp_path / "small.png", "--scale", 2, "--label", 5, *words).code == 0
    )
    assert pixels(conditional / "restored.png").shape == (1, 8, 8)
    assert seqgen("latent", "restore", conditional, "#0", "--noise", 0.2, *words, "--out", tmp_path / "a.npz").code == 0
    assert reading.read(str(tmp_path / "a.npz")).pixels.shape == (2, 8, 8)


# -------------------------------------------------------------------------------------------------------------- export


def test_a_run_of_images_is_exported_as_a_run_and_not_as_a_graph(seqgen: Seqgen, vae: Path, tmp_path: Path) -> None:
    assert seqgen("export", vae, "--format", "safetensors", "--out", tmp_path / "out").code == 0
    assert torch.equal(generator(tmp_path / "out").generate(3, seed=2), generator(vae).generate(3, seed=2))
    ended = seqgen("export", vae, "--out", tmp_path / "graph")
    assert (ended.code, ended.err) == (
        2,
        f"error: {vae} makes images, which have no form as an ONNX graph here; use --format safetensors\n",
    )
    assert not (tmp_path / "graph").exists()


# --------------------------------------------------------------------------------------------------------- wrong calls

TEXT_ONLY = [
    ("generate", "--prompt", "a"),
    ("generate", "--top-k", "3"),
    ("generate", "--stream"),
    ("latent reconstruct", "#", "--toward", "x"),
    ("latent interpolate", "--source", "x"),
    ("latent encode", "#", "--nearest", "3"),
    ("evaluate", "--references", "x"),
    ("compare", "--references", "x"),
]


@pytest.mark.parametrize("words", TEXT_ONLY, ids=lambda words: f"{words[0]}{words[-2]}")
def test_options_of_text_are_refused(seqgen: Seqgen, vae: Path, words: tuple[str, ...]) -> None:
    command, *rest = words
    option = next(word for word in rest if word.startswith("--"))
    ended = seqgen(*command.split(), vae, *rest)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"error: {option} is for text, and this run makes images; see: seqgen {command} --help\n"


def test_options_of_images_are_refused_for_text(seqgen: Seqgen, run: Path, text: Path) -> None:
    assert seqgen("generate", run, "--label", "x").err == (
        "error: --label is for images; conditions of texts are lines of --source FILE\n"
    )
    assert seqgen("evaluate", run, "--references", text, "--method", "prior").err == (
        "error: --method is for images; a text is scored as it is\n"
    )
    assert (
        seqgen("latent", "interpolate", run, "--traverse").err
        == "error: --traverse is for images; this run writes text\n"
    )
    assert seqgen("evaluate", run).err == "error: --references is missing; see: seqgen evaluate --help\n"
    assert seqgen("latent", "restore", run, "#1", "--noise", 0.1).err == (
        f"error: {run} writes text and makes no images; in Python: seqgen.load\n"
    )


WRONG = [
    ("vae", ("generate", "--count", "0"), "--count must be an integer >= 1, got 0"),
    (
        "vae",
        ("generate", "--method", "magic"),
        "--method must be prior, mixture, metropolis or langevin, got 'magic'",
    ),
    (
        "vae",
        ("generate", "--method", "langevin"),
        "method = langevin needs a critic of images, which a VAE has not; train image-gan",
    ),
    (
        "vae",
        ("generate", "--method", "mixture", "--temperature", "2"),
        "--temperature takes no effect with --method mixture",
    ),
    (
        "vae",
        ("generate", "--label", "3"),
        "this run is not conditional: it was trained without classes, so none can be chosen",
    ),
    (
        "gan",
        ("generate", "--label", "11"),
        "class '11' was never seen in training; known: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
    ),
    (
        "vae",
        ("generate", "--out", "x.jpg"),
        "--out must end in .png (one sheet) or .npz (arrays), or be a folder (single files), got x.jpg",
    ),
    ("gan", ("latent reconstruct", "#"), "reconstruct needs an encoder, which a GAN has not; train image-vae"),
    ("gan", ("latent interpolate", "#1", "#2"), "encode needs an encoder, which a GAN has not; train image-vae"),
    ("gan", ("latent interpolate",), "this run is conditional: name the class of the images (--label)"),
    ("gan", ("latent interpolate", "--traverse"), "this run is conditional: name the class of the images (--label)"),
    (
        "vae",
        ("latent interpolate", "#1", "#2", "--traverse"),
        "--traverse varies the latent of A alone, so B takes no effect",
    ),
    (
        "vae",
        ("latent interpolate", "--traverse", "--spherical"),
        "--traverse varies the latent of A alone, so --spherical takes no effect",
    ),
    ("vae", ("latent interpolate", "--steps", "1"), "--steps must be an integer >= 2, got 1"),
    ("vae", ("latent interpolate", "digits", "#1"), "digits: 1797 images; expected one"),
    ("vae", ("latent encode", "#"), "give --out FILE.npy, for the latents"),
    ("vae", ("latent encode", "#", "--out", "x.txt"), "--out must end in .npy, .npz, .csv or .jsonl, got x.txt"),
    ("vae", ("generate", "--by-class"), "--by-class: this run is not conditional: it was trained without classes"),
    (
        "vae",
        ("generate", "--scale", "2", "--out", "x.npz"),
        "--columns, --scale and --by-class arrange a grid (.png), and --out is x.npz",
    ),
    (
        "gan",
        ("generate", "--by-class", "--columns", "2"),
        "--by-class gives each class a row, so --columns takes no effect with it",
    ),
    (
        "vae",
        ("latent encode", "#", "--label", "1", "--out", "x.npy"),
        "this run is not conditional, so --label takes no effect",
    ),
    ("vae", ("latent reconstruct", "#999"), "#999: held-out images are #0 to #167"),
    ("vae", ("latent reconstruct", "no.png"), "no.png: no such file or folder"),
    ("vae", ("latent restore", "#1"), "nothing to restore: give a mask, the image's noise, blur or haze, or a scale"),
    (
        "vae",
        ("latent restore", "#1", "--scale", "3"),
        "--scale must divide the 8 pixels that this run's images have, got 3",
    ),
    ("vae", ("latent restore", "#1", "--noise", "-1"), "--noise must be above 0, got -1"),
    (
        "vae",
        ("latent restore", "#1", "--mask", "2,2,8,1"),
        "--mask 2,2,8,1 is not inside an image of 8 x 8 pixels",
    ),
    ("vae", ("evaluate", "--method", "magic"), "--method must be prior, mixture, metropolis or langevin, got 'magic'"),
]


def bad_inputs(folder: Path) -> dict[str, tuple[list[str | Path], str]]:
    """What cannot be trained on: the words behind `--data`, and the line."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (60, 8, 8), dtype=np.uint8)

    def written(name: str, *sizes: tuple[int, ...]) -> Path:
        (folder / name).mkdir()
        for k, size in enumerate(sizes):
            Image.fromarray(np.zeros(size, np.uint8)).save(folder / name / f"{k}.png")
        return folder / name

    def arrays(name: str, **held: object) -> Path:
        np.savez(folder / name, **held)  # type: ignore[arg-type]
        return folder / name

    def idx(name: str, content: bytes) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    empty = written("empty")
    sizes, modes = written("sizes", (8, 8), (8, 6)), written("modes", (8, 8), (8, 8, 3))
    cut = idx("cut-images-idx3-ubyte", b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (9, 8, 8)) + b"\0" * 7)
    magic = idx("magic-images-idx3-ubyte", b"\x89PNG\r\n")
    unlike = arrays("unlike.npz", images=images, labels=np.arange(59))
    far = arrays("far.npz", images=images.astype(float) * 3)
    new = arrays("new.npz", x_train=images, y_train=np.arange(60) % 2, x_test=images[:4], y_test=[0, 1, 2, 1])
    few = arrays("few.npz", images=images)
    first, second = sizes / "0.png", sizes / "1.png"
    return {
        "an empty folder": (
            [empty],
            f"{empty}: no images in this folder (.bmp, .gif, .jpeg, .jpg, .pgm, .png, .ppm, .tif, .tiff, .webp) and "
            "no IDX files",
        ),
        "mixed sizes": (
            [sizes],
            f"{second}: 6 x 8 pixels, but {first} has 8 x 8; set data.size=N to scale them all",
        ),
        "mixed modes": (
            [modes],
            f"{modes / '1.png'}: colour, but {modes / '0.png'} is grey; set data.colour=rgb or data.colour=grey",
        ),
        "a truncated IDX file": (
            [cut],
            f"{cut}: 7 bytes after the header, which announces 9 x 8 x 8 = 576; the file is truncated or altered",
        ),
        "a wrong magic": (
            [magic],
            f"{magic}: no IDX file of images (begins with 0x89504e47, expected 0x00000803); other files of images end "
            "in .bmp, .gif, .jpeg, .jpg, .npy, .npz, .parquet, .pgm, .png, .ppm, .tif, .tiff, .webp, .zip",
        ),
        "labels that do not match": (
            [unlike],
            f"{unlike}, images: 60 images but 59 labels; give the label file of the same images, or data.labels=none",
        ),
        "values out of range": (
            [far],
            f"{far}, images: values from 0 to {images.max() * 3.0:g}; expected 0..255, or floats in 0..1",
        ),
        "a class never seen": (
            [new],
            f"{new}, x_test: class 2 is none of the training images' (0, 1); remove its images, or set "
            "data.labels=none",
        ),
        "a batch larger than the data": (
            [few, "train.batch=500"],
            "train.batch = 500 is more than the {n} training images; use {n} or fewer",
        ),
    }


@pytest.mark.parametrize("what", [
    "an empty folder", "mixed sizes", "mixed modes", "a truncated IDX file", "a wrong magic",
    "labels that do not match", "values out of range", "a class never seen", "a batch larger than the data",
])  # fmt: skip
def test_images_that_cannot_be_trained_on_are_one_clear_line(seqgen: Seqgen, what: str, tmp_path: Path) -> None:
    words, message = bad_inputs(tmp_path)[what]
    ended = seqgen("train", "image-vae", "--data", words[0], "--out", tmp_path / "run", *words[1:])
    count = ended.err.split(" training images")[0].split(" ")[-1]
    assert (ended.code, ended.err) == (2, f"error: {message.replace('{n}', count)}\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("kind", "words", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_calls_are_one_clear_line(
    seqgen: Seqgen, request: pytest.FixtureRequest, kind: str, words: tuple[str, ...], message: str
) -> None:
    command, *rest = words
    ended = seqgen(*command.split(), request.getfixturevalue(kind), *rest)
    assert (ended.code, ended.out, ended.err) == (2, "", f"error: {message}\n")


@pytest.mark.parametrize("name", ["a.npz", "a.NPY", "a.zip", "a.parquet", "a.JPEG", "train-images-idx3-ubyte.gz"])
def test_every_kind_of_file_that_is_read_is_known_to_hold_images(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    assert images.holds_images(tmp_path / name)
    assert images.holds_images(tmp_path)
    (tmp_path / name).replace(tmp_path / "a.txt")
    assert not images.holds_images(tmp_path / "a.txt")
    assert not images.holds_images(tmp_path)
