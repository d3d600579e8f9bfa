"""The encoder with attention against plain equations, its single steps against whole targets, and a run end to end."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import seqgen as library
from seqgen.core.batch import SequenceBatch
from seqgen.core.errors import ConfigError, DataError
from seqgen.core.options import Beam, Sampling
from seqgen.core.rng import text_seeds
from seqgen.data.packing import build_corpus
from seqgen.data.prepare import DataConfig, prepare
from seqgen.data.tokenizers import TokenizerConfig
from seqgen.models import seq2seq
from seqgen.nn.beam import beam_search

VOCAB, START, STOP, SEP = 20, 2, 3, 4
PLAIN = {"input_dropout": 0.0, "hidden_dropout": 0.0, "output_dropout": 0.0}
CASES = pytest.mark.parametrize(
    "options",
    [
        {},
        {"cell": "gru", "attention": "bahdanau", "layers": 2},
        {"input_feeding": False, "layers": 2, "tied": False},
        {"source_vocab_size": 7, "attention": "bahdanau", "input_feeding": False, "cell": "gru"},
    ],
    ids=["lstm, luong, feeding", "gru, bahdanau, feeding", "lstm, luong", "gru, bahdanau, own source ids"],
)


def made(**options: Any) -> seq2seq.Model:
    """A model with weights large enough for uneven distributions."""
    config = {"embedding": 8, "hidden": 16, "vocab_size": VOCAB, "start": START, "stop": STOP, "sep": SEP, **PLAIN}
    config |= {"max_length": 12, "suppress_tokens": (0, 1, START, SEP), "label_smoothing": 0.0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = seq2seq.Model(seq2seq.Config(**(config | options))).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
    return model


def pairs_of(model: seq2seq.Model, *lengths: tuple[int, int]) -> list[tuple[list[int], list[int]]]:
    """Sources and targets of these lengths; a source has ids of its own where the model has them."""
    draws, own = torch.Generator().manual_seed(1), model.config.source_vocab_size
    begin, end = (VOCAB, VOCAB + own) if own else (5, VOCAB)
    return [
        (
            [START, *torch.randint(begin, end, (s,), generator=draws).tolist(), SEP],
            torch.randint(5, VOCAB, (t,), generator=draws).tolist(),
        )
        for s, t in lengths
    ]


def batch_of(*pairs: tuple[list[int], list[int]]) -> SequenceBatch:
    """Rows as `data.batches` makes them, padded on the right."""
    rows = [[*source, *target, STOP] for source, target in pairs]
    lengths = torch.tensor([len(row) - 1 for row in rows])
    width = int(lengths.max())
    inputs, targets = torch.zeros(2, len(rows), width, dtype=torch.int64)
    for n, row in enumerate(rows):
        inputs[n, : len(row) - 1], targets[n, : len(row) - 1] = torch.tensor(row[:-1]), torch.tensor(row[1:])
    place = torch.arange(width)
    begins = torch.tensor([len(source) - 1 for source, _ in pairs])[:, None]
    counted = (place >= begins) & (place < lengths[:, None])
    return SequenceBatch(inputs, targets, counted.flatten().nonzero()[:, 0], lengths, torch.arange(len(rows)))


def cell(layer: Any, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One step of torch's own layer on one row."""
    if layer.mode == "LSTM":
        _, (h, c) = layer(x[None, None], (state[0][None, None], state[1][None, None]))
        return h[0, 0], c[0, 0]
    _, h = layer(x[None, None], state[0][None, None])
    return (h[0, 0],)


