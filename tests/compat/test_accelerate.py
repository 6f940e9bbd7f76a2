"""An accelerated RetinaNet of torchvision's trains and detects as the stock one does."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

pytestmark = pytest.mark.peers
detection = pytest.importorskip("torchvision.models.detection")

from alike import assert_steps_alike, losses_of, pictures  # noqa: E402
from torchvision.models.detection import _utils as det_utils  # noqa: E402
from torchvision.models.detection.anchor_utils import AnchorGenerator as Original  # noqa: E402
from torchvision.models.detection.backbone_utils import BackboneWithFPN  # noqa: E402
from torchvision.models.detection.image_list import ImageList  # noqa: E402
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead, _default_anchorgen  # noqa: E402
from torchvision.models.resnet import BasicBlock, ResNet  # noqa: E402
from torchvision.ops.feature_pyramid_network import LastLevelP6P7  # noqa: E402

from anchor_ext.compat.torchvision import AnchorGenerator, accelerate, restore  # noqa: E402

CLASSES = 7


def retinanet(**options) -> RetinaNet:
    torch.manual_seed(0)
    backbone = BackboneWithFPN(
        ResNet(BasicBlock, [1, 1, 1, 1]),
        {"layer2": "0", "layer3": "1", "layer4": "2"},
        [128, 256, 512],
        16,
        LastLevelP6P7(16, 16),
    )
    model = RetinaNet(backbone, CLASSES, min_size=120, max_size=200, **options)
    for layer in model.head.modules():  # scores and boxes of all sizes
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.constant_(model.head.classification_head.cls_logits.bias, -4.0)
    nn.init.normal_(model.head.regression_head.bbox_reg.weight, std=0.02)
    return model.eval()


def batch():
    images, truth = pictures()
    return images, [{"boxes": boxes, "labels": torch.arange(len(boxes)) % CLASSES} for boxes in truth]


def assert_trains_alike(model, stock):
    assert_steps_alike(model, stock, *batch())


def assert_detects_alike(model, stock):
    images, _ = batch()
    with torch.no_grad():
        for got, wanted in zip(model(images), stock(images), strict=True):
            assert len(wanted["scores"]) > 0
            assert torch.equal(got["scores"], wanted["scores"]) and torch.equal(got["labels"], wanted["labels"])
            torch.testing.assert_close(got["boxes"], wanted["boxes"], rtol=1e-6, atol=2e-5)


@pytest.mark.quick
@pytest.mark.parametrize("loss", ["l1", "smooth_l1", "giou"])
def test_alike(loss, one_thread):
    stock = retinanet()
    stock.head.regression_head._loss_type = loss
    model = copy.deepcopy(stock)
    report = accelerate(model)
    assert report.replaced == ("anchors", "losses", "postprocessing") and not report.left
    assert isinstance(model, RetinaNet) and type(model.anchor_generator) is AnchorGenerator
    assert_trains_alike(model, stock)
    assert_detects_alike(model, stock)


def test_it_is_really_ours(one_thread, monkeypatch):
    """What it replaces is not called."""
    model = retinanet()
    accelerate(model)

    def never(*_, **__):
        raise AssertionError("torchvision's own was called")

    monkeypatch.setattr("torchvision.models.detection.retinanet.sigmoid_focal_loss", never)
    monkeypatch.setattr("torchvision.models.detection.retinanet._box_loss", never)
    monkeypatch.setattr("torchvision.models.detection.retinanet.box_ops.box_iou", never)
    monkeypatch.setattr("torchvision.models.detection.retinanet.det_utils._topk_min", never)
    images, targets = batch()
    losses_of(model, images, targets)
    with torch.no_grad():
        model(images)


@pytest.mark.quick
def test_restored_copied_and_saved(one_thread):
    stock, model = retinanet(), retinanet()
    before = type(model.anchor_generator)
    names = list(model.state_dict())
    accelerate(model), accelerate(model)
    assert list(model.state_dict()) == names
    stock.load_state_dict(model.state_dict())
    model.load_state_dict(stock.state_dict())
    copied = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for one in (copied, loaded):
        assert type(one) is type(model) and one is not model
        as_it_was = copy.deepcopy(stock)  # training changes what normalisation keeps
        assert_detects_alike(one, as_it_was)
        assert_trains_alike(one, as_it_was)
    restore(model)
    assert type(model) is RetinaNet and type(model.anchor_generator) is before is Original
    assert not model.anchor_generator._forward_hooks
    assert_detects_alike(model, stock)
    with pytest.raises(ValueError, match="model is 'RetinaNet'; expected one that accelerate has changed"):
        restore(model)
    assert type(copied) is not RetinaNet


@pytest.mark.slow
def test_scripted_and_compiled(one_thread):
    stock, model = retinanet(), retinanet()
    accelerate(model)
    images, _ = batch()
    scripted, scripted_stock = torch.jit.script(model), torch.jit.script(stock)
    for got, wanted in zip(scripted(images)[1], scripted_stock(images)[1], strict=True):
        assert all(torch.equal(got[name], wanted[name]) for name in wanted)
    assert type(model.anchor_generator) is AnchorGenerator  # it stays accelerated
    assert_detects_alike(model, stock)
    compiled = torch.compile(retinanet(), backend="eager")
    assert accelerate(compiled).replaced
    assert_detects_alike(compiled, stock)


class Around:
    """What stands around the network, and its outputs as leaves; of another device or kind where `to` makes them so."""

    def __init__(self, model, to=lambda tensor: tensor):
        images, targets = batch()
        model.train()
        with torch.no_grad():
            together, own = model.transform(images, targets)
            features = list(model.backbone(together.tensors).values())
            outputs = model.head(features)
        self.images = ImageList(to(together.tensors), together.image_sizes)
        self.features = [to(feature) for feature in features]
        self.outputs = {name: to(output).requires_grad_() for name, output in outputs.items()}
        self.targets = [{name: to(tensor) for name, tensor in target.items()} for target in own]

    def losses(self, model):
        return model.compute_loss(self.targets, self.outputs, model.anchor_generator(self.images, self.features))

    def gradients(self, model):
        return torch.autograd.grad(sum(self.losses(model).values()), list(self.outputs.values()))

    @torch.no_grad()
    def detections(self, model):
        sizes = [feature.shape[-2] * feature.shape[-1] * 9 for feature in self.features]
        anchors = [list(own.split(sizes)) for own in model.anchor_generator(self.images, self.features)]
        outputs = {name: list(output.detach().split(sizes, dim=1)) for name, output in self.outputs.items()}
        return model.postprocess_detections(outputs, anchors, self.images.image_sizes)


def test_the_loss_is_one_graph(one_thread):
    torch.compiler.reset()
    stock, model = retinanet(), retinanet()
    accelerate(model)
    around = Around(model)
    anchors = model.anchor_generator(around.images, around.features)

    def loss(outputs, targets):
        return model.compute_loss(targets, outputs, anchors)

    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    got, wanted = compiled(around.outputs, around.targets), loss(around.outputs, around.targets)
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)
    torch.compiler.reset()
    breaks = torch._dynamo.explain(stock.compute_loss)(around.targets, around.outputs, anchors).graph_break_count
    assert breaks > 0  # where the stock one has some


@pytest.mark.quick
def test_nothing_waits(one_thread):
    """Tensors without data: an operator that needs some, or whose shape hangs on them, raises."""
    stock, model = retinanet(), retinanet()
    accelerate(model)
    needs_data = (DataDependentOutputException, DynamicOutputShapeException)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    around = Around(model, mode.from_tensor)
    with mode:
        assert len(around.gradients(model)) == 2
        with pytest.raises(needs_data) as raised:  # how many candidates there are, where suppression begins
            around.detections(model)
        line = next(str(entry.statement) for entry in reversed(raised.traceback) if "anchor_ext" in str(entry.path))
        assert "counts.tolist()" in line
        with pytest.raises(needs_data):
            around.gradients(stock)


@pytest.mark.gpu
def test_on_a_device():
    stock, model = retinanet().cuda(), retinanet().cuda()
    accelerate(model)
    around = Around(retinanet(), lambda tensor: tensor.cuda())
    losses, wanted = around.losses(model), around.losses(stock)
    for name, loss in wanted.items():
        torch.testing.assert_close(losses[name], loss, rtol=1e-5, atol=1e-7)
    for got, expected in zip(around.detections(model), around.detections(stock), strict=True):
        assert len(expected["scores"]) > 0
        assert torch.equal(got["scores"], expected["scores"]) and torch.equal(got["labels"], expected["labels"])
        torch.testing.assert_close(got["boxes"], expected["boxes"], rtol=1e-6, atol=2e-5)
    torch.cuda.set_sync_debug_mode("error")
    try:
        around.gradients(model)
        with pytest.raises(RuntimeError, match="synchronizing"):
            around.gradients(stock)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_what_is_not_known_is_left(one_thread):
    class Matcher(det_utils.Matcher):
        pass

    stock = retinanet()
    stock.proposal_matcher = Matcher(0.5, 0.4, True)
    model = copy.deepcopy(stock)
    report = accelerate(model)
    assert report.replaced == ("anchors", "postprocessing") and "proposal_matcher is a Matcher" in report.left["losses"]
    assert_trains_alike(model, stock)
    assert_detects_alike(model, stock)

    class Generator(Original):
        pass

    stock = retinanet()
    stock.anchor_generator = Generator(stock.anchor_generator.sizes, stock.anchor_generator.aspect_ratios)
    model = copy.deepcopy(stock)
    assert accelerate(model).replaced == ("postprocessing",)
    assert_trains_alike(model, stock)
    assert_detects_alike(model, stock)

    stock = retinanet()
    stock.head.regression_head._loss_type = "ciou"
    assert "the box loss is ciou" in accelerate(stock).left["losses"]
    restore(stock)
    assert type(stock.anchor_generator) is Original


def test_what_is_refused():
    class Own(RetinaNet):
        def compute_loss(self, *arguments):
            return super().compute_loss(*arguments)

    model = retinanet()
    model.__class__ = Own
    with pytest.raises(ValueError, match=r"Own.compute_loss is 'overridden'; expected torchvision's own"):
        accelerate(model)
    assert type(model) is Own
    for other in (nn.Linear(1, 1), detection.fcos.FCOS):
        with pytest.raises(ValueError, match="expected a RetinaNet of torchvision's"):
            accelerate(other)


def test_a_subclass_that_overrides_nothing(one_thread):
    class Mine(RetinaNet):
        def named(self):
            return "mine"

    stock = retinanet()
    stock.__class__ = Mine
    model = copy.deepcopy(stock)
    accelerate(model)
    assert model.named() == "mine" and isinstance(model, Mine)
    assert_detects_alike(model, stock)
    assert_trains_alike(copy.deepcopy(model), stock)


def test_other_dtypes_take_torchvisions_way(one_thread):
    stock = retinanet()
    model = copy.deepcopy(stock)
    accelerate(model)
    images, targets = batch()
    model.train(), stock.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, wanted = model(images, targets), stock(images, targets)
    for name, loss in wanted.items():
        torch.testing.assert_close(got[name], loss, rtol=1e-5, atol=1e-6)


def test_what_is_changed_since_counts(one_thread):
    images, targets = batch()
    model = retinanet()
    accelerate(model)
    stock = retinanet()
    for one in (model, stock):
        one.head.regression_head._loss_type = "ciou"
    assert_trains_alike(model, stock)  # ciou, torchvision's way
    for one in (model, stock):
        one.head.regression_head._loss_type = "l1"
        one.head.compute_loss = lambda *_: {"all": torch.ones((), requires_grad=True) * 3}
    assert float(losses_of(model, images, targets)[0]["all"]) == 3


def test_scores_have_their_gradient(one_thread):
    stock, model = retinanet(), retinanet()
    accelerate(model)
    images, _ = batch()
    grads = []
    for one in (model, stock):
        image = images[0].clone().requires_grad_()
        one([image])[0]["scores"].sum().backward()
        grads.append(image.grad)
    torch.testing.assert_close(*grads)


def test_generators_that_are_called_watched_or_shared(one_thread):
    stock, model, other = retinanet(), retinanet(), retinanet()
    model.anchor_generator = other.anchor_generator = AnchorGenerator(
        stock.anchor_generator.sizes, stock.anchor_generator.aspect_ratios
    )
    accelerate(model), accelerate(other)
    images, _ = batch()
    together, _ = model.transform(images)
    features = list(model.backbone(together.tensors).values())
    assert torch.equal(
        model.anchor_generator(image_list=together, feature_maps=features)[0],
        stock.anchor_generator(together, features)[0],
    )
    restore(other)
    assert_trains_alike(model, stock)  # without the grids that it shared, torchvision's way
    watched = retinanet()
    watched.anchor_generator.register_forward_hook(lambda *_: None)
    assert accelerate(watched).left["anchors"] == "anchor_generator has hooks"


def test_many_sizes_in_turn(one_thread):
    """Nothing is kept of a batch before."""
    stock, model = retinanet(), retinanet()
    accelerate(model)
    random = torch.Generator().manual_seed(1)
    for k in range(4):
        images = [torch.rand(3, 90 + 17 * k, 140 - 9 * k, generator=random)]
        targets = [{"boxes": torch.tensor([[5.0, 9, 60, 70]]), "labels": torch.tensor([k])}]
        losses, wanted = (losses_of(one, images, targets)[0] for one in (model, stock))
        for name, loss in wanted.items():
            torch.testing.assert_close(losses[name], loss, rtol=1e-6, atol=1e-7)


def test_the_head_of_v2(one_thread):
    torch.manual_seed(0)
    generator = _default_anchorgen()
    stock = retinanet()
    stock.head = RetinaNetHead(
        16, generator.num_anchors_per_location()[0], CLASSES, norm_layer=lambda channels: nn.GroupNorm(4, channels)
    )
    stock.head.regression_head._loss_type = "giou"
    stock.eval()
    model = copy.deepcopy(stock)
    assert not accelerate(model).left
    assert_trains_alike(model, stock)
