"""What `make gpu` runs under compute-sanitizer: all output types, levels of all kinds, aligned and not, read whole."""

from __future__ import annotations

import torch

import anchor_ext
from anchor_ext import losses, matchers

CONFIGURATIONS = [
    {},
    {"pyramid_levels": [2], "strides": [(3.3, 4.7)], "sizes": [20], "ratios": [0.7], "scales": [1.0]},
    {"pyramid_levels": list(range(16)), "ratios": [0.5, 1.0, 2.0, 4.0], "scales": [0.5, 1, 1.5, 2, 2.5, 3, 4, 5]},
]


def main() -> None:
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        for configuration in CONFIGURATIONS:
            anchors = anchor_ext.Anchors(**configuration)
            for shape in ((1, 1), (37, 53), (200, 333)):
                expected = anchors.generate(shape, dtype=dtype, device="cpu")
                for offset in (0, 1, 3):
                    # Without torch's cache of memory, each is an allocation of its own that ends where the anchors end.
                    memory = torch.empty(offset + expected.numel(), dtype=dtype, device="cuda")
                    out = memory[offset:].view(expected.shape)
                    anchors.generate(shape, dtype=dtype, out=out)
                    assert torch.equal((out + 0).cpu(), expected), (dtype, configuration, shape, offset)
                    del memory, out
        anchors = anchor_ext.Anchors()
        shapes = [(1, 1), (37, 53), (200, 333)] * 200
        many = zip(anchors.generate_many(shapes, dtype=dtype, device="cuda"), shapes, strict=True)
        assert all(torch.equal(b.cpu(), anchors.generate(s, dtype=dtype, device="cpu")) for b, s in many), dtype
        large = anchors.generate((2160, 3840), dtype=dtype, device="cuda")  # groups of rows
        assert torch.equal(large.cpu(), anchors.generate((2160, 3840), dtype=dtype, device="cpu")), dtype
    general()
    match()
    focal_loss()
    boxes()
    select()
    print("sanitized: all equal")


