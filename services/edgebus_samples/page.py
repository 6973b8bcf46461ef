"""One sample as a page of HTML that stands alone: picture, boxes of every source, record."""

from __future__ import annotations

import base64
import html
import json

from edgebus.contracts import LabelSet
from edgebus_detection.messages import Box
from edgebus_samples.details import SampleDetail
from edgebus_samples.drawing import LINES, SourceName, boxes_of

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
  color: #222; background: #fafafa }
h1 { font-size: 1.15rem; font-weight: 600 } h2 { font-size: 1rem; margin-top: 1.6rem }
svg { width: 100%; height: auto; background: #111; border-radius: 4px }
label { margin-right: 1.2rem; white-space: nowrap }
table { border-collapse: collapse } td, th { text-align: left; padding: .15rem 1rem .15rem 0;
  vertical-align: top; overflow-wrap: anywhere }
th { font-weight: 600 } .conflict { color: #b00020 }
pre { background: #eee; padding: .8rem; overflow: auto; border-radius: 4px }
rect { fill: none; vector-effect: non-scaling-stroke } text { paint-order: stroke; stroke: #181818;
  stroke-dasharray: none; stroke-linejoin: round }
"""
_SCRIPT = """
for (const box of document.querySelectorAll("input[data-source]"))
  box.onchange = () => document.getElementById(box.dataset.source).style.display =
    box.checked ? "" : "none";
"""


def sample_page(detail: SampleDetail, *, history: list[LabelSet | None]) -> str:
    """The page; boxes can be switched off source by source.

    Args:
        detail: The sample.
        history: All its label sets, oldest first; None where one was taken back.
    """
    record, entry = detail.record, detail.entry
    shown = boxes_of(detail.sources)
    picture = base64.b64encode(detail.sample.jpeg).decode()
    groups = "".join(
        _group(source, boxes, record.width) for source, boxes in shown.items() if boxes
    )
    switches = "".join(
        f'<label><input type="checkbox" checked data-source="{source}"> {_swatch(source)} {source}'
        f" ({len(boxes)})</label>"
        for source, boxes in reversed(shown.items())
        if boxes
    )
    facts = {
        "sample": entry.id,
        "camera": f"{entry.stream} frame {entry.index}, {record.source}",
        "captured": f"{entry.captured:%Y-%m-%d %H:%M:%S.%f} UTC",
        "chosen by": f"{entry.policy}: {entry.reason} (score {entry.score:g})",
        "split": entry.split,
        "model": f"{record.model.name} v{record.model.version} ({record.model.digest[:12]})",
        "trained on by job": entry.job or "none yet",
        "file": str(entry.path),
    }
    plain = record.model_dump(mode="json", exclude_none=True, by_alias=True)
    return "\n".join(
        [
            '<!doctype html><html lang="en"><meta charset="utf-8">',
            f"<title>{_text(entry.id)}</title>",
            f"<style>{_STYLE}</style><h1>Sample {_text(entry.id)}</h1><p>{switches}</p>",
            f'<svg viewBox="0 0 {record.width} {record.height}">',
            f'<image width="{record.width}" height="{record.height}" '
            f'href="data:image/jpeg;base64,{picture}"/>',
            f"{groups}</svg>",
            _conflicts(detail),
            f"<h2>Facts</h2><table>{_rows(facts)}</table>",
            _labels(detail),
            _history(history),
            f"<h2>Record</h2><pre>{_text(json.dumps(plain, indent=1))}</pre>",
            f"<script>{_SCRIPT}</script></html>",
        ]
    )


def _group(source: SourceName, boxes: tuple[Box, ...], width: int) -> str:
    line = LINES[source]
    size = max(7.0, width / 60)
    drawn = []
    for box in boxes:
        words = box.label if box.score is None else f"{box.label} {box.score:.2f}"
        drawn.append(
            f'<rect x="{box.x1:g}" y="{box.y1:g}" width="{box.x2 - box.x1:g}" '
            f'height="{box.y2 - box.y1:g}"/>'
        )
        if line.corner == "none":
            continue
        y = {"above": box.y1 - 2, "below": box.y2 + size, "inside": box.y1 + size}[line.corner]
        # Near the right border a text grows to the left.
        right = box.x1 > 0.8 * width
        x, anchor = (box.x2, ' text-anchor="end"') if right else (box.x1, "")
        drawn.append(
            f'<text x="{x:g}"{anchor} y="{max(size, y):g}" font-size="{size:g}" '
            f'fill="{_css(source)}" stroke-width="{size / 6:g}">{_text(words)}</text>'
        )
    return f'<g id="{source}" {_stroke(source)}>{"".join(drawn)}</g>'


def _conflicts(detail: SampleDetail) -> str:
    conflicts = () if detail.merged is None else detail.merged.conflicts
    if not conflicts:
        return ""
    items = "".join(f"<li>{_text(each.summary)}</li>" for each in conflicts)
    return f'<h2 class="conflict">Conflicts</h2><ul class="conflict">{items}</ul>'


def _labels(detail: SampleDetail) -> str:
    if detail.merged is None:
        return "<h2>Labels</h2><p>No label source.</p>"
    rows = "".join(
        f"<tr><td>{_text(each.box.label)}</td><td>{each.box.x1:g}, {each.box.y1:g} to "
        f"{each.box.x2:g}, {each.box.y2:g}</td><td>{_text(each.by)}</td></tr>"
        for each in detail.merged.sourced
    )
    head = "<tr><th>class</th><th>pixels</th><th>source</th></tr>"
    return f"<h2>Labels, by {detail.merged.source}</h2><table>{head}{rows}</table>"


def _history(history: list[LabelSet | None]) -> str:
    if not history:
        return ""
    items = "".join(
        "<li>taken back</li>"
        if labels is None
        else f"<li>{labels.time:%Y-%m-%d %H:%M} {_text(labels.by)}: {len(labels.labels)} boxes"
        f" {_text(labels.note)}</li>"
        for labels in history
    )
    return f"<h2>What operators made of it</h2><ol>{items}</ol>"


def _rows(facts: dict[str, str]) -> str:
    return "".join(
        f"<tr><th>{key}</th><td>{_text(value)}</td></tr>" for key, value in facts.items()
    )


def _swatch(source: SourceName) -> str:
    return (
        '<svg style="width:36px;height:8px;background:#333" viewBox="0 0 36 8">'
        f'<line x1="1" y1="4" x2="35" y2="4" {_stroke(source)}/></svg>'
    )


def _stroke(source: SourceName) -> str:
    line = LINES[source]
    dash = f' stroke-dasharray="{line.on} {line.off}"' if line.on else ""
    return f'stroke="{_css(source)}" stroke-width="{line.width}"{dash}'


def _css(source: SourceName) -> str:
    blue, green, red = LINES[source].color
    return f"#{red:02x}{green:02x}{blue:02x}"


def _text(value: str) -> str:
    return html.escape(value)
