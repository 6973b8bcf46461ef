"""Camera, training and import give one answer to one label file."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from dataset_examples import (
    BOX,
    FORMS,
    HEIGHT,
    WIDTH,
    YOLO,
    coco,
    lay_out,
    picture,
    voc,
    write,
)
from edgebus.contracts import operator
from edgebus_camera.settings import ViewSettings
from edgebus_camera.sources import SourceError, open_source
from edgebus_detection.datasets import (
    LabelBuilder,
    read_dataset,
    read_folder,
    read_mot,
    write_dataset,
)
from edgebus_detection.labels import BoxesRefusedError
from edgebus_detection.vision import encode_jpeg
from edgebus_samples import DetailQuery, PictureCatalog, import_dataset, picture_of
from retrainer_folder import DataFolder
from retrainer_samples import START, sample

CLASSES = ("person", "car")


def corners(boxes):
    return [
        (each.label, *(round(getattr(each, k), 2) for k in ("x1", "y1", "x2", "y2")))
        for each in boxes
    ]


def by_camera(root):
    frame = open_source(ViewSettings(source=str(root))).read(0)
    return None if frame.boxes is None else corners(frame.boxes)


def by_training(root):
    (labelled,) = read_folder(root, LabelBuilder(CLASSES)).pictures
    truth = labelled.truth
    return [
        (CLASSES[label], *(round(float(value), 2) for value in box))
        for label, box in zip(truth.labels, truth.boxes, strict=True)
    ]


def by_import(root, store):
    """The labels that the store's only sample has after the import."""
    dataset = read_dataset(root)
    import_dataset(
        PictureCatalog(store.path),
        dataset.pictures,
        wrong=dataset.wrong,
        who="bob",
        time=START,
        classes=CLASSES,
    )
    catalog = PictureCatalog(store.path)
    (entry,) = catalog.entries(DetailQuery())
    return corners(catalog.read(entry).merged.boxes)


@pytest.fixture
def store(tmp_path):
    """A store with one sample of the examples' size."""
    folder = DataFolder(tmp_path / "store", incumbent=False)
    jpeg = encode_jpeg(np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    folder.sample = sample(0, truth=False, jpeg=jpeg, size=(WIDTH, HEIGHT))
    folder.store.add(folder.sample, received=START)
    return folder


def answers(form, tmp_path, store, change=None):
    """What each reader makes of the one picture: its boxes, or the error's text."""
    found = []
    for read in (by_camera, by_training, lambda root: by_import(root, store)):
        root = tmp_path / f"set{len(found)}"
        lay_out(form, root, name=store.sample.record.id)
        if change is not None:
            change(root)
        try:
            found.append(read(root))
        except (SourceError, BoxesRefusedError) as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("form", FORMS)
def test_every_layout_is_found_by_each_reader(form, tmp_path, store):
    assert answers(form, tmp_path, store) == [[("car", *BOX)]] * 3


def everywhere(pattern, change):
    def apply(root):
        for path in root.rglob(pattern):
            if path.is_file() and path.suffix != ".jpg":
                path.write_text(change(path.read_text()))

    return apply


def swap(pattern, *pairs):
    def change(text):
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new)
        return text

    return everywhere(pattern, change)


def line(text):
    return everywhere("labels/*.txt", lambda _: f"{YOLO}{text}\n")


def row(**changes):
    def change(text):
        document = json.loads(text)
        document["annotations"].append(document["annotations"][0] | {"id": 2} | changes)
        return json.dumps(document)

    return everywhere("result.json", change)


