"""What `Anchors` was made from: read, fixed, given in other ways, kept in a checkpoint; torch's other habits."""

from __future__ import annotations

import copy
import io
import pickle
import threading
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import anchor_ext
from anchor_ext import AnchorGrid, Anchors, UnusualAnchorsWarning

IMAGE = (61, 100)


def test_says_what_it_was_made_from():
    anchors = Anchors([3, 5], sizes=[[8, 9], [30]], ratios=[1, 2], scales=[[1], [1, 1.5]], strides=[8, (33, 32)])
    assert anchors.sizes == [[8, 9], [30]]
    assert anchors.ratios == [[1, 2], [1, 2]]
    assert anchors.scales == [[1], [1, 1.5]]
    assert anchors.num_cell_anchors == anchors.num_anchors_per_location() == [4, 4]
    assert anchors.strides == [(8, 8), (33, 32)]
    anchors.sizes[0].append(7)  # a copy
    assert anchors.sizes == [[8, 9], [30]]
    grid = AnchorGrid([[(0, 0)]], None, arithmetic="quotient", layout="point")
    assert (grid.strides, grid.arithmetic, grid.layout) == (None, "quotient", "point")
    assert AnchorGrid([[(0, 0, 1, 1)]], [(7, 8)]).strides == [(7, 8)]


FIXED = ["sizes", "ratios", "scales", "strides", "pyramid_levels", "cell_anchors", "num_cell_anchors", "spec"]


@pytest.mark.quick
@pytest.mark.parametrize("name", FIXED)
def test_is_fixed(name):
    anchors = Anchors()
    with pytest.raises(AttributeError, match=rf"{name} of Anchors is fixed when it is made; .* Anchors\({name}=...\)"):
        setattr(anchors, name, [1.0])
    anchors.anything_else = 3  # a module like any other
    for name in ("strides", "arithmetic", "layout", "spec", "cell_anchors"):
        with pytest.raises(AttributeError):
            setattr(AnchorGrid([[(0, 0, 1, 1)]], [8]), name, None)


# Other ways to make one


@pytest.mark.quick
def test_from_boxes():
    pairs = [[(10, 13), (16, 30)], [(33, 23)], [(61, 45.3)]]
    anchors = Anchors.from_boxes(pairs, pyramid_levels=[3, 4, 5])
    assert [level.tolist() for level in anchors.cell_anchors] == [
        [[-w / 2, -h / 2, w / 2, h / 2] for w, h in level] for level in pairs
    ]
    cells = [[(-w / 2, -h / 2, w / 2, h / 2) for w, h in level] for level in pairs]
    grid = AnchorGrid(cells, [8, 16, 32])
    assert torch.equal(anchors.generate(IMAGE, device="cpu")[0], grid(anchors.level_shapes(IMAGE), device="cpu"))
    assert (anchors.sizes, anchors.ratios, anchors.scales) == (None, None, None)
    assert repr(anchors) == "Anchors(pyramid_levels=[3, 4, 5], strides=[8, 16, 32], num_cell_anchors=[2, 1, 1])"
    array = np.array([[[10, 13]], [[33, 23]], [[61, 45]]])
    assert Anchors.from_boxes(array, [3, 4, 5]).spec == Anchors.from_boxes(array.tolist(), [3, 4, 5]).spec


