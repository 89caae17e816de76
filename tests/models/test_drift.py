import torch

from mist_avalanche.models.drift import AffineMap, fit_drift, rotations_and_flips


def features(n=300, width=8, seed=0):
    return torch.randn(n, 1, width, generator=torch.Generator().manual_seed(seed)) + 2


def test_finds_an_affine_map():
    before = features()
    weight = torch.eye(8) + 0.3 * torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    bias = torch.arange(8.0)
    drift = fit_drift(before, before @ weight + bias, torch.Generator().manual_seed(2))
    unseen = features(seed=3)
    torch.testing.assert_close(drift(unseen), unseen @ weight + bias, atol=1e-4, rtol=1e-4)


def test_noise_leaves_the_mean_shift():
    """Ten images say nothing of 64 x 64 weights; the map must not invent any."""
    before = features(10, 64)
    noise = torch.randn(10, 1, 64, generator=torch.Generator().manual_seed(5))
    drift = fit_drift(before, before + 1 + 0.1 * noise, torch.Generator().manual_seed(0))
    unseen = features(100, 64, seed=6)
    assert (drift(unseen) - unseen - 1).abs().mean() < 0.2


def test_no_drift_is_the_identity_and_one_image_a_shift():
    before = features()
    torch.testing.assert_close(fit_drift(before, before)(before), before)
    drift = fit_drift(before[:1], before[:1] + 3)
    torch.testing.assert_close(drift(before), before + 3)


def test_sums_move_like_their_members():
    x = features(20).double().squeeze(1)
    labels = torch.arange(20) % 3
    drift = AffineMap(torch.randn(8, 8, dtype=torch.float64), torch.randn(8, dtype=torch.float64))
    totals = torch.zeros(3, 8, dtype=torch.float64).index_add_(0, labels, x)
    moved = torch.zeros(3, 8, dtype=torch.float64).index_add_(0, labels, drift(x))
    torch.testing.assert_close(drift.of_sums(totals, torch.bincount(labels)), moved)


def test_views_are_all_different_and_come_from_the_image():
    image = torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4)
    views = rotations_and_flips(image)
    assert len(views) == 8
    assert torch.equal(views[0], image)
    assert not any(torch.equal(a, b) for i, a in enumerate(views) for b in views[:i])
    assert all(torch.equal(v.sort(dim=3)[0].sum((2, 3)), image.sum((2, 3))) for v in views)
    assert [v.shape for v in rotations_and_flips(image[..., :3])] == [(2, 3, 4, 3)] * 4
    assert len(rotations_and_flips(image.flatten(1))) == 1
