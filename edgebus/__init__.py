"""EdgeBus: an event-driven framework for edge AI on an MQTT message bus."""

__version__ = "0.1.0"
__all__ = ["__version__"]
