"""What is done with an accelerated model afterwards: copies, other parts, other types."""

from __future__ import annotations

import copy
import io

import pytest
import torch

pytestmark = pytest.mark.peers
pytest.importorskip("torchvision.models.detection")

from alike import assert_steps_alike  # noqa: E402
from test_accelerate import Around, batch, retinanet  # noqa: E402
from test_accelerate_rpn import batch as batch_of_rpn  # noqa: E402
from test_accelerate_rpn import both  # noqa: E402
from torchvision.models.detection.anchor_utils import AnchorGenerator as Original  # noqa: E402

from anchor_ext.compat.torchvision import AnchorGenerator, accelerate, restore  # noqa: E402


def test_a_copy_of_a_compiled_model_has_its_own_weights(one_thread):
    model = retinanet()
    accelerate(model)
    model.compile(backend="eager")
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    images, targets = batch()
    losses = [one.train()(images, targets)["classification"] for one in (copied, model)]
    assert not torch.equal(*losses)
    torch.save(model, io.BytesIO())


def test_a_generator_that_is_assigned_later_stays(one_thread):
    model = retinanet()
    accelerate(model)
    mine = Original(((10, 20),) * 5, ((0.5, 1.0, 2.0),) * 5)
    model.anchor_generator = mine
    restore(model)
    assert model.anchor_generator is mine


CASES = ["logits of 16 bits", "boxes with a gradient", "a coder's own method", "a matcher's own"]


@pytest.mark.parametrize("what", CASES)
def test_what_takes_torchvisions_way(what, one_thread):
    stock, model = retinanet(), retinanet()
    accelerate(model)
    around = Around(stock)
    around.outputs = {name: output.detach().requires_grad_() for name, output in around.outputs.items()}
    for one in (stock, model):
        coder = one.head.regression_head.box_coder
        if what == "a coder's own method":
            coder.encode_single = lambda *of, own=coder.encode_single: own(*of) * 2
        elif what == "a matcher's own":
            one.proposal_matcher.set_low_quality_matches_ = lambda *_: None
    if what == "logits of 16 bits":
        around.outputs["cls_logits"] = around.outputs["cls_logits"].detach().bfloat16()
    if what == "boxes with a gradient":
        for target in around.targets:
            target["boxes"].requires_grad_()
    losses, wanted = around.losses(model), around.losses(stock)
    assert all(torch.equal(losses[name], wanted[name]) for name in wanted)
    if what == "boxes with a gradient":
        sum(losses.values()).backward()
        assert around.targets[0]["boxes"].grad is not None


def test_a_method_of_its_own_of_the_rpns_matcher(one_thread):
    stock, model, _ = both()
    for one in (stock, model):
        one.rpn.proposal_matcher.set_low_quality_matches_ = lambda *_: None
    assert_steps_alike(model, stock, *batch_of_rpn())


@pytest.mark.filterwarnings("ignore")
def test_a_trace_takes_torchvisions_way(one_thread):
    class Boxes(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, image):
            return self.model([image])[0]["boxes"]

    stock, model = retinanet(), retinanet()
    accelerate(model)
    image = batch()[0][0]
    with torch.no_grad():
        traced = torch.jit.trace(Boxes(model), image, check_trace=False)
        assert torch.equal(traced(image), Boxes(stock)(image))


def test_anchors_that_differ_from_image_to_image(one_thread):
    """A generator of the user's own may give them."""

    class Shifted(Original):
        def forward(self, images, maps):
            return [boxes + 40 * i for i, boxes in enumerate(super().forward(images, maps))]

    stock = retinanet()
    stock.anchor_generator = Shifted(stock.anchor_generator.sizes, stock.anchor_generator.aspect_ratios)
    model = copy.deepcopy(stock)
    assert accelerate(model).replaced == ("postprocessing",)
    images, _ = batch()
    with torch.no_grad():
        for got, wanted in zip(model(images), stock(images), strict=True):
            torch.testing.assert_close(got["boxes"], wanted["boxes"], rtol=1e-6, atol=2e-5)


def test_a_generator_that_was_taken_away_is_as_before(one_thread):
    ours = AnchorGenerator(((16,), (32,), (64,), (128,), (256,)))
    model = retinanet(anchor_generator=ours, head=retinanet().head)
    accelerate(model)
    model.anchor_generator = Original(((16,), (32,), (64,), (128,), (256,)))
    restore(model)
    assert not ours._forward_hooks and "recent" not in vars(ours)


def test_labels_as_many_as_boxes(one_thread):
    model = retinanet()
    accelerate(model)
    images, targets = batch()
    targets[2]["labels"] = targets[2]["labels"][:-1]
    with pytest.raises(ValueError, match=r"the number of targets\[2\]\['labels'\] is 3; expected 4, as many as boxes"):
        model.train()(images, targets)
