"""A run of masked that is served: /v1/completions fills the gaps of its prompts."""

import secrets
from typing import Any

from seqgen.engine.generate import TextGenerator
from seqgen.serve import protocol
from seqgen.serve.limits import Limits
from seqgen.serve.protocol import CompletionRequest, RequestError

_GAP = "[MASK]"
_USELESS = ("source", "stop", "logprobs", "echo", "max_tokens", "resample")


class FillingModel:
    """A run that fills gaps, by its name."""

    def __init__(self, name: str, generator: TextGenerator, limits: Limits, created: int) -> None:
        self.name, self.generator, self.limits, self.created = name, generator, limits, created

    def card(self) -> dict[str, Any]:
        """Return what a page must know of the model."""
        return {"makes": "text", "interpolates": False, "conditions": False, "fills": _GAP}

    def complete(self, asked: CompletionRequest) -> dict[str, Any]:
        """Return the answer with `n` fillings of each prompt; RequestError for one without a gap, and for options that
        belong to writing from left to right."""
        prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
        without = [text for text in prompts if _GAP not in text]
        if without:
            words = f'{self.name} fills gaps: write {_GAP} for each, as in "a man {_GAP} a horse .", got {without[0]!r}'
            raise RequestError(words, param="prompt")
        typed = [name for name in _USELESS if getattr(asked, name) not in (None, [], False)]
        if typed or asked.constrained:
            name = typed[0] if typed else None
            words = f"{name or 'a constraint'} has no meaning where gaps are filled; leave it out"
            raise RequestError(words, param=name)
        room = self.limits.rows + self.limits.queue
        if len(prompts) * asked.n > room:
            raise RequestError(f"a request may ask for at most {room} texts, got {len(prompts) * asked.n}", param="n")
        drawing = {name: getattr(asked, name) for name in ("temperature", "top_k", "top_p", "min_p", "typical_p")}
        seed = secrets.randbits(53) if asked.seed is None else asked.seed
        filled = self.generator.fill(prompts, count=asked.n, seed=seed, **drawing)
        choices = [
            {"index": k, "text": one.text, "finish_reason": "stop", "logprobs": None} for k, one in enumerate(filled)
        ]
        read = sum(map(len, self.generator.tokenizer.encode(prompts)))
        used = protocol.usage(read, sum(len(one.words) for one in filled))
        return {**protocol.head("text_completion", self.name), "choices": choices, "usage": used}
