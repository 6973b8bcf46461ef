"""`torchrun training_together.py OUT`: a short run by as many processes as there are."""

import json
import sys
from pathlib import Path

from edgebus.training.finetune import Checkpoints, join_team
from edgebus.training.graph import TorchGraph
from edgebus_detection.training import AugmentSettings
from training_scenes import network, scene, train

DUSK = [scene(index, dark=True) for index in range(50, 59)]


def run(out: Path) -> None:
    """Train, and write what the first process has."""
    with join_team("cpu") as team:
        result = train(
            TorchGraph(network(), scope="all"),
            DUSK,
            replay=[scene(index) for index in range(7)],
            replay_share=0.3,
            steps=12,
            batch=5,
            augmentation=AugmentSettings(),
            validation=[scene(index, dark=True) for index in range(90, 97)],
            validate_every=0.25,
            checkpoints=Checkpoints(out / "checkpoint", every_steps=4, every_s=3600),
            team=team,
        )
        update = {name: value.tolist() for name, value in sorted(result.update.replace.items())}
        facts = {
            "losses": result.losses,
            "validation": result.validation,
            "update": update,
            "checkpoint": (out / "checkpoint").is_file(),
        }
        (out / f"rank-{team.rank}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    run(Path(sys.argv[1]))
