"""Layers of image models: sizes, norms and the statistics they keep."""

import pytest
import torch
from torch import nn

from seqgen.core.errors import ConfigError
from seqgen.nn.conv import (
    ClassNorm,
    default_widths,
    doubling,
    frozen_statistics,
    halving,
    limited,
    small_normal,
    smallest_side,
)


@pytest.mark.parametrize("size", [8, 13, 28, 32, 50])
@pytest.mark.parametrize("norm", ["none", "batch", "layer", "spectral"])
def test_halving_and_doubling_are_each_others_sizes(size: int, norm: str) -> None:
    widths = (4, 5, 6)
    side = smallest_side(size, widths, "model.widths")
    down = nn.Sequential(*halving(3, widths, nn.ReLU(), norm=norm))  # type: ignore[arg-type]
    up = nn.Sequential(*doubling(widths[::-1], 3, size, nn.ReLU(), norm="batch"))
    maps = down(torch.zeros(2, 3, size, size))
    assert maps.shape == (2, 6, side, side) == (2, 6, size // 8, size // 8)
    assert up(maps).shape == (2, 3, size, size)


def test_default_widths_are_those_of_dcgan_and_end_at_a_side_of_4_to_7() -> None:
    assert default_widths(64, 64) == (64, 128, 256, 512)  # figure 1 of Radford et al. 2016, from its last layer on
    assert default_widths(128, 32) == (32, 64, 128, 256, 256)
    for size in range(16, 300):
        assert 4 <= smallest_side(size, default_widths(size, 1), "model.widths") <= 7
    assert [len(default_widths(size, 1)) for size in (1, 2, 3, 4, 8, 15)] == [0, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("size", "widths", "message"),
    [
        (5, (1, 1, 1), "has 3 widths, each of which halves the image, but 5 pixels can be halved 2 times; give 1 to 2"),
        (1, (), "has 0 widths, each of which halves the image, but 1 pixels can be halved 0 times; give 1 to 0"),
    ],
)
def test_a_size_that_cannot_be_halved_is_refused(size: int, widths: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        smallest_side(size, widths, "model.widths")
    assert str(caught.value) == f"model.widths {message} widths, or model.net=mlp"


def test_spectral_norm_limits_the_largest_singular_value() -> None:
    torch.manual_seed(0)
    layer = limited(nn.Linear(6, 5), "spectral")
    for _ in range(50):  # each forward pass in training is one round of power iteration
        layer(torch.zeros(1, 6))
    assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1.0, abs=1e-3)
    plain = nn.Linear(6, 5)
    assert limited(plain, "batch") is plain


def test_class_norm_scales_and_shifts_by_the_class() -> None:
    norm = ClassNorm(3, classes=2)
    with torch.no_grad():
        norm.scale.weight[1], norm.shift.weight[1] = 2.0, 5.0
    maps = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1] * 4)
    out = norm(maps, labels)
    plain = (maps - maps.mean((0, 2, 3), keepdim=True)) / (
        maps.var((0, 2, 3), correction=0, keepdim=True) + 1e-5
    ).sqrt()
    torch.testing.assert_close(out[labels == 0], plain[labels == 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out[labels == 1], 2 * plain[labels == 1] + 5, rtol=1e-5, atol=1e-5)


def test_layer_norm_makes_no_image_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*halving(1, (4, 4), nn.ReLU(), norm="layer"))
    images = torch.randn(6, 1, 8, 8)
    torch.testing.assert_close(net(images)[:2], net(images[:2]))


def test_frozen_statistics_normalise_by_the_batch_and_stay() -> None:
    norm = nn.BatchNorm2d(2)
    maps = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0)) * 3 + 1
    with frozen_statistics(norm):
        out = norm(maps)
    assert out.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert norm.running_mean is not None
    assert norm.running_mean.eq(0).all()
    norm(maps)
    assert not norm.running_mean.eq(0).any()


def test_first_weights_of_dcgan() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*doubling((64, 64), 64, 32, nn.ReLU(), norm="batch"))
    small_normal(net)
    convolutions = [m for m in net if isinstance(m, nn.ConvTranspose2d)]
    assert convolutions[0].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert all(m.bias is not None and m.bias.eq(0).all() for m in convolutions)
    norms = [m for m in net if isinstance(m, nn.BatchNorm2d)]
    assert norms[0].weight.mean().item() == pytest.approx(1.0, abs=0.01)
