"""On a GPU: one launch, any stream, any device, graphs, and more anchors than 32 bits count."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import reference
import torch
from conftest import DTYPES, HAS_CUDA, grid_of, random_configuration, random_grid, random_shape

import anchor_ext
from anchor_ext.compat.detectron2 import DefaultAnchorGenerator
from anchor_ext.compat.mmdet import AnchorGenerator
from anchor_ext.compat.ultralytics import make_anchors

pytestmark = pytest.mark.gpu
SHAPE = (640, 832)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_to_the_cpu(dtype, rng):
    for _ in range(500):
        configuration = random_configuration(rng)
        shape = random_shape(rng, configuration, most=200000)
        anchors = anchor_ext.Anchors(configuration["levels"], *(configuration[k] for k in list(configuration)[1:]))
        on_gpu = anchors.generate(shape, dtype=dtype, device="cuda")
        assert reference.same_bits(on_gpu, anchors.generate(shape, dtype=dtype, device="cpu")), (shape, configuration)


def test_more_than_2_to_the_31_anchors(rng):
    """Sampled at the ends, beside 2**31 and 2**32, and at random."""
    shape, levels, stride_y, stride_x = (77000, 60000), [1], 1.7, 2.3
    anchors = anchor_ext.Anchors(levels, strides=[(stride_y, stride_x)], sizes=[9], ratios=[1.0, 2.0], scales=[1.0])
    n = anchors.num_anchors(shape)
    assert n > 2**31
    free, _ = torch.cuda.mem_get_info()
    if free < n * 24:
        pytest.skip(f"needs {n * 24 / 2**30:.0f} GiB of GPU memory")
    out = torch.full((1, n, 4), float("nan"), device="cuda")
    anchors.generate(shape, device="cuda", out=out)
    _, columns = anchors.level_shapes(shape)[0]
    index = torch.cat([torch.tensor([0, 1, 2**31 - 1, 2**31, 2**31 + 1, n - 1]), torch.randint(0, n, (100000,))])
    cell = (index // 2).numpy()
    x, y = (cell % columns + 0.5) * stride_x, (cell // columns + 0.5) * stride_y
    boxes = np.stack([x, y, x, y], axis=1) + reference.cell_anchors([9], [1.0, 2.0], [1.0])[(index % 2).numpy()]
    assert torch.equal(out[0, index.cuda()].cpu(), reference.rounded(boxes, torch.float32))
    assert not out.isnan().any()


def calls() -> dict[str, Callable[[], object]]:
    """Everything that makes something on a GPU."""
    anchors = anchor_ext.Anchors()
    shapes = anchors.level_shapes(SHAPE)
    plain = anchor_ext.AnchorGrid(anchors.cell_anchors, anchors.strides)
    single = anchor_ext.AnchorGrid(anchors.cell_anchors, anchors.strides, start=3.6, arithmetic="arange")
    turned = [[[0, 0, 8.0 * (level + 1), 16.0, 30.0]] for level in range(5)]
    index, features = torch.arange(1000, device="cuda"), [torch.zeros(1, 1, 80, 104, device="cuda")]
    detectron2 = DefaultAnchorGenerator(sizes=[[32]], aspect_ratios=[[0.5, 1.0]], strides=[8, 16, 32, 64, 128])
    mmdet = AnchorGenerator([8, 16, 32, 64, 128], [0.5, 1.0], [8])
    return {
        "generate": lambda: anchors.generate(SHAPE, device="cuda"),
        "plain": lambda: plain(shapes, device="cuda"),
        "arange": lambda: single(shapes, clip=SHAPE, device="cuda"),
        "turned": lambda: anchor_ext.AnchorGrid(turned, anchors.strides, layout="cxcywha")(shapes, device="cuda"),
        "at": lambda: single.at(index, shapes),
        "inside": lambda: single.inside(shapes, SHAPE, device="cuda"),
        "valid_flags": lambda: single.valid_flags(shapes, SHAPE, device="cuda"),
        "detectron2": lambda: detectron2.grid_anchors(shapes, device="cuda"),
        "mmdet": lambda: mmdet.grid_priors(shapes, device="cuda"),
        "mmdet valid_flags": lambda: mmdet.valid_flags(shapes, SHAPE, device="cuda"),
        "mmdet sparse_priors": lambda: mmdet.sparse_priors(index, shapes[0], 0),
        "ultralytics": lambda: make_anchors(features, [8]),
    }


@pytest.mark.parametrize("name", calls() if HAS_CUDA else [])
def test_one_launch_and_nothing_else(name):
    call = calls()[name]
    call()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    on_device = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    assert len(on_device) == 1 and re.search("anchor_ext::.*_kernel", on_device[0]), on_device


def test_allocates_its_output_and_nothing_else():
    torch.cuda.synchronize()
    boxes = anchor_ext.generate(SHAPE, device="cuda")
    del boxes
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    boxes = anchor_ext.generate(SHAPE, device="cuda")
    assert torch.cuda.max_memory_allocated() - before <= boxes.nbytes + 512


def test_never_synchronises():
    torch.cuda.set_sync_debug_mode("error")
    try:
        anchor_ext.generate(SHAPE, device="cuda")
        anchor_ext.Anchors()(torch.zeros(1, 3, *SHAPE, device="cuda"))
        for call in calls().values():
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_runs_on_the_current_stream():
    """Two streams: each fill waits for what its own stream did before, and for nothing of the other's."""
    expected = reference.rounded(reference.anchors(SHAPE), torch.float32)[None].cuda()
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    outs = [torch.zeros_like(expected) for _ in streams]
    torch.cuda.synchronize()
    for stream, out in zip(streams, outs, strict=True):
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)
            out.fill_(-1)
            anchor_ext.generate(SHAPE, device="cuda", out=out)
    streams[0].synchronize()
    streams[1].synchronize()
    for out in outs:  # on another stream than its own, a kernel would have run before the fill
        assert torch.equal(out, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_general_form_equals_the_cpu(dtype, rng):
    for _ in range(300):
        arguments = random_grid(rng, most=20000)
        grid = grid_of(arguments)
        call = {"image_shape": arguments["image_shape"], "clip": arguments["clip"], "dtype": dtype}
        on_gpu, on_cpu = (grid(arguments["level_shapes"], device=device, **call) for device in ("cuda", "cpu"))
        assert reference.same_bits(on_gpu, on_cpu), arguments


def test_captured_in_a_graph():
    anchors = anchor_ext.Anchors()
    image = torch.zeros(2, 3, *SHAPE, device="cuda")
    expected = reference.rounded(reference.anchors(SHAPE), torch.float32)[None].cuda()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        boxes = anchors(image)
    for _ in range(3):
        boxes.zero_()
        graph.replay()
        assert torch.equal(boxes, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_device_of_the_image_not_the_current_one():
    image = torch.zeros(1, 3, *SHAPE, device="cuda:1")
    with torch.cuda.device(0):
        boxes = anchor_ext.Anchors()(image)
        assert torch.cuda.current_device() == 0
    assert boxes.device == image.device
    assert torch.equal(boxes.cpu(), anchor_ext.generate(SHAPE, device="cpu"))


def test_the_current_device_is_the_default():
    with torch.cuda.device(torch.cuda.device_count() - 1):
        assert anchor_ext.generate(SHAPE).device.index == torch.cuda.current_device()


@pytest.mark.parametrize("shape", [(2160, 3840), (4096, 8192), (8192, 16384)])
def test_tiles_of_rows(shape):
    """Of large outputs a block writes several rows."""
    for dtype in (torch.float32, torch.bfloat16):
        assert torch.equal(
            anchor_ext.generate(shape, dtype=dtype, device="cuda").cpu(),
            anchor_ext.generate(shape, dtype=dtype, device="cpu"),
        )
