"""anchor_ext.compat.effdet against effdet 0.4 itself: every bit of its boxes, its checkpoints, labeler and model."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence

import launches
import peers
import pytest
import reference
import torch
from torch import nn

from anchor_ext.compat import effdet as compat

SIMPLE = dict(
    min_level=3,
    max_level=7,
    num_scales=3,
    aspect_ratios=[(1.0, 1.0), (1.4, 0.7), (0.7, 1.4)],
    anchor_scale=4.0,
    image_size=(128, 192),
)
ATTRIBUTES = ["min_level", "max_level", "num_scales", "aspect_ratios", "anchor_scales", "image_size", "feat_sizes"]
BASE = ["efficientdet_d0", "efficientdet_d3", "tf_efficientdet_d0", "tf_efficientdet_d1", "tf_efficientdet_d2"]
LARGE = ["tf_efficientdet_d4", "tf_efficientdet_d5", "tf_efficientdet_d6", "tf_efficientdet_d7", "tf_efficientdet_d7x"]
OTHERS = ["tf_efficientdet_lite0", "tf_efficientdet_lite3x", "efficientdetv2_dt", "mixdet_m"]


@pytest.fixture(scope="module")
def effdet():
    return peers.effdet()


def plain(value):
    """The same for every kind of sequence or mapping: effdet's configurations bring their own kinds."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return tuple(map(plain, value)) if isinstance(value, Sequence) else value


def same_anchors(ours, theirs) -> bool:
    return (
        reference.same_bits(ours.boxes, theirs.boxes)
        and all(plain(getattr(ours, name)) == plain(getattr(theirs, name)) for name in [*ATTRIBUTES, "config"])
        and ours.get_anchors_per_location() == theirs.get_anchors_per_location()
    )


def random_arguments(rng) -> dict[str, object]:
    """Image sides of which hardly one is a multiple of any level's, down to images of less than one cell."""
    least = rng.randint(1, 5)
    levels = rng.randint(1, 5)

    def aspect():
        x, y = rng.choice([(1.0, 1.0), (1.4, 0.7), (rng.uniform(0.2, 3), rng.uniform(0.2, 3))])
        return rng.choice([(x, y), [x, y], x, rng.randint(1, 3)])  # a number is width over height

    def scale():
        # An odd scale puts edges to where zero would be, and leaves what float64 has rounded on the way there.
        return rng.choice([4, 4.0, rng.choice([1, 3, 5.0, 7, 9]), rng.uniform(0.5, 9)])

    side = 30 * 2**least
    image_size = (rng.randint(1, side), rng.randint(1, side))
    if rng.random() < 0.2:
        image_size = tuple(2 ** (least + levels) * rng.randint(1, 2) for _ in range(2))
    kind = rng.choice([list, tuple])
    return {
        "min_level": least,
        "max_level": least + levels - 1,
        "num_scales": rng.randint(1, 4),
        "aspect_ratios": kind(aspect() for _ in range(rng.randint(1, 4))),
        "anchor_scale": scale() if rng.random() < 0.5 else kind(scale() for _ in range(levels)),
        "image_size": kind(image_size),
    }


def test_random_configurations(device, rng, effdet):
    for _ in range(600):
        arguments = random_arguments(rng)
        ours, theirs = compat.Anchors(**arguments), effdet.anchors.Anchors(**arguments)
        assert same_anchors(ours.to(device), theirs), arguments
        assert ours.boxes.device.type == device.type


@pytest.mark.quick
@pytest.mark.parametrize("model", BASE + LARGE + OTHERS)
def test_configurations_of_effdet(model, effdet):
    config = effdet.config.get_efficientdet_config(model)
    for image_size in (config.image_size, (320, 448), (333, 500)):
        config.image_size = image_size
        ours, theirs = compat.Anchors.from_config(config), effdet.anchors.Anchors.from_config(config)
        assert type(ours) is compat.Anchors
        assert same_anchors(ours, theirs)


@pytest.mark.quick
def test_is_a_module(effdet):
    """Copied, pickled and converted as every module is."""
    ours, theirs = compat.Anchors(*SIMPLE.values()), effdet.anchors.Anchors(*SIMPLE.values())
    assert isinstance(ours, nn.Module)
    assert list(ours.state_dict()) == list(theirs.state_dict()) == ["boxes"]
    assert [name for name, _ in ours.named_buffers()] == ["boxes"] and not list(ours.parameters())
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert same_anchors(other, theirs)
    for convert in (nn.Module.half, nn.Module.bfloat16, nn.Module.double):
        converted = convert(copy.deepcopy(ours)).boxes
        assert reference.same_bits(converted, convert(copy.deepcopy(theirs)).boxes)


class Detector(nn.Module):
    """What a checkpoint of a detector is to its anchors."""

    def __init__(self, anchors: nn.Module):
        super().__init__()
        self.head = nn.Linear(2, 2)
        self.anchors = anchors


