"""Every way to use a trained run on a CUDA device, in the words of the command line; see test_training_on_cuda.py."""

import contextlib
import io
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training_on_cuda import BASE, CNN, GAN, GPT, IMAGES, TEXT, VAE, hashes

import seqgen
from seqgen.cli import app
from seqgen.data.ragged import Ragged
from seqgen.data.tokenizers import common

pytestmark = pytest.mark.gpu
QUICK = {**BASE, "train.steps": 2, "train.save_every": 0, "train.samples": 0}
LINES = [f"a {size} {animal} sees the {other}" for size in ("big", "small") for animal in "cd" for other in "xyz"] * 3


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files, and a run of each model that was trained for two steps on the device."""
    root = tmp_path_factory.mktemp("paths")
    (root / "lines.txt").write_text("\n".join(LINES))
    (root / "few.txt").write_text("the c sees a big x\nthe d sees a small z\na c sees the d\nthe x sees the y\n")
    (root / "gaps.txt").write_text("the c [MASK] a big x\n[MASK] d sees a [MASK] z\n")
    (root / "held-out.txt").write_text("\n".join(f"the {x} sees a {y}" for x in "cdxyz" for y in "cdxyz" * 20))
    (root / "pairs.tsv").write_text("label\ttext\n" + "\n".join(f"{line[2]}\t{line}" for line in LINES))
    lines, settings = root / "lines.txt", {**QUICK, **TEXT}
    wanted: dict[str, tuple[str, Any, dict[str, Any]]] = {
        "lm": ("lm", lines, settings),
        "gru": ("lm", lines, {**settings, "model.cell": "gru", "model.layers": 2, "tokenizer.kind": "bpe"}),
        "stream": ("lm", lines, {**settings, "data.mode": "stream", "tokenizer.kind": "char", "data.window": 8}),
        "pairs": ("lm", root / "pairs.tsv", {**settings, "data.source": "label", "data.target": "text"}),
        "answers": ("seq2seq", root / "pairs.tsv", {**settings, "data.source": "label", "data.target": "text"}),
        "seqgan": ("seqgan", lines, {**CNN, **QUICK, "model.reward.advantage": "reinforce_loo"}),
        "n-grams": ("kneser-ney", lines, QUICK),
        "masked": ("masked", lines, {**GPT, "model.draws": 2, **QUICK}),
        "vae": ("text-vae", lines, {**settings, **VAE}),
        "gan": ("image-gan", "digits", {**GAN, **QUICK, "train.batch": 16}),
        "image-vae": ("image-vae", "digits", {**IMAGES, **QUICK, "train.batch": 16}),
    }
    for name, (model, data, chosen) in wanted.items():
        seqgen.train(seqgen.config(model, data, overrides=chosen), root / name)
    held_out = seqgen.read_lines(root / "held-out.txt")
    assert seqgen.refine(root / "lm", held_out, root / "refined", samples=1000).written
    return root


COMMANDS = [
    "generate lm --count 3",
    "generate lm --count 1 --fast --top-p 0.9",
    "generate lm --count 3 --temperature 0.7 --top-k 5 --top-p 0.9 --min-p 0.01 --typical-p 0.9 --json",
    "generate lm --count 3 --greedy --min-new-tokens 2 --max-new-tokens 5",
    "generate lm --count 3 --repetition-penalty 1.3 --no-repeat-ngram-size 2",
    "generate lm --count 3 --prompt big --stop sees",
    "generate lm --count 3 --bad-word big --max-new-tokens 6",
    "generate lm --count 3 --require big --max-new-tokens 8",
    "generate lm --count 2 --require big --prompt small --max-new-tokens 8",
    "generate lm --count 3 --pattern [a-z]+( +[a-z]+)* --max-new-tokens 8",
    "generate stream --count 3 --template a?b? --max-new-tokens 8",
    "generate lm --count 3 --no-copy 2",
    "generate lm --count 3 --best-of 4",
    "generate lm --count 2 --unique --novel --match [a-z]",
    "generate lm --count 3 --num-beams 4",
    "generate gru --count 2 --num-beams 4 --require big --max-new-tokens 20",
    "generate gru --count 3",
    "generate stream --stream --max-new-tokens 9",
    "generate pairs --source few.txt",
    "generate answers --source few.txt --count 2 --top-k 5 --repetition-penalty 1.2",
    "generate answers --source few.txt --num-beams 3",
    "score answers pairs.tsv",
    "evaluate answers --aligned --references pairs.tsv",
    "generate seqgan --count 3",
    "generate n-grams --count 3",
    "generate masked --count 3 --prompt big",
    "fill masked --texts gaps.txt --count 2",
    "fill lm --texts gaps.txt --best-of 2",
    "score masked few.txt",
    "mix lm kneser-ney --held-out held-out.txt --out mixed",
    "generate mixed --count 3 --require big --max-new-tokens 8",
    "score mixed few.txt",
    "generate refined --count 3",
    "generate refined --count 2 --prompt big --resample 4",
    "score refined few.txt",
    "generate vae --count 3",
    "generate vae --count 3 --method mixture",
    "generate vae --count 3 --steer length=5",
    "generate gan --count 4 --out gan.png",
    "generate gan --count 4 --method langevin --out langevin.png",
    "generate image-vae --count 4 --method mixture --out mixture.npz",
    "score lm few.txt --per-token",
    "score gru few.txt",
    "score stream few.txt --json",
    "score vae few.txt",
    "score seqgan few.txt --by critic --per-token",
    "latent reconstruct vae few.txt",
    "latent reconstruct vae few.txt --toward few.txt --away lines.txt",
    "latent interpolate vae big small --steps 3",
    "latent interpolate vae --steps 3 --spherical",
    "latent encode vae few.txt --out latents.npy",
    "latent encode vae few.txt --nearest 2",
    "latent reconstruct image-vae # --count 4 --out again.png",
    "latent interpolate image-vae --steps 3 --out way.png",
    "latent interpolate gan --steps 3 --out way2.png",
    "latent encode image-vae # --out images.npy",
    "evaluate lm --references few.txt --train lines.txt --count 4 --judge gru --no-reverse",
    "evaluate vae --references few.txt --count 4",
    "curve lm --references few.txt --count 4 --temperatures 0.7,1",
    "compare image-vae gan --count 20",
    "compare lm gru --references few.txt --count 4",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs_on_the_device(command, folder, monkeypatch):
    monkeypatch.chdir(folder)
    words = command.split(" ")
    if "--pattern" in words:  # the one argument with a space in it
        at = words.index("--pattern") + 1
        words[at : at + 2] = [" ".join(words[at : at + 2])]
    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        code = app.main(words)
    assert code == 0, err.getvalue()


def test_the_run_is_loaded_onto_the_device(folder):
    assert seqgen.load(folder / "lm").device.type == "cuda"


def test_a_corpus_on_disk_feeds_the_device(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert app.main(["corpus", "build", "lines.txt", "--out", str(tmp_path / "corpus")]) == 0
    settings = seqgen.config("lm", tmp_path / "corpus", overrides={**QUICK, **TEXT})
    assert seqgen.train(settings, tmp_path / "run").step == 2


def test_text_becomes_ids_and_text_again_on_the_device(folder):
    for name in ("lm", "gru"):
        tokenizer = seqgen.load(folder / name).tokenizer
        ids = tokenizer.encode_bytes(Ragged.from_text(LINES).to("cuda"))
        assert ids.device.type == "cuda"
        assert ids.tolist() == tokenizer.encode(LINES).tolist()
        assert tokenizer.decode_bytes(ids).device.type == "cuda"
        assert tokenizer.decode_bytes(ids).tolist() == Ragged.from_text(tokenizer.decode(ids.tolist())).tolist()


def test_scores_and_texts_are_those_of_the_host(folder):
    there, here = seqgen.load(folder / "lm"), seqgen.load(folder / "lm", device="cpu")
    lines = LINES[:6]
    torch.testing.assert_close(
        torch.tensor(there.score(lines).per_line), torch.tensor(here.score(lines).per_line), rtol=1e-4, atol=1e-4
    )
    # a draw near the border of two tokens may fall on either side: nearly all texts are the same
    same = [a == b for a, b in zip(there.generate(50, seed=3), here.generate(50, seed=3), strict=True)]
    assert sum(same) >= 45


@pytest.fixture
def simulated() -> Any:
    """The device that counts."""
    if "simulated" not in sys.modules:
        pytest.skip("counted on the simulated device; scripts/gpu looks at the waits of a real one")
    return sys.modules["simulated"]


TOKENS = 64
DRAWN: dict[str, dict[str, Any]] = {
    "plain": {},
    "top-p": {"top_p": 0.9},
    "top-k": {"top_k": 5},
    "typical": {"typical_p": 0.9},
    "fast": {"fast": True},
    "no n-gram twice": {"no_repeat_ngram_size": 3, "repetition_penalty": 1.2},
    "no copies": {"no_copy": 9},
    "a pattern": {"pattern": "[a-z ]+"},
    "the likeliest of two": {"best_of": 2},
}


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("count", [1, 16])
def test_ten_tokens_wait_once_at_most(name, count, folder, simulated):
    generator = seqgen.load(folder / "stream")
    with simulated.counted() as counts:
        generator.generate(count, max_new_tokens=TOKENS, **DRAWN[name])
    assert counts.nondeterministic.total() == 0
    assert counts.synchronisations.total() <= 0.1 * TOKENS, counts.synchronisations


def test_a_step_of_a_beam_waits_once_at_most(folder, simulated):
    generator = seqgen.load(folder / "stream")
    with simulated.counted() as counts:
        generator.search(3, num_beams=4, num_beam_groups=2, max_new_tokens=TOKENS)
    assert counts.synchronisations.total() <= TOKENS, counts.synchronisations


def test_scores_wait_once_a_batch_and_not_for_a_row(folder, simulated):
    generator, lines = seqgen.load(folder / "lm"), LINES * 40
    with simulated.counted() as counts:
        generator.score(lines)
    assert counts.synchronisations.total() <= -(-len(lines) // 512), counts.synchronisations


def test_rows_are_moved_taken_cut_and_padded_without_a_wait(simulated):
    lines = ["one line", "", "and another one"]
    with simulated.counted() as counts:
        rows = Ragged.from_text(lines).to("cuda")
        found = [rows.take(torch.tensor([2, 0, 2])), rows.cut(3), rows.padded(0, 4, truncate="cut"), rows.row(2)]
        known = rows.lengths_of(torch.tensor([0, 1])).tolist(), rows.longest
    assert counts.synchronisations.total() == 0
    assert known == ([8, 0], 15)
    assert all((part[0] if isinstance(part, tuple) else part).device.type == "cuda" for part in found)
    assert found[0].tolist() == [list(lines[n].encode()) for n in (2, 0, 2)]
    assert found[1].tolist() == [list(line.encode()[:3]) for line in lines]
    assert found[2][0].tolist() == [[*line.encode()[:4], *[0] * (4 - len(line))] for line in lines]


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_training_text_and_scored_lines_become_the_same_ids_on_the_device(kind, folder, tmp_path, monkeypatch):
    settings = seqgen.config("lm", folder / "lines.txt", overrides={**QUICK, **TEXT, "tokenizer.kind": kind})
    lines = [*LINES, "", "Ünseen wörds"]
    seen = []
    for much in (1 << 20, 0):  # on the host, and on the device
        monkeypatch.setattr(common, "_MUCH", much)
        seqgen.train(settings, tmp_path / str(much), progress=False)
        generator = seqgen.load(tmp_path / str(much))
        ids = common.encoded(generator.tokenizer, lines, generator.device).tolist()
        seen.append((ids, generator.score(lines).per_line, hashes(tmp_path / str(much))))
    assert seen[0] == seen[1]
