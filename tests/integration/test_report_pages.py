"""The report in a browser, as wide as a phone and as a screen."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgebus.contracts import Drift
from edgebus_detection.lab.measure import build_summary
from edgebus_detection.lab.pictures import PictureKeeper
from edgebus_detection.lab.report import write_run
from edgebus_detection.lab.state import DetectionState
from lab_story import OLD, at, picture, play_story

_PAGE = """<body style="margin:0">
<iframe src="report.html" style="width:{width}px;height:900px;border:0">
</iframe><pre id="out"></pre><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  const sizes = () => [...page.images].map(
    image => Math.round(image.getBoundingClientRect().width));
  const before = sizes();
  const cells = [...page.querySelectorAll("td")].filter(cell => cell.offsetParent);
  const right = Math.max(...cells.map(cell => Math.round(cell.getBoundingClientRect().right)));
  const drawn = [...page.images].map(image => image.naturalWidth);
  page.querySelector(".zoom").click();
  document.querySelector("#out").textContent = JSON.stringify({{
    page: page.documentElement.scrollWidth, right, before, after: sizes(), drawn,
    letters: Math.min(...cells.map(cell => parseFloat(getComputedStyle(cell).fontSize))),
  }});
}};
</script>"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    state, keeper = play_story(DetectionState()), PictureKeeper()
    for key, camera in state.cameras.items():
        for frame in list(camera.frames.values()):
            keeper.add_frame(key, frame.id, picture(camera.name, frame.index))
            keeper.add_answer(camera, frame.id)
    drift = Drift(
        time=at(33), source="demo/edge-1/collector", stream="north", statistic="confidence",
        method="adwin", before=0.7, after=0.3, count=20, input="x", index=264, since=at(30),
        model=OLD,
    )  # fmt: skip
    state.on_drift(drift)
    summary = build_summary(
        state, name="story", started=at(0), finished=at(60), closed=True, outcome="closed"
    )
    write_run(state, summary, keeper, folder)
    return folder


def measure(run: Path, width: int, profile: Path) -> dict[str, Any]:
    """Sizes on the page, before and after a tap on the first picture."""
    page = run / f"frame-{width}.html"
    page.write_text(_PAGE.format(width=width))
    browser = [
        *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", "--allow-file-access-from-files"),
        *(f"--user-data-dir={profile}", "--window-size=1500,1000", "--dump-dom", page.as_uri()),
    ]
    done = subprocess.run(browser, check=True, capture_output=True, timeout=90, text=True)
    found = re.search(r'<pre id="out">(.+?)</pre>', done.stdout)
    assert found is not None, done.stdout[-2000:]
    sizes: dict[str, Any] = json.loads(found[1])
    return sizes


@pytest.mark.parametrize("width", [390, 800, 1400])
def test_nothing_is_cut_off_and_a_tap_enlarges(run: Path, width: int, tmp_path: Path) -> None:
    sizes = measure(run, width, tmp_path)
    assert sizes["page"] <= width
    assert sizes["right"] <= width
    assert sizes["letters"] >= 12
    assert max(sizes["before"]) <= width
    if width == 390:
        # Single pictures, each as wide as the page, and plots drawn for it.
        assert min(sizes["before"]) >= 340
        assert sizes["drawn"][0] < 700
    assert sizes["after"][0] > max(700, sizes["before"][0])
