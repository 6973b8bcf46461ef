import json
import os
from pathlib import Path

import cv2
import onnx
import pytest

from edgebus.artifacts import ImportRefusedError
from edgebus.serving import EngineSettings
from edgebus_detection.datasets import LabelBuilder, Labelled, SourceError, ignore_rare, read_folder
from edgebus_detection.labels import Teacher, open_model
from edgebus_detection.messages import Box
from edgebus_detection.models import DetectionModel
from edgebus_detection.models.testing import TINY_CLASSES, tiny_bundle, tiny_onnx
from edgebus_detection.vision import ImageError
from retrainer_samples import jpeg_of, scene, write_day

BUILDER = LabelBuilder(TINY_CLASSES)
ONE = EngineSettings(threads=1)


def box(label, x1, y1, x2, y2, score=None):
    return Box(label=label, x1=x1, y1=y1, x2=x2, y2=y2, score=score)


def test_known_classes_become_labels_and_unknown_ones_ignore_regions():
    boxes = [box("car", 0, 0, 8, 8), box("kite", 8, 0, 16, 8), box("person", 0, 8, 8, 16)]
    truth = BUILDER.build(boxes, width=64, height=48)
    assert truth.labels.tolist() == [1, 0]
    assert truth.ignore.tolist() == [[8, 0, 16, 8]]


def test_aliases_are_other_names_of_a_class():
    builder = LabelBuilder(TINY_CLASSES, {"automobile": "car"})
    truth = builder.build([box("automobile", 0, 0, 8, 8)], width=64, height=48)
    assert truth.labels.tolist() == [1]


def test_boxes_are_cut_at_the_border():
    truth = BUILDER.build([box("car", 60, 40, 65, 49)], width=64, height=48)
    assert truth.boxes.tolist() == [[60, 40, 64, 48]]


def test_classes_that_are_not_to_be_learnt_are_ignored():
    builder = LabelBuilder(TINY_CLASSES, only=frozenset({"person"}))
    truth = builder.build([box("car", 0, 0, 8, 8), box("person", 8, 0, 16, 8)], width=64, height=48)
    assert truth.labels.tolist() == [0]
    assert truth.ignore.tolist() == [[0, 0, 8, 8]]


def test_rare_classes_are_ignored_not_dropped(tmp_path):
    def picture(number, *boxes):
        truth = BUILDER.build(boxes, width=64, height=48)
        return Labelled(path=tmp_path, truth=truth, provenance="teacher", key=str(number), group="")

    common = [picture(number, box("car", 0, 0, 8, 8)) for number in range(4)]
    odd = picture(4, box("car", 0, 0, 8, 8), box("person", 8, 0, 16, 8))
    checked = ignore_rare([*common, odd], min_boxes=5)
    assert [p.truth.labels.tolist() for p in checked] == [[1]] * 5
    assert checked[4].truth.ignore.tolist() == [[8, 0, 16, 8]]
    (kept,) = ignore_rare([odd], min_boxes=1)
    assert kept.truth.labels.tolist() == [1, 0]
    (counted,) = ignore_rare([odd], min_boxes=5, counted=[*common, odd])
    assert counted.truth.labels.tolist() == [1]


def test_a_teacher_looks_at_each_picture_once(tmp_path):
    model = DetectionModel.load(tiny_bundle(tmp_path / "bundle"), ONE)
    jpeg, true = jpeg_of(3)
    teacher = Teacher(model, threshold=0.1, cache=tmp_path / "cache")
    said = teacher.answer(jpeg, key="abc")
    assert sorted(b.label for b in said.boxes) == sorted(b.label for b in true)
    again = Teacher(model, threshold=0.1, cache=tmp_path / "cache")
    assert again.answer(jpeg, key="abc") == said
    assert again.asked == 0
    damaged = next((tmp_path / "cache").rglob("abc.json"))
    damaged.write_bytes(b"{")
    assert again.answer(jpeg, key="abc") == said
    assert again.asked == 1
    stricter = Teacher(model, threshold=0.2, cache=tmp_path / "cache")
    stricter.answer(jpeg, key="abc")
    assert stricter.asked == 1
    with pytest.raises(ImageError):
        teacher.answer(jpeg[:300], key="def")