def plain_logits(model: seq2seq.Model, source: list[int], target: list[int]) -> Tensor:
    """Logits (U, V) of one pair, by loops over positions as Luong et al. 2015 write it."""
    config = model.config
    each = 2 if config.cell == "lstm" else 1
    layers: Any = model.encoder

    def embedded(ids: list[int]) -> Tensor:
        return math.sqrt(config.embedding) * model.embedding.weight[ids]

    def read(layer: Any, x: Tensor) -> Tensor:
        state, found = tuple(torch.zeros(config.hidden // 2) for _ in range(each)), []
        for row in x:
            state = cell(layer, row, state)
            found.append(state[0])
        return torch.stack(found)

    values = embedded(source)
    for there, back in layers:
        forwards = read(there.layers[0], values)
        backwards = read(back.layers[0], values.flip(0)).flip(0)
        values = torch.cat([forwards, backwards], 1)
    bridge = model.bridge(torch.cat([forwards[-1], backwards[0]]))
    states: list[tuple[Tensor, ...]] = [
        (part.tanh(), part)[:each] for part in bridge.split([config.hidden] * config.layers)
    ]
    vector, logits = torch.zeros(config.embedding), []
    for token in [source[-1], *target]:
        x = embedded([token])[0]
        if config.input_feeding:
            x = torch.cat([x, vector])
        for number, layer in enumerate(model.decoder_rnn.layers):
            states[number] = cell(layer, x, states[number])
            x = states[number][0]
        if model.query is None or model.energy is None:
            scores = torch.stack([x @ model.keys.weight @ value for value in values])
        else:
            scores = torch.cat([model.energy(torch.tanh(model.query(x) + model.keys(value))) for value in values])
        context = scores.softmax(0) @ values
        vector = torch.tanh(model.combine(torch.cat([context, x])))
        weight = model.embedding.weight[:VOCAB] if model.output_weight is None else model.output_weight
        logits.append(weight @ vector + model.output_bias)
    return torch.stack(logits)


def plain_nll(model: seq2seq.Model, pairs: list[tuple[list[int], list[int]]]) -> list[Tensor]:
    return [F.cross_entropy(plain_logits(model, s, t), torch.tensor([*t, STOP]), reduction="none") for s, t in pairs]


@CASES
def test_likelihood_and_gradient_equal_the_plain_equations(options: dict[str, Any]) -> None:
    model = made(**options)
    pairs = pairs_of(model, (3, 4), (6, 2), (1, 5))
    batch, expected = batch_of(*pairs), torch.cat(plain_nll(model, pairs))
    torch.testing.assert_close(-model.log_probs(batch), expected.double(), rtol=0, atol=1e-5)
    total, count = seq2seq.validate(model, batch)["nll"]
    assert (float(total), count) == (pytest.approx(float(expected.detach().sum()), rel=1e-5), 5 + 3 + 6)
    parameters = list(model.parameters())
    loss, nll = model.train().loss(batch)
    assert float(nll) == pytest.approx(float(total), rel=1e-5)
    found = torch.autograd.grad(loss, parameters)
    for ours, theirs in zip(found, torch.autograd.grad(expected.sum(), parameters), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_label_smoothing_is_cross_entropy_against_the_mixed_targets() -> None:
    model = made(label_smoothing=0.2)
    pairs = pairs_of(model, (3, 4), (6, 2))
    logits = torch.cat([plain_logits(model, s, t) for s, t in pairs])
    targets = torch.tensor([token for _, t in pairs for token in (*t, STOP)])
    loss, nll = model.loss(batch_of(*pairs))
    expected = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=0.2)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float(nll) == pytest.approx(float(F.cross_entropy(logits, targets, reduction="sum").detach()), rel=1e-5)


@CASES
def test_greedy_tokens_are_the_plain_models_likeliest_behind_source_and_prompt(options: dict[str, Any]) -> None:
    model = made(**options)
    pairs = pairs_of(model, (3, 0), (6, 2), (1, 3))
    prompts = [[*source, *begun] for source, begun in pairs]
    samples = model.sample(prompts, text_seeds(0, 0, 3), Sampling(greedy=True, max_new_tokens=6, details=True))
    assert samples.details is not None
    for (source, begun), ids, ended, detail in zip(pairs, samples.ids, samples.finished, samples.details, strict=True):
        whole = [*ids, STOP] if ended else ids
        logits = plain_logits(model, source, [*begun, *whole[:-1]]).detach()[len(begun) :]
        log_probs = logits.log_softmax(1)[range(len(whole)), whole]
        torch.testing.assert_close(detail.log_prob, log_probs, rtol=0, atol=1e-4)
        logits[:, [0, 1, START, SEP]] = -math.inf
        assert bool((logits.amax(1) - logits[range(len(whole)), whole] < 1e-4).all())


@CASES
def test_a_text_has_the_same_bits_in_any_company(options: dict[str, Any]) -> None:
    model = made(**{"embedding": 16, "hidden": 32} | options)
    prompts = [source for source, _ in pairs_of(model, (3, 0), (40, 0), (1, 0), (7, 0), (2, 0))]
    sampling, seeds = Sampling(max_new_tokens=9, details=True), text_seeds(0, 0, 5)
    together = model.sample(prompts, seeds, sampling)
    for n in (0, 1, 3):
        alone = model.sample(prompts[n : n + 1], seeds[n : n + 1], sampling)
        assert alone.ids == together.ids[n : n + 1]
        assert alone.details is not None
        assert together.details is not None
        assert torch.equal(alone.details[0].log_prob, together.details[n].log_prob)
    beams = beam_search(model.decoder(), prompts, Beam(num_beams=3))
    assert beams[1] == beam_search(model.decoder(), prompts[1:2], Beam(num_beams=3))[0]
    for text in beams[3]:
        target = [*text.ids, *[STOP] * text.finished]
        log_probs = plain_logits(model, prompts[3], target[:-1]).detach().log_softmax(1)
        assert text.log_prob == pytest.approx(float(log_probs[range(len(target)), target].sum()), abs=1e-4)


def test_attention_looks_at_the_source_alone_and_sums_to_one() -> None:
    model = made()
    _, weights = model.features(batch_of(*pairs_of(model, (6, 4), (2, 3))))
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 5))
    assert float(weights[1, :, 4:].detach().sum()) == 0
    assert float(weights[1, :, :4].detach().amin()) > 0


