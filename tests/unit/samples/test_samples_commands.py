"""`edgebus samples` on a retrainer's data folder."""

import json
import time
from datetime import timedelta

import cv2
import numpy as np
import pytest
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from edgebus.cli.app import app
from edgebus.cli.errors import describe, exit_code_of
from edgebus.cli.model import CommandsMissingError
from edgebus.contracts import new_id
from edgebus.samples import open_database, row_of
from edgebus.service import install_command
from edgebus_samples import DetailQuery, PictureCatalog
from retrainer_folder import DataFolder, box
from retrainer_samples import START, sample, square


@pytest.fixture
def folder(tmp_path):
    return DataFolder(tmp_path / "data")


def run(folder, command, *words, stdin=None):
    path = getattr(folder, "path", folder)
    arguments = ["samples", command, *map(str, words), "--data", str(path)]
    return CliRunner().invoke(app, arguments, input=stdin)


def done(folder, command, *words, stdin=None):
    result = run(folder, command, *words, stdin=stdin)
    assert result.exit_code == 0, result.output or describe(result.exception)
    return result.stdout


def refused(folder, command, *words, stdin=None):
    """The one line that the program would end with."""
    result = run(folder, command, *words, stdin=stdin)
    assert result.exit_code != 0
    if isinstance(result.exception, SystemExit):
        return " ".join(result.stderr.replace("│", " ").split())
    assert exit_code_of(result.exception) == 2
    return describe(result.exception)


def listed(folder, *words):
    return [json.loads(line) for line in done(folder, "list", "--json", *words).splitlines()]


def test_samples_are_listed_newest_first_and_filtered(folder):
    each = [folder.add(index) for index in range(3)]
    unlabelled = folder.add(3, truth=False, policy="margin")
    held_out = folder.add(4, split="holdout")
    ids = [one["id"] for one in listed(folder)]
    assert ids == [s.record.id for s in (held_out, unlabelled, *each[::-1])]
    assert [one["id"] for one in listed(folder, "--unlabelled")] == [unlabelled.record.id]
    assert len(listed(folder, "--labelled")) == 4
    assert [one["id"] for one in listed(folder, "--policy", "margin")] == [unlabelled.record.id]
    assert held_out.record.id in [one["id"] for one in listed(folder, "--split", "holdout")]
    # Without a zone, as a person types it: it is read as UTC.
    fourth = f"{START + timedelta(seconds=3):%Y-%m-%dT%H:%M:%S}"
    assert len(listed(folder, "--since", fourth)) == 2
    assert len(listed(folder, "--before", fourth)) == 3
    assert len(listed(folder, "-n", "2")) == 2
    assert listed(folder, "--camera", "nowhere") == []
    assert listed(folder, "--model", "tiny")[0]["labels"] == "2 by truth"
    assert "5 of 5 samples" in done(folder, "list")
    assert "no such sample" in done(folder, "list", "--by", "operator")


def test_a_teacher_that_contradicts_itself_is_shown(folder):
    each, plain = folder.add(0, truth=False), folder.add(1, truth=False)
    folder.taught(each, box("car", 8, 8, 20, 20, 0.7), box("person", 8, 8, 20, 21, 0.6))
    folder.taught(plain, box("car", 8, 8, 20, 20, 0.7))
    (conflict,) = listed(folder, "--conflict")
    assert conflict["id"] == each.record.id
    assert "which it also calls person" in conflict["conflicts"][0]
    assert "which it also calls person" in done(folder, "show", each.record.id)


def test_an_operator_labels_and_takes_back(folder):
    each = folder.add(0)
    short = each.record.id[-9:]
    said = done(folder, "label", short, "car", 8, 8, 20, 20, "person", "0 0 4 4", "--who", "ann")
    assert f"{each.record.id}: 2 boxes by operator:ann" in said
    assert "conflict: operator:ann: car at (14, 14), which truth lacks" in said
    assert [one["labels"] for one in listed(folder, "--by", "operator")] == ["2 by operator:ann"]
    (conflict,) = listed(folder, "--conflict")
    assert len(conflict["conflicts"]) == 4
    shown = done(folder, "show", short)
    assert "conflict: operator:ann" in shown
    assert "2 by operator:ann" in shown
    assert "taken back" in done(folder, "label", short, "--take-back")
    assert listed(folder, "--by", "operator") == []
    assert listed(folder)[0]["labels"] == "2 by truth"


