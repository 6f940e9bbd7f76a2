"""anchor_ext.compat.effdet against effdet 0.4 itself: every bit of its boxes, its checkpoints, labeler and model."""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence

import launches
import numpy as np
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
@pytest.mark.skipif(not hasattr(torch.jit, "script"), reason="torch has no TorchScript any more")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_scripted(effdet):
    """effdet's own model for prediction, in the form of it that TorchScript can run."""
    config = effdet.config.get_efficientdet_config("tf_efficientdet_d0")
    config.image_size = (128, 192)
    torch.manual_seed(0)
    model = effdet.EfficientDet(config, pretrained_backbone=False)
    model.toggle_head_bn_level_first()
    bench = effdet.DetBenchPredict(model).eval()
    bench.anchors = compat.Anchors.from_config(config)
    images = torch.randn(2, 3, *config.image_size)
    with torch.no_grad():
        eager = bench(images)
        scripted = torch.jit.script(bench)
        assert torch.equal(scripted(images), eager)
    assert reference.same_bits(scripted.anchors.boxes, effdet.anchors.Anchors.from_config(config).boxes)


@pytest.mark.quick
def test_has_what_effdets_has(effdet):
    ours, theirs = compat.Anchors(**SIMPLE), effdet.anchors.Anchors(**SIMPLE)
    assert set(dir(theirs)) <= set(dir(ours))


def as_effdets_users_do(anchors, effdet):
    """Boxes for another image, of a module that is there."""
    anchors.image_size = (100, 90)
    assert anchors.boxes.shape == (sum(9 * h * w for h, w in anchors.feat_sizes[3:]), 4)  # not yet
    anchors.feat_sizes = effdet.anchors.get_feat_sizes(anchors.image_size, anchors.max_level)
    anchors.aspect_ratios = [0.5, (1.0, 3.0)]
    anchors.anchor_scales = [1.0, 2, 3, 4, 5.5]
    anchors.config = anchors._generate_configs()
    anchors.boxes = anchors._generate_boxes()
    return anchors


@pytest.mark.quick
def test_assigned_after_construction(effdet):
    ours, theirs = (as_effdets_users_do(c(**SIMPLE), effdet) for c in (compat.Anchors, effdet.anchors.Anchors))
    assert same_anchors(ours, theirs) and list(ours.state_dict()) == ["boxes"]
    for anchors in (ours, theirs):  # a level without cells, of an image that is less than half a stride
        anchors.config, anchors.image_size = {3: [((8.0, 16.0), 0.0, 1.0, 4.0)]}, (20, 7)
        anchors.boxes = anchors._generate_boxes()
    assert reference.same_bits(ours.boxes, theirs.boxes) and len(ours.boxes) == 0
    ours.config[3].append(((8.0, 8.0), 0.0, 1.0, 4.0))
    with pytest.raises(ValueError, match=r"config\[3\]\[1\]\[0\] is \(8.0, 8.0\); expected \(8.0, 16.0\)"):
        ours._generate_boxes()


@pytest.mark.quick
def test_subclasses(effdet):
    """Their own methods are called by the constructor, and what else they have is copied and saved."""

    class Own:
        def __init__(self, *arguments, name="own"):
            super().__init__(*arguments)
            self.name = name

        def _generate_configs(self):
            return {level: entries[:2] for level, entries in super()._generate_configs().items()}

        def _generate_boxes(self):
            return super()._generate_boxes() + 1

        def __getstate__(self):
            return {**vars(self), "name": self.name + ", copied"}

    config = effdet.config.get_efficientdet_config("tf_efficientdet_d0")
    ours, theirs = (type("Own", (Own, cls), {}).from_config(config) for cls in (compat.Anchors, effdet.anchors.Anchors))
    assert type(ours).__name__ == "Own" and same_anchors(ours, theirs)
    copied = copy.deepcopy(ours)
    assert copied.name == "own, copied" and same_anchors(copied, theirs)


def list_config(values):
    return pytest.importorskip("omegaconf").OmegaConf.create(values)


NUMPY = [np.int64, np.int32, lambda value: torch.tensor(value)]
KINDS = {
    **dict.fromkeys(("min_level", "max_level", "num_scales"), NUMPY),
    "anchor_scale": [np.float64, np.float32, np.float16, lambda value: list_config([value * i for i in range(1, 6)])],
    "image_size": [list_config, lambda value: [np.int64(value[0]), value[1]]],
    "aspect_ratios": [
        *(list_config, lambda value: np.array([0.3, 1.7]), lambda value: np.array([0.3], np.float32)),
        *(lambda value: [np.float16(0.3), (np.float32(1.3), 2)], lambda value: range(1, 3)),
    ],
}


@pytest.mark.quick
@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in KINDS.items() for kind in kinds])
def test_kinds_of_numbers(name, kind, effdet):
    arguments = {**SIMPLE, "anchor_scale": 4.1, "image_size": [128, 190]}
    arguments[name] = kind(arguments[name])
    ours = compat.Anchors(**arguments)
    assert reference.same_bits(ours.boxes, effdet.anchors.Anchors(**arguments).boxes)


@pytest.mark.quick
def test_arrays_and_tensors_where_effdet_has_none():
    plain = compat.Anchors(**{**SIMPLE, "anchor_scale": [1.0, 2.0, 3.0, 4.0, 5.0]}).boxes
    for kind in (np.array, torch.tensor):
        arguments = {"image_size": kind([128, 192]), "aspect_ratios": kind(SIMPLE["aspect_ratios"])}
        if kind is torch.tensor:
            arguments["aspect_ratios"] = torch.tensor(SIMPLE["aspect_ratios"], dtype=torch.float64)
        arguments["anchor_scale"] = kind([1.0, 2, 3, 4, 5])
        assert reference.same_bits(compat.Anchors(**{**SIMPLE, **arguments}).boxes, plain)


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
        ("num_scales", 512),
    ],
)
def test_bad_arguments(argument, value, effdet):
    arguments = {**SIMPLE, argument: value}
    with contextlib.nullcontext() if value == 512 else pytest.raises((ValueError, AssertionError, ZeroDivisionError)):
        effdet.anchors.Anchors(**arguments)
    with pytest.raises(ValueError) as caught:
        compat.Anchors(**arguments)
    assert isinstance(caught.value, AssertionError)
    message = str(caught.value)
    assert argument in message and "expected" in message, message