def test_checkpoints_of_either_load_into_the_other(device, effdet):
    made = [lambda: compat.Anchors(**SIMPLE), lambda: effdet.anchors.Anchors(**SIMPLE)]
    for make_saved, make_loaded in (made, made[::-1]):
        saved, loaded = Detector(make_saved()).to(device), Detector(make_loaded()).to(device)
        expected = saved.anchors.boxes.clone()
        loaded.anchors.boxes.zero_()
        file = io.BytesIO()
        torch.save(saved.state_dict(), file)
        file.seek(0)
        loaded.load_state_dict(torch.load(file, weights_only=True), strict=True)
        assert reference.same_bits(loaded.anchors.boxes, expected)


def random_targets(rng, image_size, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes as effdet takes them, y first, and classes, of which effdet leaves out those below zero."""
    boxes = []
    for _ in range(count):
        (y1, y2), (x1, x2) = (sorted(rng.uniform(0, side) for _ in range(2)) for side in image_size)
        boxes.append([y1, x1, y2 + 1, x2 + 1])
    return torch.tensor(boxes), torch.tensor([rng.randint(1, 9) for _ in range(count - 1)] + [-1])


def equal(ours, theirs) -> bool:
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(equal, ours, theirs))
    return ours.dtype == theirs.dtype and torch.equal(ours, theirs)


def test_labeler(rng, effdet):
    positives = 0
    for _ in range(30):
        arguments = {**SIMPLE, "image_size": (rng.randint(60, 200), rng.randint(60, 200))}
        labelers = [
            effdet.anchors.AnchorLabeler(kind(**arguments), 9) for kind in (compat.Anchors, effdet.anchors.Anchors)
        ]
        targets = [random_targets(rng, arguments["image_size"], rng.randint(2, 6)) for _ in range(2)]
        ours, theirs = (labeler.label_anchors(*targets[0]) for labeler in labelers)
        assert all(map(equal, ours, theirs)), arguments
        batch = [list(of_all) for of_all in zip(*targets, strict=True)]
        ours, theirs = (labeler.batch_label_anchors(*batch) for labeler in labelers)
        assert all(map(equal, ours, theirs)), arguments
        positives += theirs[2].sum().item()
    assert positives > 100  # there was something to label


def test_model(rng, monkeypatch, effdet):
    """The loss of effdet's own training model, its detections, and its checkpoints."""
    config = effdet.config.get_efficientdet_config("tf_efficientdet_lite0")
    config.image_size = (128, 192)
    torch.manual_seed(0)
    model = effdet.EfficientDet(config, pretrained_backbone=False)
    theirs = effdet.DetBenchTrain(model).eval()
    monkeypatch.setattr(effdet.bench, "Anchors", compat.Anchors)
    ours = effdet.DetBenchTrain(model).eval()
    assert type(ours.anchors) is compat.Anchors and type(theirs.anchors) is not compat.Anchors
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    targets = [random_targets(rng, config.image_size, 4) for _ in range(2)]
    target = dict(zip(("bbox", "cls"), map(list, zip(*targets, strict=True)), strict=True))
    target |= {"img_scale": torch.tensor([1.0, 1.5]), "img_size": torch.tensor([[192.0, 128.0]] * 2)}
    images = torch.randn(2, 3, *config.image_size)
    with torch.no_grad():
        results = ours(images, target), theirs(images, target)
    assert results[0].keys() == results[1].keys() and "detections" in results[0]
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[1])


@pytest.mark.quick
def test_one_launch():
    seen = launches.operators(lambda: compat.Anchors(**SIMPLE))
    assert launches.is_one_launch(seen), seen


def test_never_imports_effdet(tmp_path):
    script = f"""if True:
        import sys, types
        from anchor_ext.compat import effdet as compat
        compat.Anchors(**{SIMPLE!r}).state_dict()
        compat.Anchors.from_config(types.SimpleNamespace(**{SIMPLE!r})).get_anchors_per_location()
        print(*{{name.partition(".")[0] for name in sys.modules}} & {{"effdet", "timm", "omegaconf", "torchvision"}})
    """
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


@pytest.mark.quick
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("anchor_scale", [4.0, 4.0]),
        ("anchor_scale", []),
        ("image_size", (128,)),
        ("image_size", (3, 128, 192)),
        ("image_size", (0, 192)),
        ("num_scales", 0),
        ("aspect_ratios", []),
        ("aspect_ratios", [(1.0, 1.0, 1.0)]),
        ("max_level", 2),
    ],
)
def test_bad_arguments(argument, value, effdet):
    arguments = {**SIMPLE, argument: value}
    with pytest.raises((ValueError, AssertionError, ZeroDivisionError)):
        effdet.anchors.Anchors(**arguments)
    with pytest.raises(ValueError) as caught:
        compat.Anchors(**arguments)
    assert isinstance(caught.value, AssertionError)
    message = str(caught.value)
    assert argument in message and "expected" in message, message