@torch.inference_mode()
def test_rows_join_others_at_any_step() -> None:
    model = made()
    prompts = [source for source, _ in pairs_of(model, (3, 0), (40, 0))]
    steps: Any = model.decoder()
    first, late = (steps.prefill([prompt], room=9) for prompt in prompts)
    features, first = steps.step(torch.tensor([SEP]), first)
    _, first = steps.step(torch.tensor([9]), first)
    both = steps.join([first, late])
    features, _ = steps.step(torch.tensor([7, SEP]), both)
    logits = features @ model.head()[0].t() + model.output_bias
    torch.testing.assert_close(logits[0], plain_logits(model, prompts[0], [9, 7])[-1], rtol=0, atol=1e-5)
    torch.testing.assert_close(logits[1], plain_logits(model, prompts[1], [])[-1], rtol=0, atol=1e-5)


def test_a_source_over_the_limit_is_one_line() -> None:
    model = made(max_source=5)
    batch, (prompt, _) = batch_of(*pairs_of(model, (4, 2))), pairs_of(model, (4, 2))[0]
    with pytest.raises(ConfigError, match=r"^a source of 6 tokens is over model.max_source = 5; "):
        model.log_probs(batch)
    with pytest.raises(ValueError, match=r"^a source of 6 tokens is over the model's limit of 5 \(model.max_source\)"):
        model.sample([prompt], text_seeds(0, 0, 1), Sampling())
    assert len(model.sample([prompt[1:]], text_seeds(0, 0, 1), Sampling()).ids) == 1


# ------------------------------------------------------------------------------------------------------------- a run

SMALL = {"model.hidden": 16, "model.embedding": 12, "train.steps": 3, "train.batch": 8, "train.samples": 8}
SMALL |= {"data.source": "en", "data.target": "de"}
NOUNS = {"cat": "Katze", "dog": "Hund", "man": "Mann", "bird": "Vogel"}


