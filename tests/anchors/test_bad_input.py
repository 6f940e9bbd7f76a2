"""Bad input: an error that names the argument, its value and what was expected; never a crash."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import reference
import torch
from strange import strange
from torch._subclasses.fake_tensor import FakeTensorMode

import anchor_ext

pytestmark = pytest.mark.quick

NESTED = torch.nested.nested_tensor([torch.zeros(3, 4)])
CASES = [
    # image_shape
    (dict(image_shape=5), TypeError, "image_shape is 5; expected two positive integers"),
    (dict(image_shape=None), TypeError, "image_shape is None"),
    (dict(image_shape="ab"), TypeError, "image_shape is 'ab'"),
    (dict(image_shape=(640,)), ValueError, r"image_shape is \(640,\)"),
    (dict(image_shape=(3, 640, 832)), ValueError, "expected two positive integers"),
    (dict(image_shape=()), ValueError, "image_shape is empty"),
    (dict(image_shape=(640.0, 832)), TypeError, r"image_shape\[0\] is 640.0; expected a positive integer"),
    (dict(image_shape=("640", 832)), TypeError, r"image_shape\[0\] is '640'"),
    (dict(image_shape=(True, 832)), TypeError, r"image_shape\[0\] is True"),
    (dict(image_shape=torch.tensor([True, True])), TypeError, r"image_shape\[0\] is tensor"),
    (dict(image_shape=(0, 832)), ValueError, r"image_shape is \(0, 832\)"),
    (dict(image_shape=(640, -1)), ValueError, r"image_shape is \(640, -1\)"),
    (dict(image_shape=[640, -1]), ValueError, r"image_shape is \(640, -1\)"),
    (dict(image_shape=(2**40, 1)), ValueError, r"image_shape is \(1099511627776, 1\); expected .*2\*\*31 - 1"),
    (dict(image_shape=(1, 2**70)), ValueError, "image_shape is .1, 1180591620717411303424"),
    (dict(image_shape=(2**31 - 1, 2**31 - 1), pyramid_levels=[0]), ValueError, r"at most 2\*\*58 - 1 anchors"),
    # pyramid_levels
    (dict(pyramid_levels=[]), ValueError, "pyramid_levels is empty"),
    (dict(pyramid_levels=[3, 3]), ValueError, r"pyramid_levels is \[3, 3\]; expected distinct"),
    (dict(pyramid_levels=[31]), ValueError, r"pyramid_levels\[0\] is 31; expected an integer in 0..30"),
    (dict(pyramid_levels=[3, -1]), ValueError, r"pyramid_levels\[1\] is -1"),
    (dict(pyramid_levels=[3.0]), TypeError, r"pyramid_levels\[0\] is 3.0"),
    (dict(pyramid_levels=3), TypeError, "pyramid_levels is 3; expected distinct integers"),
    (dict(pyramid_levels={3, 4}), TypeError, "pyramid_levels is {3, 4}"),
    (dict(pyramid_levels=list(range(17))), ValueError, "pyramid_levels has 17 levels; expected at most 16"),
    # strides
    (dict(strides=[8, 16]), ValueError, r"strides is \[8, 16\], of length 2; expected .*5 in all"),
    (dict(pyramid_levels=[3], strides=[0]), ValueError, r"strides\[0\] is 0; expected a finite number > 0"),
    (dict(pyramid_levels=[3], strides=[(8, -8)]), ValueError, r"strides\[0\]\[1\] is -8"),
    (dict(pyramid_levels=[3], strides=[(8, 8, 8)]), ValueError, r"strides\[0\] is \(8, 8, 8\)"),
    (dict(pyramid_levels=[3], strides=[math.nan]), ValueError, r"strides\[0\] is nan"),
    (dict(pyramid_levels=[3], strides=["8"]), TypeError, r"strides\[0\] is '8'"),
    (dict(pyramid_levels=[3], strides=8), TypeError, "strides is 8"),
    # sizes, ratios, scales
    (dict(sizes=[32]), ValueError, r"sizes is \[32\], of length 1; expected .*5 in all"),
    (dict(pyramid_levels=[3], sizes=[math.inf]), ValueError, r"sizes\[0\] is inf"),
    (dict(pyramid_levels=[3], sizes=[[32, 0]]), ValueError, r"sizes\[0\]\[1\] is 0"),
    (dict(pyramid_levels=[3], sizes=[[]]), ValueError, r"sizes\[0\] is empty"),
    (dict(pyramid_levels=[3], sizes=[1e200]), ValueError, r"sizes has 1e\+200.*finite cell anchor"),
    (dict(ratios=[]), ValueError, "ratios is empty"),
    (dict(ratios=[1, None]), TypeError, r"ratios\[1\] is None"),
    (dict(ratios=[True]), TypeError, r"ratios\[0\] is True"),
    (dict(ratios=[1, [2]]), TypeError, r"ratios is \[1, \[2\]\]; expected"),
    (dict(ratios=[[1], [2]]), ValueError, r"ratios is \[\[1\], \[2\]\], of length 2"),
    (dict(ratios=[-0.5]), ValueError, r"ratios\[0\] is -0.5"),
    (dict(scales=[1j]), TypeError, r"scales\[0\] is 1j"),
    (dict(scales=[np.complex128(1)]), TypeError, r"scales\[0\] is"),
    (dict(scales=[b"3"]), TypeError, r"scales\[0\] is"),
    (dict(scales=[10**400]), ValueError, r"scales\[0\] is 1000"),
    (dict(scales={1: 2}), TypeError, "scales is {1: 2}"),
    (dict(scales=[1.0] * 200), ValueError, "3000 cell anchors over all levels; expected at most 512"),
    # dtype and device
    (dict(dtype=torch.int32), ValueError, "dtype is torch.int32; expected torch.float32"),
    (dict(dtype=torch.complex64), ValueError, "dtype is torch.complex64"),
    (dict(dtype="float32"), TypeError, "dtype is 'float32'"),
    (dict(dtype=[1]), TypeError, r"dtype is \[1\]"),
    (dict(device="gpu"), ValueError, "device is 'gpu'"),
    (dict(device=[1]), TypeError, r"device is \[1\]"),
    (dict(device=1.5), TypeError, "device is 1.5"),
    (dict(device=True), TypeError, "device is True"),
    (dict(device=10**30), ValueError, "device is 1000"),
    (dict(image_shape=torch.zeros(3, 1000, 1000)[0]), ValueError, "image_shape has 1000 items"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), CASES)
def test_message(arguments, error, message):
    arguments = {"image_shape": (64, 64), "device": "cpu", **arguments}
    with pytest.raises(error, match=message):
        anchor_ext.generate(**arguments)


# A tensor of image_shape is made outside of the mode.
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [case for case in CASES if not isinstance(case[0].get("image_shape"), torch.Tensor)],
)
def test_message_under_fake_tensors(arguments, error, message):
    arguments = {"image_shape": (64, 64), "device": "cpu", **arguments}
    with FakeTensorMode(), pytest.raises((error, RuntimeError), match=message):
        anchor_ext.generate(**arguments)


@pytest.mark.parametrize("name", ["level_shapes", "num_anchors", "generate"])
def test_every_method_reads_image_shape_alike(name):
    for image_shape in (None, (0, 1), (1.5, 2), "xx", (1, 2, 3)):
        with pytest.raises((TypeError, ValueError), match="image_shape"):
            getattr(anchor_ext.Anchors(), name)(image_shape)


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (None, TypeError),
        ([[1]], TypeError),
        (torch.zeros(5), ValueError),
        (torch.zeros(5, 5), ValueError),
        (torch.zeros(1, 3, 0, 5), ValueError),
        (torch.zeros(1, 1, 3, 5, 5), ValueError),
        (NESTED, ValueError),
    ],
)
def test_image(image, error):
    with pytest.raises(error, match="image"):
        anchor_ext.Anchors()(image)


@pytest.mark.parametrize(
    ("boxes", "error"),
    [(None, TypeError), (torch.zeros(4), ValueError), (torch.zeros(1, 5, 4), ValueError), (NESTED, ValueError)],
)
def test_split(boxes, error):
    with pytest.raises(error, match="boxes"):
        anchor_ext.Anchors().split(boxes, (64, 64))


@pytest.mark.no_gpu
def test_cuda_names_what_is_missing():
    if torch.version.cuda is None:
        missing = "torch .* is a build without CUDA"
    elif anchor_ext.build_info()["cuda"] is None:
        missing = "anchor_ext was built without CUDA"
    else:
        missing = "torch sees no GPU"
    for call in (
        lambda: anchor_ext.generate((64, 64), device="cuda"),
        lambda: anchor_ext.Anchors().generate((64, 64), device=torch.device("cuda", 0)),
    ):
        with pytest.raises(RuntimeError, match=f"device is cuda, but {missing}"):
            call()


def test_out_of_memory_is_torch_s_own():
    with pytest.raises(RuntimeError, match=r"(?i)memory|alloc"):
        anchor_ext.generate((2**30, 2**30), device="cpu")


GOOD = {
    "image_shape": [(50, 60), [50, 60], torch.Size((50, 60)), torch.tensor([50, 60])],
    "pyramid_levels": [[3, 4, 5, 6, 7], (7, 6, 5, 4, 3), range(3, 8)],
    "strides": [[8, 16, 32, 64, 128], [(3, 5.5)] * 5, None],
    "sizes": [[32, 64, 128, 256, 512], [[2.5]] * 5, None],
    "ratios": [[0.5, 1, 2], [[1], [2], [3], [0.3], [0.1]], None],
    "scales": [[1, 2], None],
    "dtype": [torch.float32, torch.float64],
    "device": ["cpu", torch.device("cpu"), "meta"],
    "out": [None],
}


def strange_out(rng: random.Random) -> torch.Tensor:
    """A tensor to write into that fits, or misses by a little."""
    n = rng.choice([sum(-(-50 // 2**level) * -(-60 // 2**level) for level in range(3, 8)) * a for a in (1, 3, 6, 9)])
    shape = rng.choice([[1, n, 4]] * 4 + [[n, 4], [1, n + 1, 4], [1, 4, n], [3, n, 4], [0], []])
    out = torch.zeros(shape, dtype=rng.choice([torch.float32, torch.float32, torch.float64, torch.int32]))
    return rng.choice([out] * 3 + [out[..., ::2] if out.ndim else out, out.to("meta"), out.mT if out.ndim > 1 else out])


def test_anything_at_all(rng):
    """Thousands of arguments at every public function, good and random ones: a right answer, or a TypeError or
    ValueError with nothing written."""
    anchors = anchor_ext.Anchors()
    boxes = torch.zeros(1, anchors.num_anchors((50, 60)), 4)
    refused = answered = 0
    for _ in range(8000):
        arguments = {name: rng.choice(values) for name, values in GOOD.items()}
        for name in rng.sample(list(GOOD), rng.choice([0, 0, 1, 1, 2])):
            arguments[name] = strange(rng)
        if rng.random() < 0.3:
            arguments["out"] = strange_out(rng)
        configuration = {name: arguments[name] for name in list(GOOD)[1:6]}
        calls = [
            *[lambda a=arguments: anchor_ext.generate(**a)] * 6,
            lambda c=configuration: anchor_ext.Anchors(**c),
            lambda a=arguments: anchors.level_shapes(a["image_shape"]),
            lambda a=arguments: anchors.num_anchors(a["image_shape"]),
            lambda a=arguments: anchors.split(a["out"], a["image_shape"]),
            lambda a=arguments: anchors.split(boxes, a["image_shape"]),
            lambda a=arguments: anchors(a["out"]),
        ]
        call = rng.choice(calls)
        out = arguments["out"]
        before = out.clone() if isinstance(out, torch.Tensor) else None
        try:
            result = call()
        except (TypeError, ValueError) as error:
            refused += 1
            assert str(error)
            if before is not None and not before.is_meta:
                assert torch.equal(out, before)
        except RuntimeError as error:  # a device that is absent here, or more anchors than memory
            assert any(word in str(error) for word in ("CUDA", "GPU", "memory", "device")), error
        else:
            if call is calls[0] and not result.is_meta:
                answered += 1
                assert out is None or result is out
                assert reference.same_bits(result, expected_of(arguments))
    assert refused > 2000 and answered > 500, (refused, answered)


def expected_of(arguments: dict) -> torch.Tensor:
    """The reference's answer to what `generate` has accepted, its arguments brought to their longest form."""
    levels = [3, 4, 5, 6, 7] if arguments["pyramid_levels"] is None else [int(n) for n in arguments["pyramid_levels"]]

    def long(value, default, one_each=False):
        items = list(default if value is None else value)
        if np.ndim(items[0]) == 0:
            return [[float(item)] for item in items] if one_each else [[float(item) for item in items]] * len(levels)
        return [[float(number) for number in item] for item in items]

    strides = [2**level for level in levels] if arguments["strides"] is None else arguments["strides"]
    boxes = reference.anchors(
        [int(side) for side in arguments["image_shape"]],
        levels,
        [tuple(map(float, s)) if np.ndim(s) else (float(s), float(s)) for s in strides],
        long(arguments["sizes"], [2 ** (level + 2) for level in levels], one_each=True),
        long(arguments["ratios"], reference.RATIOS),
        long(arguments["scales"], reference.SCALES),
    )
    return reference.rounded(boxes, arguments["dtype"])[None]
