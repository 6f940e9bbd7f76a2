"""Exact: every anchor is the float64 reference rounded once, on every device, in every dtype and configuration."""

from __future__ import annotations

import subprocess
import sys

import pytest
import reference
import torch
from conftest import DTYPES, EXTREME_STRIDES, extreme_configuration, random_configuration, random_shape

import anchor_ext

SIZES = [
    (640, 832),
    (800, 1333),
    (64, 64),
    (1, 1),
    (512, 512),
    (333, 500),
    (1080, 1920),
    (127, 129),
    (600, 7),
    (3, 4000),
]


@pytest.mark.quick
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SIZES)
def test_defaults(shape, dtype, device):
    boxes = anchor_ext.generate(shape, dtype=dtype, device=device)
    expected = reference.rounded(reference.anchors(shape), dtype)[None]
    assert boxes.device.type == device.type
    assert torch.equal(boxes.cpu(), expected)
    assert reference.same_bits(boxes, expected)


@pytest.mark.quick
def test_numbers_of_640x832():
    boxes = anchor_ext.generate((640, 832), device="cpu")
    assert boxes.shape == (1, 99765, 4) and boxes.dtype == torch.float32
    expected = torch.tensor([-18.627417, -7.3137085, 26.627417, 15.3137085])
    assert torch.equal(boxes[0, 0], expected)
    assert anchor_ext.Anchors().level_shapes((640, 832)) == [(80, 104), (40, 52), (20, 26), (10, 13), (5, 7)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_random_configurations(dtype, device, rng):
    for _ in range(700):
        configuration = random_configuration(rng)
        shape = random_shape(rng, configuration)
        anchors = anchor_ext.Anchors(configuration["levels"], *(configuration[k] for k in list(configuration)[1:]))
        boxes = anchors.generate(shape, dtype=dtype, device=device)
        expected = reference.rounded(reference.anchors(shape, **configuration), dtype)[None]
        assert reference.same_bits(boxes, expected), (shape, configuration)
        assert anchors.num_anchors(shape) == expected.shape[1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_split_of_the_cpu_threads(dtype, rng):
    """More anchors than one thread takes, so that threads begin and end anywhere in a row, a cell, a level."""
    before = torch.get_num_threads()
    try:
        for _ in range(40):
            configuration = random_configuration(rng)
            configuration["levels"] = [level % 2 + 2 * i for i, level in enumerate(configuration["levels"][:3])]
            configuration = {name: values[:3] for name, values in configuration.items()}
            shape = (rng.randint(100, 500), rng.randint(100, 500))
            anchors = anchor_ext.Anchors(configuration["levels"], *(configuration[k] for k in list(configuration)[1:]))
            expected = reference.rounded(reference.anchors(shape, **configuration), dtype)[None]
            for threads in (1, 2, 3, 7):
                torch.set_num_threads(threads)
                boxes = anchors.generate(shape, dtype=dtype, device="cpu")
                assert reference.same_bits(boxes, expected), (shape, threads, configuration)
    finally:
        torch.set_num_threads(before)


def test_threads_are_used(tmp_path):
    """A trap of its own: compiled in the wrong place, a parallel loop runs on one thread, silently."""
    script = """if True:
        import os, torch, anchor_ext

        torch.set_num_threads(3)
        out = torch.empty(1, anchor_ext.Anchors().num_anchors((1080, 1920)), 4)
        before = len(os.listdir("/proc/self/task"))
        anchor_ext.generate((1080, 1920), out=out)
        print(len(os.listdir("/proc/self/task")) - before)
    """
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(run.stdout) == 2, run.stdout  # the first loop of the process has made the threads that share it


@pytest.mark.quick
def test_the_limits_of_a_pyramid(device):
    """16 levels, 512 cell anchors, and cells of one anchor and of 512."""
    shape = (40, 56)
    for levels, per_level in (([2], 512), (list(range(16)), 32), ([0], 1), ([1, 3], 255)):
        scales = [1 + i / 7 for i in range(per_level)]
        sizes = [[12.5 + level] for level in levels]
        boxes = anchor_ext.generate(
            shape, pyramid_levels=levels, sizes=sizes, ratios=[0.7], scales=scales, device=device, dtype=torch.float64
        )
        n = len(levels)
        expected = reference.anchors(shape, levels, sizes=sizes, ratios=[[0.7]] * n, scales=[scales] * n)
        assert torch.equal(boxes.cpu(), torch.from_numpy(expected)[None])


@pytest.mark.quick
def test_rounds_once_not_twice(device):
    """Values that lie just beside a tie of the 16-bit type, where going through float32 picks the wrong side."""
    for dtype, digits in ((torch.float16, 10), (torch.bfloat16, 7)):
        tie = 1 + 2.0 ** -(digits + 1)
        nudge = 2.0**-30
        # One cell whose centre is (c, c); the cell anchor is all but a point, so x1 is c.
        for centre, expected in ((tie + nudge, 1 + 2.0**-digits), (tie - nudge, 1.0), (tie, 1.0)):
            boxes = anchor_ext.generate(
                (1, 1), pyramid_levels=[0], strides=[2 * centre], sizes=[1e-200], ratios=[1], scales=[1], dtype=dtype,
                device=device,
            )  # fmt: skip
            assert boxes[0, 0].tolist() == [expected] * 4, (dtype, centre)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_whole_range_of_a_dtype(dtype, device):
    """Overflow to infinity, subnormal results and zeros round as the reference does."""
    for stride in EXTREME_STRIDES:
        configuration = extreme_configuration(stride)
        anchors = anchor_ext.Anchors([0], *(configuration[k] for k in list(configuration)[1:]))
        boxes = anchors.generate((7, 9), dtype=dtype, device=device)
        expected = reference.rounded(reference.anchors((7, 9), **configuration), dtype)[None]
        assert reference.same_bits(boxes, expected), stride


def test_the_order_of_several_sizes_per_level(device):
    sizes, ratios, scales = [[10.0, 30.0], [100.0]], [[1.0, 3.0], [2.0]], [[1.0], [1.0, 2.0, 3.0]]
    anchors = anchor_ext.Anchors([2, 4], sizes=sizes, ratios=ratios, scales=scales)
    expected = [reference.cell_anchors(*per_level) for per_level in zip(sizes, ratios, scales, strict=True)]
    assert [torch.equal(a, torch.from_numpy(b)) for a, b in zip(anchors.cell_anchors, expected, strict=True)] == [
        True
    ] * 2
    boxes = anchors.generate((30, 50), device=device, dtype=torch.float64)
    expected = reference.anchors((30, 50), [2, 4], sizes=sizes, ratios=ratios, scales=scales)
    assert torch.equal(boxes.cpu()[0], torch.from_numpy(expected))
