"""Messages of the detection workload: frames, boxes, samples, feedback."""

from edgebus_detection.messages.boxes import MOST_BOXES, Box, BoxLabels, SourcedBox
from edgebus_detection.messages.feedback import Feedback, Opinion, Verdict
from edgebus_detection.messages.jpeg import JpegPayload, PictureRecord
from edgebus_detection.messages.topics import (
    CAMERA_FRAME,
    CAMERA_TRUTH,
    DETECTIONS,
    FEEDBACK,
    SAMPLES,
)
from edgebus_detection.messages.vision import (
    Detections,
    Frame,
    FrameRecord,
    GroundTruth,
    Sample,
    SampleRecord,
    StageTimes,
)

__all__ = [
    "CAMERA_FRAME",
    "CAMERA_TRUTH",
    "DETECTIONS",
    "FEEDBACK",
    "MOST_BOXES",
    "SAMPLES",
    "Box",
    "BoxLabels",
    "Detections",
    "Feedback",
    "Frame",
    "FrameRecord",
    "GroundTruth",
    "JpegPayload",
    "Opinion",
    "PictureRecord",
    "Sample",
    "SampleRecord",
    "SourcedBox",
    "StageTimes",
    "Verdict",
]
