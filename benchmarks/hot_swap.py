"""Frame latency while models are loaded and swapped beside the serving one.

    python benchmarks/hot_swap.py FIRST_BUNDLE [SECOND_BUNDLE] [--fps 10] [--swaps 30] [--threads N]

Frames are due at a fixed pace; a frame's latency counts from when it was due, so a stall shows in
all the frames that it delays. Swaps are prepared in a second thread, as the detector does it.
Prints a table and writes hot_swap.json.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from pathlib import Path

import numpy as np

from edgebus.artifacts import Bundle
from edgebus.serving import EngineSettings, HotSwap
from edgebus_detection.models import probe_picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--fps", type=float, default=10.0)
    parser.add_argument("--swaps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path("hot_swap.json"))
    options = parser.parse_args()
    bundles = [Bundle.open(path) for path in options.bundles]
    swap = HotSwap(EngineSettings(threads=options.threads))
    swap.switch(swap.prepare(bundles[0]))
    picture = probe_picture(bundles[0].manifest, seed=1)
    rows: list[tuple[float, bool, str]] = []
    loading = threading.Event()
    stop = threading.Event()
    prepare_ms: list[float] = []
    switch_ms: list[float] = []

    def swaps() -> None:
        for turn in range(options.swaps):
            time.sleep(0.5)
            loading.set()
            began = time.perf_counter()
            candidate = swap.prepare(bundles[(turn + 1) % len(bundles)])
            prepare_ms.append((time.perf_counter() - began) * 1e3)
            loading.clear()
            switch_ms.append(swap.switch(candidate))
        stop.set()

    loader = threading.Thread(target=swaps)
    loader.start()
    began = time.perf_counter()
    number = 0
    while not stop.is_set():
        due = began + number / options.fps
        time.sleep(max(0.0, due - time.perf_counter()))
        before = loading.is_set()
        serving = swap.current
        assert serving is not None
        serving.model.predict(picture)
        done = (time.perf_counter() - due) * 1e3
        rows.append((done, before or loading.is_set(), serving.ref.digest))
        number += 1
    loader.join()
    report = {
        "frames": len(rows),
        "swaps": options.swaps,
        "missed": sum(ms > 1e3 / options.fps for ms, _, _ in rows),
        "prepare_ms": _figures(prepare_ms),
        "switch_ms": _figures(switch_ms),
        "steady_ms": _figures([ms for ms, during, _ in rows if not during]),
        "during_load_ms": _figures([ms for ms, during, _ in rows if during]),
    }
    print(f"{'':16} {'n':>5} {'median':>8} {'p99':>8} {'max':>8}")
    for name, row in report.items():
        if isinstance(row, dict):
            print(f"{name:16} {row['n']:5} {row['p50']:8.3f} {row['p99']:8.3f} {row['max']:8.3f}")
    print(f"{report['frames']} frames, {report['missed']} later than the next one was due")
    options.out.write_text(json.dumps(report, indent=1) + "\n")


def _figures(values: list[float]) -> dict[str, float]:
    if not values:
        return {"n": 0, "p50": 0.0, "p99": 0.0, "max": 0.0}
    p50, p99 = np.percentile(values, [50, 99])
    figures = {"n": len(values), "p50": p50, "p99": p99, "max": max(values)}
    return {name: round(float(value), 4) for name, value in figures.items()}


if __name__ == "__main__":
    main()
