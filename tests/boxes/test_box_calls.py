"""Deltas' derivatives; in compiled, exported and captured programs and in ONNX; and arguments that are wrong."""

from __future__ import annotations

import warnings

import pytest
import torch
from strange import strange
from toolchain import ROOT
from torch._dynamo.testing import CompileCounterWithBackend

import anchor_ext
from anchor_ext import Anchors, BoxCoder

ANCHORS, SHAPE = Anchors(), (96, 160)
N = ANCHORS.num_anchors(SHAPE)
CODERS = {
    "torchvision": BoxCoder.torchvision((10.0, 10.0, 5.0, 5.0)),
    "mmdet": BoxCoder.mmdet((0.1, 0.0, 0.2, 0.0), (0.1, 0.1, 0.2, 0.2), add_ctr_clamp=True, ctr_clamp=20),
    "both": BoxCoder.mmdet(target_stds=(0.5, 0.5, 2.0, 2.0)),
    "effdet": BoxCoder.effdet(),
    "retinanet": BoxCoder.retinanet(),
}
coders = pytest.mark.parametrize("coder", list(CODERS.values()), ids=list(CODERS))


def some_deltas(*sizes, scale=1.0, dtype=torch.float32, device="cpu"):
    made = torch.randn(*sizes, 4, generator=torch.Generator().manual_seed(0)) * scale
    return made.to(device, dtype)


def some_boxes(count, device="cpu"):
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(count)) * 90
    return torch.cat([corners.amin(1), corners.amax(1) + 2], dim=1).to(device)


@pytest.mark.quick
@pytest.mark.parametrize("name", ["decode", "decode_backward", "encode", "encode_backward", "targets"])
def test_the_operators(name):
    deltas, index = some_deltas(2, 7), torch.arange(14).view(2, 7) * 11
    boxes = some_boxes(14).view(2, 7, 4)
    operands = (None, ANCHORS.spec, CODERS["mmdet"]._text)
    keywords = {"image_shape": list(SHAPE)}
    limits = {**keywords, "limits": [90, 150, 80, 100]}
    every = some_deltas(1, N).requires_grad_()
    calls = {
        "decode": [((deltas.requires_grad_(), index, *operands), limits), ((every, None, *operands), keywords)],
        "decode_backward": [((some_deltas(2, 7), deltas.detach(), index, *operands), limits)],
        "encode": [((boxes.clone().requires_grad_(), index, *operands), keywords)],
        "encode_backward": [((some_deltas(2, 7), boxes, index, *operands), keywords)],
        "targets": [
            ((some_boxes(3), torch.tensor([4, 0, 1]), [3], torch.arange(N)[None] % 5 - 2, *operands), keywords)
        ],
    }
    operator = getattr(torch.ops.anchor_ext, name).default
    for arguments, options in calls[name]:
        torch.library.opcheck(operator, arguments, options)
    assert str(operator._schema) in (ROOT / "docs/operators.md").read_text().splitlines(), operator._schema


@coders
def test_gradients(coder, device):
    shape, index = (40, 56), torch.tensor([[0, 5, 77, -1]], device=device)
    deltas = some_deltas(1, 4, scale=0.7, dtype=torch.float64, device=device).requires_grad_()
    boxes = some_boxes(4, device).double()[None].requires_grad_()

    def decode(x):
        return ANCHORS.decode(x, shape, coder=coder, index=index)

    def encode(x):
        return ANCHORS.encode(x, index, shape, coder=coder)

    for function, at in ((decode, deltas), (encode, boxes)):
        torch.autograd.gradcheck(function, at)
        torch.autograd.gradgradcheck(function, at)
    every = some_deltas(1, ANCHORS.num_anchors((8, 8)), dtype=torch.float64, device=device).requires_grad_()
    torch.autograd.gradcheck(lambda x: ANCHORS.decode(x, (8, 8), coder=coder, clip=[(7, 5)]), every)


