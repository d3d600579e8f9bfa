"""GPT-2 checkpoints of Hugging Face as settings and weights of `gpt`: other names, and matrices inputs by outputs."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqgen.core import config as settings_of
from seqgen.core.errors import ConfigError
from seqgen.models import gpt

_SAME: dict[str, tuple[Any, ...]] = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}
"""What `gpt` has in this form alone; where config.json does not say, the first value is meant, except of the type."""

_SIZES = {
    "layers": ("n_layer", 12),
    "heads": ("n_head", 12),
    "hidden": ("n_embd", 768),
    "context": ("n_positions", 1024),
    "vocab_size": ("vocab_size", 50257),
    "feedforward": ("n_inner", 0),
}
"""Our names, theirs, and what is meant where theirs is absent."""

_NAMES = {
    "wte": "embedding",
    "wpe": "positions",
    "ln_f": "norm",
    "h": "blocks",
    "ln_1": "norm_1",
    "ln_2": "norm_2",
    "attn.c_attn": "qkv",
    "attn.c_proj": "out",
    "mlp.c_fc": "up",
    "mlp.c_proj": "down",
}
_MASK = re.compile(r"h\.\d+\.attn\.(masked_)?bias")


def settings(config: Mapping[str, Any]) -> gpt.Config:
    """Return the settings of a config.json; ConfigError for another architecture and for sizes that are none."""
    for name, values in _SAME.items():
        found = config.get(name, None if name == "model_type" else values[0])
        if found not in values:
            raise ConfigError(f"{name} is {found!r}, expected {values[0]!r}: only plain GPT-2 can be imported")
    sizes = {ours: config.get(theirs, size) for ours, (theirs, size) in _SIZES.items()}
    sizes["feedforward"] = sizes["feedforward"] or 0  # null there
    return settings_of.build(
        gpt.Config,
        {
            **sizes,
            "activation": "gelu",
            "positions": "learned",
            "norm": "layer",
            "bias": True,
            "tied": config.get("tie_word_embeddings", True),
            "dropout": config.get("resid_pdrop", 0.1),
        },
        section="model",
    )


def weights(tensors: Mapping[str, Tensor], model: gpt.Model) -> dict[str, Tensor]:
    """Return all tensors by the names of a model with these settings, float32.

    Causal masks and a second copy of tied weights are left out. ConfigError names what is missing, extra or of another
    shape.
    """
    found: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    tied = model.output_weight is None
    plain = {name.removeprefix("transformer."): name for name in tensors}
    for name, given in plain.items():
        if _MASK.fullmatch(name):
            continue
        if name == "lm_head.weight" and tied and "wte.weight" in plain:
            if not tensors[given].equal(tensors[plain["wte.weight"]]):
                raise ConfigError(f"{given} differs from the embedding, though config.json ties them")
            continue
        ours = "output_weight" if name == "lm_head.weight" else name
        for theirs, word in _NAMES.items():
            ours = re.sub(rf"(^|\.){re.escape(theirs)}(?=\.)", rf"\g<1>{word}", ours)
        value = tensors[given].float()
        found[ours] = value.t().contiguous() if ".c_" in name and value.dim() == 2 else value
        origin[ours] = given
    wanted = model.state_dict()
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if extra:
        raise ConfigError(
            f"holds {origin[extra[0]]} and {len(extra) - 1} more that a GPT-2 of these sizes does not have"
        )
    if missing:
        raise ConfigError(
            f"lacks what becomes {missing[0]}, and {len(missing) - 1} more, which a GPT-2 of these sizes has"
        )
    for name, value in found.items():
        if value.shape != wanted[name].shape:
            raise ConfigError(
                f"{origin[name]} is {tuple(tensors[origin[name]].shape)}, but config.json makes {name} "
                f"{tuple(wanted[name].shape)}"
            )
    return found
