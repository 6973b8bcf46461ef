"""Labels go out in three formats and come back, whole or not at all."""

import json
from pathlib import Path

import pytest
from faster_coco_eval import COCO

from edgebus.contracts import operator
from edgebus_detection.datasets import (
    LabelBuilder,
    SourceError,
    read_dataset,
    read_folder,
    write_dataset,
)
from edgebus_detection.labels import BoxesRefusedError
from edgebus_detection.messages import BoxLabels, SourcedBox
from edgebus_samples import DetailQuery, PictureCatalog, import_dataset, picture_of
from retrainer_folder import TEACHER, DataFolder, box
from retrainer_samples import START

STYLES = ("coco", "yolo", "labelstudio")
CLASSES = ("person", "car")


@pytest.fixture
def folder(tmp_path):
    return DataFolder(tmp_path / "data", incumbent=False)


def export(folder, out, style):
    unreadable = []
    details = PictureCatalog(folder.path).details(DetailQuery(), unreadable=unreadable)
    written = write_dataset(map(picture_of, details), out, style=style, classes=CLASSES)
    assert unreadable == []
    return sum(written.values())


def bring(folder, out, *, confirm=False, classes=CLASSES):
    dataset = read_dataset(out)
    return import_dataset(
        PictureCatalog(folder.path),
        dataset.pictures,
        wrong=dataset.wrong,
        who="bob",
        time=START,
        classes=classes,
        confirm=confirm,
    )


def labels_of(folder, each):
    catalog = PictureCatalog(folder.path)
    return catalog.read(catalog.find(each.record.id)).merged


def says(who, *boxes):
    claims = tuple(SourcedBox(box=each, by=operator(who)) for each in boxes)
    return BoxLabels(labels=claims, by=operator(who), time=START)


def edit(out, name, change, *, sample=None):
    """Change a document; of COCO's parts, the one that lists a sample, or any."""
    paths = [out / name]
    if name == "annotations.json":
        paths = sorted((out / "annotations").iterdir())
    for path in paths:
        text = path.read_text()
        if sample is None or sample.record.id in text:
            document = json.loads(text)
            change(document)
            path.write_text(json.dumps(document))
            return


@pytest.mark.parametrize("style", STYLES)
def test_what_nobody_changed_comes_back_as_nothing_new(folder, tmp_path, style):
    true, nothing = folder.add(0), folder.add(1, boxes=())
    taught, unknown = folder.add(2, truth=False), folder.add(3, truth=False)
    folder.taught(
        taught, box("car", 1.13, 2.27, 9.31, 12.07, 0.83), box("car", 30, 20, 44, 31, 0.2)
    )
    spoken = folder.add(4)
    PictureCatalog(folder.path).book.write(
        {spoken.record.id: says("ann", box("car", 0.5, 0, 9.25, 7))}
    )
    before = [labels_of(folder, each) for each in (true, nothing, taught, unknown, spoken)]
    assert export(folder, tmp_path / "out", style) == 5
    assert len(list((tmp_path / "out" / "images").rglob("*.jpg"))) == 5
    report = bring(folder, tmp_path / "out")
    assert (report.changed, report.added) == ((), ())
    assert [labels_of(folder, each) for each in (true, nothing, taught, unknown, spoken)] == before


@pytest.mark.parametrize("style", STYLES)
def test_labels_and_their_provenance_survive_the_way_into_another_store(folder, tmp_path, style):
    true, spoken, corrected = folder.add(0), folder.add(1), folder.add(2)
    kept = corrected.record.truth[0]
    claims = (
        SourcedBox(box=kept, by="truth"),
        SourcedBox(box=box("car", 1, 1, 9, 9), by="operator:ann"),
    )
    PictureCatalog(folder.path).book.write(
        {
            spoken.record.id: says("ann", box("car", 0.5, 0, 9.25, 7)),
            corrected.record.id: BoxLabels(labels=claims, by="operator:ann", time=START),
        }
    )
    export(folder, tmp_path / "out", style)
    other = DataFolder(tmp_path / "other", incumbent=False)
    report = bring(other, tmp_path / "out")
    ids = {each.record.id for each in (true, spoken, corrected)}
    assert set(report.added) == ids
    assert set(report.changed) == ids - {true.record.id}
    for each in (true, spoken, corrected):
        was, now = labels_of(folder, each), labels_of(other, each)
        assert [c.by for c in now.sourced] == [c.by for c in was.sourced]
        for a, b in zip(now.boxes, was.boxes, strict=True):
            assert a.label == b.label
            assert (a.x1, a.y1, a.x2, a.y2) == pytest.approx((b.x1, b.y1, b.x2, b.y2), abs=0.011)
        catalog = PictureCatalog(other.path)
        assert catalog.read(catalog.find(each.record.id)).record == each.record


