"""Rows that enter and leave at any step get the tokens that a decoder gives each prompt alone."""

from typing import Any

import pytest
import torch

from seqgen.core.options import Sampling
from seqgen.core.rng import text_seeds
from seqgen.models import gpt, lm, seq2seq, text_vae
from seqgen.nn.decode import Decoder
from seqgen.serve.batching import Batch, FullError, Row, Token, Worker

STOP = 1
SAMPLINGS = [Sampling(), Sampling(temperature=0.6), Sampling(top_p=0.7), Sampling(top_k=3), Sampling(greedy=True)]


def decoder(kind: str) -> Decoder:
    torch.manual_seed(5)
    models: dict[str, Any] = {
        "lm": lambda: lm.Model(lm.Config(vocab_size=40, hidden=16, embedding=16, layers=2, stop=STOP, max_length=30)),
        "gpt": lambda: gpt.Model(gpt.Config(vocab_size=40, hidden=16, layers=2, heads=2, context=64, stop=STOP)),
        "sliding": lambda: gpt.Model(
            gpt.Config(vocab_size=40, hidden=16, layers=2, heads=2, context=8, slide=True, stop=STOP)
        ),
        "seq2seq": lambda: seq2seq.Model(
            seq2seq.Config(vocab_size=40, hidden=16, embedding=16, start=0, sep=2, stop=STOP, max_length=30)
        ),
        "text-vae": lambda: text_vae.Model(text_vae.Config(vocab_size=40, stop=STOP, max_length=30)),
    }
    made: Decoder = models[kind.removesuffix(" alone")]().eval().decoder()
    if kind.endswith("alone"):
        made.join = None
    return made


def rows(made: Decoder, received: list[list[int]]) -> list[Row]:
    generator = torch.Generator().manual_seed(1)
    jobs = []
    for k in range(24):
        prompt = [0, *torch.randint(2, 40, (k % 5,), generator=generator).tolist()]
        received.append([])

        def receive(token: Token | Exception, k: int = k) -> None:
            assert isinstance(token, Token)
            received[k].append(token.id)

        jobs.append(Row(prompt, int(text_seeds(k, 0, 1)), SAMPLINGS[k % 5], 4 + 2 * (k % 9), receive))
    return jobs


@pytest.mark.parametrize("kind", ["lm", "gpt", "sliding", "seq2seq", "text-vae", "lm alone"])
def test_a_row_does_not_depend_on_its_company(kind: str) -> None:
    made, received = decoder(kind), list[list[int]]()
    jobs = rows(made, received)
    batch, waiting = Batch(made, rows=10), list(jobs)
    while batch or waiting:
        batch.add(waiting[:2])  # two more at every step: some enter at once, others wait for room
        del waiting[:2]
        batch.step()
    for job, tokens in zip(jobs, received, strict=True):
        sampling = Sampling(**(vars(job.sampling) | {"max_new_tokens": job.limit}))
        alone = made.decode([job.ids], torch.tensor([job.seed]), sampling)
        assert [i for i in tokens if i != STOP] == alone.ids[0]
        assert (tokens[-1] == STOP) == alone.finished[0]


def test_a_row_that_is_gone_leaves_and_the_others_go_on() -> None:
    made, received = decoder("lm"), list[list[int]]()
    first, second = rows(made, received)[:2]
    batch = Batch(made, rows=2)
    batch.add([first, second])
    batch.step()
    first.gone = True
    while batch:
        batch.step()
    assert len(received[0]) == 1
    alone = made.decode([second.ids], torch.tensor([second.seed]), Sampling(temperature=0.6, max_new_tokens=6))
    assert [i for i in received[1] if i != STOP] == alone.ids[0]


def test_what_goes_wrong_in_a_step_is_said_to_its_rows_and_the_worker_goes_on() -> None:
    made, failing = decoder("lm"), decoder("lm")
    failing.step = None  # type: ignore[assignment]
    told: list[Any] = []
    worker = Worker({"good": Batch(made, 2), "bad": Batch(failing, 2)}, room=2)
    worker.add("bad", [Row([0], 1, Sampling(), 3, told.append)])
    with pytest.raises(FullError):
        worker.add("good", [Row([0], 1, Sampling(), 3, told.append)] * 3)
    worker.close()
    assert [type(one) for one in told] == [TypeError]
