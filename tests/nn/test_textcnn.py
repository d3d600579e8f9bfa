"""Critics equal torch's own convolution, forwards and backwards, for rows of any length."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from seqgen.nn import textcnn
from seqgen.nn.textcnn import CnnCritic, GruCritic

VOCAB = 11


def critic(widths: Sequence[int] = (1, 2, 4), maps: Sequence[int] = (3, 5, 2), *, seed: int = 1) -> CnnCritic:
    torch.manual_seed(seed)
    made = CnnCritic(VOCAB, embedding=6, widths=widths, maps=maps, dropout=0.3)
    with torch.no_grad():
        made.bias.normal_()
    return made.eval()


def by_conv2d(model: CnnCritic, row: Sequence[int]) -> Tensor:
    """The logit of one text by Conv2d, max over time, highway: written plainly. Short texts get zeros after them."""
    ids = torch.tensor([row])
    x = model.embedding(ids)
    found = []
    features = model.bias.split([w.shape[1] for w in model.filters])
    for width, weight, bias in zip(model.widths, model.filters, features, strict=True):
        kernel = weight.t().reshape(-1, 1, width, x.shape[2])
        padded = F.pad(x, (0, 0, 0, max(0, width - len(row)))).unsqueeze(1)
        responses = F.conv2d(padded, kernel, bias).squeeze(3)
        found.append(responses.relu().amax(2))
    y = torch.cat(found, 1)
    half = y.shape[1]
    gate = torch.sigmoid(F.linear(y, model.highway.weight[:half], model.highway.bias[:half]))
    new = F.linear(y, model.highway.weight[half:], model.highway.bias[half:]).relu()
    return model.output(gate * new + (1 - gate) * y).squeeze()


rows = st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=7), min_size=1, max_size=6)


def padded(texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rows with rubbish after their ends: nothing may look at it."""
    longest = max(map(len, texts))
    ids = torch.tensor([[*text, *[3] * (longest - len(text))] for text in texts])
    return ids, torch.tensor([len(text) for text in texts])


@settings(max_examples=40, deadline=None)
@given(rows)
def test_all_paths_equal_conv2d(texts: list[list[int]]) -> None:
    model = critic().double()
    ids, lengths = padded(texts)
    expected = torch.stack([by_conv2d(model, text) for text in texts])
    torch.testing.assert_close(
        model.score_embedded(model.embedded(ids, lengths), lengths).double(), expected.float().double()
    )
    model = model.float()
    expected = torch.stack([by_conv2d(model, text) for text in texts])
    for got in (
        model(ids, lengths),
        model.score_embedded(model.embedded(ids, lengths), lengths),
        model.frozen()(ids, lengths),
    ):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_convolution_equals_conv2d_to_a_millionth() -> None:
    """The paper's widths and maps, relative to the size of the responses."""
    widths = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20)
    torch.manual_seed(2)
    x = torch.randn(20, 8, 16)
    kernels = [torch.randn(width * 16, 9) for width in widths]
    got = textcnn._shifted_convolution(x, widths, kernels, None)
    batch = x.transpose(0, 1).unsqueeze(1)
    expected = torch.cat(
        [
            F.conv2d(batch.double(), k.t().reshape(-1, 1, w, 16).double()).amax((2, 3))
            for w, k in zip(widths, kernels, strict=True)
        ],
        1,
    )
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-6


def test_gradients_equal_conv2d() -> None:
    model = critic()
    texts = [[1, 2, 3, 4, 5, 6, 7], [5, 4], [9, 8, 7, 1, 2]]
    ids, lengths = padded(texts)
    weight = torch.tensor([1.0, -2.0, 0.5])
    parameters = list(model.parameters())
    got = torch.autograd.grad((model(ids, lengths) * weight).sum(), parameters)
    expected = torch.autograd.grad((torch.stack([by_conv2d(model, text) for text in texts]) * weight).sum(), parameters)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_word_said_twice_shares_its_gradient() -> None:
    """Both windows are the largest; together they must not count double."""
    model = critic((1,), (4,))
    twice, once = torch.tensor([[5, 5]]), torch.tensor([[5]])
    a = torch.autograd.grad(model(twice, torch.tensor([2])).sum(), list(model.parameters()))
    b = torch.autograd.grad(model(once, torch.tensor([1])).sum(), list(model.parameters()))
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y)


