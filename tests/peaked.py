"""A small language model that has learnt nothing, but prefers some tokens clearly."""

import torch

from seqgen.models import lm


def peaked_model(vocab: int, *, seed: int = 0, scale: float = 4.0, **options) -> lm.Model:
    """A model in evaluation mode with weights `scale` times their initial ones; options are those of `lm.Config`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = lm.Model(lm.Config(vocab_size=vocab, **({"embedding": 16, "hidden": 24} | options))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= scale
    return model
