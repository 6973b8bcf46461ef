"""The reference model: a teacher or merely a different model, shown a share of the inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from edgebus.service import ServiceSettings
from edgebus.workload import Workload


class ReferenceSettings(ServiceSettings):
    """Second model on the collector's node, for policies that compare with one."""

    model: Path
    """Folder of a bundle, or a file that the workload can import."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Share of the inputs for training that it is shown, one at a time; inputs that come
    meanwhile are not waited for."""
    threads: Annotated[int, Field(ge=1, le=64)] = 1
    """Threads that it may use."""


class ReferenceModel:
    """A model of the collector's own. Making one reads from disk and takes its time.

    Args:
        workload: What loads and asks it.
        settings: Which model.
        imports: Folder of bundles that are made of other files.

    Raises:
        OSError: It is not there.
        ArtifactError: It is no bundle, and nothing that becomes one.
        EngineError: The runtime refuses it.
    """

    def __init__(self, workload: Workload, settings: ReferenceSettings, *, imports: Path) -> None:
        # Imported only here: a collector without a reference model need not load a runtime.
        from edgebus.serving import EngineSettings, OrtEngine

        bundle = workload.open_bundle(settings.model, imports=imports)
        engine = OrtEngine(bundle, EngineSettings(threads=settings.threads, provider="cpu"))
        self._workload = workload
        self._model = workload.load(bundle, engine, **workload.reference_options)
        self.name = f"{bundle.ref.name} v{bundle.ref.version}"

    def predict(self, payload: Any) -> Any:
        """Predict for an input. Takes its time; not for the event loop.

        Raises:
            ValueError: The input is corrupt.
            EngineError: The model fails.
        """
        return self._model.predict(self._workload.decode(payload))