@pytest.mark.parametrize(
    "boxes, message",
    [
        ([(10, 13), (16, 30)], r"boxes\[0\]\[0\] is 10; expected a pair \(width, height\)"),
        ([[(10, 13)]], r"boxes is \[\[\(10, 13\)\]\], of length 1; expected a list of pairs .* level, 2 in all"),
        ([[(10, 13, 2)], [(1, 1)]], r"boxes\[0\]\[0\] is \(10, 13, 2\); expected a pair"),
        ([[(10, 0)], [(1, 1)]], r"boxes\[0\]\[0\]\[1\] is 0; expected a finite number > 0"),
        ([[(1, 1)] * 300] * 2, "boxes has 600 pairs over all levels; expected at most 512"),
        (7, "boxes is 7; expected a list of pairs"),
    ],
)
def test_from_wrong_boxes(boxes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Anchors.from_boxes(boxes, pyramid_levels=[3, 4])


@pytest.mark.quick
def test_from_spec():
    anchors = Anchors(strides=[8, 16, 32, 64.5, 127])
    again = Anchors.from_spec(anchors.spec)
    assert again.spec == anchors.spec and again.strides == anchors.strides
    assert torch.equal(again.generate(IMAGE), anchors.generate(IMAGE))
    assert [level.tolist() for level in again.cell_anchors] == [level.tolist() for level in anchors.cell_anchors]
    grid = AnchorGrid([[(0, 0)]], None, arithmetic="quotient", layout="point")
    assert AnchorGrid.from_spec(grid.spec).spec == grid.spec
    for make, spec, message in [
        (Anchors.from_spec, grid.spec, "spec has no pyramid levels; expected one that has, or AnchorGrid.from_spec"),
        (AnchorGrid.from_spec, anchors.spec, r"spec has pyramid levels \[3, 4, 5, 6, 7\]; expected one without"),
        (Anchors.from_spec, "anchors/1;levels=3;layout=point;strides=8,8;cell_anchors=0,0", "spec has layout point"),
        (Anchors.from_spec, "nonsense", "spec"),
        (Anchors.from_spec, None, "spec is None; expected text"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            make(spec)


# What is valid, and hardly ever meant


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"strides": [4, 8, 16, 32, 64]}, r"strides has 4 for pyramid level 3, .* end at about 0.5 times the image's"),
        ({"strides": [8, 16, 32, 64, (128, 200)]}, "strides has 200 for pyramid level 7, .* about 1.6 times"),
        (
            {"pyramid_levels": [3, 4], "ratios": [(1.4, 0.7), (0.7, 1.4)]},
            r"ratios is \[\(1.4, 0.7\), \(0.7, 1.4\)\], which is read as two ratios for each pyramid level. A ratio is "
            r"one number, height / width: .* ratios=\[\[1.4, 0.7\], ...\]",
        ),
        (
            {"pyramid_levels": [3, 4], "sizes": [(10, 13), (16, 30)]},
            r"sizes is .*, which is read as two sizes .* Widths and heights are what Anchors.from_boxes takes.",
        ),
    ],
)
@pytest.mark.parametrize("call", ["module", "function", "many"])
def test_warns(arguments, message, call):
    calls = {
        "module": lambda: Anchors(**arguments),
        "function": lambda: anchor_ext.generate(IMAGE, **arguments),
        "many": lambda: anchor_ext.generate_many([IMAGE], **arguments),
    }
    with pytest.warns(UnusualAnchorsWarning, match=message) as caught:
        calls[call]()
    assert len(caught) == 1 and caught[0].filename == __file__


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"strides": [7.5, 16, 32, 64, 128]},
        {"pyramid_levels": [2, 3], "strides": [4, 8]},
        {"pyramid_levels": [3, 4], "sizes": [[10, 13], [16, 30]], "ratios": [[0.5, 2], [1, 3]]},
        {"pyramid_levels": [3, 4], "sizes": ((32, 40), (64, 80))},
        {"pyramid_levels": [3, 4], "sizes": [(32, 40, 50), (64, 80, 90)]},
    ],
)
def test_does_not_warn(arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Anchors(**arguments)


# Checkpoints


def detector(**arguments) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), Anchors(**arguments))


