"""The spec: the text that a configuration is. docs/operators.md has its grammar."""

from __future__ import annotations

import contextlib
import copy
import locale
import pickle
import random
import re
import subprocess
import sys
import threading

import pytest
import reference
import torch
from conftest import grid_of, random_grid
from toolchain import ROOT

import anchor_ext
from anchor_ext._core import Spec
from anchor_ext._spec import Configuration

SMALL = "anchors/1;strides=5,7.25;cell_anchors=0,0,1,1"


def test_the_canonical_text():
    grid = anchor_ext.AnchorGrid(
        [[(-0.0, 0.1, 3, -(2**52))], [(1e300, 1, 2, 5e-324)]], [8, (8.5, 2**60)], start=[0.0, -0.0]
    )
    assert grid._config.spec == (
        "anchors/1;strides=8,8 0x1.1p+3,0x1p+60;starts=0,0 -0,-0;"
        "cell_anchors=-0,0x1.999999999999ap-4,3,-4503599627370496|0x1.7e43c8800759cp+996,1,2,0x0.0000000000001p-1022"
    )
    plain = anchor_ext.AnchorGrid([[(0, 0)]], None, arithmetic="quotient", layout="point", offset=0.5)
    assert plain._config.spec == "anchors/1;layout=point;arithmetic=quotient;cell_anchors=0,0"
    anchors = anchor_ext.Anchors([4, 3], sizes=[1, 2], ratios=[1], scales=[1])
    assert anchors._config.spec == (
        "anchors/1;levels=4 3;strides=16,16 8,8;cell_anchors=-0x1p-1,-0x1p-1,0x1p-1,0x1p-1|-1,-1,1,1"
    )


def test_the_text_says_everything(rng):
    """Numbers to text and back, bit for bit; the text of that is the same text."""
    for _ in range(300):
        arguments = random_grid(rng)
        spec = Spec(grid_of(arguments)._config.spec)
        lists = (spec.cell_anchors, spec.strides, spec.offsets, spec.starts, spec.pyramid_levels)
        assert Configuration.of(*lists, spec.arithmetic, spec.layout).spec == spec.text
        given = [[number for box in level for number in box] for level in arguments["cell_anchors"]]
        assert repr(spec.cell_anchors) == repr([[float(number) for number in level] for level in given])
        assert spec.strides == (arguments["strides"] or [])


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1.0), ("-1", -1.0), ("+1", 1.0), ("1.", 1.0), (".5", 0.5), ("1e3", 1000.0), ("1E-2", 0.01),
        ("0x1.8p+1", 3.0), ("-0X1P-3", -0.125), ("0xA", 10.0), ("0x.8", 0.5), ("0.1", 0.1), ("-0", -0.0),
        ("0x1.0000000000000p+0", 1.0), ("5e-324", 5e-324), ("1.7976931348623157e308", 1.7976931348623157e308),
    ],
)  # fmt: skip
def test_numbers(text, number):
    assert repr(Spec(f"anchors/1;cell_anchors=0,0,1,{text}").cell_anchors[0][3]) == repr(number)


@pytest.mark.parametrize(
    "text", ["", " 1", "1 ", "1,", "1x", "0x", "0x-1", "--1", "+-1", "1e999", "1e-999", "0b1", "1_0", "0x1g"]
)
def test_what_is_no_number(text):
    with pytest.raises(ValueError, match="cell_anchors"):
        Spec(f"anchors/1;cell_anchors=0,0,1,{text}")


def test_any_text_at_all():
    """Cut, repeated, or with a letter changed: read, or refused with a reason; never a crash."""
    rng, spec = random.Random(0), anchor_ext.Anchors([3, 4], sizes=[31.5, 64])._config.spec
    letters = "0123456789abcdefpx+-.,;=| anchors/levstridfog_\0é"
    refused = 0
    for _ in range(5000):
        at, end = sorted(rng.sample(range(len(spec) + 1), 2))
        text = rng.choice([
            spec[:at], spec[at:], spec[:at] + spec[end:], spec[:end] + spec[at:],
            spec[:at] + rng.choice(letters) + spec[at + 1 :], spec[:at] + rng.choice(letters) + spec[at:],
        ])  # fmt: skip
        try:
            Spec(text)
        except ValueError as error:
            refused += 1
            assert str(error)
    assert refused > 3000


