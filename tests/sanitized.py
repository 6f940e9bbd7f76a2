"""What `make gpu` runs under compute-sanitizer: all output types, levels of all kinds, aligned and not, read whole."""

from __future__ import annotations

import torch

import anchor_ext

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
    print("sanitized: all equal")


if __name__ == "__main__":
    main()