REFUSED = [
    ("yolo-labelstudio", line("0 192 144 256 192"), "line 2", "192, 144"),
    ("yolo-labelstudio", line("0 30 30 40 40"), "line 2", "30, 30"),
    ("yolo-labelstudio", line("0 0.5 0.5 1.3 0.2"), "line 2", "1.3"),
    ("yolo-labelstudio", line("0 1.3 0.5 0.1 0.2"), "line 2", "1.3"),
    ("yolo-labelstudio", line("0 0.5 0.5 -0.1 0.2"), "line 2", "-0.1"),
    ("yolo-labelstudio", line("0 0.5 0.5 0.1 0"), "line 2", "no area"),
    ("yolo-labelstudio", line("0 -0.5 0.5 0.1 0.2"), "line 2", "-0.5"),
    ("yolo-labelstudio", line("0 0.5 inf 0.1 0.2"), "line 2", "not finite"),
    ("yolo-labelstudio", line("0 0.5 0.5 0.1 0.2 0.93"), "line 2", "a prediction's score"),
    ("yolo-labelstudio", line("0 0.5 0.5 0.2 0.2 0.5 0.5 2 0.45 0.45 1"), "line 2", "keypoints"),
    ("yolo-labelstudio", line("0 0.5 0.5 0.2 0.2 0.5 0.5 0.45 0.45"), "line 2", "keypoints"),
    (
        "yolo-labelstudio",
        everywhere("labels/*.txt", lambda _: "0 .1 .1 .5 .5\n"),
        "line 1",
        "corners",
    ),
    ("yolo-labelstudio", line("0"), "line 2", "is not 'class x y width height'"),
    ("yolo-labelstudio", line("car 0.5 0.5 0.1 0.2"), "line 2", "'car 0.5"),
    ("yolo-labelstudio", line("0.5 0.5 0.5 0.1 0.2"), "line 2", "0.5"),
    ("yolo-labelstudio", line("2 0.5 0.5 0.1 0.2"), "line 2", "class 2 has no name"),
    ("yolo-labelstudio", line("Car 0.00 0 -1.58 587 173 614 200 1.6"), "line 2", "'Car"),
    ("yolo-labelstudio", line("0,0.5,0.5,0.1,0.2"), "line 2", "'0,0.5"),
    ("coco-labelstudio", row(bbox=[700, 20, 40, 40]), "annotation 2", "outside"),
    ("coco-labelstudio", row(bbox=[-100, 20, -40, 40]), "annotation 2", "no area"),
    ("coco-labelstudio", row(bbox=[0.1, 0.2, 0.4, 0.4]), "annotation 2", "parts of the picture"),
    ("coco-labelstudio", row(bbox=[500, 400, 600, 400]), "annotation 2", "mostly lies outside"),
    ("coco-labelstudio", swap("result.json", ('"car"', "null")), "annotation 1", "has no name"),
    ("coco-labelstudio", row(bbox=[1, 2, 3, 4, 30]), "annotation 2", "5 numbers"),
    (
        "coco-labelstudio",
        row(bbox=[], segmentation={"counts": "x"}),
        "annotation 2",
        "another task",
    ),
    ("coco-labelstudio", row(category_id=8), "annotation 2", "no such category: 8"),
    ("coco-labelstudio", row(attributes={"rotation": 30.0}), "annotation 2", "rotated by 30"),
    (
        "coco-labelstudio",
        swap("result.json", ('"iscrowd": 0', '"iscrowd": 1')),
        "annotation 1",
        "iscrowd is 1",
    ),
    (
        "coco-labelstudio",
        swap("result.json", ("[64, 48, 256, 192]", "[320, 240, 600, 470]")),
        "annotation 1",
        "look",
    ),
    (
        "coco-labelstudio",
        swap("result.json", ('"width": 640', '"width": 480')),
        "image 1",
        "480 x 480, but the picture is 640 x 480",
    ),
    (
        "coco-labelstudio",
        swap("result.json", ('"id": 2, "name"', '"id": 1, "name"')),
        "result.json",
        "category 1 is there a second time",
    ),
    (
        "yolo-labelstudio",
        everywhere("classes.txt", lambda _: "person\ncar\n"),
        "classes.txt",
        "0 person, 1 car, but notes.json names 0 car, 1 person",
    ),
    ("voc", swap("*.xml", ("320", "32")), "object 1", "no area"),
    ("voc", swap("*.xml", ("<xmin>64", "<xmin>x")), "object 1", "'x'"),
    ("voc", swap("*.xml", ("bndbox", "robndbox")), "object 1", "upright"),
    ("voc", swap("*.xml", ("640", "64")), ".xml", "64 x 480"),
    ("cvat", swap("*.xml", ('rotation="0"', 'rotation="12"')), "box 1", "rotated by 12"),
    ("cvat", swap("*.xml", ("<box", "<ellipse")), "ellipse 1", "no box"),
    (
        "cvat",
        swap("*.xml", ("image ", "track "), ("/image", "/track")),
        "annotations.xml",
        "tracks of a video",
    ),
    (
        "labelstudio",
        swap("*.json", ('"x": 10.0', '"x": 110.0')),
        "region r1",
        "do not lie between 0 and 1",
    ),
    ("labelstudio", swap("*.json", ("rectanglelabels", "polygonlabels")), "region r1", "is no box"),
    ("labelstudio-min", swap("*.json", ('"rotation": 0', '"rotation": 5')), "region 0", "rotated"),
]


@pytest.mark.parametrize(("form", "change", "place", "value"), REFUSED)
def test_what_cannot_be_is_refused_by_all_with_file_place_and_value(
    form, change, place, value, tmp_path, store
):
    for answer in answers(form, tmp_path, store, change):
        assert isinstance(answer, str), answer
        assert place in answer
        assert value in answer