@coders
def test_gradients_are_those_of_torch(coder, device):
    from anchor_ext._box_standard import decode

    for dtype in (torch.float32, torch.float16):
        deltas = some_deltas(2, N, dtype=dtype, device=device).requires_grad_()
        by = some_deltas(2, N, device=device)
        (got,) = torch.autograd.grad(ANCHORS.decode(deltas, SHAPE, coder=coder), deltas, by)
        wide = deltas.detach().double().requires_grad_()
        sides = {"image_shape": list(SHAPE), "limits": list(SHAPE)}
        (wanted,) = torch.autograd.grad(decode(wide, None, None, ANCHORS.spec, coder._text, **sides), wide, by.double())
        close = (got - wanted).abs() <= 1e-5 * wanted.abs() + (1e-4 if dtype == torch.float32 else 1)
        assert got.dtype == dtype and float(close.double().mean()) > 0.999  # but where rounding decides on clipping


class Head(torch.nn.Module):
    """What stands behind a network: all boxes, and those at indices."""

    def __init__(self, coder=None):
        super().__init__()
        self.coder = coder

    def forward(self, image, deltas, index):
        shape = image.shape[-2:]
        chosen = torch.gather(deltas, 1, index[..., None].expand(-1, -1, 4))
        return ANCHORS.decode(deltas, shape, coder=self.coder), ANCHORS.decode(
            chosen, shape, coder=self.coder, index=index, clip=(50, 60)
        )


def inputs(shape, images=2, count=9):
    anchors = ANCHORS.num_anchors(shape)
    index = torch.randint(anchors, (images, count), generator=torch.Generator().manual_seed(1))
    return torch.zeros(images, 3, *shape), some_deltas(images, anchors), index


SHAPES = [(96, 160), (61, 100), (320, 416), (33, 250)]


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.tools("c++"))])
def test_one_graph(backend, device):
    torch.compiler.reset()
    counter = CompileCounterWithBackend(backend)
    boxes = some_boxes(14, device).view(2, 7, 4)

    def step(image, deltas, index, boxes):
        shape = image.shape[-2:]
        everything, chosen = Head(CODERS["retinanet"])(image, deltas, index)
        coded = ANCHORS.encode(boxes, index[:, :7], shape)
        return everything.square().mean() + chosen.sum() + coded.abs().sum()

    compiled = torch.compile(step, backend=counter, fullgraph=True, dynamic=True)
    first = 0
    for shape in SHAPES:
        image, deltas, index = (x.to(device) for x in inputs(shape))
        results = []
        for function in (compiled, step):
            at, of = deltas.clone().requires_grad_(), boxes.clone().requires_grad_()
            results.append(torch.autograd.grad(function(image, at, index, of), (at, of)))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        first = first or counter.frame_count
    assert counter.frame_count == first


def test_targets_in_one_graph(device):
    torch.compiler.reset()

    def step(boxes, labels, image):
        matched = ANCHORS.match(boxes, image.shape[-2:])
        return ANCHORS.targets(boxes, labels, matched, image.shape[-2:], coder=CODERS["effdet"])

    compiled = torch.compile(step, backend="eager", fullgraph=True, dynamic=True)
    for count, shape in ((3, SHAPES[0]), (8, SHAPES[1]), (5, SHAPES[2])):
        boxes = [some_boxes(count, device), some_boxes(2 * count, device)]
        labels = [torch.arange(len(one), device=device) for one in boxes]
        image = torch.zeros(1, 3, *shape, device=device)
        for a, b in zip(compiled(boxes, labels, image), step(boxes, labels, image), strict=True):
            assert torch.equal(a, b)


