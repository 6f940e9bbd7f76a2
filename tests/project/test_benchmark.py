"""The benchmark suite refuses to time a wrong result, and its table, samples and chart have every column."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import types
from importlib.util import find_spec

import pytest
import torch
from toolchain import ROOT

import anchor_ext

sys.path.insert(0, str(ROOT / "benchmarks"))
import bench
import device_times
import growth
import rivals
import tables
import timing

DTYPES = [torch.float32, torch.bfloat16]
SHAPE = (40, 72)
PACE = {"rounds": 2, "seconds": 1e-4, "at_most": 0.1}
CPU = torch.device("cpu")
COLUMNS = rivals.columns(rivals.Case(SHAPE, torch.float32, CPU))
compiles = pytest.mark.tools("c++")  # for Inductor


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@compiles
def test_every_function_is_right(dtype):
    case = rivals.Case(SHAPE, dtype, CPU)
    torch.compiler.reset()
    functions, left_out = rivals.checked(case)
    assert (set(functions), left_out) == (set(COLUMNS), {})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", COLUMNS)
def test_a_wrong_function_is_refused_before_anything_is_timed(name, dtype, monkeypatch):
    case = rivals.Case(SHAPE, dtype, CPU)
    answer = COLUMNS[name].answer
    wrong = rivals.answers(case)[answer][0].clone()
    wrong.view({2: torch.int16, 4: torch.int32}[dtype.itemsize]).view(-1)[-1] ^= 1
    monkeypatch.setattr(rivals, "columns", lambda case: {name: rivals.Column(lambda case: lambda: wrong, answer)})
    monkeypatch.setattr(timing, "interleaved", lambda *_, **__: pytest.fail("timed"))
    if name.startswith("anchor_ext") or name in rivals.NEEDED:
        with pytest.raises(SystemExit, match="is wrong: nothing is timed"):
            bench.measure(case, torch.get_num_threads(), PACE)
    else:
        assert rivals.checked(case) == ({}, {name: "ValueError: its result is wrong"})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_function_that_writes_once_is_refused(dtype, monkeypatch):
    case = rivals.Case(SHAPE, dtype, CPU)
    right = rivals.answers(case)["constant"][0].clone()
    monkeypatch.setattr(rivals, "columns", lambda case: {"idle": rivals.Column(lambda case: lambda: right, "constant")})
    assert rivals.checked(case) == ({}, {"idle": "ValueError: its result is wrong"})


def test_a_rival_that_does_not_run_is_left_out(monkeypatch):
    def broken(case):
        raise RuntimeError("not here\nat all")

    case = rivals.Case(SHAPE, torch.float32, CPU)
    monkeypatch.setattr(rivals, "columns", lambda case: {"plain": rivals.Column(broken, "rounded")})
    assert rivals.checked(case) == ({}, {"plain": "RuntimeError: not here"})
    monkeypatch.setattr(rivals, "columns", lambda case: {"fill_": rivals.Column(broken, "constant")})
    with pytest.raises(RuntimeError, match="not here"):
        rivals.checked(case)


def test_growth_refuses_wrong_anchors(monkeypatch):
    generate = anchor_ext.generate

    def wrong(*arguments, out, **options):
        boxes = generate(*arguments, out=out, **options)
        boxes.view(torch.int32)[0, -1, -1] ^= 1
        return boxes

    monkeypatch.setattr(anchor_ext, "generate", wrong)
    monkeypatch.setattr(growth, "interleaved", lambda *_, **__: pytest.fail("timed"))
    with pytest.raises(SystemExit, match="nothing is timed"):
        growth.growth(CPU, [10_000], 1, 1, 1e-4)


def test_growth_ends_where_memory_does(monkeypatch):
    monkeypatch.setattr(growth, "available_bytes", lambda device: 1_000_000)
    rows, remark = growth.growth(CPU, [1000, 10**7], 1, 1, 1e-4)
    assert [row["num_anchors"] for row in rows] == [1251]
    assert remark.startswith("It ends there: 0.2 GB more are needed")


def test_anchors_at_indices():
    index = torch.arange(anchor_ext.Anchors().num_anchors(SHAPE))
    assert torch.equal(rivals.anchors_at(SHAPE, index), anchor_ext.generate(SHAPE, device="cpu")[0])


@compiles
def test_a_short_run_has_every_file_and_column(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "bench.py", "--device", "cpu", "--quick", "--results", tmp_path]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    result = json.loads((tmp_path / "bench_cpu.json").read_text())
    for row in result["rows"]:
        assert set(row["seconds"]) == set(COLUMNS), row["left_out"]
        assert all(len(samples) == bench.QUICK_PACE["rounds"] for samples in row["seconds"].values())
    assert {row["dtype"] for row in result["rows"]} == {"float32", "bfloat16"}
    assert [set(row["seconds"]) for row in result["growth"]] == [{"anchor_ext out=", "fill_"}] * 3
    page = (tmp_path / "bench_cpu.md").read_text()
    assert page in run.stdout and result["about"]["hardware"] in page and result["command"] in page
    header = next(line for line in page.splitlines() if line.startswith("| threads"))
    assert len(header.split("|")) == 18
    assert (tmp_path / "bench_cpu.png").exists() == (find_spec("matplotlib") is not None)


def event(name: str, microseconds: float, device=torch.autograd.DeviceType.CUDA, annotation=False):
    time_range = types.SimpleNamespace(elapsed_us=lambda: microseconds)
    return types.SimpleNamespace(name=name, time_range=time_range, device_type=device, is_user_annotation=annotation)


def test_the_kernels_of_a_profile():
    events = [
        event("cudaLaunchKernel", 50.0, torch.autograd.DeviceType.CPU),
        event("plain_kernel", 3.0),
        event("plain_kernel", 5.0),
        event("Memcpy HtoD (Pageable -> Device)", 4.0),
        event("Memset (Device)", 2.0),
        event("a range", 900.0, annotation=True),
        event("Stream Sync", 800.0),
    ]
    seconds, kernels = device_times.kernels_of(events, calls=2)
    assert math.isclose(seconds, 7e-6) and kernels == 2
    assert device_times.kernels_of([], calls=2) == (0, 0)


class DryEvent:
    """CUDA's events and profiler, without CUDA: every stretch takes three milliseconds, every profile two kernels."""

    def __init__(self, **options):
        assert options in ({"enable_timing": True}, {"activities": [torch.profiler.ProfilerActivity.CUDA]})

    def record(self): ...

    def synchronize(self): ...

    def elapsed_time(self, end):
        return 3.0

    def __enter__(self):
        return self

    def __exit__(self, *error): ...

    def events(self):
        return [event("kernel", 5.0)] * 2 * device_times.PROFILED


