"""The topics of the detection workload."""

from typing import Final

from edgebus.contracts import Topic
from edgebus_detection.messages.feedback import Feedback
from edgebus_detection.messages.vision import Detections, Frame, GroundTruth, Sample

CAMERA_FRAME: Final = Topic(
    "{node}/{service}/{camera}/frame",
    Frame,
    qos=0,
    doc="A picture: plain JPEG with its record in a comment segment.",
)
CAMERA_TRUTH: Final = Topic(
    "{node}/{service}/{camera}/truth",
    GroundTruth,
    qos=0,
    doc="What is really in a frame; from emulated cameras only, sent before the frame.",
)
DETECTIONS: Final = Topic(
    "{node}/{service}/{camera}/detections",
    Detections,
    qos=0,
    doc="What the model on this node saw in a frame.",
)
SAMPLES: Final = Topic(
    "{node}/{service}/samples/detection",
    Sample,
    qos=1,
    durable=False,  # the collector has its own spool
    doc="A hard example: JPEG with its record in a comment segment.",
)
FEEDBACK: Final = Topic(
    "{node}/{service}/feedback",
    Feedback,
    qos=1,
    durable=False,  # it comes from people's devices, which do not keep it either
    doc="An operator says that the model was wrong about a frame; {node} is the operator's own.",
)