@pytest.mark.slow
@pytest.mark.tools("c++")
@pytest.mark.parametrize("ahead", [False, True])
def test_exported(ahead, tmp_path):
    dynamic = {"image": {2: torch.export.Dim("h", min=32), 3: torch.export.Dim("w", min=32)}}
    dynamic |= {"deltas": {1: torch.export.Dim.AUTO}, "index": {1: torch.export.Dim("k", min=2, max=500)}}
    program = torch.export.export(Head(CODERS["mmdet"]), inputs(SHAPE), dynamic_shapes=dynamic)
    torch.export.save(program, tmp_path / "decode.pt2")
    run = torch.export.load(tmp_path / "decode.pt2").module()
    if ahead:
        path = str(tmp_path / "ahead.pt2")
        run = torch._inductor.aoti_load_package(torch._inductor.aoti_compile_and_package(program, package_path=path))
    for shape in SHAPES:
        given = inputs(shape, count=20)
        for got, wanted in zip(run(*given), Head(CODERS["mmdet"])(*given), strict=True):
            assert torch.equal(got, wanted)


@pytest.mark.slow
@pytest.mark.tools("onnx", "onnxruntime", "onnxscript")
@pytest.mark.parametrize(
    ("coder", "dynamo"), [(CODERS["mmdet"], True), (CODERS["effdet"], False), (CODERS["retinanet"], True)]
)
def test_onnx(coder, dynamo, tmp_path):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path, names = tmp_path / "decode.onnx", ["image", "deltas", "index"]
    axes = {"image": {2: "h", 3: "w"}, "deltas": {1: "anchors"}, "index": {1: "k"}}
    if dynamo:
        automatic = {name: dict.fromkeys(of, torch.export.Dim.AUTO) for name, of in axes.items()}
        keywords = {"dynamic_shapes": automatic, "external_data": False, "verbose": False}
    else:
        keywords = {"input_names": names, "dynamic_axes": axes, "opset_version": 17}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Head(coder).eval(), inputs(SHAPE), path, dynamo=dynamo, **keywords)
    assert {node.domain for node in onnx.load(path).graph.node} == {""}
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in SHAPES:
        given = inputs(shape, count=30)
        names = [one.name for one in session.get_inputs()]
        results = session.run(None, dict(zip(names, (x.numpy() for x in given), strict=True)))
        for got, wanted in zip(results, Head(coder)(*given), strict=True):
            torch.testing.assert_close(torch.from_numpy(got), wanted, rtol=1e-5, atol=1e-3)


@pytest.mark.gpu
def test_captured_and_never_waits():
    deltas, index = some_deltas(2, N).cuda(), torch.arange(14).view(2, 7).cuda()
    boxes, labels = [some_boxes(5).cuda(), some_boxes(3).cuda()], [torch.arange(5).cuda(), torch.arange(3).cuda()]
    matched = ANCHORS.match(boxes, SHAPE)

    def step():
        everything = ANCHORS.decode(deltas, SHAPE, clip=[(90, 100), (80, 160)])
        chosen = ANCHORS.decode(deltas[:, :7], SHAPE, index=index)
        return everything, chosen, *ANCHORS.targets(boxes, labels, matched, SHAPE)

    wanted = step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, wanted, strict=True))


@pytest.mark.quick
def test_nothing(device):
    for images, count in ((0, 3), (2, 0)):
        deltas = torch.zeros(images, count, 4, device=device)
        index = torch.zeros(images, count, dtype=torch.int64, device=device)
        assert ANCHORS.decode(deltas, SHAPE, index=index).shape == deltas.shape
        assert ANCHORS.encode(deltas, index, SHAPE).shape == deltas.shape
    assert ANCHORS.decode(torch.zeros(0, N, 4, device=device), SHAPE, clip=False).shape == (0, N, 4)
    at = torch.zeros(0, N, 4, device=device, requires_grad=True)
    ANCHORS.decode(at, SHAPE).sum().backward()
    assert at.grad.shape == at.shape


@pytest.mark.quick
def test_forward_mode_is_refused():
    """torch would give the result no tangent, which reads as a derivative of 0."""
    deltas = some_deltas(1, N)
    with pytest.raises(NotImplementedError, match="decode has no derivative in forward mode"):
        torch.func.jvp(lambda x: ANCHORS.decode(x, SHAPE), (deltas,), (deltas,))
    with torch.autograd.forward_ad.dual_level():
        assert ANCHORS.decode(deltas, SHAPE).shape == deltas.shape
        with pytest.raises(NotImplementedError, match="forward mode"):
            ANCHORS.decode(torch.autograd.forward_ad.make_dual(deltas, deltas), SHAPE)