@pytest.mark.quick
def test_the_spec_in_a_checkpoint():
    assert set(detector().state_dict()) == {"0.weight", "0.bias"}
    kept = detector(spec_in_state_dict=True)
    file = io.BytesIO()
    torch.save(kept.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert state["1.in_state_dict._extra_state"] == kept[1].spec
    assert str(detector(spec_in_state_dict=True).load_state_dict(state)) == "<All keys matched successfully>"
    for other in (detector(sizes=[1, 2, 3, 4, 5], spec_in_state_dict=True), copy.deepcopy(kept)):
        other = pickle.loads(pickle.dumps(other))
        assert set(other.state_dict()) == set(state)
    other = detector(strides=[8, 16, 32, 64, 100], spec_in_state_dict=True)
    message = r"the checkpoint's strides .*\(128.0, 128.0\)\], the model's .*\(100.0, 100.0\)\]"
    with pytest.raises(RuntimeError, match=message), pytest.warns(UnusualAnchorsWarning):
        other.load_state_dict(state)
    with pytest.warns(UnusualAnchorsWarning, match=message):
        other.load_state_dict(state, strict=False)
    assert other[1].strides[-1] == (100, 100)  # what it was made from is fixed
    with pytest.raises(RuntimeError, match="Unexpected key"):
        detector().load_state_dict(state)
    with pytest.raises(RuntimeError, match="Missing key"):
        detector(spec_in_state_dict=True).load_state_dict(detector().state_dict())
    assert Anchors.from_spec(state["1.in_state_dict._extra_state"], spec_in_state_dict=True).state_dict()


# Calls


def test_clip_and_flags_and_indices_are_the_grid_s(device):
    anchors = Anchors([3, 4], sizes=[20, 50.3])
    cells = [level.tolist() for level in anchors.cell_anchors]
    grid, shapes = AnchorGrid(cells, [8, 16]), anchors.level_shapes(IMAGE)
    index = torch.tensor([[0, -1], [17, 5]], device=device)
    for dtype in (torch.float32, torch.bfloat16):
        keywords = {"dtype": dtype, "device": device}
        expected = grid(shapes, clip=IMAGE, **keywords)
        assert torch.equal(anchors.generate(IMAGE, clip=IMAGE, **keywords)[0], expected)
        assert torch.equal(anchors.inside(IMAGE, 3, **keywords), grid.inside(shapes, IMAGE, 3, **keywords))
        assert torch.equal(anchors.at(index, IMAGE, clip=IMAGE, dtype=dtype), expected[index])
    assert 0 < anchors.inside(IMAGE).sum() < anchors.num_anchors(IMAGE)
    with pytest.raises(ValueError, match="border is nan"):
        anchors.inside(IMAGE, float("nan"))
    with pytest.raises(TypeError, match="index is 3"):
        anchors.at(3, IMAGE)


@pytest.mark.parametrize("as_form", [torch.tensor, np.array, tuple, lambda shapes: torch.tensor(shapes).int()])
def test_many_shapes_of_any_form(as_form, device):
    shapes = [[48, 64], [80, 133]]
    for boxes, shape in zip(anchor_ext.generate_many(as_form(shapes), device=device), shapes, strict=True):
        assert torch.equal(boxes, anchor_ext.generate(shape, device=device))
    ratios = np.array([0.5, 1, 2])
    assert torch.equal(anchor_ext.generate_many(shapes, ratios=ratios)[0], anchor_ext.generate(shapes[0]))
    for wrong in (torch.rand(2, 2), np.array(["a"]), torch.tensor(3), torch.zeros(2, 3, dtype=torch.int64)):
        with pytest.raises((TypeError, ValueError), match="image_shapes"):
            anchor_ext.generate_many(wrong)


ANCHORS, GRID = Anchors(), AnchorGrid([[(0, 0, 1, 1)]], [8])
CALLS = [
    lambda **keywords: anchor_ext.generate(IMAGE, **keywords),
    lambda **keywords: anchor_ext.generate_many([IMAGE], **keywords)[0],
    lambda **keywords: ANCHORS.generate(IMAGE, **keywords),
    lambda **keywords: ANCHORS.inside(IMAGE, **keywords),
    lambda **keywords: GRID([(3, 4)], **keywords),
    lambda **keywords: GRID.inside([(3, 4)], (9, 9), **keywords),
    lambda **keywords: GRID.valid_flags([(3, 4)], (9, 9), **keywords),
]


@pytest.mark.parametrize("call", CALLS)
def test_the_default_device_is_torch_s_where_one_is_set(call):
    before = call().device
    with torch.device("meta"):
        assert call().device.type == "meta"
        assert call(device="cpu").device.type == "cpu"
        with torch.device("cpu"):
            assert call().device.type == "cpu"
        compiled = torch.compile(call, backend="eager", fullgraph=True)
        assert compiled().device.type == "meta"
        elsewhere = []
        thread = threading.Thread(target=lambda: elsewhere.append(call().device))
        thread.start()
        thread.join()
        assert elsewhere == [before]
    assert call().device == before
    torch.set_default_device("meta")
    try:
        assert call().device.type == "meta"
    finally:
        torch.set_default_device(None)
    assert call().device == before
    with torch.overrides.BaseTorchFunctionMode():
        assert call().device == before


def test_fx_records_the_operator(device):
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.anchors = Anchors()

        def forward(self, image):
            return self.anchors(image) * 2, image

    traced = torch.fx.symbolic_trace(Detector())
    traced = pickle.loads(pickle.dumps(traced))
    for shape in ((64, 96), (33, 50)):
        image = torch.rand(1, 3, *shape, device=device)
        assert torch.equal(traced(image)[0], Anchors()(image) * 2)
