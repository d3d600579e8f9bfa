"""The one door to the weights: trained parameters change only in `update`.

A step is one optimizer update of one network. Gradients are taken of the optimizer's own parameters only, so a loss
that passes through another network leaves nothing behind in it: no `detach` to forget, no `zero_grad` between.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adagrad import adagrad
from torch.optim.adam import adam
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

from seqgen.core import dist
from seqgen.core.config import Train, learning_rate
from seqgen.core.errors import NonFiniteError

Loss = tuple[Tensor, int | float | Tensor]
"""A summed loss with gradient, and how many terms the sum has."""


_MOMENTS = {
    **dict.fromkeys(("adam", "adamw"), ("exp_avg", "exp_avg_sq")),
    "rmsprop": ("square_avg",),
    "adagrad": ("sum",),
}
"""What each rule keeps of past gradients beside the number of its steps; sgd its momentum, if any."""


class Optimizer:
    """The update rule of one network: its named parameters, their moments, and the running mean of the weights.

    Its whole state is tensors (`state`, `load_state`); the learning rate is a function of the step.
    """

    def __init__(self, named_parameters: Iterable[tuple[str, nn.Parameter]], train: Train, *, lr: float = 0.0) -> None:
        """Take over the parameters; `lr` above 0 replaces `train.lr` for this network, the schedule stays."""
        self.train = train
        self.names, self.parameters = map(list, zip(*named_parameters, strict=True))
        self._scale = lr / train.lr if lr else 1.0
        adaptive = train.optimizer != "sgd"
        kinds = _MOMENTS.get(train.optimizer, ("momentum_buffer",) if train.momentum else ())
        self._moments = {kind: [torch.zeros_like(p.detach()) for p in self.parameters] for kind in kinds}
        if adaptive:
            # the fused rules count on the device; adagrad reads its counts on the host
            counts = [p.device if "exp_avg" in kinds else torch.device("cpu") for p in self.parameters]
            self._moments["step"] = [torch.zeros((), device=device) for device in counts]
        self._mean: list[Tensor] | None = None
        self._mean_count = 0

    def lr(self, step: int) -> float:
        """Return the learning rate of this network at a step."""
        return learning_rate(self.train, step) * self._scale

    @property
    def averaging(self) -> bool:
        """Whether the running mean of the weights has begun."""
        return self._mean is not None

    def start_averaging(self) -> None:
        """Begin the running mean with the weights as they are (Polyak and Juditsky 1992); nothing if it has begun."""
        if self._mean is None:
            self._mean, self._mean_count = [p.detach().clone() for p in self.parameters], 1

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the mean weights into the network while open, if averaging has begun: to validate, sample and save."""
        if self._mean is None:
            yield
            return
        raw = [p.detach().clone() for p in self.parameters]
        self._copy_in(self._mean)
        try:
            yield
        finally:
            self._copy_in(raw)

    def _copy_in(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)

    def apply(self, chosen: list[int], gradients: Iterable[Tensor], step: int, weight: float) -> None:
        """Take one step on the parameters of these numbers, and update the running mean after it."""
        if self.train.average_from >= 0 and step >= self.train.average_from:
            self.start_averaging()
        with torch.no_grad():
            self._step([self.parameters[i] for i in chosen], gradients, chosen, self.lr(step) * weight)
            if self._mean is not None:
                self._mean_count += 1
                torch._foreach_lerp_(self._mean, [p.detach() for p in self.parameters], 1 / self._mean_count)

    def _step(self, parameters: list[Tensor], gradients: Iterable[Tensor], chosen: list[int], lr: float) -> None:
        # torch's functions and not its Optimizer classes: the first of these to be made imports the compiler, 1.5 s
        train = self.train
        # the fused step reads memory in order: a gradient with other strides would reach the wrong weights (torch 2.13)
        gradients = [
            g if g.stride() == p.stride() else torch.empty_like(p).copy_(g)
            for p, g in zip(parameters, gradients, strict=True)
        ]
        moments = {kind: [values[i] for i in chosen] for kind, values in self._moments.items()}
        common: dict[str, Any] = {"lr": lr, "weight_decay": train.weight_decay, "maximize": False}
        if train.optimizer == "rmsprop":
            rule: dict[str, Any] = {"alpha": 0.99, "eps": 1e-8, "momentum": 0.0, "centered": False, "foreach": True}
            rmsprop(parameters, gradients, moments["square_avg"], [], [], moments["step"], **rule, **common)
            return
        if train.optimizer == "adagrad":
            rule = {"lr_decay": 0.0, "eps": 1e-10, "foreach": True}
            adagrad(parameters, gradients, moments["sum"], moments["step"], **rule, **common)
            return
        common["fused"] = True
        if train.optimizer == "sgd":
            buffers: list[Tensor | None] = [*moments["momentum_buffer"]] if train.momentum else [None] * len(chosen)
            sgd(parameters, gradients, buffers, momentum=train.momentum, dampening=0.0, nesterov=False, **common)
        else:
            common |= {"decoupled_weight_decay": train.optimizer == "adamw", "eps": 1e-8, "amsgrad": False}
            common |= {"beta1": train.beta1, "beta2": train.beta2}
            adam(parameters, gradients, moments["exp_avg"], moments["exp_avg_sq"], [], moments["step"], **common)

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed run needs, by `kind/parameter`: moments, counters, raw weights under averaging."""
        tensors = {
            f"{kind}/{name}": value
            for kind, values in self._moments.items()
            for name, value in zip(self.names, values, strict=True)
        }
        if self._mean is not None:
            for name, parameter, mean in zip(self.names, self.parameters, self._mean, strict=True):
                tensors[f"raw/{name}"], tensors[f"mean/{name}"] = parameter.detach().clone(), mean
            tensors["mean_count"] = torch.tensor(self._mean_count)
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` gave; raw weights replace the averaged ones that the model file holds."""
        by_name = dict(zip(self.names, self.parameters, strict=True))
        means: dict[str, Tensor] = {}
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            if kind == "mean":
                means[name] = value.to(by_name[name].device)
            elif kind == "raw":
                with torch.no_grad():
                    by_name[name].copy_(value)
            elif name:
                self._moments[kind][self.names.index(name)].copy_(value)
        if means:
            self._mean, self._mean_count = [means[name] for name in self.names], int(tensors["mean_count"])


