"""A language model of real text as the judge of samples: forward and reverse scores, distances in its feature space.

The judge is a run of `lm` trained on real text only. Forward: its nats per token on the samples (are they likely?).
Reverse: a model of the same settings trained on the samples scores real text (is everything there?), as in Caccia et
al. 2020. Both count the end of sentence. A sampler that repeats one good line has a splendid forward and a ruinous
reverse score, so neither is given alone. Fréchet distance and MAUVE compare rows of the judge's features.
"""

import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from seqgen import metrics
from seqgen.core import log
from seqgen.core.errors import DataError, RunError
from seqgen.engine import loop
from seqgen.engine.evaluate import Table, with_fields
from seqgen.engine.generate import TextGenerator
from seqgen.engine.loading import load
from seqgen.engine.progress import Progress
from seqgen.engine.refine import FEWEST_LINES, TwoSampleTest
from seqgen.metrics.score import Score, Signature, input_hash
from seqgen.models import lm


def judge(
    generator: TextGenerator,
    lines: Sequence[str],
    references: Sequence[str],
    *,
    reverse: bool = True,
    progress: Callable[[Progress], None] | bool = False,
) -> dict[str, Score]:
    """Score sample lines by a judge: lm_forward, lm_reverse, frechet_lm, mauve, each with its signature.

    `reverse` trains a model on the lines, with the judge's settings, tokenizer and seed, in a folder that is removed
    afterwards. Raises RunError where the judge is no language model of lines, DataError for fewer than two lines.
    """
    settings = generator.settings
    if settings.name != "lm" or settings.data.mode != "sentence" or settings.data.source:
        raise RunError(f"{generator.folder} cannot judge: expected a run of lm on lines, without conditions")
    for name, texts in (("samples", lines), ("references", references)):
        if len(texts) < 2:
            raise DataError(f"judging needs at least 2 {name}, got {len(texts)}")
    both = _about(generator, lines) | {"nrefs": str(len(references))}
    inputs = input_hash(lines, references)
    scores = {"lm_forward": _forward(generator, lines)}
    a, b = features(generator, lines), features(generator, references)
    with warnings.catch_warnings(record=True) as caught:  # the notes of small samples belong beside their numbers
        warnings.simplefilter("always")
        distance = metrics.frechet_distance(a, b)
        overlap = metrics.mauve(a, b)
    note = "; ".join(dict.fromkeys(str(w.message) for w in caught))
    dimension = both | {"dim": str(a.shape[1])}
    scores["frechet_lm"] = Score(distance, Signature("frechet_lm", dimension, inputs), note=note)
    clusters = dimension | {"rows": "unit", "k": "auto", "seeds": "5"}
    scores["mauve"] = Score(overlap.value, Signature("mauve", clusters, inputs), note=note)
    scores["mauve_sd"] = Score(overlap.deviation, Signature("mauve_sd", clusters, inputs))
    if reverse:
        nats = reverse_nats(generator, lines, references, progress=progress)
        scores["lm_reverse"] = Score(nats, Signature("lm_reverse", both, inputs, settings.seed))
    return scores


def judged(
    table: Table,
    generator: TextGenerator,
    references: Sequence[str],
    *,
    reverse: bool = True,
    progress: Callable[[Progress], None] | bool = False,
) -> Table:
    """Return the table with the judge's scores in every column: samples, real text, the 5-gram model's samples.

    Real text's lm_forward is that of held-out lines: the judge may have learnt the training lines by heart. Generated
    lines also have the AUROC of `seqgen.engine.refine.TwoSampleTest`, where there are 100 of both and the judge's
    training text is at hand.
    """
    columns, test = [], _two_sample_test(generator)
    found = {
        name: value for c in table.columns for s in c.scores.values() for name, value in s.signature.fields.items()
    }
    leak = {"leak": found["leak"]} if "leak" in found else {}
    for c in table.columns:
        scores = judge(generator, c.lines, references, reverse=reverse, progress=progress)
        if c.held_out:
            scores["lm_forward"] = _forward(generator, c.held_out)
        elif test is not None and min(len(c.lines), len(references)) >= FEWEST_LINES:
            fields = _about(generator, c.lines) | {"nrefs": str(len(references)), "fit": "other half"}
            signature = Signature("auroc", fields, input_hash(c.lines, references))
            scores["auroc"] = Score(test.auroc(references, c.lines), signature)
        columns.append(replace(c, scores=c.scores | with_fields(scores, leak)))
    return replace(table, columns=columns)


def _two_sample_test(generator: TextGenerator) -> TwoSampleTest | None:
    try:
        return TwoSampleTest(generator)
    except DataError as error:  # its training text has moved
        log.messages.warning("no auroc: %s", error)
        return None


def _about(generator: TextGenerator, lines: Sequence[str]) -> dict[str, str]:
    tokenizer = f"{generator.tokenizer.kind}-{generator.tokenizer.fingerprint[:8]}"
    return {"judge": f"lm-{generator.settings.model.hidden}", "tok": tokenizer, "hyp": str(len(lines))}


def _forward(generator: TextGenerator, lines: Sequence[str]) -> Score:
    """Return the judge's nats per token of the lines."""
    scored = generator.score(lines)
    rows = np.array([[-sum(row), len(row)] for row in scored.log_probs])
    signature = Signature("lm_forward", _about(generator, lines), input_hash(lines))
    return Score(scored.nats / scored.total_tokens, signature, rows=rows)


def features(generator: TextGenerator, lines: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return the judge's last hidden states of each line, averaged over its tokens, (N, H)."""
    model = cast(lm.Model, generator.model)
    rows = np.zeros((len(lines), model.rnn.widths[-1]))
    with torch.inference_mode():
        for batch in generator.batches(lines):
            placed = batch.to(generator.device)
            hidden_bth, _ = model.scan(placed.inputs)
            inside = torch.arange(hidden_bth.shape[1], device=generator.device) < placed.lengths[:, None]
            sums = (hidden_bth.double() * inside[..., None]).sum(1)
            rows[batch.rows.numpy()] = (sums / placed.lengths[:, None]).cpu().numpy()
    return rows


def reverse_nats(
    generator: TextGenerator,
    lines: Sequence[str],
    references: Sequence[str],
    *,
    progress: Callable[[Progress], None] | bool = False,
) -> float:
    """Return nats per token of the references under a model of the judge's settings trained on the lines.

    A tenth of the lines is held out to choose the best checkpoint. Equal lines are given once (Caccia et al. 2020).
    Raises DataError for fewer than ten different lines.
    """
    distinct = list(dict.fromkeys(lines))
    if len(distinct) < 10:
        raise DataError(f"a reverse score needs at least 10 different samples to train on, got {len(distinct)}")
    settings = generator.settings
    data = replace(settings.data, files=(), valid=(), max_length=0, long="cut")
    train = replace(settings.train, samples=0, batch=min(settings.train.batch, len(distinct) // 2))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "reverse"
        chosen = replace(settings, data=data, train=train)
        loop.train(chosen, out, lines=distinct, tokenizer_run=generator.folder, progress=progress)
        scored = load(out, device=str(generator.device)).score(references)
    return scored.nats / scored.total_tokens