@pytest.fixture
def parallel(tmp_path: Path) -> Path:
    """train.en and train.de, 64 lines each."""
    rows = [
        (f"the {a} sees the {b} {n}", f"{NOUNS[a]} sieht {NOUNS[b]} {n}") for a in NOUNS for b in NOUNS for n in "wxyz"
    ]
    for ending, lines in zip(("en", "de"), zip(*rows, strict=True), strict=True):
        (tmp_path / f"train.{ending}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return tmp_path / "train.en"


@pytest.mark.parametrize("tokenizer", ["shared", "char"])
def test_a_run_on_parallel_files_writes_searches_scores_and_goes_on(
    tokenizer: str, parallel: Path, tmp_path: Path
) -> None:
    options = SMALL | {"data.source_tokenizer": tokenizer, "tokenizer.kind": "word"}
    library.train(library.config("seq2seq", data=parallel, overrides=options), tmp_path / "run", progress=False)
    writer = library.load(tmp_path / "run")
    sources = ["the cat sees the dog w", "the man sees the cat x"]
    lines = writer.generate(2, sources=sources, repetition_penalty=1.2, no_copy=3)
    assert len(lines) == 4
    assert not any("cat" in line for line in lines) or tokenizer == "shared"
    (found,) = {text.source for text in writer.search(2, sources=sources[:1], num_beams=3)}
    assert found == sources[0]
    letters = len(set(parallel.read_text().replace("\n", "")))
    scores = writer.score(["Katze sieht Hund w"], sources=sources[:1])
    assert scores.tokens == [["Katze", "sieht", "Hund", "w", "</s>"]]
    assert writer.model.config.source_vocab_size == (0 if tokenizer == "shared" else 5 + letters)
    seen = writer.attention("Katze sieht Hund w", sources[0])
    assert (seen.tokens, len(seen.weights)) == (scores.tokens[0], 5)
    assert seen.source == ["<s>", *(sources[0] if tokenizer == "char" else sources[0].split()), "<sep>"]
    assert [sum(row) for row in seen.weights] == pytest.approx([1] * 5)
    page = (tmp_path / "run" / "report.html").read_text()
    answer = writer.search(1, sources=writer.own_text().valid_sources[:1], num_beams=5)[0]
    assert f'aria-label="{answer.text}"' in page
    library.train(None, tmp_path / "run", overrides=["train.steps=5"], progress=False)
    if tokenizer == "char":
        saved = tmp_path / "run" / "tokenizer" / "source"
        saved.rename(tmp_path / "elsewhere")
        with pytest.raises(library.RunError, match=r"tokenizer/source/\S+ is missing or altered since"):
            library.load(tmp_path / "run")


PAGE = Path(__file__).resolve().parents[2] / "docs" / "seq2seq.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=["dialogue", "summary"])
def test_an_example_of_the_page_runs(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    few = {'"train.steps": ': 2, '"train.samples": ': 0, '"model.hidden": ': 16}
    for option, value in few.items():
        example = re.sub(rf"{option}\d+", f"{option}{value}", example)
    example = example.replace("sources=data.valid_sources", "sources=data.valid_sources[:9]").replace("[:200]", "")
    exec(compile(example, str(PAGE), "exec"), {})  # the page is ours
    assert re.search(r"held-out (answers|headlines)", capsys.readouterr().out)


def test_a_corpus_folder_has_the_rows_of_its_files_with_a_tokenizer_for_each_side(
    parallel: Path, tmp_path: Path
) -> None:
    data = DataConfig(files=(str(parallel),), source="en", target="de", source_tokenizer="char")
    config = TokenizerConfig(kind="word")
    how: dict[str, Any] = {"batch": 4, "seed": 1, "device": "cpu"}
    build_corpus(data.files, tmp_path / "corpus", data=replace(data, files=()), tokenizer=config)
    read = prepare(data, config, **how)
    mapped = prepare(DataConfig(files=(str(tmp_path / "corpus"),)), TokenizerConfig(), **how)
    for name in ("train", "valid"):
        ours, theirs = getattr(mapped, name), getattr(read, name)
        assert ours.ids.tolist() == theirs.ids.tolist()
        assert torch.equal(ours.loss_from, theirs.loss_from)
    assert mapped.facts == read.facts
    assert mapped.facts["source_vocab_size"] > 5
    row = read.train.ids.row(0).tolist()
    middle = row.index(SEP)
    assert (min(row[1:middle]) >= read.tokenizer.vocab_size) > (max(row[middle:]) >= read.tokenizer.vocab_size)


def test_a_tokenizer_with_another_half_is_one_line(parallel: Path, tmp_path: Path) -> None:
    config = library.config("seq2seq", data=parallel, overrides=SMALL)
    library.train(config, tmp_path / "shared", progress=False)
    own = library.config("seq2seq", data=parallel, overrides=SMALL | {"data.source_tokenizer": "char"})
    with pytest.raises(DataError, match=r"tokenizer/source: missing, but data.source_tokenizer says that conditions h"):
        library.train(own, tmp_path / "other", source_run=tmp_path / "shared", progress=False)


def test_a_model_without_an_encoder_attends_to_no_source(parallel: Path, tmp_path: Path) -> None:
    library.train(library.config("lm", data=parallel, overrides=SMALL), tmp_path / "run", progress=False)
    with pytest.raises(library.RunError, match=r"^a run of lm has no attention to a source; train one with: seq2seq$"):
        library.load(tmp_path / "run").attention("a", "b")


def test_text_without_sources_and_models_without_an_encoder_are_one_line(parallel: Path, tmp_path: Path) -> None:
    def refused(match: str, model: str = "seq2seq", **options: Any) -> None:
        given = {k: v for k, v in (SMALL | options).items() if v is not None}
        with pytest.raises((ConfigError, DataError), match=match):
            library.train(library.config(model, data=parallel, overrides=given), tmp_path / "run", progress=False)
        assert not (tmp_path / "run" / "config.toml").exists()

    refused(r"^seq2seq learns targets from sources: name them", **{"data.source": None, "data.target": None})
    refused(
        r"^the longest source has 8 tokens, more than model.max_source = 7; set it higher", **{"model.max_source": 7}
    )
    refused(r"^lm reads conditions and text alike: it needs data.source_tok", "lm", **{"data.source_tokenizer": "bpe"})
    refused(r"train.fr: no such file; line n of \S+train.en belongs to line n of it$", **{"data.target": "fr"})
    refused(r"train.en has no named fields, but data.source asks for a; use .* NAME.a and NAME.b$", **{
        "data.source": "a", "data.target": "b"
    })  # fmt: skip
    with (parallel.parent / "train.de").open("a") as file:
        file.write("one more\n")
    refused(r"train.en has 64 lines, \S+train.de has 65 lines; expected as many")
