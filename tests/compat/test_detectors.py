"""Whole detectors in graphs: a RetinaNet with `Anchors` in it, and torchvision's own with the drop-in."""

from __future__ import annotations

import os
from unittest import mock

import pytest
import torch
from torch import nn

import anchor_ext
from anchor_ext.compat.torchvision import AnchorGenerator

pytestmark = pytest.mark.peers
detection = pytest.importorskip("torchvision.models.detection")

from torchvision.models.detection._utils import BoxCoder  # noqa: E402
from torchvision.models.detection.backbone_utils import BackboneWithFPN  # noqa: E402
from torchvision.models.detection.image_list import ImageList  # noqa: E402
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead  # noqa: E402
from torchvision.models.resnet import BasicBlock, ResNet  # noqa: E402
from torchvision.ops import boxes as box_ops  # noqa: E402
from torchvision.ops.feature_pyramid_network import LastLevelP6P7  # noqa: E402

# More than one cell on level 7: torch's exporter takes a side of one for a constant.
SHAPES = [(192, 320), (160, 256), (203, 333), (320, 416)]


def backbone() -> nn.Module:
    """A ResNet of one block per stage, and a pyramid of 16 channels: levels 3 to 7."""
    return BackboneWithFPN(
        ResNet(BasicBlock, [1, 1, 1, 1]),
        {"layer2": "0", "layer3": "1", "layer4": "2"},
        [128, 256, 512],
        16,
        LastLevelP6P7(16, 16),
    )


def decoded(head_outputs, anchors, image):
    """Boxes and scores of every anchor, as torchvision's RetinaNet makes them of its head's outputs."""
    deltas, logits = head_outputs["bbox_regression"], head_outputs["cls_logits"]
    boxes = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0)).decode_single(deltas[0], anchors)
    return anchors, box_ops.clip_boxes_to_image(boxes, image.shape[-2:]), logits.sigmoid()


class Own(nn.Module):
    """Built of torchvision's parts, with `Anchors` inside."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head, self.anchors = backbone(), RetinaNetHead(16, 9, 3), anchor_ext.Anchors()

    def forward(self, image):
        outputs = self.head(list(self.backbone(image).values()))
        return decoded(outputs, self.anchors(image)[0], image)


class Torchvision(nn.Module):
    """torchvision's RetinaNet with the drop-in, but for the transform before it and the selection behind it."""

    def __init__(self):
        super().__init__()
        sizes = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))
        generator = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
        self.model = RetinaNet(backbone(), 3, anchor_generator=generator)

    def forward(self, image):
        features = list(self.model.backbone(image).values())
        outputs = self.model.head(features)
        images = ImageList(image, [(1, 1)])
        return decoded(outputs, self.model.anchor_generator(images, features)[0], image)


@pytest.fixture(params=[Own, Torchvision], ids=lambda cls: cls.__name__)
def detector(request, tmp_path):
    torch._dynamo.reset()
    torch.manual_seed(0)
    detector = request.param().eval().requires_grad_(False)
    torch.nn.init.normal_(next(m for n, m in detector.named_modules() if n.endswith("bbox_reg")).weight, std=0.01)
    with mock.patch.dict(os.environ, {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}):
        yield detector


def assert_equal(run, detector, *, network: str) -> None:
    """Anchors always bit for bit; what a network has added, bit for bit if its arithmetic is eager's."""
    for shape in SHAPES:
        image = torch.rand(2, 3, *shape)
        (anchors, boxes, scores), expected = run(image), detector(image)
        assert torch.equal(anchors, expected[0]), shape
        if network == "eager":
            assert torch.equal(boxes, expected[1]) and torch.equal(scores, expected[2]), shape
        else:  # convolutions and normalisations fused in another order
            torch.testing.assert_close(boxes, expected[1], rtol=1e-4, atol=1e-3)
            torch.testing.assert_close(scores, expected[2], rtol=1e-4, atol=1e-6)


def exported(detector) -> torch.export.ExportedProgram:
    sides = {2: torch.export.Dim("height", min=129, max=2048), 3: torch.export.Dim("width", min=129, max=2048)}
    return torch.export.export(detector, (torch.rand(2, 3, 192, 320),), dynamic_shapes={"image": sides}, strict=False)


@pytest.mark.parametrize(("backend", "network"), [("eager", "eager"), ("inductor", "fused")])
def test_compiled(detector, backend, network):
    run = torch.compile(detector, fullgraph=True, dynamic=True, backend=backend)
    assert_equal(run, detector, network=network)


def test_exported(detector):
    assert_equal(exported(detector).module(), detector, network="eager")


def test_compiled_ahead(detector, tmp_path):
    package = torch._inductor.aoti_compile_and_package(exported(detector), package_path=str(tmp_path / "model.pt2"))
    assert_equal(torch._inductor.aoti_load_package(package), detector, network="fused")


@pytest.mark.tools("onnxruntime", "onnxscript")
def test_in_onnxruntime(detector, tmp_path):
    import onnxruntime

    import anchor_ext.onnx

    path = tmp_path / "model.onnx"
    program = exported(detector).run_decompositions(anchor_ext.onnx.decomposition_table())
    torch.onnx.export(program, (), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(image):
        return map(torch.from_numpy, session.run(None, {session.get_inputs()[0].name: image.numpy()}))

    assert_equal(run, detector, network="fused")