@pytest.fixture
def dry_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "Event", DryEvent)
    monkeypatch.setattr(device_times, "profile", DryEvent)


def test_the_parts_of_a_call_without_cuda(dry_cuda):
    called = []
    parts = device_times.separated({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, 4, 2)
    assert parts["kernels"] == {"a": 2, "b": 2}
    assert parts["one call"] == {"a": [pytest.approx(3e-3)] * 4, "b": [pytest.approx(3e-3)] * 4}
    assert parts["kernel"] == {"a": [pytest.approx(1e-5)] * 2, "b": [pytest.approx(1e-5)] * 2}
    assert [len(samples) for samples in parts["host"].values()] == [4, 4]
    # host: 4 rounds of 100; one call: 4 of 20; profiles: 1 to count and 2 rounds of 10, and a's to begin with.
    assert (called.count("a"), called.count("b")) == (400 + 80 + 40, 400 + 80 + 30)


def test_growth_on_events_without_cuda(dry_cuda):
    samples = growth.on_events({"a": lambda: None}, rounds=3, seconds=0.01)
    assert samples == {"a": [pytest.approx(3e-3 / 10)] * 3}


def test_the_launch_queue_is_never_full():
    assert device_times.calls_in_flight(1) == 100
    assert device_times.calls_in_flight(40) == 20
    assert device_times.calls_in_flight(5000) == 1
    assert device_times.calls_in_flight(0) == 10


def test_bytes_per_second():
    assert device_times.bytes_per_second(3_000_000, 1e-6) == 3e12
    assert device_times.bytes_per_second(3_000_000, 0.0) is None


def cuda_row(threads: int = 1) -> dict:
    """What a CUDA run leaves of one image, without the profiler's kernels of one function."""
    names = [*COLUMNS, "anchor_ext graph", "plain compiled graph", "full graph", "empty kernel"]
    samples = {name: [1e-6, 2e-6, 3e-6] for name in names}
    parts = {part: dict(samples) for part in ("host", "one call", "kernel")}
    parts["kernel"]["full"] = [0.0, 0.0]
    about = {"threads": threads, "dtype": "float32", "image_shape": SHAPE, "num_anchors": 1000, "bytes": 16_000}
    return {**about, "left_out": {}, "seconds": samples, "cuda": {**parts, "kernels": dict.fromkeys(names, 1.0)}}


def cuda_result() -> dict:
    about = {**timing.versions(), "torchvision": "0", "system": "Linux", "hardware": "a GPU", "device": "cuda"}
    m = {"anchor_ext out=": 0.5, "fill_": 0.4}
    samples = {name: [value * 1e-6] for name, value in m.items()}
    row = {"image_shape": SHAPE, "nanoseconds_per_anchor": m, "seconds": samples}
    grown = [{**row, "num_anchors": count} for count in (1000, 10_000)]
    remarks = ["It ends there."]
    return {"command": "bench", "about": about, "remarks": remarks, "rows": [cuda_row()], "growth": grown}


def test_ratios_are_of_the_same_round():
    samples = {"ours": [1.0, 10.0, 1.0, 11.0, 12.0], "theirs": [2.0, 20.0, 2.0], "nothing": [0.0, 0.0]}
    assert tables.ratio(samples, "theirs", "ours") == "2.00"  # 2 / 10 as medians
    for pair in (("ours", "nothing"), ("nothing", "ours"), ("ours", "absent")):
        assert tables.ratio(samples, *pair) == "-"


def test_what_is_given_to_write_into_is_the_same_memory():
    case = rivals.Case(SHAPE, torch.float32, CPU)
    assert rivals.given(case)().data_ptr() == rivals.fill(case)().data_ptr()
    rivals.given(case)
    assert case.out.isnan().all()  # nothing right is left there for the next one's check


def test_the_page_of_a_cuda_run():
    page = tables.report(cuda_result())
    for text in ("a GPU", "empty kernel", "anchor_ext graph", "2.0 (1)", "It ends there.", "full graph"):
        assert text in page
    bandwidth = page.partition("Gigabytes")[2].splitlines()[4]
    assert [cell.strip() for cell in bandwidth.strip("|").split("|")] == [
        *("float32", "40x72", "16,000", "8.0", "8.0", "8.0", "-", "8.0", "1.00")
    ]


@pytest.mark.tools("matplotlib")
def test_the_chart_of_a_cuda_run(tmp_path):
    import chart

    chart.draw(cuda_result(), tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_part_on_cuda(dtype):
    row = bench.measure(rivals.Case(SHAPE, dtype, torch.device("cuda")), 1, PACE)
    assert row["left_out"] == {}
    assert row["cuda"]["kernels"]["anchor_ext"] == row["cuda"]["kernels"]["fill_"] == 1
    for part in ("host", "one call", "kernel"):
        assert set(row["cuda"][part]) == set(row["seconds"]) - {"numpy"}
        assert all(min(samples) > 0 for samples in row["cuda"][part].values())
    rows, remark = growth.growth(torch.device("cuda"), [1000, 10_000], 1, 2, 1e-3)
    assert len(rows) == 2 and remark == ""


def test_spread():
    assert timing.spread([1.0]) is None
    assert timing.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 3)