def move(style, out, each):
    """Move the first box of a sample by a third of its width, as a person would."""
    if style == "yolo":
        (file,) = out.glob(f"labels/*/{each.record.id}.txt")
        first, *rest = file.read_text().splitlines()
        name, x, *others = first.split()
        file.write_text("\n".join([" ".join([name, str(float(x) + 0.04), *others]), *rest]))
    elif style == "coco":

        def change(document):
            image = next(i for i in document["images"] if i["sample"] == each.record.id)
            rows = [r for r in document["annotations"] if r["image_id"] == image["id"]]
            rows[0]["bbox"][0] += 2.56

        edit(out, "annotations.json", change, sample=each)
    else:

        def change(document):
            task = next(t for t in document if t["data"]["sample"] == each.record.id)
            task["annotations"][0]["result"][0]["value"]["x"] += 4

        edit(out, "tasks.json", change)


@pytest.mark.parametrize("style", STYLES)
def test_a_box_that_was_moved_is_the_operators_and_the_others_stay_whose_they_were(
    folder, tmp_path, style
):
    same, changed = folder.add(0), folder.add(1)
    export(folder, tmp_path / "out", style)
    move(style, tmp_path / "out", changed)
    report = bring(folder, tmp_path / "out")
    assert report.changed == (changed.record.id,)
    assert report.unchanged == (same.record.id,)
    found = labels_of(folder, changed)
    assert (found.source, [claim.by for claim in found.sourced]) == (
        "operator",
        ["operator:bob", "truth"],
    )
    assert found.sourced[0].box.x1 == pytest.approx(changed.record.truth[0].x1 + 2.56, abs=0.011)


def test_confirming_makes_every_picture_the_operators_word(folder, tmp_path):
    taught, unknown = folder.add(0, truth=False), folder.add(1, truth=False)
    folder.taught(taught, box("car", 1, 2, 9, 12, 0.83))
    export(folder, tmp_path / "out", "coco")
    report = bring(folder, tmp_path / "out", confirm=True)
    assert set(report.changed) == {taught.record.id, unknown.record.id}
    found = labels_of(folder, taught)
    assert (found.source, [claim.by for claim in found.sourced]) == ("operator", [TEACHER])
    assert labels_of(folder, unknown).sourced == ()


def test_a_submitted_task_is_confirmed_and_a_skipped_one_says_nothing(folder, tmp_path):
    taught, skipped, empty = (folder.add(index, truth=False) for index in range(3))
    for each in (taught, skipped):
        folder.taught(each, box("car", 1, 2, 9, 12, 0.83))
    export(folder, tmp_path / "out", "labelstudio")

    def submit(document):
        for task in document:
            result = task["predictions"][0]["result"] if "predictions" in task else []
            answer = {"result": result, "completed_by": 1, "updated_at": "2026-05-04"}
            if task["data"]["sample"] == skipped.record.id:
                answer["was_cancelled"] = True
            task["annotations"] = [answer]

    edit(tmp_path / "out", "tasks.json", submit)
    report = bring(folder, tmp_path / "out")
    assert set(report.changed) == {taught.record.id, empty.record.id}
    assert labels_of(folder, taught).source == "operator"
    assert labels_of(folder, empty).source == "operator"
    assert labels_of(folder, skipped).source == "teacher"


def test_label_studio_finds_pictures_by_the_id_in_an_upload_too(folder, tmp_path):
    each = folder.add(0)
    export(folder, tmp_path / "out", "labelstudio")

    def upload(document):
        document[0]["data"] = {"image": f"/data/upload/3/8f3a1b2c-{each.record.id}.jpg"}
        document[0]["annotations"][0]["result"].pop()

    edit(tmp_path / "out", "tasks.json", upload)
    assert bring(folder, tmp_path / "out" / "tasks.json").changed == (each.record.id,)
    assert len(labels_of(folder, each).sourced) == 1


