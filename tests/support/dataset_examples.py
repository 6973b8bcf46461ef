"""Labelled pictures as other tools lay them out."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT = 640, 480
BOX = (64, 48, 320, 240)
"""x1, y1, x2, y2 of the one car."""
YOLO = "0 0.3 0.3 0.4 0.4\n"


def picture(path: Path, *, width: int = WIDTH, height: int = HEIGHT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))
    return path


def write(path: Path, content: object, *, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_bytes(text.encode(encoding))
    return path


def coco(name: str = "a.jpg", *, size: tuple[int, int] = (WIDTH, HEIGHT), **row: object) -> dict:
    x1, y1, x2, y2 = BOX
    annotation = {
        "id": 1, "image_id": 1, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1],
        "iscrowd": 0, "area": 1,
    }  # fmt: skip
    return {
        "images": [{"id": 1, "file_name": name, "width": size[0], "height": size[1]}],
        "annotations": [annotation | row],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "person"}],
    }


def voc(name: str = "a.jpg", *, size: tuple[int, int] = (WIDTH, HEIGHT), extra: str = "") -> str:
    x1, y1, x2, y2 = BOX
    return (
        f"<annotation><filename>{name}</filename><size><width>{size[0]}</width><height>{size[1]}"
        f"</height><depth>3</depth></size><object><name>car</name>{extra}<bndbox><xmin>{x1}</xmin>"
        f"<ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object></annotation>"
    )


def region(**value: object) -> dict:
    box = {"x": 10.0, "y": 10.0, "width": 40.0, "height": 40.0, "rotation": 0}
    return {
        "id": "r1", "type": "rectanglelabels", "from_name": "label", "to_name": "image",
        "original_width": WIDTH, "original_height": HEIGHT,
        "value": box | {"rectanglelabels": ["car"]} | value,
    }  # fmt: skip


def lay_out(form: str, root: Path, name: str = "a") -> Path:
    """Write the one picture with the one car as a tool would; what is to be read."""
    jpg, x = f"{name}.jpg", BOX
    if form == "coco-2017":
        picture(root / "val2017" / jpg)
        write(root / "annotations" / "instances_val2017.json", coco(jpg))
        write(root / "annotations" / "instances_train2017.json", coco("zzz.jpg"))
        write(root / "annotations" / "captions_val2017.json", {"images": [], "annotations": []})
    elif form == "coco-cvat":
        picture(root / "images" / "default" / jpg)
        write(root / "annotations" / "instances_default.json", coco(jpg))
    elif form == "coco-labelstudio":
        picture(root / "images" / jpg)
        write(root / "result.json", coco(f"images\\{jpg}"))
    elif form == "coco-roboflow":
        picture(root / "train" / jpg)
        write(root / "train" / "_annotations.coco.json", coco(jpg))
    elif form == "coco-supervision":
        picture(root / "images" / jpg)
        write(root / "annotations.json", coco(jpg))
    elif form == "coco-absolute":
        picture(root / "images" / jpg)
        write(root / "labels.json", coco(f"C:\\Users\\ann\\set\\{jpg}"))
    elif form == "yolo-ultralytics":
        picture(root / "images" / "train" / jpg)
        write(root / "labels" / "train" / f"{name}.txt", YOLO)
        write(root / "data.yaml", "path: .\ntrain: images/train\nval: images/train\nnames: [car]\n")
    elif form == "yolo-roboflow":
        picture(root / "train" / "images" / jpg)
        write(root / "train" / "labels" / f"{name}.txt", YOLO)
        write(root / "data.yaml", "train: ../train/images\nnc: 1\nnames: ['car']\n")
    elif form == "yolo-labelstudio":
        picture(root / "images" / jpg)
        write(root / "labels" / f"{name}.txt", YOLO)
        write(root / "classes.txt", "car\nperson\n")
        rows = [{"id": 0, "name": "car"}, {"id": 1, "name": "person"}]
        write(root / "notes.json", {"categories": rows, "info": {}})
    elif form == "yolo-cvat":
        picture(root / "obj_train_data" / jpg)
        write(root / "obj_train_data" / f"{name}.txt", YOLO)
        write(root / "obj.names", "car\nperson\n")
        write(root / "train.txt", f"data/obj_train_data/{jpg}\n")
        write(root / "obj.data", "classes = 2\nnames = data/obj.names\n")
    elif form == "yolo-labelimg":
        picture(root / jpg)
        write(root / f"{name}.txt", YOLO)
        write(root / "classes.txt", "car\nperson\n")
    elif form == "voc":
        picture(root / "JPEGImages" / jpg)
        write(root / "Annotations" / f"{name}.xml", voc(jpg))
        write(root / "ImageSets" / "Main" / "train.txt", f"{name}\n")
    elif form == "voc-roboflow":
        picture(root / "train" / jpg)
        write(root / "train" / f"{name}.xml", voc("renamed.jpg"))
    elif form == "cvat":
        picture(root / "images" / jpg)
        image = f'<image id="0" name="{jpg}" width="{WIDTH}" height="{HEIGHT}">'
        box = f'<box label="car" xtl="{x[0]}" ytl="{x[1]}" xbr="{x[2]}" ybr="{x[3]}" rotation="0"/>'
        write(root / "annotations.xml", f"<annotations>{image}{box}</image></annotations>")
    elif form == "labelstudio":
        picture(root / "images" / jpg)
        done = [{"id": 5, "completed_by": 1, "result": [region()]}]
        data = {"image": f"/data/upload/3/8f3a1b2c-{jpg}"}
        write(root / "project-1-at-2026.json", [{"id": 1, "data": data, "annotations": done}])
    elif form == "labelstudio-min":
        picture(root / "images" / jpg)
        value = region()["value"] | {"original_width": WIDTH, "original_height": HEIGHT}
        image = f"/data/local-files/?d=images/{jpg}"
        row = {"image": image, "id": 1, "label": [value], "annotator": 1, "annotation_id": 3}
        write(root / "tasks.json", [row])
    return root


FORMS = (
    "coco-2017", "coco-cvat", "coco-labelstudio", "coco-roboflow", "coco-supervision",
    "coco-absolute", "yolo-ultralytics", "yolo-roboflow", "yolo-labelstudio", "yolo-cvat",
    "yolo-labelimg", "voc", "voc-roboflow", "cvat", "labelstudio", "labelstudio-min",
)  # fmt: skip