def test_labels_come_from_json_and_nothing_is_a_label_too(folder, tmp_path):
    each = folder.add(0, truth=False)
    rows = json.dumps([{"label": "car", "x1": 1, "y1": 2, "x2": 99, "y2": 9.5}])
    done(folder, "label", each.record.id, "--json", "-", "--who", "ann", stdin=rows)
    catalog = PictureCatalog(folder.path)
    (found,) = catalog.read(catalog.find(each.record.id)).merged.boxes
    assert found == box("car", 1, 2, 64, 9.5)
    file = tmp_path / "boxes.json"
    file.write_text("[]")
    assert "0 boxes by" in done(folder, "label", each.record.id, "--json", file)
    assert "0 boxes by" in done(folder, "label", each.record.id, "--nothing", "--note", "empty")
    assert len(catalog.book.history(each.record.id)) == 3


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["kar", 1, 1, 9, 9], "no class 'kar'; did you mean 'car'?"),
        (["car", 5, 5, 5, 9], "has no area"),
        (["car", 500, 5, 505, 9], "outside the picture of 64 x 48"),
        (["car", "nan", 5, 5, 9], "not finite"),
        (["car", 1, 2, 3], "is not of the form"),
        (["1", "2"], "is not of the form"),
        (["car", 1, 2, 3, 4, 5], "is not of the form"),
        (["--json", "-"], "-, box 0: label, x1, y1, x2 and y2 are expected"),
        ([], "give boxes, or --json FILE"),
        (["car", 1, 1, 9, 9, "--nothing"], "one of these"),
    ],
)
def test_boxes_that_cannot_be_are_refused_by_name(folder, words, reason):
    each = folder.add(0)
    assert reason in refused(folder, "label", each.record.id, *words, stdin='[{"label": "car"}]')
    assert listed(folder, "--by", "operator") == []


def test_any_class_is_taken_on_request_and_without_an_incumbent(folder, tmp_path):
    each = folder.add(0)
    assert "1 boxes" in done(folder, "label", each.record.id, "kite 1 1 9 9", "--any-class")
    bare = DataFolder(tmp_path / "bare", incumbent=False)
    other = bare.add(0)
    assert "1 boxes" in done(bare, "label", other.record.id, "wheel chair 1 1 9 9")


def test_samples_are_found_by_an_end_of_their_id(folder, tmp_path):
    one, two = folder.add(0), folder.add(1)
    assert one.record.id in done(folder, "show", one.record.id.upper())
    assert "give more of the id" in refused(folder, "show", one.record.id[:4])
    assert two.record.id in refused(folder, "show", one.record.id[:4])
    for wrong in ("zzz", "00000000-0000", "%"):
        assert "no sample" in refused(folder, "show", wrong)
    assert "holds no samples.db" in refused(tmp_path / "nowhere", "list")


def test_one_sample_is_drawn_and_written_as_a_page(folder, tmp_path):
    each = folder.add(0)
    folder.taught(each, box("car", 30, 30, 40, 40, 0.9), box("<b>", 1, 1, 9, 9, 0.2))
    picture = tmp_path / "one.png"
    done(folder, "show", each.record.id, "--out", picture, "--width", 640)
    image = cv2.imread(str(picture))
    assert image.shape[1] == 640
    assert image.shape[0] > 480
    page = tmp_path / "one.html"
    done(folder, "show", each.record.id, "--out", page)
    text = page.read_text()
    assert "data:image/jpeg;base64," in text
    assert 'stroke-dasharray="9 6"' in text
    assert "&lt;b&gt; 0.20" not in text
    assert "<b>" not in text
    assert "which teacher:dddddddddddddddd lacks" in text
    assert "as .png or .jpg" in refused(folder, "show", each.record.id, "--out", "x.gif")


def test_the_voices_are_told_apart_on_a_sheet(folder, tmp_path):
    each = folder.add(0)
    folder.taught(each, box("car", 30, 30, 40, 40, 0.9))
    done(folder, "label", each.record.id, "person 40 5 60 20", "--who", "ann")
    out = tmp_path / "sheet.png"
    assert "written" in done(folder, "sheet", "--out", out, "--tile", 320)
    image = cv2.imread(str(out)).reshape(-1, 3).astype(int)
    for color in ((115, 190, 0), (0, 159, 230), (255, 255, 255), (80, 80, 255)):
        assert (np.abs(image - color).sum(axis=1) < 12).sum() > 20, color


