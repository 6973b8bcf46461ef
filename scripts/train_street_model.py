"""Make the demo's starting model: a small YOLOX-style detector that knows the street by day only.

    python scripts/train_street_model.py --out workloads/edgebus_detection/lab/assets/street-day

Everything is seeded. It takes five to seven minutes on one CPU thread and writes a bundle of
less than 1.5 MB, then measures it by day and at dusk on streets that it was not trained on.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgebus.artifacts import Bundle
from edgebus.serving import EngineSettings, make_probe
from edgebus.training.finetune import Batches
from edgebus.training.graph import check_supported
from edgebus_detection.emulation.effects import Effects
from edgebus_detection.emulation.street import CLASSES, Scene
from edgebus_detection.metrics import mean_average_precision
from edgebus_detection.models import DetectionModel, import_onnx
from edgebus_detection.training import AugmentSettings
from edgebus_detection.training.yolox import LabelledImage, YoloxHead, YoloxObjective
from edgebus_detection.vision import InputSpec, Preprocessor, encode_jpeg, to_truth

HEIGHT, WIDTH = 192, 256
STRIDES = (8, 16, 32)
# Pixels enter as (x - 114) / 64: the grey of the border becomes zero.
INPUT = InputSpec(name="images", height=HEIGHT, width=WIDTH, mean=(114.0,) * 3, std=(64.0,) * 3)
EFFECT_SEED = 5


class ConvUnit(nn.Sequential):
    """Convolution, batch normalisation, SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.SiLU(),
        )


class Residual(nn.Module):
    """x + a bottleneck of half the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = ConvUnit(channels, channels // 2, 1)
        self.expand = ConvUnit(channels // 2, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        result: Tensor = x + self.expand(self.squeeze(x))
        return result


class LevelHead(nn.Module):
    """The decoupled head of one level: boxes, objectness, classes."""

    def __init__(self, inputs: int, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = ConvUnit(inputs, channels, 1)
        self.regression = ConvUnit(channels, channels, 3)
        self.classification = ConvUnit(channels, channels, 3)
        self.box = nn.Conv2d(channels, 4, 1)
        self.objectness = nn.Conv2d(channels, 1, 1)
        self.classes = nn.Conv2d(channels, classes, 1)
        for layer in (self.objectness, self.classes):
            # One cell in a hundred holds something: without this the first steps are wasted.
            assert layer.bias is not None
            nn.init.constant_(layer.bias, -4.6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Raw boxes, objectness logits and class logits of each cell."""
        x = self.stem(x)
        near = self.regression(x)
        return self.box(near), self.objectness(near), self.classes(self.classification(x))


