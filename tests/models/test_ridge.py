import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mist_avalanche.models.ridge import (
    RIDGES,
    choose_ridge,
    ridge_for_few,
    solve_ridge,
    validation_losses,
)

SEEDS = st.integers(0, 10**6)


def same(features):
    return features


def problem(n, width, classes, seed):
    g = torch.Generator().manual_seed(seed)
    h = torch.randn(n, width, generator=g, dtype=torch.float64)
    return h, torch.randn(n, classes, generator=g, dtype=torch.float64)


def lstsq(h, y, ridge):
    """min |h w - y|² + λ|w|², as ordinary least squares on stacked rows."""
    width = h.shape[1]
    eye = ridge**0.5 * torch.eye(width, dtype=h.dtype)
    zeros = torch.zeros(width, y.shape[1], dtype=h.dtype)
    return torch.linalg.lstsq(torch.cat([h, eye]), torch.cat([y, zeros])).solution


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 40), width=st.integers(1, 40), exponent=st.integers(-3, 4), seed=SEEDS)
def test_solution_is_that_of_least_squares(n, width, exponent, seed):
    h, y = problem(n, width, 3, seed)
    gram = h.T @ h
    kept, solution = gram.clone(), solve_ridge(gram, h.T @ y, 10.0**exponent)
    torch.testing.assert_close(solution, lstsq(h, y, 10.0**exponent), atol=1e-8, rtol=1e-6)
    assert torch.equal(gram, kept)


@settings(deadline=None, max_examples=30)
@given(n=st.integers(2, 50), width=st.integers(1, 50), seed=SEEDS)
def test_losses_are_those_of_one_fit_per_ridge(n, width, seed):
    h, y = problem(n, width, 3, seed)
    cut = max(1, int(0.8 * n))
    for loss, ridge in list(zip(validation_losses(same, width, h, y), RIDGES, strict=True))[4:]:
        residual = h[cut:] @ lstsq(h[:cut], y[:cut], ridge) - y[cut:]
        torch.testing.assert_close(loss, residual.square().mean(), atol=1e-6, rtol=1e-5)


def test_small_ridges_do_not_turn_to_noise_in_float32():
    """More columns than rows: LU solves in float32 blow up there."""
    h, y = problem(60, 200, 2, 0)
    exact = validation_losses(same, 200, h, y)
    single = validation_losses(same, 200, h.float(), y.float())
    torch.testing.assert_close(single, exact, rtol=1e-4, atol=0)
    assert choose_ridge(same, 200, h.float(), y.float()) == choose_ridge(same, 200, h, y)


def test_a_ridge_below_the_rounding_of_the_sums_is_raised():
    h, y = problem(5, 100, 2, 0)
    h, y = h.float() * 1000, y.float()
    solution = solve_ridge(h.T @ h, h.T @ y, 1e-8)
    torch.testing.assert_close(h @ solution, y, atol=1e-2, rtol=0)  # it still fits its rows


def test_ridge_for_few_rows_gives_an_orthogonal_row_five_sixths():
    """Closed form: rows that are orthogonal and as long as each other."""
    h, y = 3 * torch.eye(6, 2000, dtype=torch.float64), torch.eye(6, dtype=torch.float64)
    ridge = ridge_for_few(same, h)
    assert ridge == pytest.approx(9 / 5)
    fitted = h @ solve_ridge(h.T @ h, h.T @ y, ridge)
    torch.testing.assert_close(fitted, y * 5 / 6)
    assert ridge_for_few(same, torch.zeros(2, 5)) == RIDGES[0]


def test_sums_that_are_not_finite_are_refused_and_stay_as_they_are():
    gram = torch.tensor([[1.0, float("nan")], [float("nan"), 1.0]])
    with pytest.raises(FloatingPointError, match="NaN or Inf"):
        solve_ridge(gram, torch.ones(2, 1), 1.0)
    assert gram.diagonal().tolist() == [1, 1]