@pytest.mark.quick
def test_more_images_than_one_launch_takes(device):
    deltas, index = some_deltas(1100, 1, device=device), torch.arange(1100, device=device).view(1100, 1)
    sizes = [(20 + k % 70, 30 + k % 110) for k in range(1100)]
    got = ANCHORS.decode(deltas, SHAPE, index=index, clip=sizes)
    for k in (0, 1, 511, 512, 1099):
        assert torch.equal(got[k], ANCHORS.decode(deltas[k : k + 1], SHAPE, index=index[k : k + 1], clip=sizes[k])[0])


@pytest.mark.quick
def test_meta():
    deltas = torch.zeros(2, N, 4, device="meta", dtype=torch.float16)
    assert ANCHORS.decode(deltas, SHAPE).shape == (2, N, 4)
    assert ANCHORS.decode(deltas, SHAPE).dtype == torch.float32


D, INDEX, B = torch.zeros(2, N, 4), torch.zeros(2, 5, dtype=torch.int64), [torch.zeros(1, 4), torch.zeros(0, 4)]
L, M = [torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)], torch.full((2, N), -1)
TURNED = anchor_ext.AnchorGrid([[(0, 0, 1, 1, 0)]], [8], layout="cxcywha")


@pytest.mark.quick
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ANCHORS.decode([1.0], SHAPE), r"deltas is \[1.0\]; expected a tensor \(images, anchors, 4\)"),
        (lambda: ANCHORS.decode(D[0], SHAPE), r"deltas has shape \(\d+, 4\); expected a tensor \(images"),
        (lambda: ANCHORS.decode(torch.zeros(1, N, 5), SHAPE), r"deltas has shape .*; turned boxes"),
        (lambda: ANCHORS.decode(D.int(), SHAPE), r"deltas has dtype torch.int32; expected float32"),
        (lambda: ANCHORS.decode(D[:, 1:], SHAPE), rf"deltas are {N - 1} an image; expected {N}"),
        (lambda: ANCHORS.decode(D, SHAPE, index=INDEX), r"index has shape \(2, 5\); expected \(2, "),
        (lambda: ANCHORS.decode(D, SHAPE, index=[1]), r"index is \[1\]; expected a tensor of int64"),
        (lambda: ANCHORS.decode(D[:, :5], SHAPE, index=INDEX.float()), r"index"),
        (lambda: ANCHORS.decode(D, SHAPE, coder="torchvision"), r"coder is 'torchvision'; expected a BoxCoder"),
        (lambda: ANCHORS.decode(D, SHAPE, clip=1), r"clip is 1; expected True, False"),
        (lambda: ANCHORS.decode(D, SHAPE, clip=[(1, 2)]), r"clip has 1 images; expected 2, as deltas has"),
        (lambda: ANCHORS.decode(D, SHAPE, clip=(1.5, 2)), r"clip\[0\] is 1.5; expected"),
        (lambda: ANCHORS.decode(D, SHAPE, clip=(-1, 2)), r"limits is \(-1, 2\)|clip"),
        (lambda: ANCHORS.decode(D, (96,)), r"image_shape is \(96,\); expected"),
        (lambda: TURNED.decode(D, [(2, 2)], clip=False), r"layout is 'cxcywha'; expected xyxy or yxyx"),
        (lambda: ANCHORS.encode(D[..., :3], INDEX, SHAPE), r"boxes has shape .*; expected a tensor \(\.\.\., 4\)"),
        (lambda: ANCHORS.encode(D, INDEX, SHAPE), r"index has shape \(2, 5\); expected \(2, "),
        (lambda: ANCHORS.targets(B[0], L, M, SHAPE), r"boxes is a tensor; expected a list"),
        (lambda: ANCHORS.targets(B, L[:1], M, SHAPE), r"labels has 1 images; expected 2 tensors"),
        (lambda: ANCHORS.targets(B, [L[1], L[1]], M, SHAPE), r"labels\[0\] has 0 entries; expected 1, as boxes\[0\]"),
        (lambda: ANCHORS.targets(B, L, M[:1], SHAPE), r"matched has shape \(1, \d+\); expected \(2, anchors\)"),
        (lambda: ANCHORS.targets(B, L, M[:, 1:], SHAPE), r"matched has shape \(\d+, \d+\); expected \(\d+, \d+\)"),
        (lambda: ANCHORS.targets(B, L, M + 2, SHAPE), r"matched has 1 in image 0; expected less than its boxes, 1"),
        (lambda: ANCHORS.targets(B, L, M.float(), SHAPE), r"matched is .*; expected a tensor of int64"),
        (lambda: BoxCoder((1, 1, 1)), r"weights is \(1, 1, 1\); expected four finite numbers > 0"),
        (lambda: BoxCoder((1, 1, 0, 1)), r"weights is .*; expected four finite numbers > 0"),
        (lambda: BoxCoder((2, 1, 1, 1), stds=(1, 1, 1, 1)), r"weights are given, and so are means or stds"),
        (lambda: BoxCoder(stds=(1, 1, 1, -1)), r"stds is .*; expected four finite numbers > 0"),
        (lambda: BoxCoder(means="abcd"), r"means is 'abcd'"),
        (lambda: BoxCoder(max_log_ratio=-1), r"max_log_ratio is -1; expected a finite number >= 0, or None"),
        (lambda: BoxCoder(max_shift=float("nan")), r"max_shift is nan"),
        (lambda: BoxCoder(clip="all"), r"clip is 'all'; expected one of image, outer_ends, no"),
        (lambda: BoxCoder(order=["xywh"]), r"order is \['xywh'\]; expected one of xywh, yxhw"),
        (lambda: BoxCoder(clamp_both=1), r"clamp_both is 1; expected True or False"),
        (lambda: BoxCoder.mmdet(wh_ratio_clip=0), r"wh_ratio_clip is 0; expected a finite number > 0"),
        (lambda: BoxCoder.mmdet(add_ctr_clamp=1), r"add_ctr_clamp is 1; expected True or False"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.quick
def test_anything_at_all(rng):
    good = {"deltas": D, "image_shape": SHAPE, "coder": None, "index": None, "clip": True}
    for name in good:
        for value in (strange(rng) for _ in range(150)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    ANCHORS.decode(**{**good, name: value})
                except (TypeError, ValueError) as error:
                    assert name in str(error) or "limits" in str(error), (name, value, error)


@pytest.mark.quick
def test_a_text_that_is_no_coder():
    operands = (D, None, None, ANCHORS.spec)
    for text, message in (
        ("coder/2", "coder begins with 'coder/2'; expected coder/1"),
        ("coder/1;weights=1,2", "coder: weights is '1,2'; expected four numbers"),
        ("coder/1;clip=all", "coder: clip is 'all'; expected one of no, image, outer_ends"),
        ("coder/1;speed=1", "coder has the key 'speed'; expected one of weights"),
        ("coder/1;eps=1;eps=2", "coder has the key 'eps' again"),
        ("coder/1;weights=1,1,1,2;means=0,0,0,0", "coder has weights, and means or stds"),
        ("coder/1;max_log_ratio=nan", "coder: max_log_ratio is 'nan'"),
    ):
        with pytest.raises((ValueError, RuntimeError), match=message):
            torch.ops.anchor_ext.decode(*operands, text, image_shape=list(SHAPE))


@pytest.mark.quick
def test_a_trace_says_why_not():
    with pytest.raises(RuntimeError, match="decode cannot be traced"):
        torch.jit.trace(Head(), inputs(SHAPE))