class StreetNet(nn.Module):
    """A feature pyramid of strides 8, 16 and 32 under a YOLOX head, 0.35 M parameters."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.start = nn.Sequential(ConvUnit(3, 16, 3, 2), ConvUnit(16, 32, 3, 2))
        self.c3 = nn.Sequential(ConvUnit(32, 48, 3, 2), Residual(48), Residual(48))
        self.c4 = nn.Sequential(ConvUnit(48, 80, 3, 2), Residual(80))
        self.c5 = nn.Sequential(ConvUnit(80, 96, 3, 2), Residual(96))
        self.down5, self.down4 = ConvUnit(96, 80, 1), ConvUnit(80, 48, 1)
        self.p3 = Residual(48)
        self.heads = nn.ModuleList(LevelHead(c, 40, classes) for c in (48, 80, 96))
        self.scores = False

    def forward(self, x: Tensor) -> Tensor:
        """Predictions [B, N, 5 + C]; logits, or scores when `scores` is set for the export."""
        c3 = self.c3(self.start(x))
        c4 = self.c4(c3)
        c5 = self.c5(c4)
        p4 = c4 + F.interpolate(self.down5(c5), scale_factor=2.0)
        p3 = self.p3(c3 + F.interpolate(self.down4(p4), scale_factor=2.0))
        levels = []
        for head, features in zip(self.heads, (p3, p4, c5), strict=True):
            box, objectness, classes = head(features)
            if self.scores:
                objectness, classes = objectness.sigmoid(), classes.sigmoid()
            levels.append(torch.cat([box, objectness, classes], 1).flatten(2))
        return torch.cat(levels, 2).permute(0, 2, 1)


def street_images(
    seeds: range, *, frames: int, dusk: float = 0.0, first: int = 0, every: int = 41
) -> Iterator[LabelledImage]:
    """Pictures of streets with their boxes, as a camera sends them: JPEG, 320 x 240.

    Args:
        seeds: One street each.
        frames: Pictures per street.
        dusk: Strength of the effect.
        first: Number of the first frame.
        every: Frames from one picture to the next.
    """
    for seed in seeds:
        scene, effects = Scene(seed=seed), Effects(seed=EFFECT_SEED + seed)
        for index in range(first, first + frames * every, every):
            frame = scene.render(index)
            image = frame.image
            if dusk > 0:
                image, _ = effects.apply(
                    image, frame.boxes, {"dusk": dusk}, index=index, lights=scene.lights(index)
                )
            yield LabelledImage(
                name=f"street-{seed}/{index}",
                source=encode_jpeg(image),
                truth=to_truth(frame.boxes, CLASSES),
            )


def train(images: list[LabelledImage], *, steps: int, batch: int, seed: int) -> StreetNet:
    """Train from scratch: AdamW, warm-up, cosine, and an average of the weights over the steps."""
    torch.manual_seed(seed)
    net = StreetNet(len(CLASSES)).train()
    head = YoloxHead(height=HEIGHT, width=WIDTH, classes=len(CLASSES), strides=STRIDES)
    objective = YoloxObjective(
        head=head,
        prepare=Preprocessor(INPUT).prepare,
        # The light of any day, but of no dusk.
        augmentation=AugmentSettings(brightness=0.15, contrast=0.5, translate=0.15),
    )
    batches = Batches(
        new=images,
        replay=(),
        size=batch,
        replay_share=0.0,
        objective=objective,
        seed=seed,
    )
    decayed = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}],
        lr=2.5e-3,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2.5e-3, total_steps=steps, pct_start=0.08, cycle_momentum=False
    )
    average = torch.optim.swa_utils.AveragedModel(
        net,
        multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.997),  # type: ignore[no-untyped-call]
        use_buffers=True,
    )
    begin = time.monotonic()
    for step in range(1, steps + 1):
        rows = batches.next().rows
        raw = net(torch.from_numpy(objective.inputs(rows)))
        parts = objective.loss({"output": raw}, rows)
        optimizer.zero_grad(set_to_none=True)
        parts.total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 20.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(net)
        if step % 100 == 0:
            print(
                f"step {step}/{steps}  loss {float(parts.total.detach()):.3f}  "
                f"{time.monotonic() - begin:.0f} s",
                flush=True,
            )
    trained = average.module
    assert isinstance(trained, StreetNet)
    return trained.eval()


def export(net: StreetNet, path: Path) -> None:
    """Write ONNX: batch normalisation folded, scores after the sigmoid, batch 1."""
    net.scores = True
    torch.onnx.export(
        net,
        (torch.zeros(1, 3, HEIGHT, WIDTH),),
        str(path),
        opset_version=13,
        dynamo=False,
        input_names=[INPUT.name],
        output_names=["output"],
    )


def report(bundle: Bundle) -> None:
    """Measure a bundle as it is served, on streets it was not trained on."""
    model = DetectionModel.load(bundle, EngineSettings(threads=1))
    for dusk in (0.0, 0.5, 0.8, 1.0):
        found, truths, times = [], [], []
        for picture in street_images(range(1, 7), frames=40, dusk=dusk):
            detected, stages = model.detect(picture.load(), threshold=0.01)
            found.append(detected)
            truths.append(picture.truth)
            times.append(stages.inference_ms)
        result = mean_average_precision(found, truths, CLASSES)
        classes = "  ".join(f"{name} {value:.2f}" for name, value in result.per_class.items())
        print(
            f"dusk {dusk:.1f}: mAP50 {result.map50:.3f}  {classes}  "
            f"({result.images} pictures, {result.boxes} boxes, {np.median(times):.1f} ms each)"
        )


def main(arguments: list[str] | None = None) -> int:
    """Train, export, import, measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("workloads/edgebus_detection/lab/assets/street-day")
    )
    parser.add_argument("--onnx", type=Path, help="import this file instead of training")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--streets", type=int, default=48)
    parser.add_argument("--frames", type=int, default=50, help="pictures per street")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = options.onnx
        if path is None:
            # Streets from 1000 on: the demo films others.
            seeds = range(1000, 1000 + options.streets)
            images = list(street_images(seeds, frames=options.frames))
            print(
                f"{len(images)} pictures, {sum(len(i.truth.labels) for i in images)} boxes",
                flush=True,
            )
            net = train(images, steps=options.steps, batch=options.batch, seed=options.seed)
            print(f"{sum(p.numel() for p in net.parameters())} parameters")
            path = Path(folder) / "street.onnx"
            export(net, path)
        if options.out.exists():
            shutil.rmtree(options.out)
        bundle = import_onnx(
            path,
            name="street",
            out=options.out,
            classes=CLASSES,
            check=check_supported,
            probe=make_probe,
            input_overrides={"mean": INPUT.mean, "std": INPUT.std},
        )
    print(f"{options.out}: {bundle.digest}")
    report(bundle)
    return 0


if __name__ == "__main__":
    sys.exit(main())
