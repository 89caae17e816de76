import math

import pytest
import torch
from torchvision.transforms import v2

from mist_avalanche.method.views import SecondView, random_boxes, resized_crop, second_view


def test_crop_is_torchvisions_resized_crop_away_from_its_border():
    x = torch.rand(2, 3, 40, 40)
    boxes = torch.tensor([[8, 4, 20, 30], [0, 10, 40, 25]])
    ours = resized_crop(x, boxes / 40)
    for image, (left, top, width, height), crop in zip(x, boxes.tolist(), ours, strict=True):
        expected = v2.functional.resized_crop(
            image, top, left, height, width, [40, 40], antialias=False
        )
        torch.testing.assert_close(crop[:, 2:-2, 2:-2], expected[:, 2:-2, 2:-2], atol=1e-5, rtol=0)


def test_boxes_are_distributed_as_torchvisions():
    n, size, scale, ratio = 4000, (48, 32), (0.3, 1.0), (3 / 4, 4 / 3)
    ours = random_boxes(n, size, scale, ratio, torch.Generator().manual_seed(0))
    ours = ours * torch.tensor([32.0, 48.0, 32.0, 48.0])
    torch.manual_seed(0)
    image = torch.zeros(3, *size)
    drawn = []
    crop = v2.RandomResizedCrop(size, scale, ratio)
    for _ in range(n):
        p = crop.make_params([image])
        drawn.append([p["left"], p["top"], p["width"], p["height"]])
    theirs = torch.tensor(drawn, dtype=torch.float32)
    for column in range(4):
        a, b = ours[:, column].sort().values, theirs[:, column].sort().values
        # Kolmogorov-Smirnov; 1.95 sqrt(2 / n) is the 0.1 % point.
        grid = torch.arange(49.0)
        distance = (
            (
                torch.searchsorted(a, grid, right=True) / n
                - torch.searchsorted(b, grid, right=True) / n
            )
            .abs()
            .max()
        )
        assert distance < 1.95 * math.sqrt(2 / n), column


def test_every_image_gets_its_own_view_and_the_seed_decides():
    x = torch.rand(1, 3, 16, 16).expand(6, -1, -1, -1)
    views = SecondView()(x, torch.Generator().manual_seed(1))
    assert len({v.numpy().tobytes() for v in views}) == 6
    again = SecondView()(x, torch.Generator().manual_seed(1))
    assert torch.equal(views, again)
    assert views.shape == x.shape
    assert views.min() >= 0
    assert views.max() <= 1 + 1e-6


def test_rates_of_flip_and_grayscale():
    x = torch.zeros(4000, 3, 2, 2)
    x[:, 0, :, 0] = 1.0  # red on the left only
    whole = SecondView(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    out = whole(x, torch.Generator().manual_seed(0))
    flipped = (out[:, 0, 0, 1] > out[:, 0, 0, 0]).float().mean()
    grey = (out[:, 0] == out[:, 1]).flatten(1).all(1).float().mean()
    assert flipped == pytest.approx(0.5, abs=0.03)
    assert grey == pytest.approx(0.25, abs=0.03)


def test_one_channel_stays_one_channel_and_vectors_are_refused():
    assert SecondView()(torch.rand(3, 1, 8, 8), torch.Generator()).shape == (3, 1, 8, 8)
    with pytest.raises(ValueError, match=r"got torch.float32 of shape \(3, 8\).*view=f"):
        SecondView()(torch.rand(3, 8), torch.Generator())


def test_a_view_is_chosen_by_arguments_or_given():
    assert second_view(None) == SecondView()
    assert second_view({"flip": 0}) == SecondView(flip=0)
    given = SecondView(grayscale=0)
    assert second_view(given) is given
    with pytest.raises(ValueError, match="takes flip, grayscale, scale, ratio; got flp"):
        second_view({"flp": 0})
