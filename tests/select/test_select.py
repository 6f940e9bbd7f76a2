"""The candidates are torchvision's, index for index, ties included; in fixed shapes, and in every kind of program."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch
from toolchain import ROOT
from torch import nn

from anchor_ext import Anchors, select
from anchor_ext._select_operators import _by_torch

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
NAN, INF = float("nan"), float("inf")


def original(logits, sizes, threshold, k):
    """As RetinaNet.postprocess_detections of torchvision, of one image: scores, anchors, labels."""
    results, begin = [], 0
    for level in logits.split(sizes):
        scores = torch.sigmoid(level).flatten()
        keep = scores > threshold
        scores, at = scores[keep], torch.where(keep)[0]
        scores, best = scores.topk(min(len(at), k))
        at = at[best]
        classes = logits.shape[1]
        results.append((scores, begin + torch.div(at, classes, rounding_mode="floor"), at % classes))
        begin += len(level)
    return [torch.cat(of) for of in zip(*results, strict=True)]


class Case:
    def __init__(self, rng, dtype=torch.float32, device="cpu"):
        random = torch.Generator().manual_seed(rng.randrange(2**31))
        self.classes, images = rng.choice([1, 2, 20, 91]), rng.randint(1, 3)
        self.shapes = [(rng.randint(1, 12), rng.randint(1, 12)) for _ in range(rng.randint(1, 5))]
        self.each = [rng.randint(1, 9) for _ in self.shapes]
        self.sizes = [rows * columns * each for (rows, columns), each in zip(self.shapes, self.each, strict=True)]
        logits = torch.randn(images, sum(self.sizes), self.classes, generator=random) * rng.choice([0.5, 2, 5]) - 2
        if rng.random() < 0.5:  # many are alike
            logits = (logits * rng.choice([1, 4])).round() / 4
        self.logits = logits.to(device, dtype)
        self.threshold, self.k = rng.choice([0.05, 0.5, 0.01, 0.9, 0.0, -1.0]), rng.choice([1, 7, 100, 10000])

    def levels(self):
        """The same as a head gives it."""
        made = []
        split = self.logits.split(self.sizes, dim=1)
        for level, (rows, columns), each in zip(split, self.shapes, self.each, strict=True):
            made.append(level.reshape(len(level), rows, columns, each * self.classes).permute(0, 3, 1, 2))
        return made

    def options(self):
        return {"score_threshold": self.threshold, "topk_per_level": self.k}


def check(case, got):
    slots = sum(min(case.k, size * case.classes) for size in case.sizes)
    for i, logits in enumerate(case.logits):
        wanted = original(logits, case.sizes, case.threshold, case.k)
        count = int(got.counts[i])
        assert count == len(wanted[0])
        for name, one in zip(("scores", "indices", "labels"), wanted, strict=True):
            of = getattr(got, name)
            assert of.shape == (len(case.logits), slots)
            assert of.dtype == one.dtype and torch.equal(of[i, :count], one), name
            assert bool((of[i, count:] == (-1 if name == "labels" else 0)).all())


@pytest.mark.quick
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_as_torchvision(dtype, rng, one_thread):
    for _ in range(120):
        case = Case(rng, dtype)
        check(case, select(case.logits, level_sizes=case.sizes, **case.options()))
        levels = [level.contiguous() if rng.random() < 0.5 else level for level in case.levels()]
        check(case, select(levels, num_classes=case.classes, **case.options()))
        check(case, select(case.logits.split(case.sizes, dim=1), **case.options()))


@pytest.mark.peers
def test_beside_torchvision(one_thread, rng):
    """Its whole post-processing, up to where boxes are decoded."""
    retinanet = pytest.importorskip("torchvision.models.detection.retinanet")
    import inspect

    source = inspect.getsource(retinanet.RetinaNet.postprocess_detections)
    for line in (  # what the loop above repeats
        "scores_per_level = torch.sigmoid(logits_per_level).flatten()",
        "keep_idxs = scores_per_level > self.score_thresh",
        "scores_per_level, idxs = scores_per_level.topk(num_topk)",
    ):
        assert line in source


@pytest.mark.quick
def test_real_sizes(one_thread):
    anchors, shape = Anchors(), (320, 416)
    random = torch.Generator().manual_seed(0)
    case = Case.__new__(Case)
    case.sizes, case.classes, case.threshold, case.k = anchors.level_sizes(shape), 91, 0.05, 1000
    case.logits = torch.randn(2, sum(case.sizes), 91, generator=random) - 5.5
    check(case, select(case.logits, level_sizes=case.sizes))


@pytest.mark.quick
def test_the_same_by_torchs_operators(rng):
    """As other devices do it; of scores that differ, ties in whatever order."""
    for _ in range(150):
        case = Case(rng, torch.float64)
        random = torch.Generator().manual_seed(rng.randrange(2**31))
        numbers = torch.randperm(case.logits.numel(), generator=random).view(case.logits.shape)
        case.logits = (numbers / case.logits.numel() * 12 - 8).double()
        wanted = select(case.logits, level_sizes=case.sizes, **case.options())
        if case.threshold < 0:
            continue
        for parts in ([case.logits], case.levels(), case.logits.split(case.sizes, dim=1)):
            got = _by_torch(parts, case.sizes, case.classes, case.threshold, case.k)
            torch.testing.assert_close(got[0], wanted.scores, rtol=1e-14, atol=0)
            assert all(torch.equal(a, b) for a, b in zip(got[1:], wanted[1:], strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_on_a_device(dtype, rng):
    """The scores of torch's own operators there; and of equal ones, each somewhere that has it, and no place twice."""
    for k in range(60):
        case = Case(rng, dtype, "cuda")
        case.k = rng.choice([1, 7, 100, 1000, 4096])
        if k % 4 == 0:
            case.logits[:, ::3] = rng.choice([NAN, INF, -INF, -0.0])
        parts, options = (case.logits, {"level_sizes": case.sizes}), case.options()
        if k % 2:
            parts, options = (case.levels(),), options | {"num_classes": case.classes}
        torch.cuda.set_sync_debug_mode("error")
        try:
            got = select(parts[0], **options, **(parts[1] if len(parts) > 1 else {}))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        clean = torch.where(case.logits.isnan(), -INF, case.logits)  # torch's topk takes what is no number for the most
        wanted = _by_torch([clean], case.sizes, case.classes, max(case.threshold, 0.0), case.k)
        if case.threshold < 0:
            continue
        assert torch.equal(got.counts, wanted[3])
        assert torch.equal(got.scores, wanted[0])
        for i, count in enumerate(got.counts.tolist()):
            index, labels = got.indices[i, :count], got.labels[i, :count]
            assert torch.equal(case.logits[i, index, labels].sigmoid(), got.scores[i, :count])
            assert len((index * case.classes + labels).unique()) == count
            assert bool((got.labels[i, count:] == -1).all() and (got.indices[i, count:] == 0).all())


