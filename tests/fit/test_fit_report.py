"""A report tells what generate and match give, and the command line, the page and the pasted texts tell the same."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from toolchain import ROOT

from anchor_ext import AnchorGrid, Anchors, fit
from anchor_ext.__main__ import main
from anchor_ext.compat.torchvision import AnchorGenerator
from anchor_ext.fit import _paste, _search

sys.path.insert(0, str(ROOT / "tests" / "match"))
import originals

ANCHORS = Anchors()
SHAPES = [(200, 300), (320, 240), (200, 300), (256, 256)]


@pytest.fixture(scope="module", autouse=True)
def quick_searches():
    """From fewer starts: what the search finds is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_search, "_RANDOM_STARTS", 0)
        yield


def a_data_set(count=60, seed=0, shapes=SHAPES, mean=3.0):
    """Boxes of two classes; image 3 has none."""
    random = torch.Generator().manual_seed(seed)
    image = torch.randint(len(shapes) - 1, (count,), generator=random)
    sides = torch.tensor(shapes, dtype=torch.float64)[image].flip(1)
    centers = torch.rand(count, 2, generator=random, dtype=torch.float64) * sides
    lengths = (torch.randn(count, 2, generator=random, dtype=torch.float64) * 0.7 + mean).exp()
    boxes = torch.cat([centers - lengths / 2, centers + lengths / 2], dim=1)
    labels = torch.randint(2, (count,), generator=random)
    return fit.DataSet(boxes, image, torch.tensor(shapes), labels, ("cat", "dog"))


def by_hand(data, anchors, rule=None):
    """Per box the best IoU and positives with and without the low-quality rule, by the whole matrix of each image."""
    boxes = fit.resized(data, rule)
    iou, positives, without = torch.zeros(len(boxes.boxes)), *torch.zeros(2, len(boxes.boxes), dtype=torch.int64)
    for i, shape in enumerate(boxes.shapes.tolist()):
        own = (boxes.image == i).nonzero()[:, 0]
        if len(own):
            matrix = originals.box_iou(boxes.boxes[own], anchors.generate(shape)[0])
            iou[own] = matrix.amax(1)
            for to, low_quality in ((positives, True), (without, False)):
                matched = anchors.match(boxes.boxes[own], shape, allow_low_quality=low_quality)
                to[own] = torch.stack([(matched == g).sum() for g in range(len(own))])
    return iou, positives, without


@pytest.mark.quick
@pytest.mark.parametrize("rule", [None, fit.TorchvisionResize(128, 200), fit.Letterbox(160, 160)], ids=str)
def test_a_report(rule):
    data = a_data_set()
    told = []
    report = fit.report(data, ANCHORS, rule, progress=lambda done, of: told.append((done, of)))
    iou, positives, without = by_hand(data, ANCHORS, rule)
    assert torch.equal(report.iou, iou) and told[-1] == (60, 60)
    assert report.whole.recall == tuple(float((iou >= t).sum()) / 60 for t in (0.4, 0.5, 0.7))
    assert report.whole.mean_iou == float(iou.double().mean())
    assert torch.equal(report.positives.per_box, positives) and report.positives.images == 3
    assert report.positives.low_quality_only == int(((positives > 0) & (without == 0)).sum()) > 0
    assert report.positives.none == int((positives == 0).sum())
    assert sum(level.positives for level in report.levels) == int(positives.sum())
    for key in ("size", "ratio", "class", "level"):
        groups = report.by[key]
        assert sum(group.boxes for group in groups) == 60
        assert sum(group.boxes * group.mean_iou for group in groups) == pytest.approx(float(iou.double().sum()))
    for name, label in (("cat", 0), ("dog", 1)):
        group = next(group for group in report.by["class"] if group.name == name)
        assert group.boxes == int((data.labels == label).sum())
        assert group.mean_iou == float(iou[data.labels == label].double().mean())
    box = int(report.iou.argmax())
    anchor = torch.tensor([report.anchor(box)])
    assert float(originals.box_iou(report.resized.boxes[box : box + 1], anchor)) == float(report.iou[box])
    text = str(report)
    assert "60 boxes of 4 images" in text and "cell anchors used" in text and "low-quality" in text
    json.dumps(report.to_dict())


