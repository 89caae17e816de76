import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mist_avalanche.models.alignment import ClassGaussians, align


def test_gaussians_are_computed_in_float64():
    generator = torch.Generator().manual_seed(0)
    features = 100 + 100 * torch.randn(5, 12, generator=generator)  # fewer images than D
    gaussians = ClassGaussians()
    gaussians.add(features, torch.zeros(5, dtype=torch.int64))
    covariance = torch.from_numpy(np.cov(features.double().numpy().T)) + 1e-4 * torch.eye(12)
    expected = torch.linalg.cholesky(covariance)
    assert expected.diagonal().min() < 0.02  # the 1e-4, beside entries of 100
    assert gaussians.factors[0].dtype == torch.float32
    torch.testing.assert_close(gaussians.factors[0].double(), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(FloatingPointError, match="NaN or Inf"):
        gaussians.add(features * torch.nan, torch.ones(5, dtype=torch.int64))
    assert gaussians.classes == [0]


def test_a_class_that_comes_back_has_the_gaussian_of_all_its_features():
    features = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels, whole, parts = torch.zeros(9, dtype=torch.int64), ClassGaussians(), ClassGaussians()
    whole.add(features, labels)
    for rows in (slice(0, 1), slice(1, 4), slice(4, 9)):
        parts.add(features[rows], labels[rows])
    assert (parts.counts, parts.experiences) == ({0: 9}, {0: 2})
    torch.testing.assert_close(parts.means[0], whole.means[0])
    torch.testing.assert_close(parts.factors[0], whole.factors[0])


def test_an_alignment_separates_the_classes_and_leaves_other_rows():
    generator, gaussians = torch.Generator().manual_seed(0), ClassGaussians()
    for y in (0, 3):
        features = torch.randn(30, 6, generator=generator) + 3 * F.one_hot(torch.tensor(y), 6)
        gaussians.add(features, torch.full((30,), y))
    weight, bias = torch.zeros(5, 6), torch.zeros(5)
    losses = [*align(weight, bias, gaussians, epochs=4, samples=64, lr=0.1, generator=generator)]
    assert torch.stack(losses).shape == (4, 2)
    assert losses[-1].mean() < losses[0].mean()
    assert not weight[[1, 2, 4]].any()
    assert (weight @ torch.eye(6)[[0, 3]].T).argmax(0).tolist() == [0, 3]
