"""Exported runs: ONNX graphs against whole-row computation, folders against their run, and a reader without seqgen."""

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_run import OF_MODEL, SMALL

from seqgen.core import files
from seqgen.core.batch import SequenceBatch
from seqgen.core.errors import ConfigError, MissingExtraError, RunError
from seqgen.data.tokenizers import TokenizerConfig, train_tokenizer
from seqgen.data.tokenizers.byte_bpe import read_hugging_face
from seqgen.engine import export as exporting
from seqgen.engine import loop
from seqgen.engine.loading import load
from seqgen.engine.run import config
from seqgen.models import gpt, hmm, kneser_ney, lm

EXAMPLE = re.search(
    r"```python\n(.*?)```", (Path(__file__).resolve().parents[2] / "docs/export.md").read_text(encoding="utf-8"), re.S
)
needs_onnx = pytest.mark.skipif(
    not (find_spec("onnx") and find_spec("onnxruntime")), reason="needs onnx and onnxruntime, the extra export"
)

MODELS: dict[str, Any] = {
    "lstm": lm.Model(lm.Config(layers=2, hidden=12, embedding=8, vocab_size=11)),
    "lstm untied": lm.Model(lm.Config(hidden=12, embedding=8, tied=False, vocab_size=11)),
    "gru": lm.Model(lm.Config(cell="gru", layers=2, hidden=12, last_hidden=8, embedding=8, vocab_size=11)),
    "mingru": lm.Model(lm.Config(cell="mingru", hidden=12, embedding=12, vocab_size=11)),
    "minlstm": lm.Model(lm.Config(cell="minlstm", hidden=12, embedding=12, vocab_size=11)),
    "gpt": gpt.Model(gpt.Config(layers=2, heads=2, hidden=16, context=9, vocab_size=11)),
    "gpt 2": gpt.Model(
        gpt.Config(
            layers=2, heads=2, hidden=16, context=9, vocab_size=11, tied=False, bias=True,
            activation="gelu", positions="learned", norm="layer",
        )
    ),
    "hmm": hmm.Model(hmm.Config(states=5, vocab_size=11, start=2, stop=3, pad=0, sep=4)),
}  # fmt: skip


@needs_onnx
@pytest.mark.parametrize("name", MODELS)
def test_steps_of_a_graph_give_the_log_probabilities_of_whole_rows(name: str) -> None:
    from seqgen.engine import onnx_graph

    model = MODELS[name].eval()
    with torch.no_grad():
        for parameter in model.parameters():  # none of them 0, as biases begin
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4))
    rows = torch.tensor([[2, 5, 9, 5, 6, 10, 7, 3], [2, 8, 8, 6, 5, 7, 9, 3]])
    inputs, targets = rows[:, :-1], rows[:, 1:].contiguous()
    batch = SequenceBatch(inputs, targets, torch.arange(14), torch.tensor([7, 7]), torch.arange(2))
    expected = model.log_probs(batch).view(2, 7).numpy()
    graph = onnx_graph.step_graph(model, name)
    step = onnx_graph.session(graph.content)
    state = np.zeros([2 if size == "batch" else int(size) for size in graph.state], np.float32)
    for t in range(7):
        logits, state = step(inputs[:, t].numpy(), state)
        log_probs = torch.from_numpy(logits).double().log_softmax(-1)
        found = log_probs.gather(1, targets[:, t, None])[:, 0].numpy()
        np.testing.assert_allclose(found, expected[:, t], atol=2e-5)


@needs_onnx
def test_a_model_without_such_a_form_is_refused_by_name() -> None:
    from seqgen.engine import onnx_graph

    model = kneser_ney.Model(kneser_ney.Config(vocab_size=11))
    with pytest.raises(RunError, match=r"^a run of kneser-ney has no form as an ONNX graph; runs of lm, gpt, seqgan a"):
        onnx_graph.step_graph(model, "kneser-ney")


