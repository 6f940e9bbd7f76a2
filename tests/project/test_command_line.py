"""`python -m anchor_ext`, and the drawing."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import reference
import torch

import anchor_ext
from anchor_ext import __main__ as command_line
from anchor_ext import plot


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


def saved(file) -> torch.Tensor:
    import numpy as np

    return torch.from_numpy(np.load(file))


def test_save(capsys, tmp_path):
    import numpy as np

    run(capsys, "64", "100", "--save", str(tmp_path / "anchors.npy"))
    saved = np.load(tmp_path / "anchors.npy")
    assert np.array_equal(saved, reference.anchors((64, 100)).astype(np.float32)[None])


def test_info(capsys):
    assert json.loads(run(capsys, "--info")) == anchor_ext.build_info()


def test_pyramid(capsys, tmp_path):
    pyramid = "--levels 3 4 --sizes 8,12 16 --ratios 1 --scales 1,2 1 --strides 8x4 16"
    run(capsys, "64", "100", *pyramid.split(), "--save", str(tmp_path / "a.npy"))
    given = dict(pyramid_levels=[3, 4], sizes=[[8, 12], [16]], ratios=[1], scales=[[1, 2], [1]], strides=[(8, 4), 16])
    assert torch.equal(saved(tmp_path / "a.npy"), anchor_ext.generate((64, 100), **given, device="cpu"))
    run(
        capsys, "64", "100", "--sizes", "8", "16", "32", "64", "128", "--ratios", "1", "--save", str(tmp_path / "a.npy")
    )
    given = dict(sizes=[8, 16, 32, 64, 128], ratios=[1])
    assert torch.equal(saved(tmp_path / "a.npy"), anchor_ext.generate((64, 100), **given, device="cpu"))
    run(capsys, "64", "100", "--ratios", "1,3", "--save", str(tmp_path / "a.npy"))
    assert torch.equal(saved(tmp_path / "a.npy"), anchor_ext.generate((64, 100), ratios=[1, 3], device="cpu"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--levels 31", "--levels[0] is 31; expected an integer in 0..30"),
        ("--levels 3 x", "argument --levels: 'x'; expected distinct integers in 0..30"),
        ("--sizes 8 16", "--sizes is [8.0, 16.0], of length 2; expected a number per pyramid level, 5 in all"),
        ("--sizes 8 a 16", "argument --sizes: 'a'; expected finite numbers > 0"),
        ("--ratios 1,-1", "argument --ratios: '1,-1'; expected finite numbers > 0"),
        ("--scales inf", "argument --scales: 'inf'; expected finite numbers > 0"),
        ("--scales 1,2 2", "--scales is [[1.0, 2.0], [2.0]], of length 2; expected a list of numbers"),
        ("--strides 8x4x2", "argument --strides: '8x4x2'; expected a finite number > 0, or two for (y, x)"),
        ("--strides 8x", "argument --strides: '8x'; expected a finite number > 0, or two for (y, x)"),
        ("--strides 8", "--strides is [[8.0, 8.0]], of length 1; expected a number or a pair"),
        ("--levels 3 --sizes 1e200", "--sizes has 1e+200, --ratios 0.5 and --scales 1.0 on --levels[0]; expected"),
        ("--boxes a.csv", "--boxes needs --plot"),
        ("--plot a.png --boxes-image a", "--boxes-image needs --boxes"),
    ],
)
def test_mistaken_options(capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        command_line.main(["64", "64", *arguments.split()])
    assert stopped.value.code == 2 and f"error: {message}" in capsys.readouterr().err


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


@pytest.mark.tools("matplotlib")
def test_plot_without_pillow(tmp_path):
    program = (
        "import sys; sys.modules['PIL'] = None; from anchor_ext.__main__ import main; "
        "main(['--plot', 'a.png', '--image', 'b.png'])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "anchor_ext: drawing needs Pillow: pip install Pillow" in done.stderr


@pytest.fixture
def figures(monkeypatch) -> list:
    """The figures that are saved in the meantime."""
    figure = pytest.importorskip("matplotlib.figure")
    kept = []
    save = figure.Figure.savefig
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, *a, **k: (kept.append(self), save(self, *a, **k)))
    return kept


def title_of(figure) -> str:
    return figure.axes[0].get_title()


def legend_of(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def drawn_in(figure, **style) -> list[tuple]:
    """The rectangles of this style, x1, y1, x2, y2."""
    from matplotlib.colors import to_rgba

    return [
        tuple(round(number, 3) for number in patch.get_bbox().extents)
        for patch in figure.axes[0].patches
        if (patch.get_edgecolor() == to_rgba("white")) == (style == {"color": "white"})
    ]


@pytest.mark.tools("matplotlib")
def test_the_picture_says_which_anchors_it_shows(tmp_path, figures):
    anchors = anchor_ext.Anchors()
    boxes = anchors.split(anchors.generate((640, 832), device="cpu")[0], (640, 832))
    plot.plot(anchors, (640, 832), tmp_path / "a.png")
    assert title_of(figures[0]) == "drawn: the 9 cell anchors of one cell per level; 99,765 anchors in all over 640x832"
    assert legend_of(figures[0])[-1] == "small dots: every cell of P5"
    patches = drawn_in(figures[0])
    for level, (line, of_level) in enumerate(zip(reversed(legend_of(figures[0])[:5]), boxes, strict=True)):
        rows, columns, count, row, column = map(
            int,
            re.fullmatch(r"P\d: .* (\d+)x(\d+) cells of (\d+) anchors; drawn: row (\d+), column (\d+)", line).groups(),
        )
        assert (rows, columns, count) == (*anchors.level_shapes((640, 832))[level], 9)
        for box in of_level.view(rows, columns, count, 4)[row, column].double().tolist():
            assert tuple(round(number, 3) for number in box) in patches
    plot.plot(anchors, (64, 96), tmp_path / "a.png")  # whose P7 is all around the view
    assert legend_of(figures[1])[0].endswith("9 larger than this picture")
    many = anchor_ext.Anchors([3, 4], scales=range(1, 51), ratios=[1])
    plot.plot(many, (64, 96), tmp_path / "a.png")
    assert title_of(figures[2]).startswith("drawn: up to 24 cell anchors of one cell per level; 6,000 anchors in all")
    assert "8x12 cells of 50 anchors; drawn: 24 at row" in legend_of(figures[2])[1]
    assert len(drawn_in(figures[2])) == 1 + 2 * 24


@pytest.mark.tools("matplotlib")
def test_nothing_is_cut_off(tmp_path):
    from matplotlib import image

    for shape, arguments in (((640, 832), {}), ((64, 96), {"title": "of a\nground truth"}), ((20, 900), {})):
        plot.plot(anchor_ext.Anchors(), shape, tmp_path / "a.png", boxes=[(1, 2, 30, 4)], **arguments)
        pixels = image.imread(tmp_path / "a.png")[..., :3]
        for edge in (pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:]):
            assert (edge == 1).all()


@pytest.mark.tools("matplotlib")
def test_plot_of_grids_and_boxes_per_level(tmp_path, figures):
    shapes = [(8, 12), (4, 6), (0, 3)]
    cells = [[(-8, -4, 8, 4), (-4, -8, 4, 8)], [(-16, -16, 16, 16)], [(-9, -9, 9, 9)]]
    turned = [[(y1, x1, y2, x2) for x1, y1, x2, y2 in level] for level in cells]
    grid = anchor_ext.AnchorGrid(cells, None, offset=0.25)
    per_level = grid.split(grid(shapes, image_shape=(64, 96), device="cpu"), shapes)
    for anchors in (grid, anchor_ext.AnchorGrid(turned, None, offset=0.25, layout="yxyx"), per_level):
        plot.plot(anchors, (64, 96), tmp_path / "a.png", level_shapes=shapes)
    assert drawn_in(figures[0]) == drawn_in(figures[1]) == drawn_in(figures[2])
    assert len(drawn_in(figures[0])) == 1 + 2 + 1
    assert legend_of(figures[0])[:2] == [
        "level 2: 0x3 cells",
        "level 1: stride 16, 4x6 cells of 1 anchor; drawn: row 2, column 2",
    ]
    assert title_of(figures[0]) == "drawn: the cell anchors of one cell per level; 216 anchors in all over 64x96"


@pytest.mark.tools("matplotlib")
def test_images_of_any_form(tmp_path, figures):
    pixels = torch.randint(256, (60, 90, 3), dtype=torch.uint8)
    for picture in (pixels, pixels.numpy(), pixels.permute(2, 0, 1), pixels / 255, (pixels / 255).double().numpy()):
        plot.plot(anchor_ext.Anchors([3]), (60, 90), tmp_path / "a.png", image=picture)
        shown = torch.as_tensor(figures.pop().axes[0].images[0].get_array().data)
        assert torch.allclose(shown.double() / (255 if shown.dtype == torch.uint8 else 1), pixels.double() / 255)
    plot.plot(anchor_ext.Anchors([3]), (3, 4), tmp_path / "a.png", image=pixels[:3, :4].permute(2, 0, 1))
    assert torch.equal(torch.as_tensor(figures.pop().axes[0].images[0].get_array().data), pixels[:3, :4])
    plot.plot(anchor_ext.Anchors([3]), (60, 90), tmp_path / "a.png", image=pixels[..., 0] // 8)  # and stays dark
    assert figures.pop().axes[0].images[0].get_clim() == (0, 255)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (TypeError, "anchors is 3; expected Anchors, or with level_shapes an AnchorGrid", dict(anchors=3)),
        (ValueError, "level_shapes is None; expected", dict(anchors=[torch.zeros(4, 4)])),
        (ValueError, "level_shapes is .*; expected None", dict(level_shapes=[(1, 1)])),
        (
            ValueError,
            "anchors has 1 levels and level_shapes 2",
            dict(anchors=[torch.zeros(4, 4)], level_shapes=[(1, 1)] * 2),
        ),
        (
            ValueError,
            r"anchors\[0\] is .* multiple of the 2 \* 3",
            dict(anchors=[torch.zeros(4, 4)], level_shapes=[(2, 3)]),
        ),
        (
            ValueError,
            "anchors has the layout 'point'",
            dict(anchors=anchor_ext.AnchorGrid([[(0, 0)]], [8], layout="point"), level_shapes=[(2, 3)]),
        ),
        (ValueError, "image_shape is", dict(image_shape=(0, 3))),
        (TypeError, "image is 3; expected a file name, a NumPy array or a tensor", dict(image=3)),
        (ValueError, r"image has shape \(5, 6, 7\); expected \(H, W, 3\)", dict(image=torch.zeros(5, 6, 7))),
        (TypeError, "image has dtype int64; expected uint8", dict(image=torch.zeros(5, 6, 3, dtype=torch.int64))),
        (ValueError, r"image has values in 0..255; expected uint8", dict(image=torch.tensor([[0.0, 255.0]]))),
        (ValueError, r"image has values in nan..nan; expected uint8", dict(image=torch.tensor([[0.0, float("nan")]]))),
        (ValueError, r"boxes has shape \(3,\); expected numbers \(G, 4\)", dict(boxes=[1, 2, 3])),
        (TypeError, "boxes is 'x'; expected numbers", dict(boxes="x")),
        (ValueError, r"boxes\[1\] is .*; expected finite", dict(boxes=[[1, 2, 3, 4], [1, 2, 3, float("inf")]])),
    ],
)
def test_mistaken_arguments_of_plot(error, message, arguments, tmp_path):
    given = {"anchors": anchor_ext.Anchors(), "image_shape": (64, 64), "file": tmp_path / "a.png", **arguments}
    with pytest.raises(error, match=message):
        plot.plot(**given)
    assert not list(tmp_path.iterdir())


COCO = {
    "images": [
        {"id": 7, "file_name": "train/a.png", "height": 60, "width": 90},
        {"id": 8, "file_name": "b.png", "height": 30, "width": 45},
    ],
    "annotations": [
        {"image_id": 7, "bbox": [10, 20, 30, 15]},
        {"image_id": 8, "bbox": [5, 10, 15, 7.5]},
        {"image_id": 7, "bbox": [80, 20, 10, 10]},
    ],
}
VOC = """<annotation><filename>a.png</filename><size><width>90</width><height>60</height></size>
<object><name>cat</name><part><bndbox/></part>
<bndbox><xmin>10</xmin><ymin>20</ymin><xmax>40</xmax><ymax>35</ymax></bndbox></object></annotation>"""


def draws(capsys, tmp_path, name: str, content, *arguments, shape=("60", "90")) -> str:
    """What a plot with this file of boxes prints to stderr."""
    file = tmp_path / name
    if isinstance(content, str):
        file.write_text(content)
    elif name.endswith(".npy"):
        import numpy as np

        np.save(file, content)
    else:
        file.write_text(json.dumps(content))
    # Anchors of a pixel, to leave the boxes in view.
    pyramid = ["--levels", "5", "--sizes", "1", "--device", "cpu"]
    command_line.main([*shape, "--plot", str(tmp_path / "p.png"), "--boxes", str(file), *pyramid, *arguments])
    return capsys.readouterr().err


@pytest.mark.tools("matplotlib")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("b.csv", "10,20,40,35\n"),
        ("b.csv", "xmin, ymin, xmax, ymax\n10, 20, 40, 35\n\n"),
        ("b.csv", "10 20 40 35"),
        ("b.txt", f"3 {25 / 90} {27.5 / 60} {30 / 90} {15 / 60}\n"),
        ("b.npy", [[10, 20, 40, 35]]),
        ("b.xml", VOC),
        ("b.json", {**COCO, "annotations": COCO["annotations"][:2]}),
    ],
)
def test_ground_truth_formats(capsys, tmp_path, figures, name, content):
    assert draws(capsys, tmp_path, name, content) == ""
    assert drawn_in(figures[0], color="white") == [(10, 20, 40, 35)]
    assert legend_of(figures[0])[-1] == "ground truth: 1 box"
    draws(capsys, tmp_path, name, content, shape=("120", "90"))  # a shape that the file knows stretches its boxes
    assert drawn_in(figures[1], color="white") == [(10, 20, 40, 35) if name in ("b.csv", "b.npy") else (10, 40, 40, 70)]


@pytest.mark.tools("matplotlib")
def test_ground_truth_of_one_of_many_images(capsys, tmp_path, figures):
    from matplotlib import image

    image.imsave(tmp_path / "b.png", torch.rand(30, 45, 3).numpy())
    draws(capsys, tmp_path, "c.json", COCO)
    assert title_of(figures[0]).startswith("ground truth: c.json (train/a.png, the first of 2 images)\ndrawn: ")
    assert drawn_in(figures[0], color="white") == [(10, 20, 40, 35), (80, 20, 90, 30)]
    for which in ("b.png", "8"):
        draws(capsys, tmp_path, "c.json", COCO, "--boxes-image", which)
        assert drawn_in(figures[-1], color="white") == [(10, 20, 40, 35)]
    draws(capsys, tmp_path, "c.json", COCO, "--image", str(tmp_path / "b.png"), shape=())
    assert title_of(figures[-1]).startswith("ground truth: c.json (b.png)\n")
    assert drawn_in(figures[-1], color="white") == [(5, 10, 20, 17.5)]
    draws(capsys, tmp_path, "c.csv", "5,10,20,17.5", "--image", str(tmp_path / "b.png"))  # stretched with the picture
    assert drawn_in(figures[-1], color="white") == [(10, 20, 40, 35)]


@pytest.mark.tools("matplotlib")
def test_odd_ground_truth_is_named(capsys, tmp_path, figures):
    lines = "1,1,5,5\n7,7,7,9\n90,10,95,20\n-3,1,5,5\n-1,-1,91,61\n9,9,3,3\n"
    name = str(tmp_path / "b.csv")
    assert draws(capsys, tmp_path, "b.csv", lines).splitlines() == [
        f"anchor_ext: {name}: 2 of 6 without area: line 2 (7, 7, 7, 9); line 6 (9, 9, 3, 3)",
        f"anchor_ext: {name}: 1 of 6 outside the image: line 3 (90, 10, 95, 20)",
        f"anchor_ext: {name}: 1 of 6 over the image's edge: line 4 (-3, 1, 5, 5)",
    ]
    assert legend_of(figures[0])[-1] == (
        "ground truth: 6 boxes, 2 without area, 1 outside the image, 1 over the image's edge"
    )
    assert len(drawn_in(figures[0], color="white")) == 6
    assert draws(capsys, tmp_path, "b.txt", "") == "" and legend_of(figures[1])[-1] == "ground truth: 0 boxes"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("b.doc", "", r"--boxes is '.*b.doc'; expected a name that ends in .json, .xml, .txt, .csv, .npy"),
        ("b.csv", "1,2,3,4\n\n1,2,x,4", r"b.csv, line 3 is '1 2 x 4'; expected four numbers x1 y1 x2 y2"),
        ("b.csv", "1,,2,3,4", r"b.csv, line 1 is"),
        ("b.csv", "x,y,w,h\n1,2,3,4", r"b.csv, line 1 is 'x y w h'; expected four numbers"),
        ("b.txt", "0 .5 .5 .1 .1\n0 .5 .5 .1", r"b.txt, line 2 is .*; expected a class and four fractions"),
        ("b.txt", "0 320 200 50 50", r"b.txt, line 1 is '0 320 200 50 50'; expected .*, not pixels"),
        ("b.npy", [[1, 2, 3]], r"b.npy holds .* of shape \(1, 3\).*; expected numbers \(G, 4\)"),
        ("b.npy", [[1, 2, 3, 4], [1, 2, 3, float("nan")]], r"b.npy, row 1 is .*nan.*; expected finite"),
        ("b.npy", [4.0, 3.0, 2.0, 1.0], r"b.npy holds .* of shape \(4,\)"),
        ("b.xml", "<annotation>", r"b.xml: no element found: line 1, column 12; expected a readable .xml"),
        ("b.xml", "<a/>", r"b.xml has the root element 'a'; expected Pascal VOC"),
        ("b.xml", VOC.replace("35", ""), r"b.xml, object 1 is \['10', '20', '40', ''\]|b.xml, object 1 is '10 20 40 '"),
        ("b.json", "[1", r"b.json: Expecting .* line 1 column 3"),
        ("b.json", [1], r"b.json has no list 'images'; expected COCO's"),
        ("b.json", {**COCO, "images": []}, r"b.json has 0 images"),
        ("b.json", {**COCO, "images": [{}]}, r"b.json, images\[0\] is \{\}; expected an object with 'id'"),
        ("b.json", {**COCO, "annotations": [{"image_id": 7}]}, r"b.json, annotations\[0\] is None; expected a bbox"),
        ("b.json", {**COCO, "annotations": [{"image_id": 7, "bbox": "1234"}]}, r"annotations\[0\] is '1234'|'1 2 3 4'"),
    ],
)
def test_broken_ground_truth(capsys, tmp_path, name, content, message):
    with pytest.raises(SystemExit, match=f"anchor_ext: .*{message}"):
        draws(capsys, tmp_path, name, content)
    assert not (tmp_path / "p.png").exists()


def test_an_image_that_a_file_of_boxes_does_not_have(capsys, tmp_path):
    with pytest.raises(
        SystemExit, match=r"has 0 images of the name or id 'z'; .* its 2, such as 'train/a.png', 'b.png'"
    ):
        draws(capsys, tmp_path, "b.json", COCO, "--boxes-image", "z")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0", "64"], "image_shape is"),
        (["64", "6.4"], r"image_shape\[1\] is '6.4'"),
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
