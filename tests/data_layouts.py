"""Small copies of the datasets in every layout that people have, made of drawn or given photos.

``MIST_TEST_IMAGES`` names a folder of class folders with images to use instead of drawn ones.
"""

import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from mist_avalanche.benchmarks.layouts import CifarBatches

N_CLASSES, N_IMAGES = 6, 10
MODES = ("RGB", "L", "CMYK", "RGBA", "P", "RGB")


def photos():
    """Class name to image files: name to content."""
    given = os.environ.get("MIST_TEST_IMAGES")
    if given:
        folders = [path for path in sorted(Path(given).iterdir()) if path.is_dir()][:N_CLASSES]
        return {
            f.name: {p.name: p.read_bytes() for p in sorted(f.iterdir())[:N_IMAGES]}
            for f in folders
        }
    rng = np.random.default_rng(0)
    classes = {}
    for c, name in enumerate(("002.ant", "001.bass", "chair", "crème brûlée", "zèbre", "zoo")):
        classes[name] = {}
        for i in range(N_IMAGES):
            size = (int(rng.integers(20, 60)), int(rng.integers(20, 60)), 3)
            image = Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8))
            image = image.convert(MODES[c])
            kind = "PNG" if MODES[c] in ("RGBA", "P") else "JPEG"
            content = io.BytesIO()
            image.save(content, kind)
            classes[name][f"photo {i}.{kind.lower()}"] = content.getvalue()
    return classes


def class_folders(root, classes, others=("README.txt",)):
    """``<class>/<image>`` and files that are no images."""
    for name, images in classes.items():
        (root / name).mkdir(parents=True)
        for image, content in images.items():
            (root / name / image).write_bytes(content)
    for other in others:
        (root / other).write_text("no image")
    return root


def part(classes, test):
    """Every fifth image of each class, or the others."""
    return {
        name: {
            image: content
            for i, (image, content) in enumerate(images.items())
            if (i % 5 == 0) == test
        }
        for name, images in classes.items()
    }


def train_test(root, classes, test="test"):
    """``train/<class>/<image>`` and ``test/`` or ``val/``."""
    class_folders(root / "train", part(classes, test=False), ())
    class_folders(root / test, part(classes, test=True), ())
    return root


def cub(root, classes):
    """The tables of CUB-200-2011."""
    class_folders(root / "images", classes, ())
    names = sorted(classes)
    rows = [(c, name, image) for c, name in enumerate(names, 1) for image in classes[name]]
    tables = {
        "classes.txt": [f"{c} {name}" for c, name in enumerate(names, 1)],
        "images.txt": [f"{i} {name}/{image}" for i, (_, name, image) in enumerate(rows, 1)],
        "image_class_labels.txt": [f"{i} {c}" for i, (c, _, _) in enumerate(rows, 1)],
        "train_test_split.txt": [f"{i} {int(i % 5 != 1)}" for i in range(1, len(rows) + 1)],
    }
    for file, lines in tables.items():
        (root / file).write_text("\n".join(lines) + "\n")
    return root


def cars(root, classes):
    """torchvision's layout of Stanford Cars."""
    names = list(classes)
    (root / "devkit").mkdir(parents=True)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": np.array(names, dtype=object)})
    files = {
        "cars_train": "devkit/cars_train_annos.mat",
        "cars_test": "cars_test_annos_withlabels.mat",
    }
    for folder, annotations in files.items():
        (root / folder).mkdir()
        rows = []
        for label, images in enumerate(part(classes, test=folder == "cars_test").values(), 1):
            for content in images.values():
                rows.append((1, 1, 9, 9, label, f"{len(rows) + 1:05}.jpg"))
                (root / folder / rows[-1][-1]).write_bytes(content)
        fields = [(f"bbox_{side}", "i4") for side in ("x1", "y1", "x2", "y2")]
        dtype = [*fields, ("class", "i4"), ("fname", object)]
        savemat(root / annotations, {"annotations": np.array(rows, dtype=dtype)})
    return root


def cifar(root, classes):
    """The python version of CIFAR-100."""
    root.mkdir(parents=True)
    names = list(classes)
    (root / "meta").write_bytes(pickle.dumps({"fine_label_names": names}, protocol=2))
    for file, test in (("train", False), ("test", True)):
        data, labels = [], []
        for label, images in enumerate(part(classes, test).values()):
            for content in images.values():
                with Image.open(io.BytesIO(content)) as image:
                    pixels = np.asarray(image.convert("RGB").resize((32, 32)))
                data.append(pixels.transpose(2, 0, 1).ravel())
                labels.append(label)
        batch = {"data": np.stack(data), "fine_labels": labels}
        (root / file).write_bytes(pickle.dumps(batch, protocol=2))
    return root


def without_checksums(monkeypatch):
    """Let torchvision take small copies of CIFAR-100."""
    monkeypatch.setattr(CifarBatches, "train_list", [["train", None]])
    monkeypatch.setattr(CifarBatches, "test_list", [["test", None]])
    monkeypatch.setattr(CifarBatches, "meta", {**CifarBatches.meta, "md5": None})


def archive(folder, file):
    """A folder, with itself at the top, as .zip, .tar or .tgz."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w") as out:
            for path in sorted(folder.rglob("*")):
                out.write(path, path.relative_to(folder.parent))
    else:
        with tarfile.open(file, "w" if file.suffix == ".tar" else "w:gz") as out:
            out.add(folder, folder.name)
    return file


def tree(root):
    """Every path below a root with its content."""
    return {p.relative_to(root).as_posix(): p.is_file() and p.read_bytes() for p in root.rglob("*")}
