"""Bad input: an error that names the argument, its value and what was expected; never a crash."""

from __future__ import annotations

import fractions
import math
import random

import pytest
import torch

import anchor_ext

CASES = [
    # image_shape
    (dict(image_shape=5), TypeError, "image_shape is 5; expected two positive integers"),
    (dict(image_shape=None), TypeError, "image_shape is None"),
    (dict(image_shape="ab"), TypeError, "image_shape is 'ab'"),
    (dict(image_shape=(640,)), ValueError, r"image_shape is \(640,\)"),
    (dict(image_shape=(3, 640, 832)), ValueError, "expected two positive integers"),
    (dict(image_shape=()), ValueError, "image_shape is empty"),
    (dict(image_shape=(640.0, 832)), TypeError, r"image_shape is 640.0; expected .* int"),
    (dict(image_shape=("640", 832)), TypeError, "image_shape is '640'"),
    (dict(image_shape=(True, 832)), TypeError, "image_shape is True"),
    (dict(image_shape=torch.tensor([True, True])), TypeError, "image_shape is tensor"),
    (dict(image_shape=(0, 832)), ValueError, r"image_shape is \(0, 832\)"),
    (dict(image_shape=(640, -1)), ValueError, r"image_shape is \(640, -1\)"),
    (dict(image_shape=[640, -1]), ValueError, r"image_shape is \[640, -1\]"),
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
    (dict(strides=[8, 16]), ValueError, r"strides is \[8, 16\], 2 levels; expected .* 5 pyramid levels"),
    (dict(pyramid_levels=[3], strides=[0]), ValueError, r"strides\[0\] is 0; expected a finite number > 0"),
    (dict(pyramid_levels=[3], strides=[(8, -8)]), ValueError, r"strides\[0\]\[1\] is -8"),
    (dict(pyramid_levels=[3], strides=[(8, 8, 8)]), ValueError, r"strides\[0\] is \(8, 8, 8\)"),
    (dict(pyramid_levels=[3], strides=[math.nan]), ValueError, r"strides\[0\] is nan"),
    (dict(pyramid_levels=[3], strides=["8"]), TypeError, r"strides\[0\] is '8'"),
    (dict(pyramid_levels=[3], strides=8), TypeError, "strides is 8"),
    # sizes, ratios, scales
    (dict(sizes=[32]), ValueError, r"sizes is \[32\], 1 levels; expected .*5 levels"),
    (dict(pyramid_levels=[3], sizes=[math.inf]), ValueError, r"sizes\[0\] is inf"),
    (dict(pyramid_levels=[3], sizes=[[32, 0]]), ValueError, r"sizes\[0\]\[1\] is 0"),
    (dict(pyramid_levels=[3], sizes=[[]]), ValueError, r"sizes\[0\] is empty"),
    (dict(pyramid_levels=[3], sizes=[1e200]), ValueError, r"sizes has 1e\+200.*finite cell anchor"),
    (dict(ratios=[]), ValueError, "ratios is empty"),
    (dict(ratios=[1, None]), TypeError, r"ratios\[1\] is None"),
    (dict(ratios=[True]), TypeError, r"ratios\[0\] is True"),
    (dict(ratios=[1, [2]]), TypeError, r"ratios is \[1, \[2\]\]; expected"),
    (dict(ratios=[[1], [2]]), ValueError, r"ratios is \[\[1\], \[2\]\], 2 levels"),
    (dict(ratios=[-0.5]), ValueError, r"ratios\[0\] is -0.5"),
    (dict(scales=[1j]), TypeError, r"scales\[0\] is 1j"),
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
]


@pytest.mark.parametrize(("arguments", "error", "message"), CASES)
def test_message(arguments, error, message):
    arguments = {"image_shape": (64, 64), "device": "cpu", **arguments}
    with pytest.raises(error, match=message):
        anchor_ext.generate(**arguments)


