"""Annotations are read as they stand; what cannot be used is counted and named."""

from __future__ import annotations

import json

import pytest
import torch

from anchor_ext import fit

pytestmark = pytest.mark.quick


def coco(images=None, annotations=None, categories=None):
    return {
        "images": [{"id": 7, "height": 40, "width": 50, "file_name": "a.jpg"}] if images is None else images,
        "annotations": [one(bbox=[1, 2, 3, 4.5])] if annotations is None else annotations,
        "categories": [{"id": 3, "name": "cat"}] if categories is None else categories,
    }


def one(**changed):
    return {"image_id": 7, "category_id": 3, "iscrowd": 0, "bbox": [1, 2, 3, 4], **changed}


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def picture(file, width, height, **options):
    image = pytest.importorskip("PIL.Image")
    file.parent.mkdir(parents=True, exist_ok=True)
    image.new("RGB", (width, height)).save(file, **options)


def test_coco(tmp_path):
    images = [{"id": "x", "height": 40, "width": 50}, {"id": 7, "height": "60", "width": 80, "file_name": "b/c.png"}]
    annotations = [one(bbox=[1, 2, 3, 4.5]), one(image_id="x", category_id=9, bbox=[0, 0, 50, 40])]
    data = fit.read(write(tmp_path / "a.json", coco(images, annotations)))
    assert data.boxes.tolist() == [[1, 2, 4, 6.5], [0, 0, 50, 40]] and data.boxes.dtype == torch.float64
    assert data.image.tolist() == [1, 0] and data.image_shapes.tolist() == [[40, 50], [60, 80]]
    assert [data.class_names[label] for label in data.labels.tolist()] == ["cat", "9"]
    assert data.files == ("", str(tmp_path / "b/c.png")) and data.left_out == data.noted == {}
    assert fit.read(data) is data


BROKEN = [
    (one(iscrowd=1), "crowd"),
    (one(image_id=8), "of an unknown image"),
    (one(image_id=None), "of an unknown image"),
    (one(image_id=[1]), "unreadable"),
    (one(bbox=[1, 2, 3]), "unreadable"),
    (one(bbox=[1, 2, 3, 4, 5]), "unreadable"),
    (one(bbox=["1", 2, 3, 4]), "unreadable"),
    (one(bbox="1234"), "unreadable"),
    (one(bbox=None), "unreadable"),
    (one(bbox=[10**400, 2, 3, 4]), "unreadable"),
    ({"image_id": 7}, "unreadable"),
    ("text", "unreadable"),
    (None, "unreadable"),
    ([1, 2], "unreadable"),
    (one(bbox=[1, 2, float("nan"), 4]), "not finite"),
    (one(bbox=[1, 2, float("inf"), 4]), "not finite"),
    (one(bbox=[1, 2, 0, 4]), "without area"),
    (one(bbox=[1, 2, 3, -4]), "without area"),
    (one(bbox=[60, 2, 3, 4]), "outside of the image"),
    (one(bbox=[-5, 2, 5, 4]), "outside of the image"),
    (one(image_id=9), "of an image without a size"),
]


@pytest.mark.parametrize(("wrong", "kind"), BROKEN, ids=lambda value: str(value)[-40:])
def test_coco_broken(wrong, kind, tmp_path):
    images = [*coco()["images"], {"id": 9, "height": 0, "width": 0}, {"id": 10, "height": -4, "width": 2**40}]
    file = write(tmp_path / "a.json", coco(images, [one(), wrong, one(bbox=[5, 5, 9, 9])]))
    data = fit.read(file)
    assert data.boxes.tolist() == [[1, 2, 4, 6], [5, 5, 14, 14]]
    assert list(data.left_out) == [kind] and len(data.left_out[kind]) == 1
    assert "annotations[1]" in data.left_out[kind][0]


