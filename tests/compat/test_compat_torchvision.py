"""anchor_ext.compat.torchvision against the real torchvision: the same bits, and the same detectors around them."""

from __future__ import annotations

import copy
import functools
import io
import pickle
import random
import subprocess
import sys
from types import SimpleNamespace

import launches
import pytest
import reference
import torch
from conftest import DTYPES
from torch.profiler import ProfilerActivity, profile

from anchor_ext.compat import torchvision as ours

try:
    from torchvision.models import detection
    from torchvision.models.detection import anchor_utils as theirs
except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: a torchvision of another torch
    pytest.skip(f"no torchvision to compare with: {error}", allow_module_level=True)

pytestmark = pytest.mark.peers


def images(height: int, width: int, count: int = 1, device: torch.device | str = "cpu") -> SimpleNamespace:
    """A batch as the generators see it, of any size for nothing: all pixels share one address."""
    tensors = torch.zeros((), device=device).expand(count, 3, height, width)
    return SimpleNamespace(tensors=tensors, image_sizes=[(height, width - i) for i in range(count)])


def maps(grids, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> list[torch.Tensor]:
    return [torch.zeros((), dtype=dtype, device=device).expand(1, 1, *grid) for grid in grids]


def require_equal(name: str, arguments: dict, shape, grids, dtype, device, count: int = 1) -> None:
    """One call of ours, on the device, has the bits of a fresh generator of theirs, on the CPU."""
    expected = getattr(theirs, name)(**arguments)(images(*shape, count), maps(grids, dtype))
    boxes = getattr(ours, name)(**arguments)(images(*shape, count, device), maps(grids, dtype, device))
    note = f"{name}({arguments}), image {shape}, grids {grids}"
    assert len(boxes) == len(expected) == count, note
    for image, expected_image in zip(boxes, expected, strict=True):
        assert image is boxes[0], note
        assert image.device.type == device.type, note
        assert reference.same_bits(image, expected_image), note


def random_grids(rng: random.Random, levels: int, shape: tuple[int, int]) -> list[tuple[int, int]]:
    """A pyramid's grids or, more often, any: finer than the image (its stride is 0) or not dividing it."""
    if rng.random() < 0.3:
        finest = rng.randint(3, 5)
        return [tuple(-(-side // 2 ** (finest + i)) for side in shape) for i in range(levels)]
    return [(rng.randint(1, 30), rng.randint(1, 30)) for _ in range(levels)]


def random_shape(rng: random.Random) -> tuple[int, int]:
    most = rng.choice([12, 333, 333, 1600])
    return rng.randint(1, most), rng.randint(1, most)


def nested(rng: random.Random, levels: int, number) -> tuple | list:
    """One to four numbers per level, in either container: torchvision takes both."""
    inner, outer = rng.choice([tuple, list]), rng.choice([tuple, list])
    return outer(inner(number() for _ in range(rng.randint(1, 4))) for _ in range(levels))


def random_size(rng: random.Random) -> float:
    return rng.choice(
        [
            rng.randint(1, 640),
            2 * rng.randint(0, 320) + 1,  # with ratio 1 half of it is a tie of the rounding
            rng.uniform(1, 700),
            rng.uniform(0.01, 3),  # rounds to zeros of both signs, and to one
            rng.uniform(1e4, 1e8) if rng.random() < 0.1 else 128.0,  # beyond float16, and not whole in float32
        ]
    )


def random_ratio(rng: random.Random) -> float:
    return rng.choice([1, 1.0, 2, 0.5, 3, 1 / 3, rng.uniform(0.1, 8)])


# AnchorGenerator


@pytest.mark.parametrize("dtype", DTYPES)
def test_random_anchor_generators(dtype, device, rng):
    finer = drifting = 0
    for _ in range(300):
        levels = rng.randint(1, 5)
        arguments = {
            "sizes": nested(rng, levels, functools.partial(random_size, rng)),
            "aspect_ratios": nested(rng, levels, functools.partial(random_ratio, rng)),
        }
        shape = random_shape(rng)
        grids = random_grids(rng, levels, shape)
        finer += any(grid[0] > shape[0] or grid[1] > shape[1] for grid in grids)
        drifting += any(shape[0] % grid[0] or shape[1] % grid[1] for grid in grids)
        require_equal("AnchorGenerator", arguments, shape, grids, dtype, device, count=rng.randint(1, 3))
    assert finer > 10 and drifting > 100


@pytest.mark.parametrize("dtype", DTYPES)
def test_coordinates_that_the_type_cannot_hold(dtype, device):
    """The shift is rounded to the type first, then its sum with the cell anchor: not once, and not in float64."""
    anchors = {"sizes": ((31, 333.3), (77,)), "aspect_ratios": ((0.5, 1.0), (3.0, 0.7, 1.9))}
    grids = [(37, 41), (5, 3)]
    for shape in ((2999, 4001), (70001, 90001), (40_000_003, 50_000_017), (2**31 - 1, 97), (97, 2**31 - 1)):
        boxes = {"aspect_ratios": [[2], [3]], "steps": [shape[1] / 37, 7]}
        require_equal("AnchorGenerator", anchors, shape, grids, dtype, device)
        require_equal("DefaultBoxGenerator", boxes, shape, grids, dtype, device)
        require_equal("DefaultBoxGenerator", boxes | {"steps": None}, shape, grids, dtype, device)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_split_of_the_cpu_threads(dtype):
    """Enough anchors for several threads, which begin and end anywhere in a level, a row, a cell."""
    shape, grids = (803, 1211), [(101, 152), (51, 76), (25, 38)]
    anchors = {"sizes": ((32, 45.25), (64,), (128, 181, 200)), "aspect_ratios": ((0.5, 1.0, 2.0), (1.0,), (0.3, 3))}
    boxes = {"aspect_ratios": [[2], [2, 3], []], "steps": [8, 16, 32]}
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            require_equal("AnchorGenerator", anchors, shape, grids, dtype, torch.device("cpu"))
            require_equal("DefaultBoxGenerator", boxes, shape, grids, dtype, torch.device("cpu"))
    finally:
        torch.set_num_threads(before)


@pytest.mark.quick
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"sizes": ((32, 64, 128),)},
        {"sizes": [32, 64, 128], "aspect_ratios": (0.5, 1.0)},
        {"sizes": ((32,), (64, 80), (128,)), "aspect_ratios": (1, 2.0)},
        {"sizes": (32, 64.5), "aspect_ratios": ((0.5, 1.0, 2.0), (1.0,))},
        {"sizes": [[32, 48], [64]], "aspect_ratios": [0.5, 1.0]},
        {"sizes": ((8,), (16,)), "aspect_ratios": ((1.0,),) * 2},
    ],
    ids=str,
)
def test_forms_of_the_arguments(arguments, device):
    expected, anchors = theirs.AnchorGenerator(**arguments), ours.AnchorGenerator(*arguments.values())
    assert anchors.num_anchors_per_location() == expected.num_anchors_per_location()
    assert all(type(count) is int for count in anchors.num_anchors_per_location())
    for name in ("sizes", "aspect_ratios"):
        assert [list(level) for level in getattr(anchors, name)] == [list(level) for level in getattr(expected, name)]
    assert len(anchors.cell_anchors) == len(expected.cell_anchors)
    for cell, expected_cell in zip(anchors.cell_anchors, expected.cell_anchors, strict=True):
        assert cell.dtype == torch.float32 and reference.same_bits(cell, expected_cell)
    grids = [(7 - i, 9 - i) for i in range(len(expected.sizes))]
    require_equal("AnchorGenerator", arguments, (63, 95), grids, torch.float32, device, count=2)


def test_rounds_ties_of_a_cell_anchor_to_even():
    """Half of 1, 3, 5, 7 is a tie: torch rounds it to the even neighbour, C's round away from zero."""
    cells = ours.AnchorGenerator(((1, 3, 5, 7),), ((1.0,),)).cell_anchors[0]
    assert cells[:, 2].tolist() == [0, 2, 2, 4] and cells[:, 0].tolist() == [0, -2, -2, -4]
    assert torch.equal(cells, theirs.AnchorGenerator(((1, 3, 5, 7),), ((1.0,),)).cell_anchors[0])


def test_cell_anchors_of_many_ratios(rng):
    """torch's square root on the CPU is the math library's and may be off by a bit: sizes so large that it shows."""
    for _ in range(100):
        sizes = (tuple(rng.uniform(2**20, 2**24) for _ in range(3)),)
        ratios = (tuple(random_ratio(rng) for _ in range(9)),)
        cells = ours.AnchorGenerator(sizes, ratios).cell_anchors[0]
        assert reference.same_bits(cells, theirs.AnchorGenerator(sizes, ratios).cell_anchors[0]), (sizes, ratios)


def test_no_call_depends_on_an_earlier_one():
    """torchvision keeps its cell anchors in the type of the last call, so that bfloat16 would spoil what follows."""
    arguments = {"sizes": ((333, 1003),), "aspect_ratios": ((0.5, 1.0),)}
    anchors, batch, grids = ours.AnchorGenerator(**arguments), images(640, 480), [(20, 15)]
    assert not torch.equal(anchors.cell_anchors[0], anchors.cell_anchors[0].bfloat16())
    for dtype in (*DTYPES, *reversed(DTYPES)):
        expected = theirs.AnchorGenerator(**arguments)(batch, maps(grids, dtype))
        assert reference.same_bits(anchors(batch, maps(grids, dtype))[0], expected[0]), dtype
    assert [cell.dtype for cell in anchors.cell_anchors] == [torch.float32]
    assert torch.equal(anchors.cell_anchors[0], theirs.AnchorGenerator(**arguments).cell_anchors[0])


# DefaultBoxGenerator


@pytest.mark.parametrize("dtype", DTYPES)
def test_random_default_box_generators(dtype, device, rng):
    for _ in range(300):
        levels = rng.randint(1, 6)
        arguments = {"aspect_ratios": [[random_ratio(rng) for _ in range(rng.randint(0, 3))] for _ in range(levels)]}
        shape = random_shape(rng)
        if rng.random() < 0.5:
            whole = rng.random() < 0.5
            arguments["steps"] = [rng.randint(1, 300) if whole else rng.uniform(1, 100) for _ in range(levels)]
        kind = rng.choice(["default", "ratios", "scales"])
        if kind == "ratios":
            arguments |= {"min_ratio": rng.uniform(0.01, 0.5), "max_ratio": rng.uniform(0.5, 1.2)}
        elif kind == "scales":  # above 1, where clip matters, and one more than there are to use
            arguments["scales"] = [rng.uniform(0.01, 1.7) for _ in range(levels + rng.randint(1, 2))]
        if rng.random() < 0.6:
            arguments["clip"] = rng.random() < 0.5
        grids = random_grids(rng, levels, shape)
        require_equal("DefaultBoxGenerator", arguments, shape, grids, dtype, device, count=rng.randint(1, 3))


@pytest.mark.parametrize(
    "arguments",
    [
        {"aspect_ratios": [[2]]},
        {"aspect_ratios": [[2], [2, 3], [2, 3.5], []]},
        {"aspect_ratios": [[2], [2, 3]], "min_ratio": 0.2, "max_ratio": 0.95},
        {"aspect_ratios": [[2], [2, 3]], "steps": [8, 16], "clip": False},
        {"aspect_ratios": ((2,), (3,)), "scales": (0.07, 0.15, 1.33), "steps": (8, 16.5)},
    ],
    ids=str,
)
def test_attributes_of_default_boxes(arguments):
    expected, boxes = theirs.DefaultBoxGenerator(**arguments), ours.DefaultBoxGenerator(**arguments)
    assert boxes.num_anchors_per_location() == expected.num_anchors_per_location()
    assert [list(level) for level in boxes.aspect_ratios] == [list(level) for level in expected.aspect_ratios]
    assert list(boxes.scales) == list(expected.scales)
    assert boxes.steps == expected.steps and boxes.clip == expected.clip


def test_default_boxes_positional():
    arguments = ([[2], [2, 3]], 0.1, 0.8, None, [10, 21.5], False)
    batch, features = images(75, 90, 2), maps([(7, 9), (4, 5)])
    boxes = ours.DefaultBoxGenerator(*arguments)(batch, features)
    assert reference.same_bits(boxes[1], theirs.DefaultBoxGenerator(*arguments)(batch, features)[1])


# Both


BOTH = {
    "AnchorGenerator": {"sizes": ((32, 45.3), (64,)), "aspect_ratios": ((0.5, 1.0, 2.0), (1.0,))},
    "DefaultBoxGenerator": {"aspect_ratios": [[2], [2, 3]], "steps": [8, 17]},
}
both = pytest.mark.parametrize("name", BOTH)


def pair(name: str):
    return getattr(ours, name)(**BOTH[name]), getattr(theirs, name)(**BOTH[name])


@both
def test_forms_of_a_call(name, device):
    generator, expected = pair(name)
    batch, features, grids = images(130, 97, 2, device), maps([(17, 13), (9, 7)], device=device), [(17, 13), (9, 7)]
    wanted = expected(images(130, 97, 2), maps(grids))[0]
    assert reference.same_bits(generator(batch, features)[0], wanted)
    assert reference.same_bits(generator(image_list=batch, feature_maps=tuple(features))[0], wanted)
    assert reference.same_bits(generator.forward(batch, features)[0], wanted)
    # What surrounds the two numbers at the end of a shape does not matter, nor does what is in the tensors.
    flat = SimpleNamespace(tensors=batch.tensors[0], image_sizes=batch.image_sizes)
    trained = [torch.rand(2, 5, *grid, device=device, requires_grad=True).mT.mT for grid in grids]
    for call in ((flat, features), (batch, [f[0, 0] for f in features]), (batch, trained)):
        assert reference.same_bits(generator(*call)[0], wanted)
        assert not generator(*call)[0].requires_grad
    torchvisions = detection.image_list.ImageList(batch.tensors, batch.image_sizes)
    assert reference.same_bits(generator(torchvisions, features)[1], wanted)
    # The first feature map alone says which type.
    mixed = [features[0].double(), features[1]]
    boxes = generator(batch, mixed)[0]
    assert reference.same_bits(boxes, expected(images(130, 97), [m.cpu() for m in mixed])[0])


@both
def test_one_tensor_for_all_images_of_one_call(name, device):
    generator, expected = pair(name)
    features = maps([(17, 13), (9, 7)], device=device)
    for count in (0, 1, 3):  # image_sizes counts, not the batch of the pixels
        batch = SimpleNamespace(tensors=images(130, 97, 2).tensors, image_sizes=[(130, 97)] * count)
        boxes = generator(batch, features)
        assert isinstance(boxes, list) and len(boxes) == len(expected(batch, maps([(17, 13), (9, 7)]))) == count
        assert all(image is boxes[0] for image in boxes)
    wanted = boxes[0].clone()
    assert boxes[0].is_contiguous()
    boxes[0].fill_(7)
    again = generator(batch, features)
    assert torch.equal(again[0], wanted)
    assert torch.equal(boxes[0], torch.full_like(wanted, 7))


@both
def test_constructed_under_other_defaults(name):
    """As a model is that is built for another device or type: the constants are the CPU's float32 all the same."""
    batch, features = images(130, 97), maps([(17, 13), (9, 7)])
    wanted = pair(name)[1](batch, features)[0]
    with torch.device("meta"):
        generators = [pair(name)[0]]
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        generators.append(pair(name)[0])
    finally:
        torch.set_default_dtype(before)
    for generator in generators:
        assert reference.same_bits(generator(batch, features)[0], wanted)


@both
def test_is_a_module_of_torchvisions_class(name):
    generator, expected = pair(name)
    assert isinstance(generator, getattr(theirs, name)) and isinstance(generator, torch.nn.Module)
    assert isinstance(generator, getattr(ours, name)) and type(generator).__module__ == ours.__name__
    other = next(other for other in BOTH if other != name)
    assert not isinstance(generator, getattr(theirs, other)) and not isinstance(generator, getattr(ours, other))
    assert not isinstance(expected, getattr(ours, name)) and not isinstance(torch.nn.ReLU(), getattr(ours, name))
    assert list(generator.state_dict()) == [] == list(generator.parameters())
    assert repr(generator).startswith(f"{name}(")
    if name == "DefaultBoxGenerator":
        assert repr(generator) == repr(expected)
    seen = []
    generator.register_forward_hook(lambda module, inputs, output: seen.append(output))
    boxes = generator.eval().to("cpu")(images(64, 64), maps([(8, 8), (4, 4)]))
    assert len(seen) == 1 and seen[0][0] is boxes[0]


def copies(module: torch.nn.Module) -> list[torch.nn.Module]:
    saved = io.BytesIO()
    torch.save(module, saved)
    saved.seek(0)
    return [
        copy.copy(module),
        copy.deepcopy(module),
        *(pickle.loads(pickle.dumps(module, protocol)) for protocol in (2, pickle.HIGHEST_PROTOCOL)),
        torch.load(saved, weights_only=False),
    ]


@both
@pytest.mark.parametrize("used", [False, True])
def test_copies(name, used):
    generator, expected = pair(name)
    batch, features = images(130, 97), maps([(17, 13), (9, 7)])
    wanted = expected(batch, features)[0]
    if used:
        generator(batch, features)
    for twin in copies(generator.train(False)):
        assert twin is not generator and type(twin) is type(generator) and twin.training is False
        assert twin.num_anchors_per_location() == expected.num_anchors_per_location()
        assert repr(twin) == repr(generator)
        assert reference.same_bits(twin(batch, features)[0], wanted)


@pytest.mark.quick
@both
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_launch(name, dtype):
    """Of an image that the generator has not seen before; its first call of all may compute its constants."""
    generator, expected = pair(name)
    features = maps([(17, 13), (9, 7)], dtype)
    batches = [images(130, 97, 3), images(131, 96, 3)]
    remaining = iter(batches)
    seen = launches.operators(lambda: generator(next(remaining), features))
    assert launches.is_one_launch(seen), seen
    seen = launches.operators(lambda: expected(batches[0], features))
    assert seen.total() > 36 and not launches.is_one_launch(seen), seen


@both
@pytest.mark.gpu
def test_one_launch_on_cuda(name):
    generator, _ = pair(name)
    batch, features = images(130, 97, 3, "cuda"), maps([(17, 13), (9, 7)], device="cuda")
    generator(batch, features)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        generator(batch, features)
        torch.cuda.synchronize()
    on_device = [event.name for event in recorded.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    assert len(on_device) == 1, on_device


# torchvision's own cases


def test_incorrect_anchors():
    with pytest.raises(AssertionError, match="feature_maps") as raised:
        generator = ours.AnchorGenerator(((2, 4, 8), (32, 8)), (0.5, 1.0))
        generator(images(800, 800), [torch.randn(1, 50)])
    assert isinstance(raised.value, ValueError)


@pytest.mark.quick
def test_documented_anchors(device):
    batch = SimpleNamespace(tensors=torch.randn(2, 3, 15, 15, device=device), image_sizes=[(15, 15)] * 2)
    model = ours.AnchorGenerator(((10,),), ((1,),)).eval()
    anchors = model(batch, [torch.rand(2, 8, 3, 3, device=device)])
    expected = [[x - 5.0, y - 5.0, x + 5.0, y + 5.0] for y in (0, 5, 10) for x in (0, 5, 10)]
    assert model.num_anchors_per_location() == [1] and len(anchors) == 2
    for image in anchors:
        assert torch.equal(image.cpu(), torch.tensor(expected))


@pytest.mark.quick
def test_documented_default_boxes(device):
    batch = SimpleNamespace(tensors=torch.zeros(2, 3, 15, 15, device=device), image_sizes=[(15, 15)] * 2)
    boxes = ours.DefaultBoxGenerator([[2]]).eval()(batch, [torch.zeros(2, 8, 1, 1, device=device)])
    # Five digits, as torchvision documents them; test_random_default_box_generators has the bits.
    expected = torch.tensor(
        [
            [6.3750, 6.3750, 8.6250, 8.6250],
            [4.7443, 4.7443, 10.2557, 10.2557],
            [5.9090, 6.7045, 9.0910, 8.2955],
            [6.7045, 5.9090, 8.2955, 9.0910],
        ]
    )
    assert len(boxes) == 2
    for image in boxes:
        torch.testing.assert_close(image.cpu(), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.quick
@pytest.mark.parametrize(
    "name, arguments, argument",
    [
        ("AnchorGenerator", {"sizes": ()}, "sizes"),
        ("AnchorGenerator", {"sizes": ((32, float("nan")),)}, "sizes"),
        ("AnchorGenerator", {"aspect_ratios": ((0.5, -1.0),)}, "aspect_ratios"),
        ("AnchorGenerator", {"aspect_ratios": ((0.5, 0),)}, "aspect_ratios"),
        ("DefaultBoxGenerator", {"aspect_ratios": [[2], [2]], "steps": [8]}, "steps"),
        ("DefaultBoxGenerator", {"aspect_ratios": [[2], [2]], "scales": [0.1, 0.2]}, "scales"),
        ("DefaultBoxGenerator", {"aspect_ratios": [[2], [-2.0]]}, "aspect_ratios"),
    ],
)
def test_wrong_arguments(name, arguments, argument):
    with pytest.raises(ValueError, match=argument) as raised:
        getattr(ours, name)(**arguments)
    assert isinstance(raised.value, AssertionError)


def test_too_many_feature_maps():
    for name in BOTH:
        with pytest.raises(ValueError, match=r"feature_maps.*expected.*2") as raised:
            pair(name)[0](images(64, 64), maps([(8, 8), (4, 4), (2, 2)]))
        assert isinstance(raised.value, AssertionError)


# Detectors


@pytest.fixture(scope="module")
def pictures() -> list[torch.Tensor]:
    """One photograph in three shapes, of which two meet in a batch."""
    cbook = pytest.importorskip("matplotlib.cbook", reason="no matplotlib, and so no photograph")
    image = pytest.importorskip("matplotlib.image")
    pixels = torch.tensor(image.imread(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))
    photograph = (pixels.permute(2, 0, 1).float() / 255)[None]
    return [
        torch.nn.functional.interpolate(photograph, shape, mode="bilinear", align_corners=False)[0]
        for shape in ((160, 128), (129, 211), (240, 165))
    ]


def targets(batch: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    corners = torch.tensor([[0.1, 0.1, 0.6, 0.7], [0.5, 0.4, 0.95, 0.9]])
    return [
        {
            "boxes": corners * torch.tensor([image.shape[2], image.shape[1]] * 2, dtype=image.dtype),
            "labels": torch.tensor([1, 1]),
        }
        for image in batch
    ]


def everything(model: torch.nn.Module, batches, train: bool = True) -> list[list[dict[str, torch.Tensor]]]:
    """Detections and training losses of each batch, from the same state and the same random numbers."""
    state = copy.deepcopy(model.state_dict())  # batch norm's statistics move in training
    results = []
    for batch in batches:
        for training in (False, True) if train else (False,):
            model.load_state_dict(state)
            model.train(training)
            torch.manual_seed(0)
            results.append([model(batch, targets(batch))] if training else model(batch))
    model.load_state_dict(state)
    return [[{name: value.detach() for name, value in image.items()} for image in result] for result in results]


def require_same_results(results, expected) -> None:
    assert len(results) == len(expected)
    for result, expected_result in zip(results, expected, strict=True):
        for image, expected_image in zip(result, expected_result, strict=True):
            assert list(image) == list(expected_image)
            if "boxes" in expected_image:
                assert len(expected_image["boxes"]) > 0, "nothing was detected, so nothing was compared"
            for name, value in expected_image.items():
                assert image[name].dtype == value.dtype and torch.equal(image[name], value), name
                assert value.isfinite().all(), name


def holder(model: torch.nn.Module) -> torch.nn.Module:
    return model.rpn if hasattr(model, "rpn") else model


def require_same_around_ours(model: torch.nn.Module, batches, train: bool, expected) -> None:
    """The images of a batch share one tensor: none of torchvision's detectors may write into it."""
    handed = []
    generator = holder(model).anchor_generator
    assert type(generator).__module__ == ours.__name__
    with generator.register_forward_hook(
        lambda module, inputs, boxes: handed.append((boxes[0], boxes[0]._version, boxes[0].clone()))
    ):
        require_same_results(everything(model, batches, train), expected)
    assert len(handed) == len(expected)
    for boxes, version, before in handed:
        assert boxes._version == version and torch.equal(boxes, before)


def ours_for(generator: torch.nn.Module) -> torch.nn.Module:
    if isinstance(generator, theirs.AnchorGenerator):
        return ours.AnchorGenerator(generator.sizes, generator.aspect_ratios)
    return ours.DefaultBoxGenerator(
        generator.aspect_ratios, scales=generator.scales, steps=generator.steps, clip=generator.clip
    )


@pytest.mark.parametrize(
    "name, options",
    [
        # Every detection is kept, from the coarsest level, whose stride does not divide the batch, too.
        (
            "retinanet_resnet50_fpn_v2",
            {"min_size": 200, "max_size": 320, "score_thresh": 0.0, "detections_per_img": 9000},
        ),
        (
            "fasterrcnn_resnet50_fpn_v2",
            {"min_size": 160, "max_size": 256, "box_score_thresh": 0.0, "box_detections_per_img": 9000}
            | {"rpn_post_nms_top_n_test": 200, "box_batch_size_per_image": 64},
        ),
        ("ssd300_vgg16", {"score_thresh": 0.0}),
        ("ssdlite320_mobilenet_v3_large", {"score_thresh": 0.0}),  # default boxes without steps
    ],
)
def test_detectors_on_a_photograph(name, options, pictures, one_thread):
    torch.manual_seed(0)
    model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=4, **options)
    batches = [pictures[:1], pictures[1:]]
    if name.startswith("ssdlite"):
        batches[0] = pictures[::2]  # its batch norm cannot be trained on the one pixel of one picture
    expected = everything(model, batches)
    keys = list(model.state_dict())

    holder(model).anchor_generator = ours_for(holder(model).anchor_generator)
    assert list(model.state_dict()) == keys
    require_same_around_ours(model, batches, True, expected)


def tiny_detector(name: str, module) -> torch.nn.Module:
    """Constructed with the module's AnchorGenerator; everything random comes from one seed."""
    torch.manual_seed(0)
    backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 20, stride=20), torch.nn.ReLU())
    backbone.out_channels = 32
    options = {"num_classes": 2, "min_size": 64, "max_size": 96}
    if name in ("RetinaNet", "FCOS"):
        sizes, ratios = (((16,),), ((1.0,),)) if name == "FCOS" else (((16, 27.5),), ((0.5, 1.0, 2.0),))
        options |= {"anchor_generator": module.AnchorGenerator(sizes, ratios), "score_thresh": 0.0}
        return getattr(detection, name)(backbone, **options)
    options |= {"rpn_anchor_generator": module.AnchorGenerator(((16, 27.5),), ((0.5, 1.0, 2.0),))}
    options |= {"box_score_thresh": 0.0, "rpn_post_nms_top_n_test": 50, "box_detections_per_img": 5}
    if name == "MaskRCNN":
        options["mask_head"] = detection.mask_rcnn.MaskRCNNHeads(32, (256,), 1)
    elif name == "KeypointRCNN":
        options["keypoint_head"] = detection.keypoint_rcnn.KeypointRCNNHeads(32, (16,))
        options["keypoint_predictor"] = detection.keypoint_rcnn.KeypointRCNNPredictor(16, 3)
    return getattr(detection, name)(backbone, **options)


TINY = ["RetinaNet", "FCOS", "FasterRCNN", "MaskRCNN", "KeypointRCNN"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", TINY)
def test_detectors_constructed_with_ours(name, dtype, pictures, one_thread):
    """The weights are the same only if ours drew no random numbers."""
    batches = [[pictures[0].to(dtype)], [picture.to(dtype) for picture in pictures[1:]]]
    train = name not in ("MaskRCNN", "KeypointRCNN")  # whose targets are more than boxes
    expected = everything(tiny_detector(name, theirs).to(dtype), batches, train)
    require_same_around_ours(tiny_detector(name, ours).to(dtype), batches, train, expected)


@pytest.mark.parametrize("name", TINY)
def test_copies_of_detectors(name, pictures, one_thread):
    model, batches = tiny_detector(name, ours), [pictures[:2]]
    expected = everything(model, batches, train=False)
    for twin in copies(model):
        assert type(holder(twin).anchor_generator) is ours.AnchorGenerator
        require_same_results(everything(twin, batches, train=False), expected)


def test_needs_no_torchvision(tmp_path):
    """Neither to be imported nor called nor unpickled; a generator made before torchvision came is of its class."""
    generators = [pair(name)[0] for name in BOTH]
    tmp_path.joinpath("generators.pickle").write_bytes(pickle.dumps(generators))
    script = """if True:
        import pickle, sys, types
        import torch
        import anchor_ext.compat.torchvision as ours

        batch = types.SimpleNamespace(tensors=torch.zeros(2, 3, 64, 96), image_sizes=[(64, 96), (60, 90)])
        features = [torch.zeros(2, 1, 8, 12), torch.zeros(2, 1, 4, 6)]
        anchors = ours.AnchorGenerator((32, 64), (0.5, 1.0))
        boxes = ours.DefaultBoxGenerator([[2], [2]])
        results = [anchors(batch, features), boxes(batch, features)]
        repr(anchors), repr(boxes), anchors.state_dict(), isinstance(anchors, torch.nn.Module)
        with open("generators.pickle", "rb") as file:
            for generator in pickle.load(file):
                generator(batch, features)
        assert not [name for name in sys.modules if name.partition(".")[0] == "torchvision"]

        from torchvision.models.detection import anchor_utils as theirs
        assert isinstance(anchors, theirs.AnchorGenerator) and isinstance(boxes, theirs.DefaultBoxGenerator)
        expected = [
            theirs.AnchorGenerator((32, 64), (0.5, 1.0))(batch, features),
            theirs.DefaultBoxGenerator([[2], [2]])(batch, features),
        ]
        for result, wanted in zip(results, expected):
            assert all(torch.equal(a, b) for a, b in zip(result, wanted)) and len(result) == len(wanted) == 2
        print("done")
    """
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout == "done\n", run.stderr