@pytest.fixture(scope="module")
def folder(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exporting.export(trained, tmp_path_factory.mktemp("exported") / "onnx")


@needs_onnx
def test_a_reader_without_seqgen_and_torch_writes_the_greedy_text(folder: Path, trained: Path, tmp_path: Path) -> None:
    assert EXAMPLE is not None
    code = f"{EXAMPLE[1]}\nassert not {{'seqgen', 'torch'}} & set(sys.modules)\n"
    command = [sys.executable, "-I", "-W", "error", "-c", code, str(folder), "the cat"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    greedy, drawn = done.stdout.splitlines()
    assert greedy == load(trained).generate(prompt="the cat", greedy=True)[0]
    assert drawn.startswith("the cat ")


@needs_onnx
def test_a_folder_says_what_was_compared_and_holds_no_pickle(folder: Path) -> None:
    described = json.loads((folder / "config.json").read_text())
    assert described["verified"]["texts"] == 8
    assert described["verified"]["of"] == "held-out text"
    assert described["verified"]["largest_difference"] < 1e-5
    assert {path.suffix for path in files.files_below(folder)} <= {".onnx", ".json", ".md", ".txt"}


@needs_onnx
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("gpt", ["tokenizer.kind=char"]),
        ("lm", ["tokenizer.kind=bpe", "data.mode=stream", "data.window=8"]),
        ("lm", ["tokenizer.kind=byte", "model.cell=gru"]),
        ("seqgan", []),
        ("hmm", []),
    ],
)
def test_other_models_and_tokenizers_pass_the_check(text: Path, tmp_path: Path, model: str, options: list[str]) -> None:
    small = [*OF_MODEL.get(model, SMALL), "train.steps=3", *options]
    loop.train(config(model, text, overrides=small), tmp_path / "run", progress=False)
    out = exporting.export(tmp_path / "run", tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["verified"]["texts"] > 0


LINES = ["a man riding a horse .", "two dogs on a couch !", "it's 3 o'clock, caf\u00e9 \u6708"] * 9


@pytest.mark.parametrize("kind", ["byte", "char", "word", "bpe", "unigram", "byte-bpe"])
def test_ids_are_read_without_their_tokenizer(kind: str, tmp_path: Path) -> None:
    line = LINES[2]
    if kind == "byte-bpe":
        library = pytest.importorskip("tokenizers", reason="the extra hf")
        trained = library.ByteLevelBPETokenizer()
        trained.train_from_iterator(LINES, vocab_size=300, min_frequency=1, special_tokens=["<|endoftext|>"])
        trained.save(str(tmp_path / "tokenizer.json"))
        tokenizer: Any = read_hugging_face(tmp_path, end=0)
        line += "  \U0001f431"
    else:
        tokenizer = train_tokenizer(TokenizerConfig(kind=kind), LINES, seed=1)  # type: ignore[arg-type]
        line += "  \U0001f431" * (kind in ("byte", "bpe", "unigram"))  # four bytes that no training line has
    tokens, joiner = exporting.token_table(tokenizer)
    assert exporting.text_of(tokenizer.encode([line]).row(0).tolist(), tokens, joiner) == line


@needs_onnx
def test_a_graph_that_differs_is_not_kept(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqgen.engine import onnx_graph

    whole = onnx_graph.step_graph

    def altered(model: Any, name: str) -> Any:
        with torch.no_grad():
            model.output_bias[7] += 0.01
            made = whole(model, name)
            model.output_bias[7] -= 0.01
        return made

    monkeypatch.setattr(onnx_graph, "step_graph", altered)
    with pytest.raises(
        RunError, match=r"^a logit of the graph differs by [\d.e-]+, more than 0\.0001; nothing is kept$"
    ):
        exporting.export(trained, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    exporting.export(trained, tmp_path / "out", verify=False)
    assert "verified" not in json.loads((tmp_path / "out" / "config.json").read_text())


@needs_onnx
@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_the_extra_nothing_is_written(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"^the export to ONNX needs the package {package}; run: pip install 'neural-seqgen\[export\]'$"
    with pytest.raises(MissingExtraError, match=message) as raised:
        exporting.export(trained, tmp_path / "out")
    assert raised.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


@needs_onnx
def test_without_its_training_text_a_run_is_compared_on_its_own_texts(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "env.json").read_text())
    (tmp_path / "run" / "env.json").write_text(json.dumps(settings | {"data_sha256": ""}))
    out = exporting.export(tmp_path / "run", tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["verified"]["of"] == "texts of the run itself"
    assert "- Imported, not trained here\n" in (out / "README.md").read_text()


def test_safetensors_are_a_run_that_writes_the_same_texts(trained: Path, tmp_path: Path) -> None:
    out = exporting.export(trained, tmp_path / "run", format="safetensors")
    assert load(out).generate(5, seed=3) == load(trained).generate(5, seed=3)
    assert {path.suffix for path in files.files_below(out)} <= {".safetensors", ".json", ".md", ".toml", ".txt"}
    again = exporting.export(out, tmp_path / "again", format="safetensors")
    assert load(again).generate(2) == load(trained).generate(2)


def test_the_card_is_read_by_the_hub_s_own_client(trained: Path, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="the reference reads cards")
    out = exporting.export(trained, tmp_path / "small", format="safetensors")
    card = hub.ModelCard.load(out / "README.md")
    assert (card.data.library_name, card.data.tags) == ("seqgen", ["seqgen", "lm", "safetensors"])
    scores = {one.metric_type: one for one in card.data.eval_results}
    best = min(
        map(json.loads, (trained / "scores.jsonl").read_text().splitlines()), key=lambda row: row["nll_per_token"]
    )
    assert scores["nll_per_token"].metric_value == best["nll_per_token"]
    assert scores["bleu_4"].metric_args["signature"].endswith(best["signature"])
    assert str(tmp_path) not in card.content


def test_what_cannot_be_exported_is_told_and_nothing_is_left(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^format must be onnx or safetensors, got 'pickle'$"):
        exporting.export(trained, tmp_path / "out", format="pickle")  # type: ignore[arg-type]
    (tmp_path / "there").mkdir()
    with pytest.raises(RunError, match=r"there exists; use another --out, or remove it$"):
        exporting.export(trained, tmp_path / "there", format="safetensors")
    with pytest.raises(RunError, match=r"there is not a run folder \(no config\.toml\)"):
        exporting.export(tmp_path / "there", tmp_path / "out")
    shutil.copytree(trained, tmp_path / "damaged")
    for weights in (tmp_path / "damaged").glob("checkpoints/*/model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(RunError, match=r"model\.safetensors is truncated or altered \(SHA-256 differs\)"):
        exporting.export(tmp_path / "damaged", tmp_path / "out", format="safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "there"]