@pytest.mark.gpu
def test_equal_scores_on_a_device_come_in_their_order():
    logits = torch.zeros(2, 9000, 3, device="cuda")
    logits[1, 4000:] = -9.0
    got = select(logits, level_sizes=[3000, 6000], topk_per_level=4000)
    every = torch.arange(4000, device="cuda")
    for image, level, begin, count in ((0, 0, 0, 4000), (0, 1, 3000, 4000), (1, 0, 0, 4000), (1, 1, 3000, 3000)):
        at = slice(4000 * level, 4000 * level + count)
        assert torch.equal(got.indices[image, at], begin + every[:count] // 3)
        assert torch.equal(got.labels[image, at], every[:count] % 3)
    assert got.counts.tolist() == [8000, 7000]


@pytest.mark.quick
def test_any_number_of_threads(rng):
    threads = torch.get_num_threads()
    cases = [Case(rng) for _ in range(20)]
    results = []
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            results.append([x for c in cases for x in select(c.logits, level_sizes=c.sizes, **c.options())])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(other, results[0], strict=True))


@pytest.mark.quick
def test_strange_logits(one_thread):
    case = Case.__new__(Case)
    case.classes, case.sizes, case.k = 7, [100, 41], 50
    for dtype in DTYPES:
        for case.threshold in (0.5, 0.05, 0.999, 0.0, -0.5, 1.0, 1.5):
            case.logits = (torch.arange(2 * 141 * 7).view(2, 141, 7) % 97 / 4.0 - 12).to(dtype)
            case.logits.view(-1)[::11] = NAN
            case.logits.view(-1)[5::13] = INF
            case.logits.view(-1)[7::17] = -INF
            check(case, select(case.logits, level_sizes=case.sizes, score_threshold=case.threshold, topk_per_level=50))


