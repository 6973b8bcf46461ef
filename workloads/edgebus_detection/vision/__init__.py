"""Pictures, boxes and how good they are: numpy and OpenCV only."""

from edgebus_detection.vision.boxes import (
    Boxes,
    Detected,
    Truth,
    clip_boxes,
    coverage,
    iou,
    suppress,
)
from edgebus_detection.vision.conversions import certainty, corners, to_boxes, to_detected, to_truth
from edgebus_detection.vision.decoders import DECODERS, Decoder, OutputError, make_decoder
from edgebus_detection.vision.draw import Style, caption, draw_boxes
from edgebus_detection.vision.images import (
    Grey,
    Hash,
    Image,
    ImageError,
    VisionError,
    decode_picture,
    difference_hash,
    encode_jpeg,
    read_picture,
)
from edgebus_detection.vision.matching import Matching, match_boxes, outside_of, pair, pair_boxes
from edgebus_detection.vision.preprocess import Placement, Preprocessor, Tensor
from edgebus_detection.vision.spec import DecoderSpec, InputSpec, PictureSpec

__all__ = [
    "DECODERS",
    "Boxes",
    "Decoder",
    "DecoderSpec",
    "Detected",
    "Grey",
    "Hash",
    "Image",
    "ImageError",
    "InputSpec",
    "Matching",
    "OutputError",
    "PictureSpec",
    "Placement",
    "Preprocessor",
    "Style",
    "Tensor",
    "Truth",
    "VisionError",
    "caption",
    "certainty",
    "clip_boxes",
    "corners",
    "coverage",
    "decode_picture",
    "difference_hash",
    "draw_boxes",
    "encode_jpeg",
    "iou",
    "make_decoder",
    "match_boxes",
    "outside_of",
    "pair",
    "pair_boxes",
    "read_picture",
    "suppress",
    "to_boxes",
    "to_detected",
    "to_truth",
]