@pytest.mark.parametrize("style", ["coco", "yolo"])
def test_what_was_exported_is_a_folder_to_replay(folder, tmp_path, style):
    samples = [folder.add(index) for index in range(5)]
    export(folder, tmp_path / "out", style)
    builder = LabelBuilder(CLASSES)
    back = {
        picture.path.stem: picture for picture in read_folder(tmp_path / "out", builder).pictures
    }
    for each in samples:
        truth = builder.build(each.record.truth, width=64, height=48)
        found = back[each.record.id].truth
        assert found.boxes == pytest.approx(truth.boxes, abs=0.01)
        assert found.labels.tolist() == truth.labels.tolist()


def test_another_program_reads_the_coco_file(folder, tmp_path):
    samples = [folder.add(index) for index in range(3)]
    export(folder, tmp_path / "out", "coco")
    coco = COCO(str(tmp_path / "out" / "annotations" / "instances_train.json"))
    assert len(coco.getImgIds()) == 3
    assert len(coco.getAnnIds(catIds=coco.getCatIds(catNms=["car"]))) == 3
    names = {image["file_name"] for image in coco.loadImgs(coco.getImgIds())}
    assert names == {f"{each.record.id}.jpg" for each in samples}


def spoil_coco(document, kind):
    row = document["annotations"][0]
    if kind == "no area":
        row["bbox"] = [1, 1, 0, 5]
    elif kind == "outside":
        row["bbox"] = [900, 1, 5, 5]
    elif kind == "not finite":
        row["bbox"] = [float("nan"), 1, 5, 5]
    elif kind == "no such category":
        row["category_id"] = 99
    elif kind == "no image":
        row["image_id"] = 99
    elif kind == "no class 'kite'":
        document["categories"].append({"id": 7, "name": "kite"})
        row["category_id"] = 7
    elif kind == "holds no sample's id":
        document["images"][0]["file_name"] = "images/holiday.jpg"
    elif kind == "nor is its picture":
        document["images"][0]["file_name"] = f"images/{'0' * 8}-0000-0000-0000-{'0' * 12}.jpg"
    elif kind == "a second time":
        document["images"].append(document["images"][0] | {"id": 50})


@pytest.mark.parametrize(
    "kind",
    [
        "no area",
        "outside",
        "not finite",
        "no such category",
        "no image",
        "no class 'kite'",
        "holds no sample's id",
        "nor is its picture",
        "a second time",
    ],
)
def test_one_impossible_thing_keeps_everything_out(folder, tmp_path, kind):
    good, bad = folder.add(0), folder.add(1)
    export(folder, tmp_path / "out", "coco")
    move("coco", tmp_path / "out", good)
    move("coco", tmp_path / "out", bad)
    edit(tmp_path / "out", "annotations.json", lambda document: spoil_coco(document, kind))
    other = DataFolder(tmp_path / "other", incumbent=False)
    for store in (folder, other):
        with pytest.raises(BoxesRefusedError, match="nothing was written") as caught:
            bring(store, tmp_path / "out")
        assert kind in str(caught.value)
    assert labels_of(folder, good).source == "truth"
    assert labels_of(folder, bad).source == "truth"
    assert other.store.all("tiny") == []


def test_all_that_is_wrong_is_said_at_once(folder, tmp_path):
    for index in range(20):
        folder.add(index)
    export(folder, tmp_path / "out", "yolo")
    for file in (tmp_path / "out" / "labels").rglob("*.txt"):
        file.write_text("0 0.5 0.5 0 0.1\n1 x\n")
    with pytest.raises(BoxesRefusedError, match="and 30 more") as caught:
        bring(folder, tmp_path / "out")
    assert len(caught.value.reasons) == 40