def general() -> None:
    """The general form: layouts of 2, 4 and 5 components, anchors at indices, flags."""
    shapes = [(1, 1), (17, 23), (5, 300)]
    for layout, components in (("point", 2), ("yxyx", 4), ("cxcywha", 5)):
        cell_anchors = [[[float(a - k) for k in range(components)] for a in range(level + 1)] for level in range(3)]
        for arithmetic in ("float64", "arange", "bfloat16", "quotient"):
            grid = anchor_ext.AnchorGrid(cell_anchors, [3.3, 8, 12], arithmetic=arithmetic, layout=layout)
            for dtype in (torch.float32, torch.float64, torch.float16):
                call = {"image_shape": (64, 900), "dtype": dtype}
                expected = grid(shapes, device="cpu", **call)
                for offset in (0, 1):
                    memory = torch.empty(offset + expected.numel(), dtype=dtype, device="cuda")
                    out = memory[offset:].view(expected.shape)
                    grid(shapes, out=out, **call)
                    assert torch.equal((out + 0).cpu(), expected), (layout, arithmetic, dtype, offset)
                    del memory, out
                index = torch.tensor([0, -1, 2**62, len(expected) // 2], device="cuda")
                assert torch.equal(grid.at(index, shapes, **call).cpu(), expected[index.cpu() % len(expected)])
            flags = grid.inside(shapes, (64, 900), device="cuda")
            assert torch.equal(flags.cpu(), grid.inside(shapes, (64, 900), device="cpu"))
        valid = grid.valid_flags(shapes, (60, 99), image_shape=(64, 900), device="cuda")
        assert torch.equal(valid.cpu(), grid.valid_flags(shapes, (60, 99), image_shape=(64, 900), device="cpu"))


def match() -> None:
    """Batches with and without boxes, more boxes than a block has threads, every low-quality rule, both types."""
    anchors, shape = anchor_ext.Anchors(), (130, 170)
    random = torch.Generator().manual_seed(0)
    corners = [torch.rand(count, 4, generator=random) * 150 for count in (3, 0, 300, 1)]
    batch = [torch.cat([c[:, :2], c[:, :2] + c[:, 2:]], dim=1) for c in corners]
    rules = (
        *(None, matchers.SSDMatcher(), matchers.MaxIoUAssigner(0.5, 0.4, ignore_iof_thr=0.3)),
        *(matchers.ArgMaxMatcher(force_match_for_each_row=True), matchers.FocalLossMatcher()),
    )
    for dtype in (torch.float32, torch.float64):
        boxes = [one.to(dtype) for one in batch]
        for rule in rules:
            regions = boxes[::-1] if isinstance(rule, matchers.MaxIoUAssigner) else None
            on_gpu = None if regions is None else [one.cuda() for one in regions]
            call = {"matcher": rule, "return_iou": True}
            expected = anchors.match(boxes, shape, ignored=regions, **call)
            got = anchors.match([one.cuda() for one in boxes], shape, ignored=on_gpu, **call)
            assert all(torch.equal(a.cpu(), b) for a, b in zip(got, expected, strict=True)), (dtype, rule)


def focal_loss() -> None:
    """Every dtype, more tiles than one, images without boxes."""
    random = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(2, 3000, 7, generator=random), [torch.tensor([3, 0]), torch.zeros(0).long()]
    matched = torch.stack([torch.randint(-2, 2, (3000,), generator=random), torch.full((3000,), -1)])
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        for gamma in (2.0, 1.5):
            results = []
            for device in ("cpu", "cuda"):
                at = logits.to(device, dtype, copy=True).requires_grad_()
                own = [one.to(device) for one in labels]
                loss = losses.focal_loss(at, matched.to(device), own, gamma=gamma)
                results.append((loss.detach().cpu(), torch.autograd.grad(loss, at)[0].cpu()))
            assert all(torch.equal(a, b) for a, b in zip(*results, strict=True)), (dtype, gamma)


def boxes() -> None:
    """Deltas, targets and the box loss, of every dtype and coder; logits as a head gives them."""
    random = torch.Generator().manual_seed(0)
    anchors, shape = anchor_ext.Anchors(), (100, 130)
    count = anchors.num_anchors(shape)
    truth = [torch.tensor([[5.0, 9, 70, 80], [20, 30, 44, 90]]), torch.zeros(0, 4)]
    labels, index = [torch.tensor([3, 0]), torch.zeros(0).long()], torch.randint(count, (2, 70), generator=random)
    levels = [torch.randn(2, 9 * 7, *grid, generator=random) for grid in anchors.level_shapes(shape)]
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        deltas = torch.randn(2, count, 4, generator=random).to(dtype)
        for coder in (None, anchor_ext.BoxCoder.mmdet(add_ctr_clamp=True), anchor_ext.BoxCoder.effdet()):
            results = []
            for device in ("cpu", "cuda"):
                at = deltas.to(device, copy=True).requires_grad_()
                own, classes = [one.to(device) for one in truth], [one.to(device) for one in labels]
                matched = anchors.match(own, shape)
                made = anchors.decode(at, shape, coder=coder, clip=[(90, 100), (100, 130)])
                some = anchors.decode(at[:, :70], shape, coder=coder, index=index.to(device))
                loss = losses.box_loss(at, matched, own, anchors, shape, kind="giou", coder=coder)
                heads = [level.to(device, dtype, copy=True).requires_grad_() for level in levels]
                focal = losses.focal_loss(heads, matched, classes)
                grads = torch.autograd.grad(made.sum() + some.square().sum() + loss, at)
                coded = anchors.encode(made.detach()[:, :70], index.to(device), shape, coder=coder)
                targets = anchors.targets(own, classes, matched, shape, coder=coder)
                found = [made, some, loss, focal, *grads, *torch.autograd.grad(focal, heads), coded, *targets]
                results.append([one.detach().cpu() for one in found])
            same = [torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(*results, strict=True)]
            assert all(same), (dtype, coder, same)


def select() -> None:
    """Few candidates and many, levels of one tensor and a head's; the CPU's order of equal scores is another."""
    random = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        levels = [torch.randn(2, 9 * 7, rows, 20, generator=random) for rows in (16, 5, 1)]
        for threshold in (0.0, 0.9):
            call = {"score_threshold": threshold, "num_classes": 7}
            found = anchor_ext.select([level.cuda().to(dtype) for level in levels], **call)
            expected = anchor_ext.select([level.to(dtype) for level in levels], **call)
            assert torch.equal(found.counts.cpu(), expected.counts), (dtype, threshold)
            torch.testing.assert_close(found.scores.cpu(), expected.scores)


if __name__ == "__main__":
    main()
