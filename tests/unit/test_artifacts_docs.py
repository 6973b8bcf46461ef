"""The code in docs/models.md runs as it stands there."""

import re
from pathlib import Path

from artifact_examples import tiny_file

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    tiny_file(tmp_path).rename(tmp_path / "detector.onnx")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert "stem.weight (8, 3, 4, 4)" in capsys.readouterr().out
