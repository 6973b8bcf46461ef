"""Pictures, boxes and how good they are: numpy and OpenCV only."""

from edgebus.vision.boxes import Boxes, Detected, Truth, box_iou, clip_boxes, suppress
from edgebus.vision.decoders import DECODERS, Decoder, DecoderLike, make_decoder
from edgebus.vision.draw import Style, caption, draw_boxes
from edgebus.vision.errors import ImageError, OutputError, VisionError
from edgebus.vision.hashing import Hash, PictureUnreadableError, difference_hash
from edgebus.vision.images import Image, decode_jpeg, encode_jpeg
from edgebus.vision.labels import to_boxes, to_detected, to_truth
from edgebus.vision.metrics import (
    MapResult,
    Matches,
    RollingAp,
    average_precision,
    match,
    mean_average_precision,
)
from edgebus.vision.preprocess import InputLike, Placement, Preprocessor, Tensor

__all__ = [
    "DECODERS",
    "Boxes",
    "Decoder",
    "DecoderLike",
    "Detected",
    "Hash",
    "Image",
    "ImageError",
    "InputLike",
    "MapResult",
    "Matches",
    "OutputError",
    "PictureUnreadableError",
    "Placement",
    "Preprocessor",
    "RollingAp",
    "Style",
    "Tensor",
    "Truth",
    "VisionError",
    "average_precision",
    "box_iou",
    "caption",
    "clip_boxes",
    "decode_jpeg",
    "difference_hash",
    "draw_boxes",
    "encode_jpeg",
    "make_decoder",
    "match",
    "mean_average_precision",
    "suppress",
    "to_boxes",
    "to_detected",
    "to_truth",
]