def test_a_teacher_is_a_bundle_or_an_onnx_file_with_a_known_head(tmp_path):
    path = tmp_path / "teacher.onnx"
    onnx.save(tiny_onnx(), str(path))
    with pytest.raises(ImportRefusedError, match="fit no head"):
        open_model(path, imports=tmp_path / "imports", settings=ONE)
    bundle = tiny_bundle(tmp_path / "bundle")
    assert open_model(bundle.path, imports=tmp_path, settings=ONE).ref.digest == bundle.digest
    with pytest.raises(ImportRefusedError, match=r"nowhere\.onnx: cannot be read"):
        open_model(tmp_path / "nowhere.onnx", imports=tmp_path, settings=ONE)


def test_an_onnx_file_is_imported_once(tmp_path):
    if not (data := os.environ.get("EDGEBUS_DATA")):
        pytest.skip("EDGEBUS_DATA names no folder with real models")
    path = Path(data) / "models" / "fastestdet_352.onnx"
    first = open_model(path, imports=tmp_path, settings=ONE)
    assert open_model(path, imports=tmp_path, settings=ONE).ref.digest == first.ref.digest
    assert len(list(tmp_path.iterdir())) == 1


def coco(folder, *, boxes, categories=("person", "car"), file="a.jpg"):
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / "a.jpg"), scene(0)[0])
    document = {
        "images": [{"id": 1, "file_name": file, "width": 64, "height": 48}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": c, "bbox": b} for n, (c, b) in enumerate(boxes)
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(categories, start=1)],
    }
    (folder / "annotations.json").write_text(json.dumps(document))
    return folder


def test_coco_folders_are_read_by_class_name(tmp_path):
    folder = coco(
        tmp_path, boxes=[(2, [0, 0, 8, 8]), (1, [8, 8, 8, 8])], categories=("kite", "person")
    )
    (picture,) = read_folder(folder, BUILDER).pictures
    assert picture.truth.labels.tolist() == [0]
    assert picture.truth.ignore.tolist() == [[8, 8, 16, 16]]
    assert picture.key == "a.jpg"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ((1, [0, 0, 0, 8]), "has no area"),
        ((1, [0, 0, -3, 8]), "has no area"),
        ((1, [0, 0, float("nan"), 8]), "not finite"),
        ((1, [100, 0, 8, 8]), "lies outside the picture of 64 x 48"),
        ((1, [60, 0, 40, 8]), "mostly lies outside the picture of 64 x 48"),
        ((9, [0, 0, 8, 8]), "no such category: 9"),
        ((1, ["a", 0, 8, 8]), "could not convert"),
        ((1, [0, 0, 8]), "has 3 numbers"),
        ((1, [0.2, 0.2, 0.5, 0.5]), "look like parts of the picture's size"),
    ],
)
def test_boxes_that_cannot_be_are_refused_by_file_and_annotation(tmp_path, bad, reason):
    with pytest.raises(SourceError, match=r"annotations\.json, annotation 0") as caught:
        read_folder(coco(tmp_path, boxes=[bad, (1, [0, 0, 8, 8])]), BUILDER)
    assert reason in str(caught.value)


def test_one_wrong_picture_of_many_is_left_out_and_named(tmp_path):
    write_day(tmp_path / "set", 40)
    path = tmp_path / "set" / "annotations.json"
    document = json.loads(path.read_text())
    document["annotations"][0]["bbox"] = [1, 1, 0, 5]
    path.write_text(json.dumps(document))
    read = read_folder(tmp_path / "set", BUILDER)
    assert len(read.pictures) == 39
    assert "000.png" not in {picture.key for picture in read.pictures}
    (refused,) = read.refused
    assert "annotation 0" in refused