def test_missing_and_corrupt_pictures_are_named_and_left_out(folder, tmp_path):
    fine, gone, cut, grey = (folder.add(index * 20) for index in range(4))
    folder.file_of(gone).unlink()
    file = folder.file_of(cut)
    file.write_bytes(file.read_bytes()[:700])
    # The frame of the file and its record are whole, the picture data is not.
    file = folder.file_of(grey)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] + b"\xff\xd9")
    out = tmp_path / "sheet.jpg"
    result = run(folder, "sheet", "--out", out)
    assert result.exit_code == 0
    for each in (gone, cut, grey):
        assert each.record.id in result.stderr
    assert fine.record.id not in result.stderr
    assert cv2.imread(str(out)).shape[1] < 400
    result = run(folder, "list")
    assert f"left out: sample {gone.record.id}" in result.stderr
    exported = run(folder, "export", "--out", tmp_path / "out")
    assert gone.record.id in exported.stderr
    assert cut.record.id in exported.stderr
    assert "its file is missing" in refused_show(folder, gone)


def test_samples_of_a_workload_without_pictures_are_listed_and_said_to_have_none(folder, tmp_path):
    first, second = folder.add(0), folder.add(20)
    for each in (first, second):
        folder.file_of(each).write_bytes(b'\x88\x00\x00\x00\x00\x00\x00\x00{"load":{}}')
    result = run(folder, "list")
    assert result.exit_code == 0
    assert first.record.id in result.stdout
    words = "it holds no picture; of other workloads' samples only a list is shown"
    assert words in refused_show(folder, first)
    result = run(folder, "sheet", "--out", tmp_path / "sheet.jpg")
    assert result.exit_code == 0
    assert "no such sample" in result.stdout
    assert result.stderr.count(words) == 2


def refused_show(folder, each):
    return describe(run(folder, "show", each.record.id).exception)


def test_labels_go_out_and_come_back(folder, tmp_path):
    each, refusing = folder.add(0), sample(1)
    private = refusing.record.model_copy(update={"consent": "refused"})
    folder.store.add(type(refusing).build(refusing.jpeg, private), received=START)
    out = tmp_path / "out"
    result = run(folder, "export", "--style", "coco", "--out", out)
    assert "1 samples in" in result.stdout
    assert f"{private.id}: the persons in it have refused" in result.stderr
    assert "exists; name another folder" in describe(run(folder, "export", "--out", out).exception)
    assert "0 samples labelled by operator:bob, 1 unchanged" in done(
        folder, "import", out, "--who", "bob"
    )
    assert "1 samples labelled by operator:bob, 0 unchanged" in done(
        folder, "import", out, "--who", "bob", "--confirm"
    )
    assert [one["id"] for one in listed(folder, "--by", "operator")] == [each.record.id]
    document = json.loads((out / "annotations" / "instances_train.json").read_text())
    document["categories"][0]["name"] = "kite"
    (out / "annotations" / "instances_train.json").write_text(json.dumps(document))
    assert "nothing was written" in refused(folder, "import", out)
    assert "is not there" in refused(folder, "import", tmp_path / "nowhere")


def test_ten_thousand_near_identical_samples_are_listed_page_by_page(folder, tmp_path):
    each = sample(0)
    file = folder.files.put(each.jpeg, suffix=".jpg")
    with Session(open_database(folder.path / "samples.db")) as session, session.begin():
        for index in range(10_000):
            record = each.record.model_copy(update={"index": index, "id": new_id()})
            session.add(row_of(record, truths=2, file=file, size=1000, received=START))
    began = time.process_time()
    assert len(listed(folder)) == 50
    assert "50 of 10000 samples" in done(folder, "list")
    assert "no such sample" in done(folder, "list", "--conflict")
    done(folder, "sheet", "--out", tmp_path / "sheet.jpg")
    # Seconds even on a slow machine; reading all files would take minutes.
    assert time.process_time() - began < 20
    distinct = list(PictureCatalog(folder.path).entries(DetailQuery(distinct=True), limit=1000))
    assert len(distinct) == 500
    assert len({entry.index // 20 for entry in distinct}) == 500


def test_boxes_next_to_the_border_keep_their_names_inside(folder, tmp_path):
    each = folder.add(0, boxes=(square("person", 0, 0), box("car", 50, 40, 64, 48)))
    done(folder, "show", each.record.id, "--out", tmp_path / "edge.png")
    assert cv2.imread(str(tmp_path / "edge.png")) is not None


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr("edgebus.cli.model.entry_points", lambda **_: [])
    result = CliRunner().invoke(app, ["samples", "list"])
    assert isinstance(result.exception, CommandsMissingError)
    assert install_command("cloud") in describe(result.exception)
