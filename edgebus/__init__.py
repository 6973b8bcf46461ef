"""EdgeBus: an event-driven framework for edge AI on an MQTT message bus."""

import os

# Nobody phones home. ONNX Runtime from 1.29 on looks up its maker's hosts once it is loaded, unless
# this is set before; a service's own telemetry goes to its operator and to nobody else.
for _name in ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_name, "1")

__version__ = "0.1.0"
__all__ = ["__version__"]
