"""Pictures, boxes and how good they are: numpy and OpenCV only."""

from edgebus_detection.vision.boxes import Boxes, Detected, Truth, box_iou, clip_boxes, suppress
from edgebus_detection.vision.decoders import DECODERS, Decoder, DecoderLike, make_decoder
from edgebus_detection.vision.draw import Style, caption, draw_boxes
from edgebus_detection.vision.errors import ImageError, OutputError, VisionError
from edgebus_detection.vision.hashing import Hash, PictureUnreadableError, difference_hash
from edgebus_detection.vision.images import Image, decode_jpeg, encode_jpeg
from edgebus_detection.vision.labels import to_boxes, to_detected, to_truth
from edgebus_detection.vision.preprocess import InputLike, Placement, Preprocessor, Tensor

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
    "OutputError",
    "PictureUnreadableError",
    "Placement",
    "Preprocessor",
    "Style",
    "Tensor",
    "Truth",
    "VisionError",
    "box_iou",
    "caption",
    "clip_boxes",
    "decode_jpeg",
    "difference_hash",
    "draw_boxes",
    "encode_jpeg",
    "make_decoder",
    "suppress",
    "to_boxes",
    "to_detected",
    "to_truth",
]