@pytest.mark.quick
def test_another_default_device_and_type():
    data = a_data_set()
    wanted = fit.report(data, ANCHORS, fit.Letterbox(160, 160)).to_dict()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert fit.report(data, ANCHORS, fit.Letterbox(160, 160)).to_dict() == wanted
            read = fit.read([[1, 2, 3, 4]], image_shape=(9, 9))
            assert read.boxes.device.type == "cpu" and fit.best_iou(read.boxes.float(), ANCHORS, (9, 9)).iou.item() > 0
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.quick
def test_some_images_are_matched():
    data = a_data_set(400, shapes=[(64, 96)] * 50)
    report = fit.report(data, ANCHORS, matched_images=10, seed=3)
    again = fit.report(data, ANCHORS, matched_images=10, seed=3)
    other = fit.report(data, ANCHORS, matched_images=10, seed=4)
    assert report.positives.images == 10 < report.positives.boxes < 400
    assert torch.equal(report.positives.per_box, again.positives.per_box)
    assert report.positives.boxes != other.positives.boxes or report.positives.mean != other.positives.mean
    assert fit.report(data, ANCHORS, matched_images=0).positives.boxes == 400
    strict = fit.report(data, ANCHORS, matched_images=0, allow_low_quality=False)
    assert strict.positives.low_quality_only == 0 < strict.positives.none


