"""Other tools load what is exported, and what they write comes back."""

from __future__ import annotations

import json
import zipfile

import pytest
import supervision
import yaml

from edgebus_detection.datasets import read_dataset, write_dataset
from edgebus_detection.datasets.files import unpacked
from edgebus_detection.labels import BoxesRefusedError
from edgebus_samples import DetailQuery, PictureCatalog, import_dataset, picture_of
from guides import ROOT, snippets_of
from retrainer_folder import DataFolder
from retrainer_samples import START

CLASSES = ("person", "car")


@pytest.fixture
def folder(tmp_path):
    """A store with four samples to train on, two that are held out, and one without labels."""
    data = DataFolder(tmp_path / "data", incumbent=False)
    for index in range(6):
        data.add(index, split="holdout" if index < 2 else "train")
    data.add(6, truth=False)
    return data


def export(folder, out, style):
    details = PictureCatalog(folder.path).details(DetailQuery(), unreadable=[])
    return write_dataset(map(picture_of, details), out, style=style, classes=CLASSES)


def bring(folder, path):
    dataset = read_dataset(path)
    return import_dataset(
        PictureCatalog(folder.path),
        dataset.pictures,
        wrong=dataset.wrong,
        who="bob",
        time=START,
        classes=CLASSES,
    )


def loaded(out, style, part):
    """The data set as supervision has it."""
    images = str(out / "images" / part)
    if style == "coco":
        return supervision.DetectionDataset.from_coco(
            images, str(out / "annotations" / f"instances_{part}.json")
        )
    return supervision.DetectionDataset.from_yolo(
        images, str(out / "labels" / part), str(out / "data.yaml")
    )


@pytest.mark.parametrize("style", ["coco", "yolo"])
def test_supervision_loads_each_part_with_the_same_boxes(folder, tmp_path, style):
    out = tmp_path / "out"
    assert export(folder, out, style) == {"train": 4, "val": 2, "unlabelled": 1}
    catalog = PictureCatalog(folder.path)
    for part, number in (("train", 4), ("val", 2)):
        found = loaded(out, style, part)
        assert found.classes == list(CLASSES)
        assert len(found) == number
        for path, _, detections in found:
            sample = catalog.read(catalog.find(path.rpartition("/")[2].removesuffix(".jpg")))
            assert sample.record.split == ("train" if part == "train" else "holdout")
            mine = sorted((box.x1, box.y1, box.x2, box.y2) for box in sample.merged.boxes)
            assert sorted(map(tuple, detections.xyxy.tolist())) == [
                pytest.approx(box, abs=0.02) for box in mine
            ]


def test_the_guide_loads_both(folder, tmp_path, monkeypatch):
    for style in ("coco", "yolo"):
        export(folder, tmp_path / style, style)
    monkeypatch.chdir(tmp_path)
    names = {}
    for snippet in snippets_of(ROOT / "docs" / "guides" / "samples.md"):
        if snippet.language == "python":
            exec(compile(snippet.text, "samples.md", "exec"), names)
    assert (len(names["train"]), len(names["val"])) == (4, 2)


def test_data_yaml_holds_from_anywhere_and_val_is_what_was_held_out(folder, tmp_path):
    export(folder, tmp_path / "out", "yolo")
    document = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    # Without `path` Ultralytics takes the folder of the file, wherever it is run.
    assert document == {
        "train": "images/train", "val": "images/val", "names": ["person", "car"],
    }  # fmt: skip
    parts = {
        part: {path.stem for path in (tmp_path / "out" / document[part]).iterdir()}
        for part in ("train", "val")
    }
    assert (len(parts["train"]), len(parts["val"])) == (4, 2)
    # A picture without a text file is one with nothing in it, to other tools.
    labels = {path.stem for path in (tmp_path / "out" / "labels").rglob("*.txt")}
    assert labels == parts["train"] | parts["val"]


def test_an_export_without_held_out_samples_names_no_val(folder, tmp_path):
    details = PictureCatalog(folder.path).details(DetailQuery(split="train"), unreadable=[])
    written = write_dataset(map(picture_of, details), tmp_path / "out", style="yolo")
    assert written == {"train": 4, "unlabelled": 1}
    assert "val" not in yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())


@pytest.mark.parametrize("style", ["coco", "yolo", "voc"])
def test_what_supervision_writes_comes_back_unchanged(folder, tmp_path, style):
    export(folder, tmp_path / "out", "coco")
    found, back = loaded(tmp_path / "out", "coco", "train"), tmp_path / "back"
    images, labels = str(back / "images"), str(back / "labels")
    if style == "coco":
        found.as_coco(images, str(back / "annotations.json"))
    elif style == "yolo":
        found.as_yolo(images, labels, str(back / "data.yaml"))
    else:
        found.as_pascal_voc(images, str(back / "annotations"))
    report = bring(folder, back)
    assert (len(report.unchanged), report.changed, report.added) == (4, (), ())


def test_a_zip_is_imported_as_it_is_and_left_as_it_was(folder, tmp_path):
    export(folder, tmp_path / "out", "coco")
    path = tmp_path / "cvat.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in (tmp_path / "out" / "annotations").iterdir():
            document = json.loads(file.read_text())
            for row in document["annotations"]:
                row["bbox"][0] += 1.5
            archive.writestr(f"annotations/{file.name}", json.dumps(document))
    with unpacked(path) as place:
        report = bring(folder, place)
    assert len(report.changed) == 6
    assert not place.exists()
    path.write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"cvat\.zip: cannot be unpacked"), unpacked(path):
        pass


def test_labels_of_another_size_do_not_replace_good_ones(folder, tmp_path):
    export(folder, tmp_path / "out", "coco")
    path = tmp_path / "out" / "annotations" / "instances_train.json"
    document = json.loads(path.read_text())
    for image in document["images"]:
        image |= {"width": 640, "height": 480}
    for row in document["annotations"]:
        row["bbox"] = [10 * value for value in row["bbox"]]
    path.write_text(json.dumps(document))
    assert bring(folder, tmp_path / "out").changed == ()
    for image in document["images"]:
        image |= {"width": 640, "height": 640}
    path.write_text(json.dumps(document))
    with pytest.raises(BoxesRefusedError, match="640 x 640, but the picture is 64 x 48"):
        bring(folder, tmp_path / "out")