def test_coco_names_no_file_outside_its_folder(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    for name in ("../secret.jpg", "b.jpg", "/etc/passwd"):
        with pytest.raises(SourceError, match=f"names '{name}', which is not there"):
            read_folder(coco(tmp_path / "in", boxes=[], file=name), BUILDER)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"categories": 3}'])
def test_a_broken_annotation_file_says_so(tmp_path, text):
    (tmp_path / "annotations.json").write_text(text)
    with pytest.raises(SourceError, match=r"no COCO annotation file|cannot be read as JSON"):
        read_folder(tmp_path, BUILDER)


def yolo(folder, lines, *, names=None):
    (folder / "images" / "day").mkdir(parents=True)
    (folder / "labels" / "day").mkdir(parents=True)
    cv2.imwrite(str(folder / "images" / "day" / "a.png"), scene(0)[0])
    (folder / "labels" / "day" / "a.txt").write_text("\n".join(lines))
    if names:
        (folder / "data.yaml").write_text(json.dumps({"names": names}))
    return folder


@pytest.mark.parametrize("names", [["kite", "car"], {"0": "kite", "1": "car"}])
def test_yolo_folders_are_read_with_their_own_class_names(tmp_path, names):
    folder = yolo(tmp_path, ["1 0.5 0.5 0.25 0.5", "0 0.1 0.1 0.1 0.1", ""], names=names)
    for path in (folder, folder / "images", folder / "images" / "day"):
        (picture,) = read_folder(path, BUILDER).pictures
        assert picture.truth.labels.tolist() == [1]
        assert picture.truth.boxes.tolist() == [[24, 12, 40, 36]]
        assert len(picture.truth.ignore) == 1


@pytest.mark.parametrize("line", ["7 0.5 0.5 0.2 0.2", "0 nan 0 1 1", "x", "-1 0.5 0.5 0.2 0.2"])
def test_yolo_lines_that_cannot_be_are_named(tmp_path, line):
    lines = ["0 0.5 0.5 0.2 0.2", "", line]
    with pytest.raises(SourceError, match=r"a\.txt, line 3") as caught:
        read_folder(yolo(tmp_path, lines, names=["car"]), BUILDER)
    assert line in str(caught.value)


def test_numbers_do_not_mean_the_classes_of_whatever_model_reads_them(tmp_path):
    with pytest.raises(SourceError, match=r"class 0 has no name; put a data\.yaml"):
        read_folder(yolo(tmp_path, ["0 0.5 0.5 0.2 0.2"]), BUILDER)


def test_a_folder_that_teaches_the_model_nothing_is_refused(tmp_path):
    folder = yolo(tmp_path, ["0 0.5 0.5 0.2 0.2"], names=["kite"])
    with pytest.raises(SourceError, match=r"none of the model's classes \(person, car\).*1 kite"):
        read_folder(folder, BUILDER)


def test_folders_that_are_none_say_so(tmp_path):
    with pytest.raises(SourceError, match="is not there"):
        read_folder(tmp_path / "nowhere", BUILDER)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(SourceError, match=r"holds no labels \(notes\.txt is no such\)"):
        read_folder(tmp_path, BUILDER)


def test_blocks_of_neighbours_are_held_out(tmp_path):
    for number in range(80):
        cv2.imwrite(str(tmp_path / f"{number:03}.jpg"), scene(number)[0])
        (tmp_path / f"{number:03}.txt").write_text("0 0.5 0.5 0.2 0.2")
    (tmp_path / "classes.txt").write_text("person\ncar\n")
    folder = read_folder(tmp_path, BUILDER)
    held = [int(picture.path.stem) for picture in folder.split("holdout")]
    assert len(held) == 20
    assert {number // 10 for number in held} == {held[0] // 10, held[-1] // 10}
    assert len(folder.split("train")) == 60
    few = read_folder(tmp_path, BUILDER, limit=8)
    assert [int(p.path.stem) for p in few.pictures] == list(range(0, 80, 10))