@pytest.mark.quick
def test_other_anchors():
    """A grid, a drop-in without strides, and clipped anchors, which no longer fit what lies over the border."""
    data = a_data_set()
    grid = AnchorGrid(ANCHORS.cell_anchors, ANCHORS.strides)
    assert torch.equal(fit.report(data, grid).iou, fit.report(data, ANCHORS).iou)
    generator = AnchorGenerator(((16, 32), (64,)), ((0.5, 1.0),) * 2)
    report = fit.report(data, generator, strides=(8, 16))
    assert [level.name for level in report.levels] == ["level 0", "level 1"]
    assert [len(shapes) for shapes in report.shapes] == [4, 2]
    clipped = fit.report(data, ANCHORS, clip=True)
    assert not torch.equal(clipped.iou, fit.report(data, ANCHORS).iou)
    far = fit.read([[0.0, 0, 9, 9]], image_shape=(64, 64))
    nothing = AnchorGrid([[[100.0, 100, 120, 120]]], [64], offset=0)
    report = fit.report(far, nothing)
    assert report.whole.mean_iou == 0 and report.by["level"][0].name == "none" and report.anchor(0) is None
    assert "1 boxes overlap no anchor" in str(report)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"thresholds": []}, r"thresholds is \[\]; expected a list"),
        ({"thresholds": 0.5}, "thresholds is 0.5; expected a list"),
        ({"thresholds": [float("nan")]}, r"thresholds is \[nan\]; expected a list"),
        ({"seed": "a"}, "seed is 'a'; expected an integer"),
        ({"thresholds": [2]}, r"thresholds is \[2\]; expected a list of numbers"),
        ({"matched_images": -1}, "matched_images is -1; expected an integer in 0.."),
        ({"resize": 800}, "resize is 800; expected None or a rule"),
        ({"anchors": 3}, "anchors is 3; expected"),
        ({"high": 0.1}, "high is 0.1; expected"),
    ],
)
def test_bad_input_of_report(keywords, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fit.report(**{"data": a_data_set(), "anchors": ANCHORS, **keywords})


@pytest.fixture(scope="module")
def suggestion():
    pytest.importorskip("scipy")
    return fit.suggest(a_data_set(600, shapes=[(128, 192)] * 40, mean=2.2), seed=1)


@pytest.mark.tools("scipy")
def test_a_suggestion(suggestion):
    data = a_data_set(600, shapes=[(128, 192)] * 40, mean=2.2)
    today, suggested = suggestion.held_out["today"], suggestion.held_out["suggested"]
    assert suggested.recall > today.recall + 0.1 and suggestion.num_searched + suggestion.num_held_out == 600
    assert 60 < suggestion.num_held_out < 180
    again = fit.suggest(data, seed=1)
    assert again.anchors.spec == suggestion.anchors.spec and again.held_out == suggestion.held_out
    both = fit.suggest(data, seed=1, held_out=0)
    report = fit.report(data, both.anchors)
    assert both.held_out["suggested"].recall == report.whole.recall[1]
    assert both.held_out["suggested"].mean_iou == report.whole.mean_iou
    for level, (stride, _) in zip(suggestion.anchors.cell_anchors, suggestion.anchors.strides, strict=True):
        side = (level[:, 2] - level[:, 0]).mul(level[:, 3] - level[:, 1]).sqrt() / stride
        assert float(side.min()) > 0.999 and float(side.max()) < 10.001
    assert "held out" in str(suggestion)
    json.dumps(suggestion.to_dict())


@pytest.mark.tools("scipy")
def test_the_free_form(suggestion):
    data = a_data_set(600, shapes=[(128, 192)] * 40, mean=2.2)
    found = fit.suggest(data, free=True, seed=1)
    assert found.searched["suggested"].recall >= suggestion.searched["suggested"].recall
    texts = found.constructors()
    pasted = eval(texts["anchor_ext"], {"anchor_ext": sys.modules["anchor_ext"]})
    for ours, theirs in zip(found.anchors.cell_anchors, pasted.cell_anchors, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    assert all(text.startswith("# not expressible") for name, text in texts.items() if name != "anchor_ext")
    json.dumps(found.to_dict())


@pytest.mark.tools("scipy")
def test_several_pyramids():
    data = a_data_set(300, shapes=[(128, 192)] * 30, mean=1.8)
    found = fit.suggest(data, levels=[(3, 4, 5), (2, 3, 4)], cell_anchors=2, ratios=1, octaves=True)
    assert found.anchors.pyramid_levels == [2, 3, 4] and found.anchors.scales[0] == pytest.approx([1, 2**0.5])
    coarse = fit.suggest(data, levels=(3, 4, 5), cell_anchors=2, ratios=1, octaves=True)
    assert found.held_out["suggested"].recall >= coarse.held_out["suggested"].recall
    strided = fit.suggest(data, levels=(3, 4), strides=[6, (12, 10)], cell_anchors=1, today=ANCHORS)
    assert strided.anchors.strides == [(6, 6), (12, 10)] and len(strided.anchors.cell_anchors[0]) == 1


@pytest.mark.tools("scipy")
@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"levels": []}, r"levels is \[\]; expected pyramid levels"),
        ({"levels": [3, (4, 5)]}, r"levels is .*; expected pyramid levels"),
        ({"levels": [(3, 4), (4, 5)], "strides": [8, 16]}, r"strides is \[8, 16\]; expected None"),
        ({"cell_anchors": 0}, "cell_anchors is 0; expected an integer in 1..64"),
        ({"ratios": 2}, "ratios is 2; expected a divisor of cell_anchors, 9"),
        ({"seed": 2**64}, "seed is 18446744073709551616; expected an integer"),
        ({"criterion": "map"}, "criterion is 'map'; expected 'recall' or 'mean_iou'"),
        ({"iou": 1}, "iou is 1; expected a number between 0 and 1"),
        ({"held_out": 1}, "held_out is 1; expected a number in 0..1"),
        ({"held_out": 1e-9}, "held_out is 1e-09; expected a share"),
        ({"bounds": (3, 2)}, r"bounds is \(3, 2\); expected"),
        ({"bounds": 3}, r"bounds is 3; expected"),
        ({"free": True, "octaves": True}, "free is True, and so is octaves"),
        ({"bounds": (1, 1.2), "octaves": True}, "bounds leave no room"),
    ],
)
def test_bad_input_of_suggest(keywords, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fit.suggest(a_data_set(), **keywords)


OCTAVES = Anchors(sizes=[20, 50, 90, 200, 400], ratios=[0.4, 1, 1.7])


@pytest.mark.quick
def test_what_is_pasted_makes_the_anchors():
    """Each text, executed with this package's drop-ins."""
    boxes = a_data_set(200).boxes.float()
    wanted = fit.best_iou(boxes, OCTAVES, (256, 320))
    for framework in ("anchor_ext", "torchvision", "detectron2", "mmdet"):
        generator, strides = _paste.generator(OCTAVES, framework)
        got = fit.best_iou(boxes, generator, (256, 320), strides=strides)
        assert float((got.iou - wanted.iou).abs().mean()) < (0.1 if framework == "torchvision" else 1e-5)
    namespace = {"anchor_ext": sys.modules["anchor_ext"]}
    assert eval(_paste.constructor(OCTAVES, "anchor_ext"), namespace).spec == OCTAVES.spec
    strided = Anchors([3, 4], strides=[(7, 8), (16, 16)], sizes=[20.5, 40], scales=[1, 1.5])
    assert eval(_paste.constructor(strided, "anchor_ext"), namespace).spec == strided.spec
    for wrong, message in (
        (Anchors.from_boxes([[(8, 8)]], [3]), "cell anchors as boxes"),
        (Anchors([3, 4], sizes=[[8, 9], [16, 18]]), "expected one per level"),
        (Anchors([3, 4], ratios=[[1], [2]]), "expected the same on all levels"),
    ):
        with pytest.raises(ValueError, match=message):
            _paste.constructor(wrong, "torchvision")
    with pytest.raises(ValueError, match="ask for octaves"):
        _paste.constructor(strided, "effdet")


@pytest.mark.peers
def test_what_is_pasted_in_torchvision():
    torchvision = pytest.importorskip("torchvision")
    import torchvision.models.detection  # noqa: F811

    generator = eval(_paste.constructor(OCTAVES, "torchvision"), {"torchvision": torchvision})
    own, strides = _paste.generator(OCTAVES, "torchvision")
    assert all(torch.equal(a, b) for a, b in zip(generator.cell_anchors, own.cell_anchors, strict=True))
    assert strides == [(8, 8), (16, 16), (32, 32), (64, 64), (128, 128)]
    images = torchvision.models.detection.image_list.ImageList(torch.zeros(1, 3, 256, 320), [(256, 320)])
    features = [torch.zeros(1, 1, 256 // stride, -(-320 // stride)) for stride, _ in strides]
    boxes = a_data_set(100).boxes.float()
    matrix = originals.box_iou(boxes, generator(images, features)[0])
    assert torch.equal(fit.best_iou(boxes, own, (256, 320), strides=strides).iou, matrix.amax(1))


@pytest.mark.peers
def test_what_is_pasted_in_mmdet_and_effdet():
    import peers

    mmdet, effdet = peers.mmdet(), peers.effdet()
    boxes = a_data_set(100).boxes.float()
    wanted = fit.best_iou(boxes, OCTAVES, (256, 320)).iou
    config = eval(f"dict({_paste.constructor(OCTAVES, 'mmdet')})")["anchor_generator"]
    assert config.pop("type") == "AnchorGenerator"
    generator = mmdet.AnchorGenerator(**config)
    grids = ANCHORS.level_shapes((256, 320))
    anchors = torch.cat(generator.grid_priors(grids, device="cpu"))
    torch.testing.assert_close(originals.box_iou(boxes, anchors).amax(1), wanted, rtol=0, atol=1e-5)
    namespace = {"config": type("Config", (), {})()}
    exec(_paste.constructor(OCTAVES, "effdet"), namespace)
    config = vars(namespace["config"])
    anchors = effdet.anchors.Anchors(
        config["min_level"], config["max_level"], config["num_scales"], config["aspect_ratios"],
        config["anchor_scale"], (256, 384),
    ).boxes[:, [1, 0, 3, 2]]  # fmt: skip
    wanted = fit.best_iou(boxes, OCTAVES, (256, 384)).iou
    torch.testing.assert_close(originals.box_iou(boxes, anchors).amax(1), wanted, rtol=0, atol=1e-4)


def test_what_is_pasted_in_detectron2():
    text = _paste.constructor(OCTAVES, "detectron2")
    lines = dict(line.strip().split(": ", 1) for line in text.splitlines()[2:])
    from anchor_ext.compat.detectron2 import DefaultAnchorGenerator

    generator = DefaultAnchorGenerator(
        sizes=json.loads(lines["SIZES"]), aspect_ratios=json.loads(lines["ASPECT_RATIOS"]),
        strides=[8, 16, 32, 64, 128], offset=float(lines["OFFSET"]),
    )  # fmt: skip
    boxes = a_data_set(100).boxes.float()
    torch.testing.assert_close(
        fit.best_iou(boxes, generator, (256, 320)).iou, fit.best_iou(boxes, OCTAVES, (256, 320)).iou, rtol=0, atol=1e-5
    )


@pytest.fixture
def labels(tmp_path):
    """A folder of YOLO's files with pictures."""
    image = pytest.importorskip("PIL.Image")
    data = a_data_set(90, shapes=[(128, 192)] * 8, mean=2.5)
    for i in range(8):
        image.new("RGB", (192, 128), (40 * i % 256, 90, 120)).save(tmp_path / f"{i}.png")
        lines = []
        for x1, y1, x2, y2 in data.boxes[data.image == i].tolist():
            fractions = ((x1 + x2) / 384, (y1 + y2) / 256, (x2 - x1) / 192, (y2 - y1) / 128)
            lines.append(" ".join(["0", *(f"{number:.6f}" for number in fractions)]))
        (tmp_path / f"{i}.txt").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.quick
@pytest.mark.tools("matplotlib")
def test_the_command_line(labels, capsys):
    page, folder = labels / "out.html", labels / "pictures"
    main(["fit", str(labels), "--resize", "256", "400", "--html", str(page), "--pictures", str(folder)])
    text = capsys.readouterr().out
    report = fit.report(fit.read(labels), ANCHORS, fit.TorchvisionResize(256, 400))
    assert str(report) in text and f"wrote {page}" in text
    html = page.read_text(encoding="utf-8")
    assert html.count("<img") == 5 and "data:image/png;base64," in html and "src='http" not in html
    assert {file.name for file in folder.iterdir()} == {
        "shapes.png", "recall.png", "size.png", "positives.png", "worst.png",
    }  # fmt: skip
    main(["fit", str(labels), "--json", "--levels", "3", "4", "--sizes", "16", "32", "--no-low-quality"])
    told = json.loads(capsys.readouterr().out)
    wanted = fit.report(fit.read(labels), Anchors([3, 4], sizes=[16, 32]), allow_low_quality=False).to_dict()
    assert told == {"today": json.loads(json.dumps(wanted))}


@pytest.mark.tools("matplotlib", "scipy")
def test_the_command_line_suggests(labels, capsys):
    page = labels / "out.html"
    main(["fit", str(labels), "--suggest", "--cell-anchors", "3", "--octaves", "--html", str(page)])
    text = capsys.readouterr().out
    found = fit.suggest(fit.read(labels), cell_anchors=3, octaves=True)
    assert str(found) in text and "AnchorGenerator(" in text and "config.anchor_scale" in text
    assert "Better numbers" in page.read_text(encoding="utf-8")


@pytest.mark.quick
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: DATA"),
        (["none.json"], "none.json"),
        (["none.xyz"], "data is 'none.xyz'; expected a folder"),
        (["none.json", "--resize", "8"], "--resize: expected 2 arguments"),
        (["none.json", "--resize", "0", "9"], "min_size is 0; expected an integer"),
        (["none.json", "--resize-rule", "fixed"], "--resize-rule is fixed; expected --resize with it"),
        (["none.json", "--resize-rule", "keep", "--resize", "8", "9"], "--resize is given with --resize-rule keep"),
        (["none.json", "--resize-rule", "fixed", "--resize", "8", "9", "--divisor", "8"], "--divisor is given"),
        (["none.json", "--sizes", "0"], "argument --sizes: '0'; expected finite numbers > 0"),
        (["none.json", "--images", "there/is/none"], "images is 'there/is/none'; expected a folder"),
    ],
)
def test_bad_input_of_the_command_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as left:
        main(["fit", *arguments])
    assert left.value.code not in (0, None)
    assert message in capsys.readouterr().err + str(left.value.code)


def test_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ImportError, match="pip install scipy"):
        fit.suggest(a_data_set())