def test_a_decimal_comma_is_nobodys_business():
    """Most machines have no locale to try it with, so the source is read as well."""
    source = (ROOT / "csrc" / "core" / "spec_text.cpp").read_text()
    assert "std::from_chars" in source and "std::to_chars" in source
    assert not re.search(r"strto|\bsto[a-z]+\(|atof|printf|scanf|stream", source)
    before = locale.setlocale(locale.LC_NUMERIC)
    try:
        for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "C"):
            with contextlib.suppress(locale.Error):
                locale.setlocale(locale.LC_NUMERIC, name)
            assert Spec(SMALL).strides == [(5.0, 7.25)]
            assert Configuration.of([[0, 0, 1, 0.1]], []).spec.endswith("=0,0,1,0x1.999999999999ap-4")
    finally:
        locale.setlocale(locale.LC_NUMERIC, before)


def test_a_configuration_is_its_text():
    config = anchor_ext.Anchors()._config
    assert config == anchor_ext.Anchors()._config and hash(config) == hash(anchor_ext.Anchors()._config)
    assert config != anchor_ext.Anchors([3])._config and config != config.spec
    for other in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert other == config and vars(other) == {"spec": config.spec}


def test_many_specs_in_many_threads():
    """More than are kept, asked for at once: each call has its own."""
    grids = [anchor_ext.AnchorGrid([[(0, 0, i, i)]], [i + 1.5]) for i in range(20)]
    expected = [grid([(3, 4)], device="cpu") for grid in grids]
    wrong = []

    def work(seed):
        rng = random.Random(seed)
        for _ in range(400):
            i = rng.randrange(20)
            boxes = torch.ops.anchor_ext.generate([3, 4], grids[i]._config.spec, dtype="float32", device="cpu")
            if not torch.equal(boxes, expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong


# Grids without cells.


@pytest.mark.parametrize("shapes", [[(0, 5), (0, 0)], [(0, 5), (2, 3)], [(2, 3), (4, 0)], [(0, 0), (0, 7)]])
def test_grids_without_cells(shapes, device):
    for strides in ([8, 16], None):
        grid = anchor_ext.AnchorGrid([[(0, 0, 1, 1)], [(0, 0, 2, 2), (0, 0, 3, 3)]], strides)
        keywords = {"image_shape": (40, 50)}
        boxes = grid(shapes, device=device, **keywords)
        cells = [a * b for a, b in shapes]
        assert boxes.shape == (cells[0] + 2 * cells[1], 4) and boxes.device.type == device.type
        filled = [max(a, 1) * max(b, 1) and (a or 1, b or 1) for a, b in shapes]
        parts = grid.split(grid(filled, device=device, **keywords), filled)
        if strides:
            assert torch.equal(boxes, torch.cat([p for p, n in zip(parts, cells, strict=True) if n] or [boxes]))
        assert grid.inside(shapes, (40, 50), device=device).shape == boxes.shape[:1]
        valid = grid.valid_flags(shapes, (40, 50), device=device, **keywords)
        assert valid.shape == boxes.shape[:1] and (valid.all() or not strides)
        assert [len(part) for part in grid.split(boxes, shapes)] == grid.level_sizes(shapes)
        none = torch.empty(0, 2, dtype=torch.int64, device=device)
        assert grid.at(none, shapes, **keywords).shape == (0, 2, 4)
        index = torch.tensor([0], device=device)
        if len(boxes):
            assert torch.equal(grid.at(index, shapes, **keywords), boxes[:1])
        else:
            with pytest.raises((ValueError, RuntimeError), match="index has 1 entries; expected none"):
                grid.at(index, shapes, **keywords)


@pytest.mark.parametrize("padded", [(0, 0), (0, 40), (40, 0)])
def test_nothing_is_valid_on_an_image_without_pixels(padded, device):
    for strides in ([8], None):
        grid = anchor_ext.AnchorGrid([[(0, 0, 1, 1)]], strides)
        flags = grid.valid_flags([(3, 4)], padded, image_shape=(24, 32), device=device)
        assert flags.shape == (12,) and not flags.any()


def test_in_a_mode_and_out_of_it_grids_without_cells_are_the_same():
    grid = anchor_ext.AnchorGrid([[(0, 0, 1, 1)]], [8])
    compiled = torch.compile(lambda x: grid([(x.shape[0], 3)], device="cpu") + 0, dynamic=True, backend="eager")
    for rows in (5, 2, 0):
        assert torch.equal(compiled(torch.zeros(rows)), grid([(rows, 3)], device="cpu"))
    out = torch.empty(0, 4)
    assert grid([(0, 3)], device="cpu", out=out) is out


# Grids that are derived from another one.


def test_with_another_arithmetic_or_one_level(rng):
    for _ in range(20):
        arguments = random_grid(rng, most=60)
        grid, level = grid_of(arguments), rng.randrange(len(arguments["cell_anchors"]))
        if arguments["arithmetic"].startswith(("quotient", "arange")):
            continue
        derived = grid._with(arithmetic="float32", level=level)
        assert derived is grid._with(arithmetic="float32", level=level)
        one = {
            name: value and [value[level]] if isinstance(value, list) else value for name, value in arguments.items()
        }
        one["arithmetic"], one["clip"] = "float32", None
        expected = reference.rounded(reference.grid(**one), torch.float64)
        image = {"image_shape": arguments["image_shape"], "dtype": torch.float64, "device": "cpu"}
        assert torch.equal(derived(one["level_shapes"], **image), expected)
        assert grid._with() == grid._with() and grid._with()._config == grid._config
    with pytest.raises(ValueError, match="level is 99; expected 0 to"):
        grid._with(level=99)
    with pytest.raises(ValueError, match="arithmetic is 'int8'"):
        grid._with(arithmetic="int8")


def test_derived_inside_of_a_graph():
    grid = anchor_ext.AnchorGrid([[(0, 0, 1, 1.1)], [(0, 0, 3.3, 1)]], [7.3, 9.1])

    def call(image, level):
        own = grid._with(arithmetic="bfloat16", level=level)
        return own([tuple(image.shape[-2:])], device="cpu") + 0

    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="eager")
    for level in (0, 1):
        for shape in ((3, 4), (5, 6)):
            assert torch.equal(compiled(torch.zeros(shape), level), call(torch.zeros(shape), level))


