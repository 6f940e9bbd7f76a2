"""The main job on a real picture: its anchors, their cost beside NumPy's, and a drawing of some of them."""

from __future__ import annotations

import os

import torch
from matplotlib import cbook
from numpy_anchors import numpy_anchors
from timing import hardware, interleaved, medians

import anchor_ext
from anchor_ext.__main__ import describe, table
from anchor_ext.plot import plot, read_image


def main() -> None:
    picture = cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    pixels = torch.from_numpy(read_image(picture).copy())  # (H, W, C)
    device = anchor_ext.generate((1, 1)).device
    image = pixels.permute(2, 0, 1)[None].to(device).float() / 255  # (1, C, H, W)
    image_shape = tuple(image.shape[-2:])

    anchors = anchor_ext.Anchors()
    boxes = anchors(image)
    print(f"{os.path.basename(picture)}, {image_shape[0]}x{image_shape[1]}, on {hardware(device)}")
    print(table(describe(anchors, boxes, image_shape)))

    if not torch.equal(boxes, numpy_anchors(image_shape, device)):
        raise SystemExit("these anchors differ from NumPy's")
    numpy_anchors((2160, 3840), device)  # its memory stays with the process: NumPy at its best
    seconds = medians(
        interleaved(
            {
                "numpy": lambda: numpy_anchors(image_shape, device),
                "anchor_ext": lambda: anchors(image),
                "full": lambda: torch.full(boxes.shape, 1.5, device=device),
            },
            threads=1,  # several would measure the scheduler where another program is busy
        )
    )
    numpy, ours, full = (1e6 * seconds[name] for name in ("numpy", "anchor_ext", "full"))
    print("equal to NumPy bit for bit; on one CPU thread, microseconds per call:")
    print(f"NumPy {numpy:.0f}, anchor_ext {ours:.1f} ({numpy / ours:.0f} times faster)")
    print(f"the limit, which is writing the bytes alone: {full:.1f}")
    os.makedirs("out", exist_ok=True)
    plot(anchors, image_shape, "out/anchors.png", image=picture)
    print("drawn: out/anchors.png")


if __name__ == "__main__":
    main()
