from __future__ import annotations

from pathlib import Path

import pytest

from edgebus.artifacts import ImportRefusedError
from edgebus.topology import TopologyError
from edgebus_detection.lab.user_models import UserModels, model_name, open_models
from edgebus_detection.models import open_bundle
from edgebus_detection.models.testing import TINY_CLASSES, tiny_bundle


def refuse(text: str) -> None:
    msg = f"nothing was expected to be told, not {text}"
    raise AssertionError(msg)


def test_bundles_are_used_where_they_are(tmp_path: Path) -> None:
    model, teacher = tmp_path / "small", tmp_path / "large"
    tiny_bundle(model)
    tiny_bundle(teacher, name="large")
    said: list[str] = []
    found = open_models(
        model, teacher=teacher, folder=tmp_path / "in", echo=said.append, classes=["person"]
    )
    assert found == UserModels(served=model, name="tiny", classes=TINY_CLASSES, teacher=teacher)
    assert [line.split(":")[0] for line in said] == ["model tiny v1", "teacher large v1"]
    assert "2 of them the model's" in said[1]
    # Only what was made of ONNX files moves with the folder.
    assert found.moved(tmp_path / "in", tmp_path / "run") == found


def test_imported_bundles_move_with_their_folder(tmp_path: Path) -> None:
    models = UserModels(
        served=tmp_path / "in" / "model", name="m", teacher=tmp_path / "elsewhere" / "teacher"
    )
    moved = models.moved(tmp_path / "in", tmp_path / "run")
    assert moved.served == tmp_path / "run" / "model"
    assert moved.teacher == models.teacher


def test_missing_files_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(TopologyError) as caught:
        open_models(tmp_path / "a.onnx", teacher=tmp_path / "b.onnx", folder=tmp_path, echo=refuse)
    assert [problem.split()[0] for problem in caught.value.problems] == ["--model", "--teacher"]


def test_a_file_that_is_no_model_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "notes.onnx"
    path.write_text("no model")
    with pytest.raises(ImportRefusedError, match=r"notes\.onnx"):
        open_models(path, teacher=None, folder=tmp_path, echo=refuse)
    assert not (tmp_path / "model").exists()


def test_an_unknown_class_names_the_nearest(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "m")
    with pytest.raises(TopologyError, match="did you mean person"):
        open_models(
            tmp_path / "m",
            teacher=None,
            folder=tmp_path,
            echo=lambda _: None,
            classes=["persons", "car"],
        )


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("yolox_nano_416.onnx", "yolox_nano_416"),
        ("my model+.onnx", "my-model"),
        ("ö.onnx", "model"),
    ],
)
def test_a_files_name_becomes_a_topic_level(file: str, name: str) -> None:
    assert model_name(Path(file)) == name


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    """As a reference model or a teacher: a service says so in a line, without a traceback."""
    with pytest.raises(ImportRefusedError, match=r"nope\.onnx: cannot be read: No such file"):
        open_bundle(tmp_path / "nope.onnx", imports=tmp_path / "imports")
