"""Imported GPT-2 checkpoints against `transformers` and `tokenizers` themselves, and the faults of a folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import seqgen
from seqgen.cli.app import main
from seqgen.core.errors import ConfigError, DataError, RunError
from seqgen.core.files import files_below

tokenizers = pytest.importorskip("tokenizers", reason="the extra hf")
transformers = pytest.importorskip("transformers", reason="the reference is Hugging Face's own implementation")
from seqgen.data.tokenizers.byte_bpe import ByteBpeTokenizer, read_hugging_face  # noqa: E402

LINES = [
    "a man riding a horse .",
    "two dogs on a couch !",
    "it's 3 o'clock,  caf\u00e9 \u6708",
    "the old man's dog",
] * 5
TEXT = st.text(st.one_of(st.sampled_from("".join(LINES) + "\n\t"), st.characters(exclude_categories=["Cs"])))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as `transformers` writes one, with both forms of its tokenizer."""
    out = tmp_path_factory.mktemp("gpt2")
    trained = tokenizers.ByteLevelBPETokenizer()
    trained.train_from_iterator(LINES, vocab_size=300, min_frequency=1, special_tokens=["<|endoftext|>"])
    trained.save_model(str(out))
    trained.save(str(out / "tokenizer.json"))
    config = transformers.GPT2Config(
        vocab_size=trained.get_vocab_size(),
        n_positions=24,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = transformers.GPT2LMHeadModel(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seqgen.import_checkpoint(folder, tmp_path_factory.mktemp("run") / "imported")


@pytest.fixture(scope="module")
def both(folder: Path) -> list[ByteBpeTokenizer]:
    """From tokenizer.json, and from vocab.json and merges.txt."""
    apart = folder.parent / "apart"
    apart.mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(folder / name, apart)
    return [read_hugging_face(folder, end=0), read_hugging_face(apart, end=0)]


@settings(deadline=None, max_examples=60)
@given(lines=st.lists(TEXT, max_size=3))
def test_ids_and_texts_are_those_of_the_library(folder: Path, both: list[ByteBpeTokenizer], lines: list[str]) -> None:
    theirs = tokenizers.ByteLevelBPETokenizer.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    expected = [theirs.encode(line).ids for line in lines]
    for ours in both:
        assert ours.encode(lines).tolist() == expected
        assert ours.decode(expected) == lines
        backwards = [row[::-1] for row in expected]  # characters cut apart
        assert ours.decode(backwards) == [theirs.decode(row) for row in backwards]


def test_the_end_token_is_no_text_and_all_bytes_are_known(both: list[ByteBpeTokenizer], tmp_path: Path) -> None:
    for ours in both:
        assert 0 not in ours.encode(["a <|endoftext|> b"]).row(0)
        assert ours.decode(ours.encode(["a <|endoftext|> b"])) == ["a <|endoftext|> b"]
        assert ours.decode([[0, *ours.encode(["so"]).row(0).tolist(), 0]]) == ["so"]
        assert (ours.pad, ours.bos, ours.eos, ours.sep, ours.unknown("\u2603")) == (0, 0, 0, 0, [])
        assert ours.surfaces()[0] == ""
        assert ours.decode_stream(ours.encode_stream("a\n\nb\n").tolist()) == "a\n\nb\n"
        with pytest.raises(DataError, match="line 2"):
            ours.encode(["a", "\ud800"])
        ours.save(tmp_path)
        assert seqgen.load_tokenizer(tmp_path).fingerprint == ours.fingerprint
    assert both[0].encode(LINES).tolist() == both[1].encode(LINES).tolist()


def test_logits_and_greedy_text_are_those_of_transformers(folder: Path, run: Path) -> None:
    reference = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    generator: Any = seqgen.load(run)
    ids = generator.tokenizer.encode([" ".join(LINES)]).row(0)[None, :24]
    model = generator.model
    with torch.no_grad():
        expected = reference(ids).logits
        found = model.norm(model.scan(ids)) @ model.head()[0].t()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        for prompt in ("", "a man", "caf\u00e9"):
            before = [0, *generator.tokenizer.encode([prompt]).row(0).tolist()]
            after = reference.generate(
                torch.tensor([before]), max_new_tokens=24 - len(before), do_sample=False, pad_token_id=0
            )[0, len(before) :].tolist()
            (text,) = generator.texts(1, prompt=prompt, greedy=True, max_new_tokens=24 - len(before))
            assert text.text == prompt + generator.tokenizer.decode([after])[0]
    line = "two dogs on a horse ."
    row = torch.tensor([0, *generator.tokenizer.encode([line]).row(0).tolist(), 0])
    with torch.no_grad():
        log_p = reference(row[None, :-1]).logits[0].log_softmax(1)[range(len(row) - 1), row[1:]]
    assert generator.score([line]).per_line[0] == pytest.approx(float(log_p.sum()), abs=1e-4)


def test_an_imported_run_is_evaluated_and_fine_tuned(run: Path, tmp_path: Path) -> None:
    table = seqgen.evaluate(run, LINES, count=8, baselines=False)
    assert table.columns[0].likelihood
    (tmp_path / "text.txt").write_text("\n".join(f"the {a} {b}" for a in LINES[:4] for b in "abcdefgh") + "\n")
    config = seqgen.config(
        "gpt", tmp_path / "text.txt", overrides={"train.steps": 30, "train.samples": 8, "model.dropout": 0.0}
    )
    seqgen.train(config, tmp_path / "tuned", source_run=run, progress=False)
    tuned, before = seqgen.load(tmp_path / "tuned"), seqgen.load(run)
    assert tuned.tokenizer.fingerprint == before.tokenizer.fingerprint
    assert (tuned.settings.model.context, tuned.settings.model.norm) == (24, "layer")
    assert tuned.score(LINES).nats < before.score(LINES).nats
    with pytest.raises(DataError, match=r"imported was imported, so its training text is not known$"):
        before.own_text()


def changed(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        found = load_file(folder / "model.safetensors")
        change(found)
        save_file(found, folder / "model.safetensors")

    return rewrite


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def without(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names]  # type: ignore[return-value]


def another_tokenizer(**parts: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "tokenizer.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | parts))

    return change


def longer_vocabulary(folder: Path) -> None:
    path = folder / "tokenizer.json"
    found = json.loads(path.read_text())
    found["model"]["vocab"]["more"] = len(found["model"]["vocab"])
    path.write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (without("config.json"), RunError, r": no config\.json; expected a folder with config\.json, model"),
        (changed(model_type="llama"), ConfigError, r"config\.json: model_type is 'llama', expected 'gpt2'"),
        (changed(activation_function="relu"), ConfigError, r"config\.json: activation_function is 'relu', expected"),
        (changed(n_head=0), ConfigError, r"config\.json: model\.heads .* 0"),
        (changed(n_head=3), ConfigError, r"config\.json: model\.heads = 3 must divide model\.hidden = 16$"),
        (changed(eos_token_id=[0, 1]), ConfigError, r"config\.json: eos_token_id must be one id"),
        (changed(eos_token_id=999, bos_token_id=999), DataError, r"eos_token_id = 999 is outside the vocabulary"),
        (changed(n_layer=3), ConfigError, r"safetensors: lacks what becomes blocks\.2\.down\.bias, and 11 more"),
        (changed(n_layer=1), ConfigError, r"safetensors: holds transformer\.h\.1\.\S+ and 11 more that a GPT-2 of"),
        (changed(n_positions=25), ConfigError, r"safetensors: \S+wpe.weight is \(24, 16\), .* \(25, 16\)$"),
        (pickled, RunError, r": pytorch_model\.bin is a pickle, which can run any code when it is opened"),
        (without("model.safetensors"), RunError, r": no model\.safetensors$"),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"PK\x03\x04"),
            DataError,
            r"model\.safetensors: not a safetens",
        ),
        (tensors(lambda t: t.pop("transformer.ln_f.bias")), ConfigError, r"lacks what becomes norm\.bias, and 0 more"),
        (
            tensors(lambda t: t.update({"transformer.h.0.adapter": torch.ones(2)})),
            ConfigError,
            r"holds transformer\.h\.0\.adapter and 0 more",
        ),
        (
            tensors(lambda t: t.update({"lm_head.weight": torch.ones(2, 2)})),
            ConfigError,
            r"lm_head\.weight differs from the embedding, though config\.json ties them",
        ),
        (
            tensors(lambda t: t["transformer.ln_f.bias"].fill_(torch.nan)),
            RunError,
            r"norm\.bias holds NaN or infinity",
        ),
        (longer_vocabulary, DataError, r": the tokenizer has \d+ ids, but the embedding of config\.json \d+ rows"),
        (another_tokenizer(pre_tokenizer={"type": "Whitespace"}), DataError, r"pre_tokenizer is Whitespace, expected"),
        (another_tokenizer(normalizer={"type": "Lowercase"}), DataError, r"normalizer is Lowercase, expected None"),
        (
            another_tokenizer(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True}),
            DataError,
            r"pre_tokenizer\.add_prefix_space is not False",
        ),
        (lambda f: (f / "tokenizer.json").write_text("{"), DataError, r"tokenizer\.json: not JSON"),
        (without("tokenizer.json", "merges.txt"), DataError, r": no tokenizer\.json, and in its place no merges\.txt$"),
    ],
)
def test_a_folder_that_cannot_be_imported_is_one_line_and_leaves_nothing(
    folder: Path, tmp_path: Path, change: Callable[[Path], None], error: type[Exception], message: str
) -> None:
    faulty = tmp_path / "faulty"
    shutil.copytree(folder, faulty)
    change(faulty)
    with pytest.raises(error, match=message) as caught:
        seqgen.import_checkpoint(faulty, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_what_is_there_is_not_overwritten(folder: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is a run already; use another --out, or remove it$"):
        seqgen.import_checkpoint(folder, run)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"exists and is not a run folder"):
        seqgen.import_checkpoint(folder, tmp_path)
    assert files_below(tmp_path) == [tmp_path / "notes.txt"]


def test_half_precision_masks_and_bare_names_are_read(folder: Path, run: Path, tmp_path: Path) -> None:
    """As the first GPT-2 checkpoints are."""
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    found = {name.removeprefix("transformer."): t.half() for name, t in load_file(bare / "model.safetensors").items()}
    found |= {"h.0.attn.bias": torch.ones(1, 1, 24, 24), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    found["lm_head.weight"] = found["wte.weight"].clone()
    save_file(found, bare / "model.safetensors")
    generator: Any = seqgen.load(seqgen.import_checkpoint(bare, tmp_path / "run"))
    whole: Any = seqgen.load(run)
    assert torch.equal(generator.model.embedding.weight, whole.model.embedding.weight.half().float())


def test_the_command_makes_the_run_that_the_function_makes(
    folder: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", str(folder), "--out", str(tmp_path / "run")]) == 0
    assert capsys.readouterr() == ("", f"next: seqgen generate {tmp_path}/run --count 5\n")
    assert (tmp_path / "run/config.toml").read_bytes() == (run / "config.toml").read_bytes()
    assert main(["import", str(tmp_path), "--out", str(tmp_path / "other")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
