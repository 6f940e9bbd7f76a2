"""`python -m anchor_ext`, and the drawing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import reference
import torch

import anchor_ext
from anchor_ext import __main__ as command_line


def run(capsys, *arguments) -> str:
    command_line.main([*arguments, "--device", "cpu"] if "--info" not in arguments else list(arguments))
    return capsys.readouterr().out


def test_table(capsys):
    lines = run(capsys, "640", "832").splitlines()
    assert lines[0] == "image 640x832 on cpu"
    assert len(lines) == 8 and lines[-1] == "N = 99,765 anchors"
    first = lines[2].split(maxsplit=5)
    assert first[:5] == ["P3", "8", "80x104", "9", "74,880"]
    assert first[5].startswith("(-18.63, -7.31, 26.63, 15.31)")


def test_json(capsys):
    result = json.loads(run(capsys, "64", "100", "--levels", "2", "5", "--json"))
    assert result["image_shape"] == [64, 100] and result["num_anchors"] == (16 * 25 + 2 * 4) * 9
    assert [level["grid"] for level in result["levels"]] == [[16, 25], [2, 4]]
    assert (
        result["levels"][0]["last"] == anchor_ext.generate((64, 100), pyramid_levels=[2], device="cpu")[0, -1].tolist()
    )


def test_save(capsys, tmp_path):
    import numpy as np

    run(capsys, "64", "100", "--save", str(tmp_path / "anchors.npy"))
    saved = np.load(tmp_path / "anchors.npy")
    assert np.array_equal(saved, reference.anchors((64, 100)).astype(np.float32)[None])


def test_info(capsys):
    assert json.loads(run(capsys, "--info")) == anchor_ext.build_info()


@pytest.mark.tools("matplotlib")
def test_plot(capsys, tmp_path):
    from matplotlib import image

    picture = tmp_path / "picture.png"
    image.imsave(picture, torch.rand(60, 90, 3).numpy())
    lines = run(capsys, "--plot", str(tmp_path / "a.png"), "--image", str(picture))
    assert lines.startswith("image 60x90 on cpu")
    drawn = image.imread(tmp_path / "a.png")
    assert drawn.shape[0] > 300 and drawn.shape[1] > 300 and len({*drawn[..., :3].reshape(-1, 3).mean(1).tolist()}) > 50
    run(capsys, "600", "20", "--levels", "0", "--plot", str(tmp_path / "b.png"))
    assert (tmp_path / "b.png").stat().st_size > 5000


def test_plot_without_matplotlib(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit, match=r"anchor_ext: drawing needs matplotlib: pip install matplotlib"):
        run(capsys, "64", "64", "--plot", str(tmp_path / "a.png"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0", "64"], "image_shape is"),
        (["64", "6.4"], r"image_shape\[1\] is '6.4'"),
        (["64", "64", "--levels", "31"], "pyramid_levels"),
        (["64", "64", "--save", "/nonexistent/a.npy"], "No such file"),
        pytest.param(
            ["--plot", "a.png", "--image", "/nonexistent.png"], "No such file", marks=pytest.mark.tools("matplotlib")
        ),
    ],
)
def test_mistakes_end_in_a_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"anchor_ext: .*{message}"):
        command_line.main(arguments)
    assert not list(tmp_path.iterdir())


def test_usage(capsys):
    for arguments in ([], ["64"], ["64", "64", "--image", "x.png"]):
        with pytest.raises(SystemExit) as stopped:
            command_line.main(arguments)
        assert stopped.value.code == 2
    assert "HEIGHT and WIDTH are needed" in capsys.readouterr().err


def test_as_a_program(tmp_path):
    command = [sys.executable, "-m", "anchor_ext", "64", "64", "--device", "cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "N = 774 anchors" and done.stderr == ""
