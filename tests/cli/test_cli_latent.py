"""`seqgen latent reconstruct`, `interpolate`, `encode` and what `generate` and `evaluate` add for a text VAE."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import SMALL, call

from seqgen.engine.latent import LatentSpace
from seqgen.engine.loading import load


@pytest.fixture(scope="module")
def vae(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text VAE, hardly trained; nobody writes into it."""
    out = tmp_path_factory.mktemp("cli-runs") / "vae"
    ended = call("train", "text-vae", "--data", text, "--out", out, *SMALL, "model.latent=16", "train.lr=0.02")
    assert ended.code == 0, ended.err
    assert "step 3: the latent code is " in ended.err
    return out


@pytest.fixture
def place(text: Path, vae: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two runs and some files."""
    shutil.copytree(vae, tmp_path / "vae")
    shutil.copytree(run, tmp_path / "run")
    lines = text.read_text().splitlines()
    (tmp_path / "good.txt").write_text("".join(f"{line}\n" for line in lines))
    (tmp_path / "few.txt").write_text("".join(f"{line}\n" for line in [*lines[:4], "", lines[70]]))
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "foreign.txt").write_text(f"{lines[0]}\nxyzzy plugh\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_reconstruct_writes_a_line_for_each_text(seqgen: Any, place: Path) -> None:
    space = LatentSpace(load("vae"))
    lines = [line for line in (place / "few.txt").read_text().splitlines() if line]
    ended = seqgen("latent", "reconstruct", "vae", "few.txt")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == space.reconstruct(lines)
    rows = [
        json.loads(line)
        for line in seqgen("latent", "reconstruct", "vae", "few.txt", "--json", "--count", "2").out.splitlines()
    ]
    assert rows == [
        {"text": a, "reconstruction": b} for a, b in zip(lines[:2], space.reconstruct(lines[:2]), strict=True)
    ]
    moved = seqgen(
        "latent", "reconstruct", "vae", "few.txt", "--toward", "few.txt", "--away", "good.txt", "--strength", "2"
    )
    every = (place / "good.txt").read_text().splitlines()
    assert moved.out.splitlines() == space.reconstruct(lines, step=2 * space.direction((lines, None), (every, None)))


def test_interpolate_writes_a_path_into_a_file_or_out(seqgen: Any, place: Path) -> None:
    a, b = "the cat sees the dog now .", "the man likes the bird here ."
    for words in ([], ["--spherical"]):
        shown = seqgen("latent", "interpolate", "vae", a, b, "--steps", "5", *words)
        assert shown.out.splitlines() == LatentSpace(load("vae")).interpolate(a, b, steps=5, spherical=bool(words))
    ended = seqgen("latent", "interpolate", "vae", "--out", "path.txt", "--seed", "3")
    assert (ended.code, ended.out, ended.err) == (0, "", "7 texts written to path.txt\n")
    assert (place / "path.txt").read_text().splitlines() == LatentSpace(load("vae")).interpolate("", "", seed=3)


def test_encode_saves_mean_latents_that_load_without_pickle(seqgen: Any, place: Path) -> None:
    ended = seqgen("latent", "encode", "vae", "few.txt", "--out", "latents.npy")
    assert (ended.code, ended.err) == (0, "5 latents of 16 numbers written to latents.npy\n")
    lines = [line for line in (place / "few.txt").read_text().splitlines() if line]
    latents = np.load(place / "latents.npy", allow_pickle=False)
    assert latents.dtype == np.float32
    assert np.array_equal(latents, LatentSpace(load("vae")).encode(lines)[0].numpy())


def test_encode_names_neighbours_by_the_lines_of_the_file(seqgen: Any, place: Path) -> None:
    rows = [
        line.split("\t") for line in seqgen("latent", "encode", "vae", "few.txt", "--nearest", "3").out.splitlines()
    ]
    assert [int(row[0]) for row in rows] == [n for n in (1, 2, 3, 4, 6) for _ in range(3)]
    told = [
        json.loads(line)
        for line in seqgen("latent", "encode", "vae", "few.txt", "--nearest", "3", "--json").out.splitlines()
    ]
    assert [near["text"] for one in told for near in one["nearest"]] == [row[2] for row in rows]


def test_latents_of_a_mixture_and_steered_ones_are_those_of_the_library(seqgen: Any, place: Path) -> None:
    space = LatentSpace(load("vae"))
    made = seqgen("generate", "vae", "--count", "3", "--seed", "2", "--method", "mixture")
    assert made.out.splitlines() == space.generator.generate(3, seed=2, latents=space.of_mixture(space.mixture()))
    steered = seqgen("generate", "vae", "--count", "4", "--steer", "contains=dog", "--strength", "3")
    draw = space.steered([space.condition("contains=dog")], strength=3)
    assert steered.out.splitlines() == space.generator.generate(4, latents=draw)
    assert steered.err.startswith("contains=dog: latents explain ")
    assert "of the chains' steps were accepted" in steered.err
    streamed = seqgen("generate", "vae", "--stream", "--method", "mixture", "--seed", "2").out
    assert streamed == made.out.splitlines()[0] + "\n"


def test_texts_of_the_prior_are_the_same_alone_and_among_others(seqgen: Any, place: Path) -> None:
    many = seqgen("generate", "vae", "--count", "9", "--seed", "1").out.splitlines()
    assert seqgen("generate", "vae", "--seed", "1").out.splitlines() == many[:1]
    assert seqgen("generate", "vae", "--stream", "--seed", "1").out.splitlines() == many[:1]
    assert len(set(many)) > 1


def test_evaluate_shows_what_the_latent_does(seqgen: Any, place: Path) -> None:
    Path("unseen.txt").write_text("the cat sees the dog .\nthe man likes a bird here .\n" * 5)
    ended = seqgen("evaluate", "vae", "--references", "unseen.txt", "--latents", "3", "--json")
    column = json.loads(ended.out)["columns"][0]
    assert {"nll_per_line", "kl", "mutual_information", "active_units", "token_accuracy"} <= set(column["likelihood"])
    assert "by 3 latents each" in column["about"]


NO_LATENTS = "a run of lm has no latents; train one: seqgen train text-vae --data FILE"
BAD = [
    ("latent interpolate run a b", NO_LATENTS),
    ("latent reconstruct run good.txt", NO_LATENTS),
    ("latent encode run good.txt --out latents.npy", NO_LATENTS),
    ("generate run --method mixture", NO_LATENTS),
    ("generate run --steer length=3", NO_LATENTS),
    ("latent interpolate vae plugh cat", "'plugh' holds no token that this run knows; use words of its training text"),
    (
        ["latent", "interpolate", "vae", "the cat", "the " * 20],
        f"'{'the ' * 15}' has 21 tokens with its end; this run encodes 8 at most",
    ),
    (
        "latent reconstruct vae foreign.txt",
        "text 2 ('xyzzy plugh') holds no token that this run knows; use words of its training text",
    ),
    ("latent reconstruct vae blank.txt", "blank.txt: only blank lines; expected texts"),
    ("latent reconstruct vae missing.txt", "missing.txt: no such file"),
    ("latent interpolate vae cat dog --steps 1", "--steps must be an integer >= 2, got 1"),
    ("latent interpolate vae cat dog --source up", "this run was trained without data.source and cannot take sources"),
    ("evaluate vae --references good.txt --latents 0", "--latents must be an integer >= 1, got 0"),
    ("latent encode vae good.txt", "give either --out FILE.npy, for the latents, or --nearest N, for their neighbours"),
    ("latent encode vae good.txt --nearest -1", "--nearest must be an integer >= 0, got -1"),
    (
        "latent reconstruct vae good.txt --toward few.txt",
        "--toward and --away belong together: give a file of lines for each",
    ),
    ("latent reconstruct vae good.txt --strength 2", "--strength takes no effect without --toward and --away"),
    ("generate vae --strength 2", "--strength takes no effect without --steer"),
    ("generate vae --method magic", "--method must be prior or mixture for text, got 'magic'"),
    (
        "generate vae --steer dogs",
        "'dogs' is no condition; expected length=12, contains=WORD or label=YES_FILE:NO_FILE",
    ),
    ("generate vae --steer label=few.txt:missing.txt", "missing.txt: no such file"),
    ("generate vae --num-beams 3 --method mixture", "--num-beams searches and draws nothing; it excludes --method"),
    ("train text-vae --data good.txt --out new model.latent=0", "model.latent must be an integer >= 1, got 0"),
    (
        "train text-vae --data good.txt --out new model.anneal=linear model.kl_target=4",
        "model.kl_target sets the factor itself: set it to 0, or anneal to none and free_bits to 0",
    ),
    (
        "train text-vae --data good.txt --out new data.mode=stream data.window=4",
        "a text-vae latents lines, but data.mode is stream; use data.mode=sentence",
    ),
    (
        "train text-vae --data good.txt --out new model.kl_target=0 model.bn_gamma=0.5 train.batch=1",
        "model.bn_gamma needs two texts at least in each part of a batch; raise train.batch",
    ),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[str(words)[:60] for words, _ in BAD])
def test_bad_input_is_one_clear_line(seqgen: Any, place: Path, words: str | list[str], message: str) -> None:
    ended = seqgen(*(words.split() if isinstance(words, str) else words))
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.splitlines()[-1] == f"error: {message}"
    assert not (place / "new").exists()


def test_too_few_examples_of_a_word(seqgen: Any, place: Path) -> None:
    ended = seqgen("generate", "vae", "--steer", "contains=zebra")
    assert ended.code == 2
    assert ended.err.startswith("error: contains=zebra holds for 0 of ")
    assert ended.err.endswith(" known texts; to learn it takes 10 of either kind at least\n")


def test_a_writer_may_start_from_a_language_model(seqgen: Any, place: Path) -> None:
    ended = seqgen(
        "train", "text-vae", "--data", "good.txt", "--from", "run", "--out", "new", *SMALL[2:], "model.latent=3"
    )
    assert ended.code == 0, ended.err
    assert seqgen("generate", "new", "--count", "2").code == 0
    assert json.loads((place / "new" / "env.json").read_text())["from"]["step"] in (3, 6)
