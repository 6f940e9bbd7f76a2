"""What somebody may pass by mistake."""

from __future__ import annotations

import fractions
import math
import random

import torch


class Liar:
    """Claims to be everything, and fails at all of it."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise RuntimeError("no")

    def __index__(self):
        raise RuntimeError("no")

    def __float__(self):
        raise RuntimeError("no")

    def __repr__(self):
        raise RuntimeError("no")

    def __hash__(self):
        raise RuntimeError("no")

    def __getattr__(self, name):
        raise RuntimeError("no")


def strange(rng: random.Random) -> object:
    """Anything that somebody may pass by mistake, right now and then."""
    numbers = [0, 1, -1, 3, 7, 64, 2**31, 2**63, 2**64, -(2**70), 0.5, -0.0, 1e-320, 1e308, math.nan, math.inf, True]
    others = [
        None,
        "",
        "3",
        b"ab",
        1j,
        object(),
        Liar(),
        fractions.Fraction(1, 3),
        ...,
        int,
        {},
        {1},
        range(3),
        iter([1]),
    ]
    tensors = [
        torch.tensor(3),
        torch.tensor([3.0, 4]),
        torch.zeros(2, 2),
        torch.tensor(True),
        torch.zeros(0),
        torch.int8,
    ]
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(numbers)
    if kind < 0.6:
        return rng.choice(others)
    if kind < 0.7:
        return rng.choice(tensors)
    return rng.choice([list, tuple])([strange(rng) for _ in range(rng.choice([0, 1, 2, 2, 3, 5, 5]))])