XY = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in ((64, 48), (320, 48), (320, 240)))
READ = [
    (
        "voc",
        everywhere(
            "*.xml",
            lambda text: re.sub(
                "<bndbox>.*</bndbox>", f"<polygon><username>ann</username>{XY}</polygon>", text
            ),
        ),
    ),
    ("yolo-labelstudio", everywhere("labels/*.txt", lambda text: 2 * text)),
    (
        "yolo-labelstudio",
        everywhere(
            "*.txt", lambda text: text.replace("car", "0: car").replace("person", "1: person")
        ),
    ),
    ("coco-labelstudio", swap("result.json", ('"iscrowd": 0', '"iscrowd": "0"'))),
    ("yolo-labelstudio", everywhere("labels/*.txt", lambda _: "0 .1 .1 .5 .1 .5 .5 .1 .5\n")),
    ("yolo-labelstudio", everywhere("labels/*.txt", lambda _: "0 .5 .5 .3 .5 .1 .3 .1 .1 .4 .1\n")),
    ("yolo-labelstudio", everywhere("labels/*.txt", lambda _: "0.000 0.3 0.3 0.4 0.4\r\n\r\n")),
    ("yolo-labelstudio", everywhere("labels/*.txt", lambda text: "\ufeff" + text)),
    ("yolo-labelstudio", everywhere("classes.txt", lambda text: "\ufeff" + text)),
    ("coco-labelstudio", everywhere("result.json", lambda text: "\ufeff" + text)),
    ("voc", everywhere("*.xml", lambda text: "\ufeff" + text)),
    (
        "coco-labelstudio",
        swap(
            "result.json",
            ('"bbox": [64, 48, 256, 192]', '"segmentation": [[64, 48, 320, 48, 320, 240]]'),
        ),
    ),
    (
        "coco-labelstudio",
        swap(
            "result.json",
            ("640", "1920"),
            ("480", "1440"),
            ("[64, 48, 256, 192]", "[192, 144, 768, 576]"),
        ),
    ),
    (
        "voc",
        swap(
            "*.xml",
            ("640", "320"),
            ("480", "240"),
            (">64<", ">32<"),
            (">48<", ">24<"),
            ("<xmax>320", "<xmax>160"),
            ("<ymax>240", "<ymax>120"),
        ),
    ),
    ("voc", swap("*.xml", ("640", "0"), ("480", "0"))),
    (
        "cvat",
        swap(
            "*.xml", ("<box", "<polygon"), ("rotation", 'points="64,48;320,48;320.00,240" rotation')
        ),
    ),
]


@pytest.mark.parametrize(("form", "change"), READ)
def test_other_writings_of_the_same_are_read_by_all(form, change, tmp_path, store):
    assert answers(form, tmp_path, store, change) == [[("car", *BOX)]] * 3


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_text_in_an_encoding_that_names_itself_is_read(encoding, tmp_path):
    root = lay_out("yolo-labelimg", tmp_path)
    for path in root.glob("*.txt"):
        path.write_bytes(path.read_text().replace("\n", "\r\n").encode(encoding))
    assert by_camera(root) == by_training(root) == [("car", *BOX)]


@pytest.mark.parametrize(
    ("encoding", "text", "words"),
    [("utf-16-le", YOLO, "zero bytes, as UTF-16"), ("latin-1", "0 0.3 é", "is no text in UTF-8")],
)
def test_text_in_another_encoding_is_refused_by_name(encoding, text, words, tmp_path):
    root = lay_out("yolo-labelimg", tmp_path)
    (root / "a.txt").write_bytes(text.encode(encoding))
    for read in (by_camera, by_training):
        with pytest.raises(SourceError, match=rf"a\.txt: .*{words}"):
            read(root)


def test_keypoints_of_a_known_shape_leave_the_box_what_it_is(tmp_path):
    root = lay_out("yolo-ultralytics", tmp_path)
    write(root / "data.yaml", "kpt_shape: [2, 3]\nnames: [car]\n")
    text = YOLO.strip() + " 0.3 0.3 2 0.25 0.25 1\n"
    write(root / "labels" / "train" / "a.txt", text)
    assert by_camera(root) == [("car", *BOX)]


def test_a_picture_without_a_label_file_is_unknown_not_empty(tmp_path):
    root = lay_out("voc", tmp_path)
    picture(root / "JPEGImages" / "b.jpg")
    source = open_source(ViewSettings(source=str(root)))
    assert [frame.boxes is None for frame in (source.read(0), source.read(1))] == [False, True]
    assert len(read_folder(root, LabelBuilder(CLASSES)).pictures) == 1
    assert "1 of 2 pictures labelled, 1 box (1 car)" in source.labels


