"""How texts are sampled and searched: options as frozen dataclasses, without torch.

The command line makes its flags from these fields, and the text under a field is the help of both.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen: the section `sample`. In this order: blocks, penalty, temperature, filters, draw."""

    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Divides the logits: below 1 surer, above 1 wilder; 0 is greedy."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Only the k most probable tokens; 0 turns it off."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Only the most probable tokens whose mass reaches this; 1 turns it off."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Only tokens at least this many times as probable as the likeliest one; 0 turns it off."""
    typical_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Only the tokens nearest to the expected information, until this mass; 0 turns it off."""
    greedy: bool = False
    """Always the most probable token."""
    min_new_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens after the prompt before a text may end."""
    max_new_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens after the prompt at most, the end counted; 0: the model's own limit."""
    suppress_tokens: tuple[int, ...] = ()
    """Token ids that never appear."""
    repetition_penalty: Annotated[float, Field(ge=1e-3, le=1e3)] = 1.0
    """Divides positive logits of tokens already in prompt or text, multiplies negative ones; 1 turns it off."""
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] = 0
    """No run of this many tokens appears twice in prompt and text; 0 turns it off."""
    details: bool = False
    """Also give log-probabilities and entropies of every token."""

    @property
    def sure(self) -> bool:
        """Whether nothing is left to chance."""
        return self.greedy or self.temperature == 0

    def limit(self, own: int) -> int:
        """Return the most tokens of a text, where a model has a limit of its `own` or none (0); ValueError."""
        limit, least = self.max_new_tokens or own, self.min_new_tokens
        if limit < 1:
            raise ValueError("sample.max_new_tokens must be at least 1 for a model without a limit of its own, got 0")
        if least > limit:
            most = f"sample.max_new_tokens = {limit}" if self.max_new_tokens else f"the run's own limit of {limit}"
            raise ValueError(f"sample.min_new_tokens = {least} is more than {most}; ask for less, or allow more")
        return limit


@dataclass(frozen=True)
class Beam:
    """How to search."""

    num_beams: Annotated[int, Field(ge=1)] = 8
    """Candidates kept for each prompt, and texts returned at most."""
    length_penalty: Annotated[float, Field(ge=0)] = 1.0
    """a of the score log p / L^a: 0 prefers short texts, 1 compares the mean per token."""
    num_beam_groups: Annotated[int, Field(ge=1)] = 1
    """Groups that the candidates are split into, for texts that differ; must divide `num_beams`."""
    diversity_penalty: Annotated[float, Field(ge=0)] = 0.5
    """Nats that a token loses for every candidate of an earlier group that has just chosen it."""
    min_new_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens after the prompt before a text may end."""
    max_new_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens after the prompt at most, the end counted; 0: the model's own limit."""
    suppress_tokens: tuple[int, ...] = ()
    """Token ids that never appear."""