# Private names of torch's, and what happens without one.

WITHOUT = """
import torch
owner, _, name = {name!r}.rpartition(".")
owner = eval(owner)
saved = getattr(owner, name)
delattr(owner, name)
import anchor_ext
from anchor_ext import _recording
setattr(owner, name, saved)  # torch itself needs it
assert _recording.is_recorded() or not {is_needed}
boxes = anchor_ext.Anchors()(torch.zeros(1, 3, 64, 80))
expected = torch.ops.anchor_ext.generate(None, anchor_ext.Anchors()._config.spec, dtype="float32", device="cpu",
                                         image_shape=[64, 80])
assert torch.equal(boxes[0], expected)
out = torch.empty_like(boxes)
assert torch.equal(anchor_ext.generate((64, 80), device="cpu", out=out), boxes)
grid = anchor_ext.AnchorGrid([[(0, 0, 1, 1)]], [8])
assert grid.at(torch.arange(3), [(2, 3)]).shape == (3, 4)
traced = torch.jit.trace(anchor_ext.Anchors(), torch.zeros(1, 3, 64, 80))
assert torch.equal(traced(torch.zeros(1, 3, 32, 8)), anchor_ext.generate((32, 8), device="cpu"))
"""


@pytest.mark.parametrize(
    "name",
    [
        "torch._C._len_torch_dispatch_stack",
        "torch._C._functorch.peek_interpreter_stack",
        "torch._C._get_tracing_state",
        "torch._C._set_tracing_state",
        "torch._C._len_torch_function_stack",
        "torch.overrides._get_current_function_mode_stack",
    ],
)
def test_without_a_private_name_of_torch(name):
    is_needed = any(part in name for part in ("dispatch_stack", "interpreter_stack", "get_tracing"))
    script = WITHOUT.format(name=name, is_needed=is_needed)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