@pytest.mark.quick
def test_near_the_threshold(one_thread):
    """Logits one after another around it: sigmoid's last bits decide."""
    case = Case.__new__(Case)
    case.classes, case.k = 64, 100000
    for case.threshold in (0.05, 0.3, 0.5, 0.97, 1e-6, 1 - 1e-6):
        middle = torch.logit(torch.tensor(case.threshold, dtype=torch.float64)).float()
        bits = middle.view(torch.int32) + torch.arange(-2048, 2048, dtype=torch.int32)
        case.logits, case.sizes = bits.view(torch.float32).view(1, 64, 64), [64]
        check(case, select(case.logits, score_threshold=case.threshold, topk_per_level=case.k))


@pytest.mark.quick
def test_nothing():
    for sizes in ((0, 5, 3), (2, 0, 3), (2, 5, 0)):
        got = select(torch.zeros(sizes), level_sizes=[sizes[1], 0])
        assert got.scores.shape == (sizes[0], min(1000, sizes[1] * sizes[2])) and got.counts.shape == sizes[:1]
    got = select(torch.full((2, 5, 3), -20.0))
    assert got.counts.tolist() == [0, 0] and bool((got.labels == -1).all())
    at = torch.zeros(1, 5, 3, requires_grad=True)
    assert not select(at).scores.requires_grad
    assert select(torch.zeros(2, 5, 3, device="meta")).scores.shape == (2, 15)


@pytest.mark.quick
def test_the_operator():
    operator = torch.ops.anchor_ext.select.default
    logits = torch.linspace(-5, 5, 2 * 9 * 4).view(2, 9, 4)
    torch.library.opcheck(operator, ([logits], [5, 4], 4, 0.3, 6))
    levels = [torch.linspace(-5, 5, 16).view(1, 8, 2, 1), torch.zeros(1, 4, 1, 1)]
    torch.library.opcheck(operator, (levels, [4, 1], 4, 0.3, 6))
    assert str(operator._schema) in (ROOT / "docs/operators.md").read_text().splitlines(), operator._schema


ANCHORS = Anchors()


class Head(nn.Module):
    """Inference up to non-maximum suppression."""

    def __init__(self, k=50):
        super().__init__()
        self.k = k

    def forward(self, image, logits, deltas):
        shape = image.shape[-2:]
        found = select(logits, level_sizes=ANCHORS.level_sizes(shape), score_threshold=0.3, topk_per_level=self.k)
        chosen = torch.gather(deltas, 1, found.indices[..., None].expand(-1, -1, 4))
        return *found, ANCHORS.decode(chosen, shape, index=found.indices)


def inputs(shape, images=2):
    anchors = ANCHORS.num_anchors(shape)
    random = torch.Generator().manual_seed(anchors)
    numbers = torch.stack([torch.randperm(anchors * 3, generator=random) for _ in range(images)])
    logits = (numbers / (anchors * 3) * 9 - 6).view(images, anchors, 3)
    return torch.zeros(images, 3, *shape), logits, torch.randn(images, anchors, 4, generator=random)


SHAPES = [(96, 160), (61, 100), (320, 416), (33, 250)]


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.tools("c++"))])
def test_one_graph(backend, one_thread):
    torch.compiler.reset()
    compiled = torch.compile(Head(), backend=backend, fullgraph=True, dynamic=True)
    for shape in SHAPES:
        for a, b in zip(compiled(*inputs(shape)), Head()(*inputs(shape)), strict=True):
            assert torch.equal(a, b)


@pytest.mark.slow
@pytest.mark.tools("c++")
@pytest.mark.parametrize("ahead", [False, True])
def test_exported(ahead, tmp_path, one_thread):
    sides = {2: torch.export.Dim("h", min=32), 3: torch.export.Dim("w", min=32)}
    automatic = {1: torch.export.Dim.AUTO}
    dynamic = {"image": sides, "logits": automatic, "deltas": automatic}
    program = torch.export.export(Head(), inputs(SHAPES[2]), dynamic_shapes=dynamic)
    torch.export.save(program, tmp_path / "select.pt2")
    run = torch.export.load(tmp_path / "select.pt2").module()
    if ahead:
        path = str(tmp_path / "ahead.pt2")
        run = torch._inductor.aoti_load_package(torch._inductor.aoti_compile_and_package(program, package_path=path))
    for shape in SHAPES:
        for got, wanted in zip(run(*inputs(shape)), Head()(*inputs(shape)), strict=True):
            assert torch.equal(got, wanted)


class Selecting(nn.Module):
    def forward(self, image, logits):
        return select(logits, level_sizes=ANCHORS.level_sizes(image.shape[-2:]), score_threshold=0.3, topk_per_level=50)


