"""Tensors of torch come out equal and of the same type. Torch is too large for CI: these run where it is installed."""

from __future__ import annotations

import pytest

from podium import Sequence, Workflow
from podium.errors import InvalidInput
from podium.protocols.values import check_value
from podium.testing import simulate
from tests.support.typed import passing

torch = pytest.importorskip("torch")

TENSORS = {
    "integers": lambda: torch.arange(6).reshape(2, 3),
    "empty": lambda: torch.zeros(0, 3),
    "of no dimension": lambda: torch.tensor(2.5),
    "short floats": lambda: torch.tensor([1.0], dtype=torch.bfloat16),
    "bools": lambda: torch.tensor([True, False]),
    "complex": lambda: torch.tensor([1 + 2j]),
    "conjugate": lambda: torch.tensor([1 + 2j]).conj(),
    "imaginary": lambda: torch.tensor([1 + 2j]).conj().imag,
    "every other": lambda: torch.ones(3, 4)[:, ::2],
    "transposed": lambda: torch.arange(6).reshape(2, 3).t(),
    "with a gradient": lambda: torch.ones(2, 2, requires_grad=True),
    "parameter": lambda: torch.nn.Parameter(torch.ones(2)),
}
REFUSED = {
    "sparse": (lambda: torch.ones(2).to_sparse(), r"give its `\.to_dense\(\)`"),
    "in a graph": (lambda: torch.ones(2, requires_grad=True) * 2, r"give its `\.detach\(\)`"),
    "elsewhere": (lambda: torch.ones(2, device="meta"), r"a tensor on meta cannot be encoded: give its `\.cpu\(\)`"),
    "module": (lambda: torch.nn.Linear(1, 1), r"give its `\.state_dict\(\)`"),
}


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("hint", ["Any", "Tensor"])
def test_a_tensor_comes_out_equal_and_of_the_same_type(name, hint):
    import typing

    value = TENSORS[name]()
    step = passing(typing.Any if hint == "Any" else torch.Tensor)
    (out,) = simulate(Workflow("w", Sequence(step, step)), [value])
    assert (type(out), out.dtype, out.shape) == (type(value), value.dtype, value.shape)
    assert torch.equal(out.detach(), value.detach()) and out.requires_grad == value.requires_grad


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_kept_is_refused_with_the_way_out(name):
    make, says = REFUSED[name]
    with pytest.raises(InvalidInput, match=says):
        check_value(make(), "output")
