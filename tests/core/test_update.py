"""The one door to the weights, against torch's own optimizers used the plain way."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from seqgen.core.config import Train
from seqgen.core.errors import NonFiniteError
from seqgen.core.update import Optimizer, update

TRAIN = Train(steps=20, lr=0.05, schedule="constant", clip=0.5)


def network(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


def summed_loss(model: nn.Module, seed: int, rows: int = 4) -> tuple[Tensor, int]:
    x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed))
    return (model(x) ** 2).sum(), rows


PLAIN: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "adam": lambda m: torch.optim.Adam(m.parameters(), 0.05, betas=(0.9, 0.99), weight_decay=0.01),
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), 0.05, betas=(0.9, 0.99), weight_decay=0.01),
    "sgd": lambda m: torch.optim.SGD(m.parameters(), 0.05, momentum=0.9, weight_decay=0.01),
    "rmsprop": lambda m: torch.optim.RMSprop(m.parameters(), 0.05, weight_decay=0.01),
    "adagrad": lambda m: torch.optim.Adagrad(m.parameters(), 0.05, weight_decay=0.01),
}


@pytest.mark.parametrize("name", list(PLAIN))
def test_update_equals_backward_clip_and_step(name: str) -> None:
    ours, plain = network(), network()
    train = replace(TRAIN, optimizer=name, weight_decay=0.01, momentum=0.9)
    optimizer, reference = Optimizer(ours.named_parameters(), train), PLAIN[name](plain)
    for step in range(5):
        result = update(optimizer, summed_loss(ours, step), step)
        loss, count = summed_loss(plain, step)
        reference.zero_grad()
        (loss / count).backward()
        norm = nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        reference.step()
        assert result["loss"] == pytest.approx((loss / count).item(), rel=1e-5)
        assert result["grad_norm"] == pytest.approx(norm.item(), rel=1e-5)
        assert result["lr"] == 0.05
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", list(PLAIN))
def test_a_gradient_with_other_strides_reaches_its_own_weights(name: str) -> None:
    ours, plain = network(), network()
    optimizer = Optimizer(ours.named_parameters(), replace(TRAIN, optimizer=name, weight_decay=0.01, momentum=0.9))
    reference = PLAIN[name](plain)
    for step in range(3):
        x = torch.randn(2, 3, generator=torch.Generator().manual_seed(step))
        update(optimizer, ((ours.weight.t() * x.t()).sum(), 1), step)  # the gradient comes transposed
        plain.weight.grad, plain.bias.grad = x.clone(), torch.zeros(2)
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        reference.step()
    torch.testing.assert_close(ours.weight, plain.weight, rtol=1e-5, atol=1e-7)


def test_training_imports_no_compiler() -> None:
    code = (
        "import sys, torch; from torch import nn; from seqgen.core.config import Train\n"
        "from seqgen.core.update import Optimizer, update\n"
        "m = nn.Linear(2, 2); update(Optimizer(m.named_parameters(), Train()), (m(torch.ones(1, 2)).sum(), 1), 0)\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_accumulated_parts_equal_the_whole_with_unequal_counts() -> None:
    whole, parts = network(), network()
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    update(Optimizer(whole.named_parameters(), TRAIN), ((whole(x) ** 2).sum(), 7), 0)
    pieces = (((parts(piece) ** 2).sum(), len(piece)) for piece in x.split([2, 5]))
    update(Optimizer(parts.named_parameters(), TRAIN), pieces, 0)
    torch.testing.assert_close(whole.weight, parts.weight)


def test_the_other_network_is_left_alone() -> None:
    generator, critic = network(0), network(1)
    before = [p.detach().clone() for p in critic.parameters()]
    head = nn.Linear(2, 3)
    x = torch.randn(4, 3)
    loss = critic(head(generator(x))).sum()
    update(Optimizer(generator.named_parameters(), TRAIN), (loss, 4), 0)
    assert all(torch.equal(a, b) for a, b in zip(before, critic.parameters(), strict=True))
    assert all(p.grad is None for p in [*critic.parameters(), *head.parameters(), *generator.parameters()])


def test_a_parameter_that_the_loss_does_not_reach_counts_as_zero() -> None:
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2)})
    before = model["unused"].weight.detach().clone()
    update(Optimizer(model.named_parameters(), TRAIN), (model["used"](torch.ones(1, 3)).sum(), 1), 0)
    assert torch.equal(model["unused"].weight, before)


def test_a_loss_that_is_not_finite_names_the_parameter_and_changes_nothing() -> None:
    model = network()
    before = model.weight.detach().clone()
    optimizer = Optimizer(model.named_parameters(), TRAIN)
    with pytest.raises(
        NonFiniteError, match=r"^step 3: the gradient of weight is not finite \(loss nan\); try a lower"
    ):
        update(optimizer, ((model.weight * float("nan")).sum(), 1), 3)
    assert torch.equal(model.weight, before)
    assert not any(value.any() for value in optimizer.state().values())


def test_clamp_limits_every_parameter() -> None:
    model = network()
    update(Optimizer(model.named_parameters(), TRAIN), summed_loss(model, 0), 0, clamp=0.01)
    assert all(p.abs().max() <= 0.01 for p in model.parameters())


def test_weight_scales_the_learning_rate_of_one_step() -> None:
    half, slow = network(), network()
    sgd = replace(TRAIN, optimizer="sgd")
    update(Optimizer(half.named_parameters(), sgd), summed_loss(half, 0), 0, weight=0.5)
    update(Optimizer(slow.named_parameters(), replace(sgd, lr=0.025)), summed_loss(slow, 0), 0)
    torch.testing.assert_close(half.weight, slow.weight)


def test_the_average_is_the_mean_of_the_weights_since_it_began() -> None:
    model = network()
    optimizer = Optimizer(model.named_parameters(), replace(TRAIN, average_from=2))
    seen = []
    for step in range(6):
        if step >= 2:
            seen.append(model.weight.detach().clone())
        update(optimizer, summed_loss(model, step), step)
    seen.append(model.weight.detach().clone())
    raw = model.weight.detach().clone()
    with optimizer.averaged():
        torch.testing.assert_close(model.weight, torch.stack(seen).mean(0))
    assert torch.equal(model.weight, raw)


@pytest.mark.parametrize("name", list(PLAIN))
def test_state_put_back_goes_on_bit_for_bit(name: str) -> None:
    train = replace(TRAIN, optimizer=name, momentum=0.9, average_from=1)
    straight = network()
    optimizer = Optimizer(straight.named_parameters(), train)
    for step in range(3):
        update(optimizer, summed_loss(straight, step), step)
    state = {key: value.clone() for key, value in optimizer.state().items()}
    with optimizer.averaged():  # a checkpoint's model file holds the averaged weights
        weights = {key: value.clone() for key, value in straight.state_dict().items()}
    resumed = network(9)
    resumed.load_state_dict(weights)
    again = Optimizer(resumed.named_parameters(), train)
    again.load_state(state)
    for step in range(3, 6):
        update(optimizer, summed_loss(straight, step), step)
        update(again, summed_loss(resumed, step), step)
    assert torch.equal(straight.weight, resumed.weight)
    assert all(torch.equal(value, again.state()[key]) for key, value in optimizer.state().items())


def test_no_loss_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^update needs at least one \(loss, count\) pair, got none$"):
        update(Optimizer(network().named_parameters(), TRAIN), [], 0)


def test_only_the_parameters_named_change_and_their_moments_alone() -> None:
    model, whole = network(), network()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer, other = (Optimizer(m.named_parameters(), Train(clip=0.0)) for m in (model, whole))
    update(optimizer, summed_loss(model, 1), 0, only=lambda name: name == "bias")
    update(other, summed_loss(whole, 1), 0)
    assert torch.equal(model.weight, before["weight"])
    assert torch.equal(model.bias, whole.bias)
    changed = {key.partition("/")[2] for key, value in optimizer.state().items() if value.any()}
    assert changed == {"bias"}