def test_a_crowd_among_objects_is_a_region_to_ignore_for_all(tmp_path, store):
    root = lay_out("coco-supervision", tmp_path / "set", name=store.sample.record.id)
    document = coco(f"{store.sample.record.id}.jpg")
    crowd = {"id": 2, "iscrowd": 1, "bbox": [400, 300, 100, 100]}
    document["annotations"].append(document["annotations"][0] | crowd)
    write(root / "annotations.json", document)
    (labelled,) = read_folder(root, LabelBuilder(CLASSES)).pictures
    assert labelled.truth.ignore.tolist() == [[400, 300, 500, 400]]
    object_, region = open_source(ViewSettings(source=str(root), width=320)).read(0).boxes
    assert (object_.ignore, region.ignore) == (None, True)
    assert by_import(root, store) == [("car", *BOX)]
    catalog = PictureCatalog(store.path)
    (entry,) = catalog.entries(DetailQuery())
    merged = catalog.read(entry).merged
    assert corners(merged.ignore) == [("car", 400, 300, 500, 400)]
    # And what is exported says so again.
    out = tmp_path / "out"
    write_dataset([picture_of(catalog.read(entry))], out, style="coco")
    (path,) = (out / "annotations").iterdir()
    rows = json.loads(path.read_text())["annotations"]
    assert [row["iscrowd"] for row in rows] == [0, 1]
    again = import_dataset(catalog, read_dataset(out).pictures, who="bob", time=START, classes=None)
    assert len(again.unchanged) == 1
    # Of YOLO's text they are not the subject, so they stay as they are.
    write_dataset([picture_of(catalog.read(entry))], tmp_path / "yolo", style="yolo")
    pictures = read_dataset(tmp_path / "yolo").pictures
    assert (
        len(import_dataset(catalog, pictures, who="bob", time=START, classes=None).unchanged) == 1
    )


def test_links_and_relative_paths_lead_to_the_same(tmp_path, monkeypatch):
    real = lay_out("coco-cvat", tmp_path / "real")
    (tmp_path / "link").symlink_to(real)
    (real / "images" / "default" / "loop").symlink_to(real / "images")
    gathered = tmp_path / "gathered"
    lay_out("coco-cvat", gathered)
    shutil.rmtree(gathered / "images")
    (gathered / "images").symlink_to(real / "images")
    one_by_one = lay_out("yolo-ultralytics", tmp_path / "one-by-one")
    file = one_by_one / "images" / "train" / "a.jpg"
    file.rename(tmp_path / "blob")
    file.symlink_to(tmp_path / "blob")
    monkeypatch.chdir(tmp_path)
    for path in (Path("real"), tmp_path / "link", Path("link"), gathered, one_by_one):
        assert by_camera(path) == [("car", *BOX)], path
        assert by_training(path) == [("car", *BOX)], path
    monkeypatch.chdir(real)
    assert by_training(Path()) == [("car", *BOX)]


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    root = lay_out("yolo-ultralytics", tmp_path)
    (root / "images" / "train" / "b.jpg").symlink_to(tmp_path / "gone.jpg")
    write(root / "labels" / "train" / "b.txt", YOLO)
    read = read_folder(root, LabelBuilder(CLASSES))
    assert len(read.pictures) == 1
    assert "b.jpg" in read.refused[0]


def test_a_folder_of_pictures_finds_the_labels_above_it(tmp_path):
    forms = ("coco-cvat", "coco-2017", "yolo-ultralytics", "voc", "cvat", "labelstudio")
    for number, form in enumerate(forms):
        root = lay_out(form, tmp_path / str(number))
        (jpg,) = root.rglob("a.jpg")
        assert by_camera(jpg.parent) == [("car", *BOX)], form


def test_names_that_several_pictures_have_are_refused_or_told_apart(tmp_path):
    root = lay_out("coco-2017", tmp_path)
    picture(root / "train2017" / "a.jpg")
    write(root / "annotations" / "instances_train2017.json", coco(bbox=[0, 0, 10, 10]))
    read = read_folder(root, LabelBuilder(CLASSES))
    assert [each.truth.boxes.tolist() for each in read.pictures] == [
        [[0, 0, 10, 10]],
        [list(BOX)],
    ]
    write(tmp_path / "b" / "annotations.json", coco())
    for place in ("one", "two"):
        picture(tmp_path / "b" / place / "a.jpg")
    with pytest.raises(SourceError, match=r"names a\.jpg, and 2 pictures could be meant"):
        read_folder(tmp_path / "b", LabelBuilder(CLASSES))


