"""Matching in compiled and exported programs, in a graph of CUDA's, in its memory; and arguments that are wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from strange import strange
from test_match import ANCHORS, SHAPE, coco
from toolchain import ROOT
from torch._dynamo.testing import CompileCounterWithBackend

import anchor_ext
from anchor_ext import matchers

TEXT = matchers.Matcher()._text


def operands(device, *counts):
    boxes = torch.cat([coco(count, seed).to(device) for seed, count in enumerate(counts)])
    return (boxes, list(counts), None, ANCHORS.spec, TEXT), {"image_shape": list(SHAPE)}


@pytest.mark.quick
def test_opcheck(device):
    arguments, keywords = operands(device, 5, 0, 3)
    torch.library.opcheck(torch.ops.anchor_ext.match.default, arguments, keywords)
    torch.library.opcheck(torch.ops.anchor_ext.match.default, arguments, {**keywords, "with_iou": True})


@pytest.mark.quick
def test_schema_is_the_documented_one():
    schema = str(torch.ops.anchor_ext.match.default._schema)
    assert schema in (ROOT / "docs/operators.md").read_text().splitlines(), schema


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_one_graph_for_any_number_of_boxes(backend, device):
    torch.compiler.reset()
    counter = CompileCounterWithBackend(backend)

    def loss(boxes, image):
        matched, iou = ANCHORS.match(boxes, image.shape[-2:], return_iou=True)
        return torch.where(matched >= 0, iou, 0), matched

    compiled = torch.compile(loss, backend=counter, fullgraph=True, dynamic=True)
    first = 0
    for count, shape in [(7, (320, 416)), (2, (256, 96)), (40, (333, 500)), (9, (64, 64))]:
        image, boxes = torch.zeros(1, 3, *shape, device=device), coco(count, 1, shape).to(device)
        assert torch.equal(compiled(boxes, image)[1], loss(boxes, image)[1])
        first = first or counter.frame_count  # Inductor's first compilation in a process may be seen twice
    assert counter.frame_count == first


@pytest.mark.parametrize("matcher", [None, matchers.Detectron2Matcher(), matchers.MaxIoUAssigner(0.5, 0.4)], ids=str)
def test_a_batch_in_one_graph(matcher, device):
    torch.compiler.reset()

    def call(a, b):
        return ANCHORS.match([a, b], SHAPE, matcher=matcher)

    compiled = torch.compile(call, backend="eager", fullgraph=True, dynamic=True)
    for counts in [(3, 5), (8, 2), (11, 7)]:
        boxes = [coco(count, count).to(device) for count in counts]
        wanted, got = call(*boxes), compiled(*boxes)
        wanted, got = (x if isinstance(x, tuple) else (x,) for x in (wanted, got))
        assert all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True))


class Model(torch.nn.Module):
    def forward(self, boxes, image):
        return ANCHORS.match(boxes, image.shape[-2:], low_quality_needs_overlap=True, return_iou=True)


@pytest.mark.slow
@pytest.mark.tools("c++")
@pytest.mark.parametrize("ahead", [False, True])
def test_exported(ahead, tmp_path):
    dynamic = {
        "boxes": {0: torch.export.Dim("boxes", min=2, max=2000)},
        "image": {2: torch.export.Dim("h", min=32, max=2048)},
    }
    inputs = (coco(5), torch.zeros(1, 3, *SHAPE))
    program = torch.export.export(Model(), inputs, dynamic_shapes=dynamic)
    torch.export.save(program, tmp_path / "match.pt2")
    run = torch.export.load(tmp_path / "match.pt2").module()
    if ahead:
        path = str(tmp_path / "ahead.pt2")
        run = torch._inductor.aoti_load_package(torch._inductor.aoti_compile_and_package(program, package_path=path))
    for count, height in [(5, 320), (300, 200), (2, 777)]:
        boxes, image = coco(count, 3, (height, SHAPE[1])), torch.zeros(1, 3, height, SHAPE[1])
        for got, wanted in zip(run(boxes, image), Model()(boxes, image), strict=True):
            assert torch.equal(got, wanted)


@pytest.mark.quick
def test_a_trace_says_why_not():
    with pytest.raises(RuntimeError, match="match cannot be traced"):
        torch.jit.trace(Model(), (coco(5), torch.zeros(1, 3, *SHAPE)))


@pytest.mark.tools("onnx", "onnxscript")
def test_onnx_says_why_not(tmp_path):
    with pytest.raises(Exception) as raised:
        torch.onnx.export(Model(), (coco(5), torch.zeros(1, 3, *SHAPE)), tmp_path / "match.onnx", dynamo=True)
    messages, error = [], raised.value
    while error is not None:
        messages.append(str(error))
        error = error.__cause__ or error.__context__
    assert any("match cannot be exported to ONNX" in message for message in messages)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "rule", [None, matchers.SSDMatcher(), matchers.FocalLossMatcher(), matchers.Detectron2Matcher()], ids=str
)
def test_captured_and_never_waits(rule):
    batch = [coco(count, count).cuda() for count in (5, 0, 300)]
    other = [coco(count, 7 + count).cuda() for count in (5, 0, 300)]
    wanted = ANCHORS.match([boxes.cpu() for boxes in other], SHAPE, matcher=rule)
    ANCHORS.match(batch, SHAPE, matcher=rule)
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = ANCHORS.match(other, SHAPE, matcher=rule)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = ANCHORS.match(batch, SHAPE, matcher=rule)
    for boxes, new in zip(batch, other, strict=True):
        boxes.copy_(new)
    graph.replay()
    for result in (got, captured):
        pairs = zip(*[x if isinstance(x, tuple) else (x,) for x in (result, wanted)], strict=True)
        assert all(torch.equal(a.cpu(), b) for a, b in pairs)


@pytest.mark.gpu
def test_launches():
    for matcher, launches in [(None, 2), (matchers.SSDMatcher(), 3), (matchers.FocalLossMatcher(), 1)]:
        boxes = coco(20).cuda()
        ANCHORS.match(boxes, SHAPE, matcher=matcher)
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            ANCHORS.match(boxes, SHAPE, matcher=matcher)
            torch.cuda.synchronize()
        kernels = [
            e.name
            for e in profile.events()
            if e.device_type == torch.autograd.DeviceType.CUDA and "emset" not in e.name
        ]
        assert len(kernels) == launches and all("anchor_ext" in name for name in kernels), kernels


def test_memory():
    """8 bytes per anchor beside the result: no matrix, and no anchors."""
    code = "import sys, matching; matching.print_peak('anchor_ext', (2160, 3840), 500)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "benchmarks"), *sys.path])}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    if "clear_refs" in run.stderr:
        pytest.skip("the system does not let a process's peak begin anew")
    assert run.returncode == 0, run.stderr
    assert 0 < json.loads(run.stdout.splitlines()[-1])["bytes_per_anchor"] <= 8.5


BOXES = torch.zeros(3, 4)
ASSIGNER = matchers.MaxIoUAssigner(0.5, 0.4, ignore_iof_thr=0.5)
NESTED = torch.nested.nested_tensor([torch.zeros(3, 4)])
WRONG_CALLS = [
    (dict(boxes=None), TypeError, r"boxes is None; expected a tensor \(n, 4\)"),
    (dict(boxes=[]), ValueError, r"boxes is empty; expected a tensor \(n, 4\), or a list"),
    (dict(boxes=[[1.0, 2, 3, 4]]), TypeError, r"boxes\[0\] is \[1.0, 2, 3, 4\]; expected"),
    (dict(boxes=torch.zeros(4)), ValueError, r"boxes has .*shape \(4,\); expected a tensor \(n, 4\)"),
    (dict(boxes=torch.zeros(2, 3, 4)), ValueError, r"boxes has .*shape \(2, 3, 4\)"),
    (dict(boxes=torch.zeros(2, 5)), ValueError, r"boxes has .*shape \(2, 5\)"),
    (dict(boxes=[BOXES, torch.zeros(0)]), ValueError, r"boxes\[1\] has .*shape \(0,\)"),
    (dict(boxes=NESTED), ValueError, "boxes has .*nested"),
    (dict(boxes=BOXES.to_sparse()), ValueError, "boxes has layout torch.sparse_coo"),
    (
        dict(boxes=BOXES.long()),
        TypeError,
        "boxes has dtype torch.int64; expected float32, float64, float16 or bfloat16",
    ),
    (dict(boxes=BOXES.cfloat()), TypeError, "boxes has dtype torch.complex64"),
    (dict(boxes=BOXES.bool()), TypeError, "boxes has dtype torch.bool"),
    (
        dict(boxes=[BOXES, BOXES.double()]),
        ValueError,
        r"boxes\[1\] has dtype torch.float64; expected torch.float32, as",
    ),
    (dict(boxes=[BOXES, BOXES.to("meta")]), ValueError, r"boxes\[1\] has device meta; expected cpu, as boxes\[0\]"),
    (dict(boxes=BOXES.to(torch.float8_e5m2)), TypeError, "boxes has dtype torch.float8_e5m2"),
    (dict(boxes=torch.zeros(1, 4).expand(2**22, 4)), ValueError, "boxes has 4194304 rows; expected at most 4194303"),
    (dict(high=torch.tensor([0.5, 0.6]), matcher=matchers.Matcher()), ValueError, "matcher is given, and so are"),
    (dict(high=torch.tensor([0.5, 0.6])), TypeError, "high is a Tensor of shape"),
    (dict(high="0.5"), TypeError, "high is '0.5'; expected numbers with 0 <= low <= high"),
    (dict(high=None), TypeError, "high is None"),
    (dict(high=float("nan")), ValueError, "high is nan"),
    (dict(high=[0.5]), TypeError, r"high is \[0.5\]"),
    (dict(low=-0.1), ValueError, "low is -0.1; expected numbers with 0 <= low <= high"),
    (dict(high=0.3), ValueError, "high is 0.3; expected numbers with 0 <= low <= high"),
    (dict(allow_low_quality=1), TypeError, "allow_low_quality is 1; expected True or False"),
    (dict(low_quality_needs_overlap="no"), TypeError, "low_quality_needs_overlap is 'no'"),
    (dict(return_iou=None), TypeError, "return_iou is None; expected True or False"),
    (dict(matcher="torchvision"), TypeError, "matcher is 'torchvision'; expected None or one of anchor_ext.matchers"),
    (dict(matcher=matchers.Matcher(), high=0.7), ValueError, "matcher is given, and so are thresholds or options"),
    (dict(ignored=BOXES), ValueError, "ignored is given; expected None, but with matcher=MaxIoUAssigner"),
    (dict(ignored=[BOXES], matcher=ASSIGNER), ValueError, "ignored is .*; expected as many images as boxes has, 1"),
    (
        dict(ignored=BOXES.double(), matcher=ASSIGNER),
        ValueError,
        "ignored has dtype torch.float64; expected torch.float32",
    ),
    (dict(ignored=5, matcher=ASSIGNER), TypeError, "ignored is 5; expected a tensor"),
    (dict(image_shape=(0, 5)), ValueError, r"image_shape is \(0, 5\)"),
    (dict(image_shape=None), TypeError, "image_shape is None"),
    (dict(clip=(0, 5)), ValueError, r"clip is \(0, 5\)"),
]


@pytest.mark.quick
@pytest.mark.parametrize(("wrong", "error", "message"), WRONG_CALLS, ids=lambda value: str(value)[:60])
def test_wrong_calls(wrong, error, message):
    with pytest.raises(error, match=message):
        ANCHORS.match(**{"boxes": BOXES, "image_shape": SHAPE, **wrong})


@pytest.mark.quick
@pytest.mark.parametrize(
    ("rule", "error", "message"),
    [
        (lambda: matchers.Matcher(0.4, 0.5), ValueError, "high_threshold is 0.4; expected numbers with 0 <= low_thr"),
        (lambda: matchers.Matcher("a"), TypeError, "high_threshold is 'a'"),
        (lambda: matchers.Matcher(0.5, 0.4, 1), TypeError, "allow_low_quality_matches is 1; expected True or False"),
        (lambda: matchers.SSDMatcher(-1), ValueError, "threshold is -1; expected a number >= 0"),
        (lambda: matchers.Detectron2Matcher(0.5), TypeError, "thresholds is 0.5; expected 1 to 8 ascending"),
        (lambda: matchers.Detectron2Matcher([], [1]), ValueError, "thresholds is empty; expected 1 to 8 ascending"),
        (
            lambda: matchers.Detectron2Matcher([0.5, 0.4], [0, 0, 1]),
            ValueError,
            r"thresholds\[1\] is 0.4; expected 1 to 8",
        ),
        (
            lambda: matchers.Detectron2Matcher([0.5], [0, 2]),
            ValueError,
            r"labels is \[0, 2\]; expected 2 of -1, 0, 1",
        ),
        (lambda: matchers.Detectron2Matcher([0.5], [0, 0, 1]), ValueError, "labels is .*one more than thresholds"),
        (lambda: matchers.MaxIoUAssigner(0.3, 0.4), ValueError, "pos_iou_thr is 0.3; expected numbers with 0 <= neg"),
        (
            lambda: matchers.MaxIoUAssigner(0.5, (0.1, 0.2, 0.3)),
            ValueError,
            "neg_iou_thr is .*expected a number or a pair",
        ),
        (lambda: matchers.MaxIoUAssigner(0.5, 0.4, "no"), TypeError, "min_pos_iou is 'no'"),
        (lambda: matchers.ArgMaxMatcher(0.5, 0.6), ValueError, "matched_threshold is 0.5; expected numbers with 0 <="),
        (
            lambda: matchers.ArgMaxMatcher(0.5, None, False),
            ValueError,
            "unmatched_threshold is 0.5; expected less than",
        ),
        (lambda: matchers.Detectron2Matcher(range(1, 10**8), [0]), ValueError, "thresholds has 99999999 items"),
        (lambda: matchers.Rule(), TypeError, "Rule is what the rules have in common"),
        (lambda: matchers.FocalLossMatcher(0.3), ValueError, "high is 0.3"),
    ],
)
def test_wrong_rules(rule, error, message):
    with pytest.raises(error, match=message):
        rule()


@pytest.mark.quick
@pytest.mark.parametrize("layout", ["cxcywha", "point", "point_stride"])
def test_what_is_no_box_cannot_be_matched(layout):
    components = {"cxcywha": 5, "point": 2, "point_stride": 4}[layout]
    grid = anchor_ext.AnchorGrid([[[1.0] * components]], [8], layout=layout)
    with pytest.raises((ValueError, RuntimeError), match=f"layout is '{layout}'; expected xyxy or yxyx"):
        grid.match(BOXES, [(2, 3)])


@pytest.mark.quick
def test_wrong_operands():
    (boxes, counts, *rest), keywords = operands("cpu", 4)
    for wrong, message in [
        ((boxes, [3], *rest), "counts are 3 in all; expected 4"),
        ((boxes, [5, -1], *rest), r"counts\[1\] is -1; expected 0 to 4194303"),
        ((boxes.half(), counts, *rest), r"boxes is float16 \(\d+, 4\) on cpu; expected float32 or float64"),
        ((boxes[:, :3], counts, *rest), r"boxes is float32 \(\d+, 3\) on cpu; expected shape \(n, 4\)"),
        ((boxes, counts, None, ANCHORS.spec, "match/2"), "matcher begins with 'match/2'; expected match/1"),
        ((boxes, counts, None, ANCHORS.spec, "match/1;colour=red"), "matcher has the key 'colour'; expected one of"),
        ((boxes, counts, None, ANCHORS.spec, "match/1;thresholds=0.5"), "matcher has 1 codes; expected 2"),
        ((boxes, counts, None, ANCHORS.spec, "match/1;thresholds=0.5,0.4;codes=-1,-2,matched"), "ascending"),
        (
            (boxes, counts, None, ANCHORS.spec, "match/1;thresholds=x;codes=-1,-2"),
            "thresholds is 'x'; expected numbers",
        ),
        ((boxes, counts, None, ANCHORS.spec, "match/1;thresholds=0.5;codes=-1,7"), "codes is '7'; expected negative"),
        (
            (boxes, counts, None, ANCHORS.spec, "match/1;low_quality=some"),
            "low_quality is 'some'; expected one of nothing",
        ),
    ]:
        with pytest.raises((ValueError, RuntimeError), match=message):
            torch.ops.anchor_ext.match(*wrong, **keywords)


@pytest.mark.quick
def test_rules_are_values():
    import copy
    import pickle

    for rule in (matchers.Matcher(), matchers.Detectron2Matcher([0.4, 0.5], [0, -1, 1])):
        assert pickle.loads(pickle.dumps(rule)) == copy.deepcopy(rule) == rule and hash(rule) == hash(copy.copy(rule))
        with pytest.raises(AttributeError):
            rule.low_threshold = 0.1


@pytest.mark.quick
def test_a_threshold_that_changes_is_read_anew():
    boxes, high = coco(9), torch.tensor(0.5)
    rule = matchers.Matcher(high)
    first = ANCHORS.match(boxes, SHAPE, high=high)
    high.fill_(0.95)
    assert torch.equal(ANCHORS.match(boxes, SHAPE, high=high), ANCHORS.match(boxes, SHAPE, high=float(high)))
    assert not torch.equal(ANCHORS.match(boxes, SHAPE, high=high), first)
    assert rule == matchers.Matcher(0.5) and torch.equal(ANCHORS.match(boxes, SHAPE, matcher=rule), first)


@pytest.mark.quick
def test_meta_and_fake_say_what_is_wrong():
    (boxes, counts, *rest), keywords = operands("cpu", 4)
    for wrong, message in [
        ((boxes, [7], *rest), "counts are 7 in all"),
        ((boxes, counts, None, ANCHORS.spec, "nonsense"), "matcher begins with 'nonsense'"),
        ((boxes, counts, [1, 2], "anchors/1;layout=point;strides=8,8;cell_anchors=0,0", TEXT), "layout is 'point'"),
    ]:
        with pytest.raises((ValueError, RuntimeError), match=message):
            torch.ops.anchor_ext.match(wrong[0].to("meta"), *wrong[1:], **keywords)


GOOD = {
    "boxes": [torch.tensor([[4.0, 4, 40, 40]]), [torch.tensor([[4.0, 4, 40, 40]])] * 2, torch.zeros(0, 4)],
    "image_shape": [(50, 60), [50, 60]],
    "high": [0.5, 1, torch.tensor(0.7)],
    "low": [0.4, 0],
    "allow_low_quality": [True, False],
    "low_quality_needs_overlap": [True, False],
    "return_iou": [True, False],
    "clip": [None, (50, 60)],
    "matcher": [None, None, None, matchers.SSDMatcher()],
    "ignored": [None],
}
RULES = {
    matchers.Matcher: {"high_threshold": 0.5, "low_threshold": 0.4, "allow_low_quality_matches": True},
    matchers.SSDMatcher: {"threshold": 0.5},
    matchers.Detectron2Matcher: {"thresholds": [0.3, 0.5], "labels": [0, -1, 1], "low_quality_needs_overlap": False},
    matchers.MaxIoUAssigner: {"pos_iou_thr": 0.5, "neg_iou_thr": (0.1, 0.4), "min_pos_iou": 0.0, "ignore_iof_thr": -1},
    matchers.ArgMaxMatcher: {"matched_threshold": 0.5, "unmatched_threshold": 0.4, "force_match_for_each_row": True},
    matchers.FocalLossMatcher: {"high": 0.5, "low": 0.4},
}


def test_anything_at_all(rng):
    """Thousands of arguments, good and random ones: a match, or a TypeError or ValueError that says something."""
    refused = answered = 0
    for _ in range(4000):
        arguments = {name: rng.choice(values) for name, values in GOOD.items()}
        for name in rng.sample(list(GOOD), rng.choice([0, 0, 1, 1, 2])):
            arguments[name] = strange(rng)
        rule, options = rng.choice(list(RULES.items()))
        options = {name: strange(rng) if rng.random() < 0.3 else value for name, value in options.items()}
        for call in (lambda a=arguments: ANCHORS.match(**a), lambda r=rule, o=options: r(**o)):
            try:
                call()
                answered += 1
            except (TypeError, ValueError) as error:
                refused += 1
                assert any(name in str(error) for name in [*GOOD, *options, "anchors"]), error
    assert refused > 1000 and answered > 1000, (refused, answered)