def test_coco_names_the_first_thing_that_is_wrong(tmp_path):
    wrong = [one, one]
    annotations = [one(), *(entry for entry, _ in BROKEN), one(bbox=[-2, 2, 9, 9])]
    images = [*coco()["images"], {"id": 9}, {"id": 7, "height": 1, "width": 1}, {"name": "no id"}, 5]
    data = fit.read(write(tmp_path / "a.json", coco(images, annotations, [{"id": 3}, None])))
    assert sum(map(len, data.left_out.values())) == len(BROKEN) + len(wrong)
    assert data.left_out["unreadable image"] == ["images[3] ({'name': 'no id'})", "images[4] (5)"]
    assert data.noted["image listed twice"] == ["images[2] (id 7)"]
    assert data.noted["partly outside of the image"] == [f"annotations[{len(annotations) - 1}] (-2, 2, 7, 11)"]
    kinds = [kind for _, kind in BROKEN]
    assert {kind: len(some) for kind, some in data.left_out.items() if kind != "unreadable image"} == {
        kind: kinds.count(kind) for kind in kinds
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "a.json: Expecting"),
        ("[]", "a.json has no lists 'images' and 'annotations'"),
        ('{"images": {}, "annotations": []}', "a.json has no lists"),
        (b"\xff\xfe\x00", "a.json: .*decode"),
        ("[" * 100_000, "a.json: .*recursion"),
        (coco(annotations=[]), r"a.json has no boxes that can be used \(there are none\)"),
        (coco(annotations=[one(bbox=[0, 0, 0, 0])]), r"without area: 1, such as annotations\[0\] \(0, 0, 0, 0\)"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_coco_that_is_none(content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fit.read(write(tmp_path / "a.json", content))


def voc(objects, size="<size><width>50</width><height>40</height></size>", name="a.jpg"):
    return f"<annotation><filename>{name}</filename>{size}{objects}</annotation>"


def voc_object(x1, y1, x2, y2, more="<name>dog</name>"):
    box = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
    return f"<object>{more}<bndbox>{box}</bndbox></object>"


def test_voc(tmp_path):
    write(tmp_path / "Annotations/b.xml", voc(voc_object(1, 2, 3.5, 4) + voc_object("x", 2, 3, 4)))
    write(tmp_path / "Annotations/a.xml", voc(voc_object(0, 0, 9, 9, "<name>cat</name><difficult>1</difficult>")))
    write(tmp_path / "Annotations/c.xml", "<html/>")
    write(tmp_path / "Annotations/d.xml", "<annotation>")
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + "".join(
        f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghij", "bcdefghijk", strict=True)
    )
    write(tmp_path / "Annotations/e.xml", f"{bomb}]><annotation>&k;</annotation>")
    picture(tmp_path / "JPEGImages/f.png", 30, 20)
    write(tmp_path / "Annotations/f.xml", voc(voc_object(1, 1, 8, 8), size="", name="f.png"))
    data = fit.read(tmp_path)
    assert data.boxes.tolist() == [[0, 0, 9, 9], [1, 2, 3.5, 4], [1, 1, 8, 8]]
    assert data.image_shapes.tolist() == [[40, 50], [40, 50], [20, 30]] and data.class_names == ("cat", "dog")
    assert data.files == ("a.jpg", "a.jpg", str(tmp_path / "JPEGImages/f.png"))
    assert len(data.left_out["unreadable"]) == 4 and list(data.noted) == ["difficult"]
    assert "b.xml, object 2 (x 2 3 4)" in data.left_out["unreadable"][0]


def test_yolo(tmp_path):
    picture(tmp_path / "images/train/a.jpg", 100, 50)
    picture(tmp_path / "images/train/b.PNG", 40, 80)
    exif = pytest.importorskip("PIL.Image").Exif()
    exif[0x0112] = 6
    picture(tmp_path / "images/train/e.jpg", 30, 60, exif=exif)
    labels = tmp_path / "labels"
    lines = (
        "0 0.5 0.5 0.2 0.4\r\n\r\n1 0.1 0.1 0.3 0.1 0.2 0.5\n7 0.5 0.5 0.1 0.1 0.9\n0 50 50 20 20\n0 0.5 0.5\nx y z\n"
    )
    write(labels / "train/a.txt", "\ufeff" + lines)
    write(labels / "train/b.txt", "")
    write(labels / "train/c.txt", "0 0.5 0.5 0.2 0.2")
    write(labels / "train/d.txt", b"\xff\xfe")
    write(labels / "train/e.txt", "0 0.5 0.5 1 1")
    write(tmp_path / "data.yaml", "nc: 2\nnames:\n  0: cat  # a cat\n  1: 'dog'\ntrain: x\n")
    data = fit.read(labels)
    assert torch.allclose(
        data.boxes,
        torch.tensor([[40.0, 15, 60, 35], [10, 5, 30, 25], [45, 22.5, 55, 27.5], [0, 0, 60, 30]], dtype=torch.float64),
    )
    assert data.image_shapes.tolist() == [[50, 100], [80, 40], [0, 0], [0, 0], [30, 60]]
    assert data.class_names == ("cat", "dog", "7") and data.labels.tolist() == [0, 1, 2, 0]
    assert data.noted["turned by its EXIF orientation"] == [str(tmp_path / "images/train/e.jpg")]
    assert [place.split(" (")[0].split(": ")[0].rsplit("/")[-1] for place in data.left_out["unreadable"]] == [
        "a.txt, line 5", "a.txt, line 6", "a.txt, line 7", "d.txt",
    ]  # fmt: skip
    assert data.left_out["of an image without a size"] == [f"{labels}/train/c.txt, line 1"]
    with_shape = fit.read(labels, image_shape=(10, 20))
    assert with_shape.image_shapes.tolist() == [[10, 20]] * 5 and len(with_shape.boxes) == 5


@pytest.mark.parametrize(
    "text",
    [
        "names: [a, 'b c', \"d\"]",
        "names:\n- a\n- b c\n- d\n",
        "x: 1\nnames:\n  0: a\n  1: b c\n  2: d",
        "names: ['a',\n 'b c', 'd']",
        "names: {0: a, 1: b c, 2: d}",
    ],
)
def test_yolo_names(text, tmp_path):
    write(tmp_path / "data.yaml", text)
    write(tmp_path / "a.txt", "1 0.5 0.5 0.2 0.4\n2 0.5 0.5 0.1 0.1")
    assert fit.read(tmp_path, image_shape=(64, 64)).class_names == ("b c", "d")


def test_yolo_classes_file(tmp_path):
    write(tmp_path / "classes.txt", "a\nb\n")
    write(tmp_path / "x{0}.txt", "1 0.5 0.5 0.2 0.4\n0 0.5 0.5 0 0")
    data = fit.read(tmp_path, image_shape=(64, 64))
    assert data.class_names[data.labels[0]] == "b" and "x{0}.txt, line 2 (" in data.left_out["without area"][0]


@pytest.mark.parametrize(
    "text",
    [
        "image_path,xmin,ymin,xmax,ymax,label,width,height\na.jpg,1,2,3,4,x,50,40\nb.jpg,,,,,,50,40\nb.jpg,5,6,7,8,y,50,40\n",
        "label;x1;y1;x2;y2;filename;height;width\nx;1;2;3;4;a.jpg;40;50\ny;5;6;7;8;b.jpg;40;50\n",
    ],
)
def test_csv(text, tmp_path):
    data = fit.read(write(tmp_path / "a.csv", "\ufeff" + text))
    assert data.boxes.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]] and data.image.tolist() == [0, 1]
    assert data.image_shapes.tolist() == [[40, 50]] * 2 and data.class_names == ("x", "y")