def test_two_label_files_of_one_picture_are_refused(tmp_path):
    root = lay_out("coco-supervision", tmp_path)
    write(root / "old.json", coco(bbox=[0, 0, 10, 10]))
    with pytest.raises(SourceError, match=r"a\.jpg is labelled 2 times"):
        read_folder(root, LabelBuilder(CLASSES))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}], "detections"),
        ({"version": "5", "shapes": [], "imagePath": "a.jpg"}, "LabelMe"),
        ({"dm_format_version": "1.0", "items": [], "categories": {}}, "datumaro"),
        ([{"id": 1, "data": {"image": "a.jpg"}, "annotations": []}], "none of its 1 tasks"),
    ],
)
def test_files_of_other_kinds_say_what_they_are(content, words, tmp_path):
    picture(tmp_path / "a.jpg")
    write(tmp_path / "x.json", content)
    with pytest.raises(SourceError, match=words):
        read_folder(tmp_path, LabelBuilder(CLASSES))


def test_difficult_objects_are_ignored_as_in_vocs_measure(tmp_path):
    root = lay_out("voc", tmp_path)
    write(root / "Annotations" / "a.xml", voc(extra="<difficult>1</difficult>"))
    (labelled,) = read_folder(root, LabelBuilder(CLASSES)).pictures
    assert labelled.truth.ignore.tolist() == [list(BOX)]


def test_a_truth_that_lies_elsewhere_is_found_by_name(tmp_path):
    picture(tmp_path / "pictures" / "sub" / "a.jpg")
    for form in ("coco-supervision", "yolo-labelimg", "voc", "cvat", "labelstudio"):
        root = lay_out(form, tmp_path / form)
        for jpg in root.rglob("*.jpg"):
            jpg.unlink()
        settings = ViewSettings(source=str(tmp_path / "pictures"), truth=root)
        assert corners(open_source(settings).read(0).boxes) == [("car", *BOX)], form
    picture(tmp_path / "other" / "b.jpg")
    settings = ViewSettings(source=str(tmp_path / "other"), truth=tmp_path / "voc")
    with pytest.raises(SourceError, match=r"no label of any picture|is not there"):
        open_source(settings)


def test_an_operators_import_of_scaled_labels_lands_in_the_samples_pixels(tmp_path, store):
    root = lay_out("coco-supervision", tmp_path / "set", name=store.sample.record.id)
    for jpg in root.rglob("*.jpg"):
        jpg.unlink()
    name = f"{store.sample.record.id}.jpg"
    write(root / "annotations.json", coco(name, size=(320, 240), bbox=[32, 24, 128, 96]))
    assert by_import(root, store) == [("car", *BOX)]
    catalog = PictureCatalog(store.path)
    (entry,) = catalog.entries(DetailQuery())
    assert catalog.read(entry).merged.sourced[0].by == operator("bob")


@pytest.mark.parametrize("line", ["0 192 144 256 192", "0 0.5 0.5 1.3 0.2", "0 0.5 0.5 0.1"])
def test_the_import_of_what_are_no_samples_names_wrong_labels_first(line, tmp_path, store):
    root = lay_out("yolo-labelstudio", tmp_path / "set")
    write(root / "labels" / "a.txt", line)
    with pytest.raises(BoxesRefusedError) as caught:
        by_import(root, store)
    first, second = caught.value.reasons
    assert "a.txt, line 1" in first
    assert "holds no sample's id" in second


def test_a_folder_with_labels_of_no_known_form_says_what_lies_there(tmp_path):
    picture(tmp_path / "a.jpg")
    write(tmp_path / "labels.csv", "a.jpg,1,2,3,4,car")
    source = open_source(ViewSettings(source=str(tmp_path)))
    assert source.read(0).boxes is None
    assert not source.is_labelled
    assert "labels.csv is no such" in source.labels


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_and_mot_text_are_read_in_any_encoding_that_names_itself(encoding, tmp_path):
    picture(tmp_path / "real" / "a.jpg")
    (tmp_path / "day").symlink_to(tmp_path / "real")
    write(tmp_path / "view.txt", "day\r\nreal/a.jpg\r\n", encoding=encoding)
    source = open_source(ViewSettings(source=str(tmp_path / "view.txt"), loop=False))
    assert [source.read(slot) is None for slot in range(3)] == [False, False, True]
    write(tmp_path / "gt.txt", "1,1,64,48,256,192,1,3,1\r\n", encoding=encoding)
    truth = read_mot(tmp_path / "gt.txt", names=None, min_score=0.4)
    assert corners(truth[0]) == [("car", *BOX)]
