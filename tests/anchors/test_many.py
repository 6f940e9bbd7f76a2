"""Images of different sizes at once: the anchors of each, in one allocation and one launch."""

from __future__ import annotations

import pytest
import torch
from launches import operators
from test_api import ODD

import anchor_ext

SHAPES = [(640, 832), (64, 64), (1, 1), (333, 1000), (64, 64)]


@pytest.mark.quick
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("configuration", [{}, ODD])
def test_the_bits_of_each_alone(configuration, dtype, device):
    many = anchor_ext.generate_many(SHAPES, **configuration, dtype=dtype, device=device)
    assert isinstance(many, list) and len(many) == len(SHAPES)
    for boxes, shape in zip(many, SHAPES, strict=True):
        alone = anchor_ext.generate(shape, **configuration, dtype=dtype, device=device)
        assert boxes.shape == alone.shape and boxes.dtype == dtype and boxes.device == alone.device
        assert torch.equal(boxes, alone)
    module = anchor_ext.Anchors(**configuration).generate_many(SHAPES, dtype=dtype, device=device)
    assert all(map(torch.equal, module, many))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_shares_of_threads_cross_images(threads):
    shapes = [(97 + 13 * i % 700, 1 + 31 * i % 900) for i in range(700)]  # more than one launch would take
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        many = anchor_ext.generate_many(shapes, device="cpu")
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(boxes, anchor_ext.generate(s, device="cpu")) for boxes, s in zip(many, shapes, strict=True))


@pytest.mark.quick
def test_views_of_one_allocation():
    many = anchor_ext.generate_many(SHAPES, device="cpu")
    assert all(boxes.is_contiguous() for boxes in many)
    assert len({boxes.untyped_storage().data_ptr() for boxes in many}) == 1
    assert many[0].untyped_storage().nbytes() == sum(boxes.nbytes for boxes in many)
    seen = operators(lambda: anchor_ext.generate_many(SHAPES, device="cpu"))
    assert seen["[memory]"] + seen["aten::empty"] <= 2 and not seen["aten::cat"] and not seen["aten::copy_"]


@pytest.mark.quick
@pytest.mark.gpu
def test_one_launch():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        anchor_ext.generate_many(SHAPES, device="cuda")
        torch.cuda.synchronize()
    names = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    assert len(names) == 1 and "many_kernel" in names[0], names


@pytest.mark.gpu
def test_more_images_than_one_launch_takes():
    shapes = [(1 + 13 * i % 300, 1 + 31 * i % 200) for i in range(1100)]
    for boxes, alone in zip(
        anchor_ext.generate_many(shapes, device="cuda"), anchor_ext.generate_many(shapes, device="cpu"), strict=True
    ):
        assert torch.equal(boxes.cpu(), alone)


def test_no_image(device):
    assert anchor_ext.generate_many([], device=device) == []


def test_meta():
    many = anchor_ext.generate_many(SHAPES, device="meta")
    assert [boxes.shape for boxes in many] == [boxes.shape for boxes in anchor_ext.generate_many(SHAPES)]
    assert all(boxes.is_meta for boxes in many)


@pytest.mark.parametrize(
    ("shapes", "error", "message"),
    [
        (5, TypeError, "image_shapes is 5; expected a list"),
        ("ab", TypeError, "image_shapes is 'ab'; expected a list"),
        ([(3, 3), None], TypeError, r"image_shapes\[1\] is None"),
        ([(3, 3), (3,)], ValueError, r"image_shapes\[1\] is \(3,\)"),
        ([(3, 3), (0, 3)], ValueError, r"image_shapes\[1\]: image_shape is \(0, 3\); expected"),
        ([(2**31 - 1, 2**27)] * 300, ValueError, r"image_shapes has 300 images; expected at most"),
    ],
)
def test_errors_name_the_image(shapes, error, message):
    with pytest.raises(error, match=message):
        anchor_ext.generate_many(shapes)
    with pytest.raises(TypeError, match="dtype is 'float32'"):
        anchor_ext.generate_many(SHAPES, dtype="float32")
    with pytest.raises(ValueError, match="device is 'nowhere'"):
        anchor_ext.generate_many(SHAPES, device="nowhere")


@pytest.mark.parametrize("configuration", [{}, ODD])
def test_in_a_graph(configuration):
    def call():
        return anchor_ext.generate_many(SHAPES, **configuration, device="cpu")

    assert all(map(torch.equal, torch.compile(call, fullgraph=True, backend="eager")(), call()))