def update(
    optimizer: Optimizer,
    losses: Loss | Iterable[Loss],
    step: int,
    *,
    weight: float = 1.0,
    clamp: float = 0.0,
    only: Callable[[str], bool] | None = None,
    noted: Mapping[str, Tensor] | None = None,
) -> dict[str, float]:
    """Change the optimizer's parameters once and return {"loss", "grad_norm", "lr"}, and what is `noted`.

    `losses` is one (summed loss, count) or an iterable of them, each differentiated before the next is drawn; the
    gradient is that of the mean over all counts and all processes (one all-reduce). Parameters that a loss does not
    reach count as zero. `weight` scales this step's learning rate; `clamp` > 0 then limits every parameter to +-clamp
    (weight clipping, Arjovsky et al. 2017). Gradients are clipped to norm `train.clip` first. `only` says by name which
    parameters this step changes; the others and their moments stay as they are. `noted` are numbers of this process, ()
    tensors of the device, whose values behind the last loss are fetched in the one wait for it.
    Raises NonFiniteError, with the weights untouched, when the loss or a gradient is not finite.
    """
    chosen = [i for i, name in enumerate(optimizer.names) if only is None or only(name)]
    parameters = [optimizer.parameters[i] for i in chosen]
    pairs: Iterable[Loss] = [losses] if isinstance(losses, tuple) else losses
    gradients: list[Tensor] | None = None
    total: Tensor | float = 0.0
    count: Tensor | float = 0.0
    for loss, terms in pairs:
        new = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        gradients = list(new) if gradients is None else [a + b for a, b in zip(gradients, new, strict=True)]
        total, count = total + loss.detach(), count + terms
    if gradients is None:
        raise ValueError("update needs at least one (loss, count) pair, got none")

    ends = [torch.as_tensor(end).to(gradients[0]).reshape(1) for end in (total, count)]
    if dist.world() > 1:
        flat = dist.sum_(torch.cat([g.reshape(-1) for g in gradients] + ends))
        gradients, ends = _views(flat, parameters), [flat[-2:-1], flat[-1:]]
    whole = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    notes = [value.reshape(1) for value in (noted or {}).values()]
    norm, total, count, *fetched = torch.cat([whole.reshape(1), *ends, *notes]).tolist()  # one wait for the device
    norm, mean = norm / (count or math.nan), total / (count or math.nan)
    if not (math.isfinite(mean) and math.isfinite(norm)):
        bad = next((optimizer.names[i] for i, g in zip(chosen, gradients, strict=True) if not g.isfinite().all()), None)
        where = f"the gradient of {bad}" if bad else "the loss"
        raise NonFiniteError(f"step {step}: {where} is not finite (loss {mean:g}); try a lower train.lr or train.clip")
    clip = optimizer.train.clip
    scale = (clip / norm if clip and norm > clip else 1.0) / count
    optimizer.apply(chosen, torch._foreach_mul(gradients, scale), step, weight)
    if clamp:
        with torch.no_grad():
            torch._foreach_clamp_min_(parameters, -clamp)
            torch._foreach_clamp_max_(parameters, clamp)
    return {
        "loss": mean,
        "grad_norm": norm,
        "lr": optimizer.lr(step) * weight,
        **dict(zip(noted or {}, fetched, strict=True)),
    }


def _views(flat: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    """Return the flat gradient in the shapes of the parameters."""
    sizes = [p.numel() for p in parameters]
    return [part.view_as(p) for part, p in zip(torch.split(flat[: sum(sizes)], sizes), parameters, strict=True)]