def test_csv_without_a_header(tmp_path):
    picture(tmp_path / "p/a.png", 50, 40)
    file = write(tmp_path / "a.csv", "a.png,1,2,3,4,x\nb.png,,,,,\nb.png,1,2,3,4,x\na.png,1,two,3,4,x\n\n")
    data = fit.read(file, images=tmp_path / "p")
    assert data.boxes.tolist() == [[1, 2, 3, 4]] and data.image_shapes.tolist() == [[40, 50], [0, 0]]
    assert {kind: len(some) for kind, some in data.left_out.items()} == {
        "unreadable": 1, "of an image without a size": 1,
    }  # fmt: skip
    plain = fit.read(write(tmp_path / "b.csv", "1,2,3,4\n5,6,7,8"), image_shape=(10, 10))
    assert plain.boxes.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_a_tensor():
    data = fit.read([[1, 2, 3, 4], [1, 2, float("nan"), 4], [20, 1, 30, 4]], image_shape=[10, 12])
    assert data.boxes.tolist() == [[1, 2, 3, 4]] and data.image_shapes.tolist() == [[10, 12]]
    assert data.left_out == {
        "not finite": ["boxes[1] (1, 2, nan, 4)"], "outside of the image": ["boxes[2] (20, 1, 30, 4)"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "keywords", "message"),
    [
        (torch.zeros(3, 4), {}, "image_shape is None; expected"),
        (torch.zeros(3), {"image_shape": (3, 3)}, r"data has shape \(3,\); expected"),
        (object(), {"image_shape": (3, 3)}, "data is <object object .*; expected a file"),
        (torch.zeros(3, 4), {"image_shape": (3, 0)}, r"image_shape is \(3, 0\); expected"),
        ("there/is/none.json", {}, "No such file"),
        ("none.parquet", {}, "data is 'none.parquet'; expected a folder, or a file that ends in"),
        ("x.json", {"images": "there/is/none"}, "images is 'there/is/none'; expected a folder"),
    ],
)
def test_bad_input(source, keywords, message):
    with pytest.raises((TypeError, ValueError, OSError), match=message):
        fit.read(source, **keywords)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(ValueError, match=r"expected a folder with .xml"):
        fit.read(tmp_path)
    write(tmp_path / "classes.txt", "a")
    with pytest.raises(ValueError, match=r"has no \.txt file but such as classes\.txt"):
        fit.read(tmp_path)
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(ValueError, match="expected a folder"):
        fit.read(tmp_path / "x.csv")
    with pytest.raises(ValueError, match=r"b\.csv begins with ''"):
        fit.read(write(tmp_path / "b.csv", "\n\n"))
    with pytest.raises(ValueError, match=r"b\.csv begins with 'a,b'"):
        fit.read(write(tmp_path / "b.csv", "a,b\n1,2"))


def test_progress(tmp_path):
    for name in "abc":
        write(tmp_path / f"{name}.txt", "0 0.5 0.5 0.2 0.4")
    told = []
    fit.read(tmp_path, image_shape=(64, 64), progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 3), (2, 3), (3, 3)]
