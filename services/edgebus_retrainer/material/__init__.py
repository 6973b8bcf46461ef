"""What a job has to train and measure on."""

from edgebus_retrainer.material._folders import FolderError, read_folder
from edgebus_retrainer.material._material import (
    Material,
    TeacherMissingError,
    UnknownClassError,
    count_with_boxes,
    prepare,
)
from edgebus_retrainer.material._setting_aside import set_aside

__all__ = [
    "FolderError",
    "Material",
    "TeacherMissingError",
    "UnknownClassError",
    "count_with_boxes",
    "prepare",
    "read_folder",
    "set_aside",
]
