"""The Python face: what `Anchors` and `generate` promise besides their numbers."""

from __future__ import annotations

import copy
import io
import pickle
import threading

import pytest
import reference
import torch
from conftest import HAS_CUDA
from torch import nn

import anchor_ext

pytestmark = pytest.mark.quick

SHAPE = (100, 140)
ODD = {
    "pyramid_levels": [2, 5],
    "strides": [(4.5, 3), 32],
    "sizes": [[9, 20], [100]],
    "ratios": [0.3],
    "scales": [1, 3],
}


def expected(shape=SHAPE, dtype=torch.float32) -> torch.Tensor:
    return reference.rounded(reference.anchors(shape), dtype)[None]


@pytest.mark.parametrize("image_dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("leading", [(2, 3), (3,), (1, 1)])
def test_forward_takes_shape_and_device_of_the_image(leading, image_dtype, device):
    image = torch.zeros(*leading, *SHAPE, dtype=image_dtype, device=device)
    boxes = anchor_ext.Anchors()(image)
    assert boxes.device == image.device and boxes.dtype == torch.float32
    assert torch.equal(boxes.cpu(), expected())


def test_surroundings_have_no_influence(device):
    anchors = anchor_ext.Anchors().half().to(device)
    image = torch.zeros(1, 3, *SHAPE, device=device)
    default_dtype = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        with torch.autocast(device.type, dtype=torch.bfloat16), torch.device("meta"):
            inside = anchors(image), anchor_ext.generate(SHAPE, device=device)
            assert [tuple(t.shape) for t in anchor_ext.Anchors().cell_anchors] == [(9, 4)] * 5
            assert not anchor_ext.Anchors().cell_anchors[0].is_meta
    finally:
        torch.set_default_dtype(default_dtype)
    for boxes in inside:
        assert boxes.dtype == torch.float32 and torch.equal(boxes.cpu(), expected())
    with torch.inference_mode():
        assert torch.equal(anchors(image).cpu(), expected())
    with torch.no_grad():
        assert torch.equal(anchors(image).cpu(), expected())


def test_default_device_is_cuda_where_there_is_one():
    assert anchor_ext.generate(SHAPE).device.type == ("cuda" if HAS_CUDA else "cpu")


@pytest.mark.parametrize("device_of", ["cpu", torch.device("cpu"), torch.device("cpu", 0)])
def test_devices_by_name(device_of):
    assert torch.equal(anchor_ext.generate(SHAPE, device=device_of), expected())


def test_a_device_without_a_kernel_gets_a_copy(monkeypatch):
    """No such device is here, so one that has a kernel plays it."""
    monkeypatch.setattr(anchor_ext._operators, "_OURS", frozenset())
    anchor_ext._spec.DEVICES.clear()
    made_on = []
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: made_on.append(self.device) or self.clone())
    assert torch.equal(anchor_ext.generate(SHAPE, device="cpu"), expected())
    assert made_on == [torch.device("cpu")]
    out = torch.zeros_like(expected())
    assert anchor_ext.generate(SHAPE, device="cpu", out=out) is out and torch.equal(out, expected())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_meta_has_the_shape_and_does_no_work(dtype):
    boxes = anchor_ext.generate((2**30, 2**30), pyramid_levels=[3], dtype=dtype, device="meta")
    assert boxes.is_meta and boxes.dtype == dtype
    assert boxes.shape == (1, 2**54 * 9, 4)
    assert anchor_ext.Anchors()(torch.empty(2, 3, 640, 832, device="meta")).shape == (1, 99765, 4)


def test_levels_and_counts():
    anchors = anchor_ext.Anchors()
    assert anchors.level_shapes((640, 832)) == [(80, 104), (40, 52), (20, 26), (10, 13), (5, 7)]
    assert anchors.num_anchors((640, 832)) == 99765
    assert anchors.level_shapes((1, 129)) == [(1, 17), (1, 9), (1, 5), (1, 3), (1, 2)]
    assert anchor_ext.Anchors([30, 0]).level_shapes((2**31 - 1, 3)) == [(2, 1), (2**31 - 1, 3)]


@pytest.mark.parametrize("rows", [1, 4])
def test_split_gives_views(rows):
    anchors = anchor_ext.Anchors()
    scores = torch.rand(rows, anchors.num_anchors(SHAPE), 7)
    levels = anchors.split(scores, SHAPE)
    assert [level.shape[1] for level in levels] == [9 * r * c for r, c in anchors.level_shapes(SHAPE)]
    assert torch.equal(torch.cat(levels, dim=1), scores)
    assert all(level.untyped_storage().data_ptr() == scores.untyped_storage().data_ptr() for level in levels)
    assert len(anchors.split(scores[0], SHAPE)) == 5


def test_cell_anchors_are_the_formula_s():
    for cell, size in zip(anchor_ext.Anchors().cell_anchors, (32, 64, 128, 256, 512), strict=True):
        assert cell.dtype == torch.float64
        assert torch.equal(cell, torch.from_numpy(reference.cell_anchors([size], reference.RATIOS, reference.SCALES)))


@pytest.mark.parametrize("sequence", [list, tuple, torch.Size, torch.tensor])
def test_image_shape_from_any_pair_of_integers(sequence):
    assert torch.equal(anchor_ext.generate(sequence(SHAPE), device="cpu"), expected())


