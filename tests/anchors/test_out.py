"""`out=`: written where it says, whole, and nowhere else; refused untouched where it does not fit."""

from __future__ import annotations

import pytest
import reference
import torch
from conftest import DTYPES
from torch import nn

import anchor_ext

pytestmark = pytest.mark.quick

SHAPE = (70, 90)
N = anchor_ext.Anchors().num_anchors(SHAPE)


@pytest.mark.parametrize("dtype", DTYPES)
def test_writes_and_returns_out(dtype, device):
    out = torch.full((1, N, 4), float("nan"), dtype=dtype, device=device)
    version = out._version
    result = anchor_ext.generate(SHAPE, dtype=dtype, device=device, out=out)
    assert result is out and out._version > version
    assert reference.same_bits(out, reference.rounded(reference.anchors(SHAPE), dtype)[None])


@pytest.mark.parametrize("dtype", DTYPES)
def test_views_at_every_offset(dtype, device):
    """A view that starts anywhere in memory, 16-byte stores or not, with sentinels on both sides."""
    expected = reference.rounded(reference.anchors(SHAPE), dtype)
    for offset in range(41):
        memory = torch.full((4 * N + 100,), -7.0, dtype=dtype, device=device)
        out = memory[offset : offset + 4 * N].view(1, N, 4)
        anchor_ext.generate(SHAPE, dtype=dtype, device=device, out=out)
        assert reference.same_bits(out[0], expected), offset
        assert (memory[:offset] == -7).all() and (memory[offset + 4 * N :] == -7).all(), offset


def test_out_alone_decides_the_device(device):
    out = torch.zeros(1, N, 4, device=device)
    assert anchor_ext.generate(SHAPE, out=out) is out
    assert torch.equal(out.cpu(), reference.rounded(reference.anchors(SHAPE), torch.float32)[None])


def test_out_on_meta():
    out = torch.zeros(1, N, 4, device="meta")
    assert anchor_ext.generate(SHAPE, out=out) is out


def test_out_in_inference_mode():
    with torch.inference_mode():
        out = torch.zeros(1, N, 4)
        anchor_ext.generate(SHAPE, out=out)
        other = torch.zeros(1, N, 4)
    expected = reference.rounded(reference.anchors(SHAPE), torch.float32)[None]
    assert torch.equal(out, expected)
    assert torch.equal(anchor_ext.generate(SHAPE, out=other), expected)


def test_autograd_sees_the_write():
    """A value that autograd has kept for backward may not change behind its back."""
    weight = torch.ones(1, requires_grad=True)
    out = torch.zeros(1, N, 4)
    loss = (weight * out).sum()
    anchor_ext.generate(SHAPE, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def _emptied() -> torch.Tensor:
    out = torch.zeros(1, N, 4)
    out.untyped_storage().resize_(16)
    return out


BAD = {
    "no tensor": (lambda: [[0.0] * 4], TypeError, "out is"),
    "one anchor too many": (lambda: torch.zeros(1, N + 1, 4), ValueError, r"out has shape \(1, .*expected \(1, "),
    "no batch dimension": (lambda: torch.zeros(N, 4), ValueError, "out has shape"),
    "another dtype": (lambda: torch.zeros(1, N, 4, dtype=torch.float64), ValueError, "out has dtype torch.float64"),
    "an integer dtype": (lambda: torch.zeros(1, N, 4, dtype=torch.int32), ValueError, "out has dtype torch.int32"),
    "transposed": (lambda: torch.zeros(1, 4, N).transpose(1, 2), ValueError, "contiguous"),
    "strided": (lambda: torch.zeros(1, N, 8)[..., ::2], ValueError, "contiguous"),
    "expanded": (lambda: torch.zeros(1, 1, 4).expand(1, N, 4), ValueError, "contiguous"),
    "sparse": (lambda: torch.zeros(1, N, 4).to_sparse(), ValueError, "out has layout torch.sparse_coo"),
    "requires grad": (lambda: torch.zeros(1, N, 4, requires_grad=True), ValueError, "out requires grad"),
    "a negated view": (lambda: torch._neg_view(torch.zeros(1, N, 4)), ValueError, "negated"),
    "a tensor of zeros without memory": (lambda: torch._efficientzerotensor((1, N, 4)), ValueError, "at address 0"),
    "a part of them": (lambda: torch._efficientzerotensor((2, N, 4))[1:], ValueError, "at address 0"),
    "nested": (lambda: torch.nested.nested_tensor([torch.zeros(N, 4)]), ValueError, "shape nested"),
    "a parameter of three": (lambda: nn.Parameter(torch.zeros(3, N, 4), False), ValueError, r"shape \(3, .*expected"),
    "an emptied storage": (_emptied, ValueError, "out has a storage of 16 bytes"),
    "another device": (lambda: torch.zeros(1, N, 4, device="meta"), ValueError, "out is on device meta; expected cpu"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_untouched(case):
    make, error, message = BAD[case]
    out = make()
    readable = isinstance(out, torch.Tensor) and not out.is_meta and "nested" not in case and "storage" not in case
    before = out.clone() if readable else None
    with pytest.raises(error, match=message):
        anchor_ext.generate(SHAPE, device="cpu", out=out)
    if before is not None:
        assert torch.equal(out.to_dense() if out.is_sparse else out, before.to_dense() if out.is_sparse else before)
