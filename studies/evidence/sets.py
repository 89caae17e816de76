"""Photographs and handwriting in memory: decoded once, with the evaluation crop made once."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode, v2

from mist_avalanche.benchmarks import SplitOmniglot
from mist_avalanche.benchmarks.images import is_image_name
from mist_avalanche.benchmarks.stream import class_incremental
from mist_avalanche.benchmarks.transforms import IMAGENET, slight_affine

SIZE = 224
ARCHIVES = {"cub": "cub100.zip", "cifar": "cifar100_subset.zip", "cars": "cars98.zip"}
TITLES = {
    "cub": "birds (CUB, 100 classes)",
    "cifar": "small photographs (CIFAR-100)",
    "cars": "cars (98 classes)",
    "omniglot": "handwriting (Omniglot)",
}
_NORMALIZE = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(*IMAGENET)])
_BICUBIC = InterpolationMode.BICUBIC


def _random_crop(name: str, size: int) -> v2.Compose:
    """The training transform of a set, at ``size`` pixels, on decoded images."""
    if name == "omniglot":
        return v2.Compose([slight_affine(), v2.Resize((size, size), antialias=True)])
    if name == "cars":
        side = round(size * 300 / 224)
        crop = [v2.Resize((side, side), _BICUBIC, antialias=True), v2.RandomCrop(size)]
    else:
        crop = [v2.RandomResizedCrop(size, scale=(0.05, 1.0))]
    return v2.Compose([*crop, v2.RandomHorizontalFlip()])


@dataclass
class Part:
    """Training or test images of a set: pixels as stored, evaluation crops, class ids."""

    pixels: np.ndarray  # all images, flat, uint8
    shapes: np.ndarray  # (n, 2) height and width
    crops: np.ndarray  # (n, 3, size, size) uint8
    targets: np.ndarray  # (n,)

    def __post_init__(self) -> None:
        self.starts = np.concatenate([[0], np.cumsum(self.shapes.prod(1) * 3)])

    def image(self, i: int) -> Image.Image:
        """An image as it is stored."""
        height, width = self.shapes[i]
        flat = self.pixels[self.starts[i] : self.starts[i + 1]]
        return Image.fromarray(np.asarray(flat.reshape(height, width, 3)))


def prepare(data: Path, cache: Path, name: str, size: int) -> None:
    """Write a set's parts, with crops of ``size`` pixels, to ``cache``, unless they are there."""
    if (cache / name / f"test-crops-{size}.npy").exists():
        return
    (cache / name).mkdir(parents=True, exist_ok=True)
    found: dict[str, list[tuple[Image.Image, str]]] = {"train": [], "test": []}
    if name == "omniglot":
        scenario = SplitOmniglot(1, dataset_root=data / "omniglot", shuffle=False)
        names = scenario.class_names
        for part, stream in (("train", scenario.train_stream), ("test", scenario.test_stream)):
            dataset = stream[0].dataset.replace_current_transform_group((None, None))
            found[part] = [(row[0].convert("RGB"), names[row[1]]) for row in dataset]
    else:
        with ZipFile(data / "real" / ARCHIVES[name]) as archive:
            for file in sorted(archive.namelist()):
                if is_image_name(Path(file).name):
                    _, part, label, _ = file.split("/")
                    image = Image.open(io.BytesIO(archive.read(file))).convert("RGB")
                    found[part].append((image, label))
        names = sorted({label for _, label in found["train"]})
    for part, rows in found.items():
        ids = {label: i for i, label in enumerate(names)}
        resize = v2.Resize(round(size * 256 / 224), interpolation=_BICUBIC, antialias=True)
        crop = v2.Compose([resize, v2.CenterCrop(size), v2.PILToTensor()])
        if name == "omniglot":
            crop = v2.Compose([v2.Resize((size, size), antialias=True), v2.PILToTensor()])
        arrays = {
            "pixels": np.concatenate([np.asarray(image).ravel() for image, _ in rows]),
            "shapes": np.array([[image.height, image.width] for image, _ in rows]),
            "targets": np.array([ids[label] for _, label in rows]),
            f"crops-{size}": np.stack([crop(image).numpy() for image, _ in rows]),
        }
        for key, array in arrays.items():
            np.save(cache / name / f"{part}-{key}.npy", array)
    (cache / name / "names.txt").write_text("\n".join(names))


def load(name: str, cache: Path, size: int = SIZE) -> tuple[Part, Part, list[str]]:
    """Training images, test images and names of the classes of a set."""
    keys = ("pixels", "shapes", f"crops-{size}", "targets")
    train, test = (
        Part(*(np.load(cache / name / f"{part}-{key}.npy", mmap_mode="r") for key in keys))
        for part in ("train", "test")
    )
    return train, test, (cache / name / "names.txt").read_text().split("\n")


class _Rows(Dataset):
    """Items ((part, row), class id): the transforms choose between pixels and crop."""

    def __init__(self, part: Part, rows: np.ndarray, targets: np.ndarray) -> None:
        self.part, self.rows, self.targets = part, rows, targets.tolist()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[tuple[Part, int], int]:
        return (self.part, int(self.rows[index])), self.targets[index]


class _Random:
    def __init__(self, name: str, size: int) -> None:
        self.crop = _random_crop(name, size)

    def __call__(self, item: tuple[Part, int]) -> torch.Tensor:
        part, row = item
        return _NORMALIZE(v2.functional.pil_to_tensor(self.crop(part.image(row))))


def _center(item: tuple[Part, int]) -> torch.Tensor:
    part, row = item
    return _NORMALIZE(torch.from_numpy(np.array(part.crops[row])))


def benchmark(name: str, cache: Path, order: int, n_experiences: int = 10, size: int = SIZE):
    """All classes of a set in their order; the field's own split."""
    train, test, names = load(name, cache, size)
    parts = [_Rows(p, np.arange(len(p.targets)), np.asarray(p.targets)) for p in (train, test)]
    return _stream(name, parts, names, n_experiences, order)


def held_out(name: str, cache: Path, order: int, seed: int, n_experiences: int, size: int = SIZE):
    """From training images alone, a fifth of each class held out: the first tenth of the classes,
    or all of them, in ten experiences.
    """
    train, _, names = load(name, cache, size)
    targets = np.asarray(train.targets)
    chosen = np.random.RandomState(order).permutation(len(names))
    if n_experiences < 10:
        chosen = chosen[: -(-len(names) // 10)]
    draw = np.random.RandomState(seed)
    kept, out = [], []
    for c in chosen:
        rows = draw.permutation(np.flatnonzero(targets == c))
        n = max(1, len(rows) // 5)
        out.append(rows[:n])
        kept.append(rows[n:])
    ids = {c: i for i, c in enumerate(chosen)}
    parts = [
        _Rows(train, rows, np.array([ids[c] for c in targets[rows]]))
        for rows in (np.concatenate(kept), np.concatenate(out))
    ]
    again = order if n_experiences == 10 else seed
    return _stream(name, parts, [names[c] for c in chosen], n_experiences, again)


def _stream(name, parts, names, n_experiences, order):
    return class_incremental(
        *parts,
        n_experiences,
        class_names=names,
        seed=order,
        train_transform=_Random(name, parts[0].part.crops.shape[-1]),
        eval_transform=_center,
    )
