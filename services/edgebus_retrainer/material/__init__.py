"""What a job has to train and measure on."""

from edgebus_retrainer.material._material import (
    Material,
    TeacherMissingError,
    UnknownClassError,
    count_with_boxes,
    prepare,
)
from edgebus_retrainer.material._setting_aside import set_aside

__all__ = [
    "Material",
    "TeacherMissingError",
    "UnknownClassError",
    "count_with_boxes",
    "prepare",
    "set_aside",
]