def test_labels_that_are_no_text_are_named(folder, tmp_path):
    each = folder.add(0)
    export(folder, tmp_path / "out", "yolo")
    (labels,) = tmp_path.glob(f"out/labels/*/{each.record.id}.txt")
    labels.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BoxesRefusedError, match="is no text"):
        bring(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("region", "reason"),
    [
        ({"type": "polygonlabels", "value": {}}, "only rectanglelabels"),
        ({"type": "rectanglelabels", "value": {"rotation": 12.5}}, "rotated by 12.5 degrees"),
        ({"type": "rectanglelabels", "value": {"rectanglelabels": []}}, "one class is expected"),
    ],
)
def test_regions_that_are_no_boxes_are_refused(folder, tmp_path, region, reason):
    folder.add(0)
    export(folder, tmp_path / "out", "labelstudio")
    edit(
        tmp_path / "out",
        "tasks.json",
        lambda document: document[0]["annotations"][0]["result"].append(region),
    )
    with pytest.raises(BoxesRefusedError, match=reason):
        bring(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "holds no labels; expected a COCO file"),
        ({"annotations.json": "{"}, "cannot be read as JSON"),
        ({"annotations.json": '{"images": 3}'}, "is no COCO annotation file"),
        ({"annotations.json": "[]"}, "is no COCO annotation file"),
        ({"tasks.json": "{}"}, "is no Label Studio file"),
        ({"tasks.json": "[3]"}, "is no Label Studio file"),
        ({"data.yaml": "[]"}, "no class names"),
        ({"data.yaml": "names: [a]", "provenance.json": "3"}, "is no object"),
    ],
)
def test_what_is_no_data_set_says_so(tmp_path, files, reason):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(SourceError, match=reason):
        read_dataset(tmp_path)
    with pytest.raises(SourceError, match="is not there"):
        read_dataset(tmp_path / "nowhere")


def test_a_picture_of_another_sample_is_not_taken_for_this_one(folder, tmp_path):
    first, second = folder.add(0), folder.add(1)
    export(folder, tmp_path / "out", "coco")
    images = tmp_path / "out" / "images" / "train"
    (images / f"{first.record.id}.jpg").write_bytes(second.jpeg)
    (images / f"{second.record.id}.jpg").write_bytes(second.jpeg[:500])
    other = DataFolder(tmp_path / "other", incumbent=False)
    with pytest.raises(BoxesRefusedError) as caught:
        bring(other, tmp_path / "out")
    assert f"is of sample {second.record.id}" in str(caught.value)
    assert "its picture holds no sample" in str(caught.value)


def test_no_file_outside_of_the_data_set_is_read(folder, tmp_path):
    each = folder.add(0)
    export(folder, tmp_path / "out", "coco")
    secret = tmp_path / f"{each.record.id}.jpg"
    secret.write_bytes(each.jpeg)

    def climb(document):
        document["images"][0]["file_name"] = f"../{secret.name}"

    edit(tmp_path / "out", "annotations.json", climb)
    (tmp_path / "out" / "images" / "train" / secret.name).unlink()
    other = DataFolder(tmp_path / "other", incumbent=False)
    with pytest.raises(BoxesRefusedError, match="nor is its picture"):
        bring(other, tmp_path / "out")


def test_a_full_disk_leaves_no_half_data_set(folder, tmp_path, monkeypatch):
    folder.add(0)
    write = Path.write_text

    def full(self, *args, **kwargs):
        if self.name == "instances_train.json":
            raise OSError(28, "No space left on device", str(self))
        return write(self, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        export(folder, tmp_path / "out", "coco")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_an_existing_folder_is_left_alone(folder, tmp_path):
    folder.add(0)
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="name another folder"):
        export(folder, tmp_path / "out", "coco")


def test_what_a_teacher_doubts_is_a_region_to_ignore_and_stays_one(folder, tmp_path):
    each = folder.add(0, truth=False)
    folder.taught(each, box("car", 30, 20, 44, 31, 0.2))
    export(folder, tmp_path / "out", "coco")
    (path,) = (tmp_path / "out" / "annotations").iterdir()
    (row,) = json.loads(path.read_text())["annotations"]
    assert (row["iscrowd"], row["provenance"]) == (1, TEACHER)
    (labelled,) = read_folder(tmp_path / "out", LabelBuilder(CLASSES)).pictures
    assert labelled.truth.ignore.tolist() == [[30, 20, 44, 31]]
    assert bring(folder, tmp_path / "out").changed == ()
    assert bring(folder, tmp_path / "out", confirm=True).changed == (each.record.id,)
    found = labels_of(folder, each)
    assert (found.source, found.sourced) == ("operator", ())
    assert [(region.by, region.box.x1) for region in found.regions] == [(TEACHER, 30)]
