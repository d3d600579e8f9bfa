"""What the package counts on of a CUDA device; where there is none, this is what the simulated one has to be like."""

import copy
import threading

import pytest
import torch
from torch import nn

from seqgen.core import numerics
from seqgen.nn.rnn import Rnn
from seqgen.nn.sampler import pick
from seqgen.nn.textcnn import GruCritic

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda", 0)


def test_tensors_say_where_they_are_and_compute_there():
    x = torch.arange(6.0, device="cuda").view(2, 3)
    assert x.device == CUDA
    assert (x @ x.t()).device == CUDA
    assert (x @ x.t()).tolist() == [[5.0, 14.0], [14.0, 50.0]]


@pytest.mark.parametrize(
    "mix",
    [
        lambda there, here: there + here,
        lambda there, here: there @ here.t(),
        lambda there, here: torch.cat([there, here]),
        lambda there, here: there.gather(1, here.long()),
        lambda there, here: torch.where(there > 0, there, here),
        lambda there, here: nn.functional.linear(here, there),
        lambda there, here: here[there.long()],
    ],
)
def test_host_and_device_do_not_mix(mix):
    with pytest.raises(RuntimeError, match="device"):
        mix(torch.ones(2, 2, device="cuda"), torch.ones(2, 2))


def test_numbers_of_the_host_and_indices_may_be_used():
    x = torch.arange(4.0, device="cuda")
    assert (x * torch.tensor(2.0)).tolist() == [0, 2, 4, 6]
    assert x[torch.tensor([3, 0])].tolist() == [3, 0]


def test_an_array_is_not_made_of_a_device_tensor():
    with pytest.raises(TypeError, match=r"cuda:0 .* to numpy"):
        torch.ones(1, device="cuda").numpy()


def test_views_share_their_memory_and_inference_mode_holds():
    x = torch.zeros(3, 2, device="cuda")
    with torch.inference_mode():
        x[1:].add_(1)
        assert (x + 1).is_inference()
    assert x.tolist() == [[0, 0], [1, 1], [1, 1]]


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_cudnn_differentiates_its_recurrent_layers_once_and_in_training_only(layer):
    rnn = layer(3, 4, batch_first=True).cuda()
    x = torch.randn(2, 5, 3, device="cuda", requires_grad=True)
    (slope,) = torch.autograd.grad(rnn(x)[0].sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="Double backwards is not supported for CuDNN"):
        slope.square().sum().backward()
    with pytest.raises(RuntimeError, match="can only be called in training mode"):
        rnn.eval()(x)[0].sum().backward()


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("weight_drop", [0.0, 0.3])
def test_recurrent_layers_compute_in_the_precision_that_was_asked_for(cell, weight_drop):
    rnn = Rnn(cell, 8, [16, 8], weight_drop=weight_drop).cuda()
    x = torch.randn(4, 6, 8, device="cuda")
    assert rnn(x)[0].dtype == torch.float32
    with torch.autocast("cuda", torch.bfloat16):
        out, state = rnn(x)
    assert out.dtype == torch.bfloat16
    assert {part.dtype for part in state} == {torch.float32}
    out.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in rnn.parameters())


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_scan_in_bfloat16_is_that_of_float32_but_for_rounding(cell):
    rnn = Rnn(cell, 8, [16, 8]).cuda()
    x = torch.randn(4, 6, 8, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        low = rnn(x)[0]
    # eight bits after the point: an error of 2^-9 in each of some dozen roundings
    torch.testing.assert_close(low.float(), rnn(x)[0], rtol=0, atol=12 * 2**-9)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gradients_of_recurrent_layers_are_the_same_with_and_without_cudnn(cell):
    numerics.configure(CUDA, tf32=False)
    rnn = Rnn(cell, 3, [4]).cuda()
    x = torch.randn(2, 5, 3, device="cuda")
    found = []
    for enabled in (True, False):
        with torch.backends.cudnn.flags(enabled=enabled, allow_tf32=False):
            found.append(torch.autograd.grad(rnn(x)[0].square().sum(), list(rnn.parameters())))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_the_gru_critic_reads_alike_on_both_sides():
    here = GruCritic(11, embedding=4, hidden=6, dropout=0.0)
    there = copy.deepcopy(here).cuda()
    ids, lengths = torch.randint(11, (5, 7)), torch.tensor([7, 1, 3, 7, 2])
    torch.testing.assert_close(there(ids.cuda(), lengths.cuda()).cpu(), here(ids, lengths), rtol=1e-4, atol=1e-5)


def test_float32_is_float32_unless_tensorfloat32_is_asked_for():
    for tf32 in (True, False):
        numerics.configure(CUDA, tf32=tf32)
        facts = numerics.facts(CUDA)
        assert facts["tf32_products"] == facts["tf32_cudnn"] == tf32
        assert facts["cudnn_deterministic"]
        assert not facts["cudnn_benchmark"]


def test_gradients_are_summed_in_the_order_of_one_thread():
    # with a thread for each device the bits of a gradient penalty would depend on what the process did before
    numerics.configure(CUDA, tf32=False)
    threads = []
    x = torch.ones(2, device="cuda", requires_grad=True)
    y = x.square()
    y.register_hook(lambda grad: threads.append(threading.get_ident()))
    y.sum().backward()
    assert threads == [threading.get_ident()]


def test_one_row_is_drawn_like_several():
    probabilities = torch.rand(6, 130, device="cuda")
    draws = torch.rand(6, dtype=torch.float64, device="cuda")
    alone = [pick(probabilities[k : k + 1], draws[k : k + 1]) for k in range(6)]
    assert torch.cat(alone).tolist() == pick(probabilities, draws).tolist()