def test_training_under_bf16_stays_close_and_keeps_float32_gradients() -> None:
    model = critic()
    ids, lengths = padded([[1, 2, 3, 4, 5, 6, 7], [5, 4], [9, 8, 7, 1, 2]])
    exact = model(ids, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(ids, lengths)
        grads = torch.autograd.grad(low.sum(), list(model.parameters()))
    torch.testing.assert_close(low, exact, rtol=0.05, atol=0.05)
    assert all(g.dtype == torch.float32 for g in grads)


def test_frozen_has_no_dropout_and_no_gradient() -> None:
    model = critic().train()
    ids, lengths = padded([[1, 2, 3, 4, 5], [5, 4]])
    frozen = model.frozen()
    first = frozen(ids, lengths)
    assert not first.requires_grad
    assert torch.equal(first, frozen(ids, lengths))


def test_large_vocabularies_do_without_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    model = critic()
    ids, lengths = padded([[1, 2, 3, 4, 5], [5, 4], [1]])
    with_tables = model.frozen()(ids, lengths)
    monkeypatch.setattr(textcnn, "_TABLE_BYTES", 0)
    torch.testing.assert_close(model.frozen()(ids, lengths), with_tables, rtol=1e-5, atol=1e-6)


def test_low_precision_moves_a_probability_by_less_than_a_hundredth() -> None:
    torch.manual_seed(3)
    model = CnnCritic(50, embedding=16, widths=(1, 2, 3), maps=(40, 40, 40), dropout=0.0)
    ids, lengths = torch.randint(50, (200, 9)), torch.full((200,), 9)
    low, exact = model.frozen(low=True)(ids, lengths), model.frozen()(ids, lengths)
    assert float((low.sigmoid() - exact.sigmoid()).abs().max()) < 0.01


def test_prefix_features_are_what_the_critic_finds_in_the_prefix() -> None:
    model = critic()
    text = [1, 5, 2, 2, 9, 3]
    features = model.frozen().prefix_features(*padded([text]))[0]
    for t in range(len(text)):
        expected = []
        split = model.bias.split([w.shape[1] for w in model.filters])
        for width, weight, bias in zip(model.widths, model.filters, split, strict=True):
            windows = [model.embedding(torch.tensor(text[k : k + width])).flatten() for k in range(t + 2 - width)]
            found = torch.stack([w @ weight for w in windows]).amax(0) + bias if windows else torch.zeros(len(bias))
            expected.append(found.relu())
        torch.testing.assert_close(features[t], torch.cat(expected), rtol=1e-5, atol=1e-6)


def test_gru_reads_each_row_to_its_own_end() -> None:
    torch.manual_seed(4)
    model = GruCritic(VOCAB, embedding=6, hidden=5, dropout=0.3).eval()
    texts = [[1, 2, 3, 4, 5], [5, 4], [7]]
    ids, lengths = padded(texts)
    cell = nn.GRUCell(6, 5)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in model.rnn.state_dict().items()})
    expected = []
    for text in texts:
        h = torch.zeros(1, 5)
        for token in text:
            h = cell(model.embedding(torch.tensor([token])), h)
        expected.append(model.output(h).squeeze())
    for got in (model(ids, lengths), model.frozen()(ids, lengths)):
        torch.testing.assert_close(got, torch.stack(expected), rtol=1e-5, atol=1e-6)
    features = model.frozen().prefix_features(ids, lengths)
    assert features.shape == (3, 5, 5)


def test_gradient_penalty_path_can_be_differentiated_twice() -> None:
    model = critic()
    ids, lengths = padded([[1, 2, 3, 4, 5], [5, 4]])
    x = model.embedded(ids, lengths).detach().requires_grad_()
    (slope,) = torch.autograd.grad(model.score_embedded(x, lengths).sum(), x, create_graph=True)
    grads = torch.autograd.grad(slope.square().sum(), list(model.filters))
    assert all(bool(g.any()) for g in grads)


def test_maps_must_match_widths() -> None:
    with pytest.raises(ValueError, match=r"^expected as many critic maps as widths, got 1 and 2$"):
        CnnCritic(5, embedding=2, widths=(1, 2), maps=(3,), dropout=0.0)
