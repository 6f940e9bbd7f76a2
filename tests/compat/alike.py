"""Pictures with boxes for small detectors, and how a step of an accelerated one is compared with the stock one's."""

from __future__ import annotations

import torch


def pictures(count=3, boxes=4):
    """Of different sizes, with their boxes; the second one has none."""
    random = torch.Generator().manual_seed(count)
    images = [torch.rand(3, *shape, generator=random) for shape in ((120, 150), (100, 160), (130, 110))[:count]]
    truth = []
    for i in range(count):
        corners = torch.rand(0 if i == 1 else boxes, 2, 2, generator=random) * 70
        truth.append(torch.cat([corners.amin(1), corners.amax(1) + 9], dim=1))
    return images, truth


def losses_of(model, images, targets):
    """The losses, the gradients by name, and what the samplers have left of the random numbers."""
    model.train()
    model.zero_grad()
    torch.manual_seed(7)
    losses = model(images, [dict(target) for target in targets])
    sum(losses.values()).backward()
    grads = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.eval()
    return {name: loss.detach() for name, loss in losses.items()}, grads, torch.rand(())


def assert_losses_alike(model, stock, images, targets):
    (losses, grads, drawn), (wanted, wanted_grads, wanted_drawn) = (
        losses_of(one, images, targets) for one in (model, stock)
    )
    assert drawn == wanted_drawn and list(losses) == list(wanted)
    for name, loss in wanted.items():
        torch.testing.assert_close(losses[name], loss, rtol=1e-6, atol=1e-7)
    return grads, wanted_grads


def assert_steps_alike(model, stock, images, targets):
    grads, wanted = assert_losses_alike(model, stock, images, targets)
    assert grads.keys() == wanted.keys()
    for name, grad in wanted.items():
        assert float((grads[name] - grad).norm()) <= 1e-4 * float(grad.norm()) + 1e-7, name