def test_a_selection_is_saved(tmp_path, one_thread):
    image, logits, _ = inputs(SHAPES[0])
    torch.export.save(torch.export.export(Selecting(), (image, logits)), tmp_path / "selection.pt2")
    got = torch.export.load(tmp_path / "selection.pt2").module()(image, logits)
    assert all(torch.equal(a, b) for a, b in zip(got, Selecting()(image, logits), strict=True))


@pytest.mark.slow
@pytest.mark.tools("onnx", "onnxruntime", "onnxscript")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("dynamo", [True, False])
def test_onnx(dynamo, dtype, tmp_path):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path, names = tmp_path / "select.onnx", ["image", "logits"]
    axes = {"image": {0: "images", 2: "h", 3: "w"}, "logits": {0: "images", 1: "anchors"}}

    def given(shape, images):
        image, logits, _ = inputs(shape, images)
        return image, logits.to(dtype)

    if dynamo:
        automatic = {name: dict.fromkeys(of, torch.export.Dim.AUTO) for name, of in axes.items()}
        keywords = {"dynamic_shapes": automatic, "external_data": False, "verbose": False}
    else:
        keywords = {"input_names": names, "opset_version": 17, "dynamic_axes": axes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Selecting().eval(), given(SHAPES[2], 2), path, dynamo=dynamo, **keywords)
    assert {node.domain for node in onnx.load(path).graph.node} == {""}
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in SHAPES:
        for images in (2, 1, 3):
            image, logits = given(shape, images)
            got = session.run(None, {"image": image.numpy(), "logits": logits.numpy()})
            got, wanted = [torch.from_numpy(one) for one in got], Selecting()(image, logits)
            torch.testing.assert_close(got[0], wanted[0], rtol=1e-3 if dtype == torch.float16 else 1e-6, atol=0)
            if dtype != torch.float16:  # in which many scores are alike
                assert all(torch.equal(a, b) for a, b in zip(got[1:], wanted[1:], strict=True))


X = torch.zeros(2, 6, 3)
LEVELS = [torch.zeros(2, 6, 1, 2), torch.zeros(2, 3, 1, 1)]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: select([1.0]), r"logits\[0\] is 1.0; expected a tensor"),
        (lambda: select(X[0]), r"logits has shape \(6, 3\); expected \(images, anchors, classes\)"),
        (lambda: select(X.int()), r"logits has dtype torch.int32"),
        (lambda: select(X, level_sizes=[3]), r"level_sizes is \[3\]; expected 6 in all, as logits has"),
        (lambda: select(X, level_sizes=6), r"level_sizes is 6; expected the number of anchors of each level"),
        (lambda: select(X, level_sizes=[-1, 7]), r"level_sizes\[0\] is -1; expected an integer >= 0"),
        (lambda: select(X, level_sizes=[6.0]), r"level_sizes\[0\] is 6.0; expected an integer >= 0"),
        (lambda: select(X, num_classes=4), r"num_classes is 4; expected None, or 3"),
        (lambda: select(X, score_threshold="a"), r"score_threshold is 'a'; expected a finite number"),
        (lambda: select(X, score_threshold=NAN), r"score_threshold is nan; expected a finite number"),
        (lambda: select(X, topk_per_level=0), r"topk_per_level is 0; expected an integer >= 1"),
        (lambda: select(X, topk_per_level=True), r"topk_per_level is True; expected an integer >= 1"),
        (lambda: select(X, topk_per_level=1.5), r"topk_per_level is 1.5; expected an integer >= 1"),
        (lambda: select(LEVELS), r"num_classes is None; expected the number of classes"),
        (lambda: select(LEVELS, num_classes=4), r"logits\[0\] has shape \(2, 6, 1, 2\); expected \(images, cell"),
        (lambda: select(LEVELS, num_classes=3, level_sizes=[4, 1]), r"level_sizes is given; expected None"),
        (lambda: select([LEVELS[0], LEVELS[1][:1]], num_classes=3), r"logits\[1\] has 1 images; expected 2"),
        (lambda: select([LEVELS[0], LEVELS[1].double()], num_classes=3), r"logits\[1\] has dtype torch.float64"),
        (lambda: select([], num_classes=3), r"logits has 0 tensors; expected 1 to 16 levels"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_memory():
    """A candidate costs some bytes, a logit none: no copy of 36 MB of logits."""
    code = """
import resource, torch, anchor_ext
torch.set_num_threads(1)
logits = torch.randn(1, 99765, 91) - 7
anchor_ext.select(logits[:, :99])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
anchor_ext.select(logits)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 9000  # kB