def test_image_shape_from_numpy():
    import numpy as np

    assert torch.equal(anchor_ext.generate(np.array(SHAPE), device="cpu"), expected())
    assert torch.equal(anchor_ext.generate((np.int32(SHAPE[0]), np.int64(SHAPE[1])), device="cpu"), expected())
    arrays = anchor_ext.Anchors(np.array([3, 4]), np.array([8.0, 16]), torch.tensor([32, 64]), np.array([[1.0], [2]]))
    lists = anchor_ext.Anchors([3, 4], [8, 16], [32, 64], [[1], [2]])
    assert torch.equal(arrays.generate(SHAPE, device="cpu"), lists.generate(SHAPE, device="cpu"))


def test_generate_and_module_agree():
    for arguments in ({}, ODD):
        module = anchor_ext.Anchors(**arguments)
        assert torch.equal(
            module.generate(SHAPE, device="cpu", dtype=torch.float64),
            anchor_ext.generate(SHAPE, device="cpu", dtype=torch.float64, **arguments),
        )


@pytest.mark.parametrize("arguments", [{}, ODD])
def test_copies(arguments):
    anchors = anchor_ext.Anchors(**arguments)
    boxes = anchors.generate(SHAPE, device="cpu")
    buffer = io.BytesIO()
    torch.save(anchors, buffer)
    buffer.seek(0)
    for other in (
        copy.deepcopy(anchors),
        copy.copy(anchors),
        pickle.loads(pickle.dumps(anchors)),
        torch.load(buffer, weights_only=False),
    ):
        assert torch.equal(other.generate(SHAPE, device="cpu"), boxes)
        assert repr(other) == repr(anchors)


def test_nothing_in_a_checkpoint():
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(1, 1)
            self.anchors = anchor_ext.Anchors()

    detector = Detector()
    assert list(detector.state_dict()) == ["head.weight", "head.bias"]
    assert not list(detector.anchors.parameters()) and not list(detector.anchors.buffers())
    detector.load_state_dict(detector.state_dict(), strict=True)


def test_repr_names_every_number():
    assert repr(anchor_ext.Anchors()) == (
        "Anchors(pyramid_levels=[3, 4, 5, 6, 7], strides=[8, 16, 32, 64, 128], sizes=[32, 64, 128, 256, 512], "
        "ratios=[0.5, 1, 2], scales=[1, 1.25992, 1.5874])"
    )
    assert "strides=[(4.5, 3.0), (32.0, 32.0)]" in repr(anchor_ext.Anchors(**ODD))


def test_arguments_are_not_shared_with_the_caller():
    ratios = [0.5, 2.0]
    anchors = anchor_ext.Anchors(ratios=ratios)
    before = anchors.generate(SHAPE, device="cpu")
    ratios[0] = 7.0
    anchors.cell_anchors[0].zero_()
    anchors.pyramid_levels.clear()
    assert torch.equal(anchors.generate(SHAPE, device="cpu"), before)
    with pytest.raises(AttributeError):
        anchors.strides = [1, 2, 3, 4, 5]


def test_many_threads_share_one_module(device):
    anchors = anchor_ext.Anchors()
    shapes = [(50 + 70 * i, 90 + 110 * i) for i in range(8)]  # from the fourth on without the interpreter's lock
    wanted = [expected(shape) for shape in shapes]
    failures = []

    def work(start: int) -> None:
        for i in range(60):
            k = (start + i) % len(shapes)
            if not torch.equal(anchors.generate(shapes[k], device=device).cpu(), wanted[k]):
                failures.append(shapes[k])

    threads = [threading.Thread(target=work, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_one_shape_after_another(device):
    """The last shape's pyramid is kept, and serves no other."""
    anchors = anchor_ext.Anchors()
    for shape in [(100, 140), (100, 140), (100, 150), (90, 150), (100, 140)]:
        assert torch.equal(anchors.generate(shape, device=device).cpu(), expected(shape))
        with pytest.raises(ValueError, match="image_shape"):
            anchors.generate((0, 140), device=device)


def test_results_do_not_alias():
    first = anchor_ext.generate(SHAPE, device="cpu")
    first.zero_()
    assert torch.equal(anchor_ext.generate(SHAPE, device="cpu"), expected())
    assert first.is_contiguous() and not first.requires_grad


def test_build_info():
    info = anchor_ext.build_info()
    assert info["anchor_ext"] == anchor_ext.__version__ and info["torch"] == torch.__version__
    assert info["torch_oldest"] == "2.11"
    assert isinstance(info["nvtx"], bool) and isinstance(info["openmp"], bool)
    assert (info["cuda"] is None) == (info["cuda_archs"] == [])
    assert all(arch.startswith(("sm_", "compute_")) for arch in info["cuda_archs"])


def test_public_names():
    names = ["AnchorGrid", "Anchors", "BoxCoder", "UnusualAnchorsWarning", "build_info", "generate", "generate_many"]
    names.append("select")
    assert sorted(anchor_ext.__all__) == sorted(names)
    assert all(hasattr(anchor_ext, name) for name in anchor_ext.__all__)
