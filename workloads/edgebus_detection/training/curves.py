"""The curves of a training run as an SVG picture: no plotting library on a training host."""

from __future__ import annotations

from collections.abc import Sequence

_WIDTH, _HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 28, 36
_MOST_POINTS = 360
_TICKS = 4

Points = Sequence[tuple[float, float]]


def draw_curves(
    losses: Sequence[float],
    validation: Sequence[tuple[int, float]],
    *,
    resumed_at: int = 0,
    best_step: int | None = None,
) -> str:
    """Loss per step, its mean over neighbours, the loss on pictures set aside.

    Args:
        losses: Loss of each step, from step 1.
        validation: Steps and validation losses.
        resumed_at: A step at which the run was taken up again; 0: none.
        best_step: The step whose weights are the outcome.

    Returns:
        The SVG document.
    """
    mean = _means(losses)
    shown = [value for _, value in (*mean, *validation)]
    top = max(shown, default=1.0) * 1.15 or 1.0
    steps = max(len(losses), 1)

    def place(step: float, value: float) -> str:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / steps
        y = _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * min(value, top) / top
        return f"{x:.1f},{y:.1f}"

    def line(points: Points, style: str) -> str:
        joined = " ".join(place(*point) for point in points)
        return f'<polyline fill="none" {style} points="{joined}"/>' if points else ""

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    ]
    for tick in range(_TICKS + 1):
        value, step = top * tick / _TICKS, steps * tick / _TICKS
        x, y = place(0, value).split(",")
        parts.append(line([(0, value), (steps, value)], 'stroke="#ddd"'))
        parts.append(f'<text x="{float(x) - 6}" y="{y}" text-anchor="end">{value:.2f}</text>')
        x, y = place(step, 0).split(",")
        parts.append(f'<text x="{x}" y="{float(y) + 18}" text-anchor="middle">{step:.0f}</text>')
    parts.append(line(_thinned(losses), 'stroke="#bcd" stroke-width="1"'))
    parts.append(line(mean, 'stroke="#2166ac" stroke-width="2"'))
    parts.append(line(validation, 'stroke="#b2182b" stroke-width="2"'))
    for mark, colour, words in (
        (resumed_at, "#888", "taken up again"),
        (best_step or 0, "#b2182b", "best"),
    ):
        if mark:
            parts.append(line([(mark, 0), (mark, top)], f'stroke="{colour}" stroke-dasharray="4"'))
            x, y = place(mark, top).split(",")
            anchor = "end" if mark > steps / 2 else "start"
            parts.append(
                f'<text x="{x}" y="{float(y) - 4}" text-anchor="{anchor}" fill="{colour}">'
                f"{words}</text>"
            )
    legend = "loss per step, and its mean" + (", and on pictures set aside" if validation else "")
    parts.append(f'<text x="{_LEFT}" y="14">{legend}</text></svg>')
    return "\n".join(part for part in parts if part) + "\n"


def _thinned(losses: Sequence[float]) -> list[tuple[float, float]]:
    every = max(1, len(losses) // _MOST_POINTS)
    return [(number + 1, losses[number]) for number in range(0, len(losses), every)]


def _means(losses: Sequence[float]) -> list[tuple[float, float]]:
    """Means over a twentieth of the run, since the loss of eight pictures is noisy."""
    width = max(1, len(losses) // 20)
    every = max(1, len(losses) // _MOST_POINTS)
    return [
        (end, sum(losses[max(0, end - width) : end]) / min(width, end))
        for end in range(1, len(losses) + 1, every)
    ]
