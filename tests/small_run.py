"""What the engine's tests train on, and how small."""

from pathlib import Path

TRAIN = ("train.samples=10", "train.log_every=2", "train.batch=8")
SMALL = ("model.hidden=16", "model.embedding=16", *TRAIN)
SEQGAN = (
    *("model.policy.hidden=16", "model.policy.embedding=16", "model.critic.widths=[1,2]", "model.critic.maps=[4,4]"),
    *("model.mle_steps=2", "model.critic_steps=1", "model.round_steps=1", "model.critic_turn=1"),
    *("model.critic.negatives=8", "model.reward.rollouts=1", *TRAIN),
)
OF_MODEL = {
    "seqgan": SEQGAN,
    "masked": ("model.hidden=16", "model.layers=2", "model.draws=2", *TRAIN),
    "gpt": ("model.hidden=16", "model.layers=2", *TRAIN),
    "hmm": ("model.states=4", *TRAIN),
}
"""What makes a model small; any other text model by SMALL."""


def small_text(path: Path) -> Path:
    """144 sentences of a tiny grammar, written to `path`."""
    nouns, verbs = ["cat", "dog", "man", "bird"], ["sees", "likes", "follows"]
    lines = [
        f"the {a} {v} the {b} {n} ." for a in nouns for v in verbs for b in nouns for n in ("here", "there", "now")
    ]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def held_out_lines() -> list[str]:
    """108 sentences of the same words, none of which stands in the small text."""
    nouns, verbs = ["cat", "dog", "man", "bird"], ["sees", "likes", "follows"]
    tails = ("", "here now ", "now there ")
    return [f"the {a} {v} the {b} {tail}." for a in nouns for v in verbs for b in nouns[:3] for tail in tails]
