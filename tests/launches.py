"""What a call runs, as torch's profiler sees it: one native launch shows as an allocation and views, nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch

# Operators that make a tensor out of another one's memory, without touching it.
VIEWS = {
    f"aten::{name}"
    for name in (
        *("alias", "as_strided", "chunk", "detach", "expand", "flatten", "narrow", "permute", "reshape", "select"),
        *("slice", "split", "split_with_sizes", "squeeze", "t", "to", "transpose", "unbind", "unflatten", "unsqueeze"),
        *("view", "view_as", "_reshape_alias", "_unsafe_view"),
    )
}
ALLOCATIONS = ("aten::empty", "aten::empty_strided")
# What a Python number out of a tensor takes.
READS = {f"aten::{name}" for name in ("_local_scalar_dense", "is_nonzero", "item", "resolve_conj", "resolve_neg")}


def operators(function: Callable[[], object]) -> Counter[str]:
    """Names of torch's and anchor_ext's operators, with how often they ran, in a call that is not the first one.

    Memory that is taken outside of torch's operators counts as "[memory]": inside of anchor_ext's own, or of none.
    """
    function()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = function()
    del result  # whose memory is given back only now
    seen: Counter[str] = Counter()
    for event in profile.events():
        took_memory = event.cpu_memory_usage > 0 or event.device_memory_usage > 0
        if "::" in event.name:
            seen[event.name] += 1
        if took_memory and (event.name == "[memory]" or event.name.startswith("anchor_ext::")):
            seen["[memory]"] += 1
    return seen


def is_one_launch(seen: Counter[str], *, outputs: int = 1, reads: bool = False) -> bool:
    """No operator but views, an allocation for each output, and reading arguments that are tensors, where they are.

    anchor_ext's own operator may be seen once.
    """
    allowed = VIEWS | (READS if reads else set()) | {*ALLOCATIONS, "[memory]"}
    own = sum(count for name, count in seen.items() if name.startswith("anchor_ext::"))
    others = {name for name in seen if not name.startswith("anchor_ext::")} - allowed
    # The native library makes a tensor of the CPU without an operator, of CUDA with one, which is seen twice.
    taken = seen["[memory]"] if own and seen["aten::empty_strided"] else seen["[memory]"] + seen["aten::empty_strided"]
    return not others and 1 <= taken + seen["aten::empty"] <= outputs and own <= 1
