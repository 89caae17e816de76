import pytest
import torch

from mist_avalanche.models.triangle import add_products, mirror


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 7), (50, 20)])
def test_sums_of_products_are_those_of_the_rows(dtype, n, m):
    rows = torch.arange(n * m, dtype=torch.float64).view(n, m).remainder(5).to(dtype)
    matrix = torch.zeros(m, m, dtype=dtype)
    here = matrix.data_ptr()
    for _ in range(2):
        add_products(matrix, rows)
        assert matrix.data_ptr() == here  # in place
        expected = matrix.tril()
        mirror(matrix)
        assert torch.equal(matrix.tril(), expected)
    torch.testing.assert_close(matrix, 2 * rows.T @ rows)
    assert torch.equal(matrix, matrix.T)


def test_a_matrix_in_another_order_is_summed_as_well():
    rows = torch.rand(4, 6, dtype=torch.float64)
    matrix = torch.zeros(6, 12, dtype=torch.float64)[:, ::2]
    add_products(matrix, rows)
    torch.testing.assert_close(mirror(matrix), rows.T @ rows)