@pytest.mark.parametrize("name", ["level_shapes", "num_anchors", "generate"])
def test_every_method_reads_image_shape_alike(name):
    for image_shape in (None, (0, 1), (1.5, 2), "xx", (1, 2, 3)):
        with pytest.raises((TypeError, ValueError), match="image_shape is"):
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
    ],
)
def test_image(image, error):
    with pytest.raises(error, match="image"):
        anchor_ext.Anchors()(image)


@pytest.mark.parametrize(
    ("boxes", "error"), [(None, TypeError), (torch.zeros(4), ValueError), (torch.zeros(1, 5, 4), ValueError)]
)
def test_split(boxes, error):
    with pytest.raises(error, match="boxes"):
        anchor_ext.Anchors().split(boxes, (64, 64))


def test_cuda_names_what_is_missing(monkeypatch):
    if torch.cuda.is_available() and anchor_ext.build_info()["cuda"]:
        pytest.skip("nothing is missing here")
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


class Liar:
    """Claims to be everything, and fails at all of it."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise RuntimeError("no")

    def __index__(self):
        raise RuntimeError("no")

    def __float__(self):
        raise RuntimeError("no")

    def __repr__(self):
        raise RuntimeError("no")


def strange(rng: random.Random) -> object:
    """Anything that somebody may pass by mistake, right now and then."""
    numbers = [0, 1, -1, 3, 7, 64, 2**31, 2**63, 2**64, -(2**70), 0.5, -0.0, 1e-320, 1e308, math.nan, math.inf, True]
    others = [
        None,
        "",
        "3",
        b"ab",
        1j,
        object(),
        Liar(),
        fractions.Fraction(1, 3),
        ...,
        int,
        {},
        {1},
        range(3),
        iter([1]),
    ]
    tensors = [
        torch.tensor(3),
        torch.tensor([3.0, 4]),
        torch.zeros(2, 2),
        torch.tensor(True),
        torch.zeros(0),
        torch.int8,
    ]
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(numbers)
    if kind < 0.6:
        return rng.choice(others)
    if kind < 0.7:
        return rng.choice(tensors)
    return rng.choice([list, tuple])([strange(rng) for _ in range(rng.choice([0, 1, 2, 2, 3, 5, 5]))])


def test_anything_at_all(rng):
    """Thousands of random arguments at every public function: TypeError or ValueError, or a right answer."""
    good = {
        "image_shape": (50, 60),
        "pyramid_levels": [3, 4, 5, 6, 7],
        "strides": [8, 16, 32, 64, 128],
        "sizes": [32, 64, 128, 256, 512],
        "ratios": [0.5, 1, 2],
        "scales": [1, 2],
        "dtype": torch.float32,
        "device": "meta",
        "out": None,
    }
    anchors = anchor_ext.Anchors()
    boxes = torch.zeros(1, anchors.num_anchors((50, 60)), 4)
    refused = 0
    for _ in range(6000):
        arguments = dict(good)
        for name in rng.sample(list(good), rng.choice([1, 1, 2])):
            arguments[name] = strange(rng)
        configuration = {name: arguments[name] for name in list(good)[1:6]}
        call = rng.choice(
            [
                lambda a=arguments: anchor_ext.generate(**a),
                lambda c=configuration: anchor_ext.Anchors(**c),
                lambda a=arguments: anchors.level_shapes(a["image_shape"]),
                lambda a=arguments: anchors.num_anchors(a["image_shape"]),
                lambda a=arguments: anchors.split(a["out"], a["image_shape"]),
                lambda a=arguments: anchors.split(boxes, a["image_shape"]),
                lambda a=arguments: anchors(a["out"]),
            ]
        )
        try:
            call()
        except (TypeError, ValueError) as error:
            refused += 1
            assert str(error)
        except RuntimeError as error:  # a device that is absent here
            assert "CUDA" in str(error) or "GPU" in str(error), error
    assert refused > 3000
