"""Image datasets for PyTorch: RGB, read as in torchvision; errors name the file."""

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS


def is_image_name(name: str) -> bool:
    """Whether a file name is that of an image; the ``._*`` files of macOS are not."""
    return name.lower().endswith(IMG_EXTENSIONS) and not name.startswith(".")


def read_image(path: str | Path) -> Image.Image:
    """Read an image file as RGB.

    The EXIF orientation is ignored, as in torchvision's ImageFolder, which produced the published
    results. Grey images of 9 to 16 bits are scaled to 8 bits, whereas ImageFolder clips their
    values.

    Raises:
        ValueError: the file is empty, truncated or not an image, or its value range is unknown.
        OSError: the file does not exist or cannot be read.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return _to_rgb(image)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # Pillow raises many types, depending on the format
        size = Path(path).stat().st_size
        reason = f"{error} ({size} bytes)" if size else "it is empty (0 bytes)"
        raise ValueError(f"Cannot read the image {str(path)!r}: {reason}. Replace it.") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit RGB."""
    if image.mode[0] not in "IF":
        return image.convert("RGB")
    # Pillow scales a PGM from its own maximum to 16 bits; int32 may have any range
    of_16_bits = image.mode == "I" and image.format in ("PNG", "PPM")
    if not (of_16_bits or image.mode.startswith("I;16")):
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise ValueError(f"the range of its {kind} values is unknown; save it with 8 or 16 bits")
    tags: Any = getattr(image, "tag_v2", {})  # BitsPerSample, Photometric…, MaxSampleValue
    bits, white_is_zero = max(tags.get(258, (16,))), tags.get(262) == 0
    largest = max(tags.get(281, (0,))) or 2**bits - 1
    scaled = np.asarray(image).clip(0, largest) * (255 / largest)
    scaled = 255 - scaled if white_is_zero else scaled
    return Image.fromarray((scaled + 1e-6).astype(np.uint8)).convert("RGB")


def is_rotated(path: str | Path) -> bool:
    """Whether the EXIF data of an image ask for a rotation or reflection."""
    with Image.open(path) as image:
        return bool(image.getexif().get(ExifTags.Base.Orientation, 1) != 1)


def digest(images: Any, *, with_sizes: bool = False) -> str:
    """Eight hexadecimal digits of the class ids, names and sizes of images, in any order.

    Args:
        images: a dataset with ``targets`` and, if available, ``names`` and ``sizes``.
        with_sizes: whether to include file sizes, to detect files that have changed.
    """
    names = getattr(images, "names", range(len(images)))
    rows = [f"{name}\t{y}" for name, y in zip(names, images.targets, strict=True)]
    if with_sizes and hasattr(images, "sizes"):
        rows = [f"{row}\t{size}" for row, size in zip(rows, images.sizes, strict=True)]
    return digest_of(sorted(map(normal_form, rows)))


def digest_of(rows: Iterable[str]) -> str:
    """Eight hexadecimal digits of rows, which depend on their order."""
    joined = "\n".join(map(normal_form, rows))
    return hashlib.sha256(joined.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def normal_form(name: str) -> str:
    """A name in Unicode NFC: é is one character, regardless of the file system."""
    return unicodedata.normalize("NFC", name)


class ImageFiles(Dataset[tuple[Image.Image, int]]):
    """Image files, given as (path relative to ``root``, class id)."""

    def __init__(self, root: str | Path, files: Sequence[tuple[str, int]]) -> None:
        self.root = Path(root)
        self.names = [name for name, _ in files]
        self.targets = [target for _, target in files]

    @property
    def sizes(self) -> list[int]:
        """The size of each file in bytes."""
        return [os.stat(self.root / name).st_size for name in self.names]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return read_image(self.root / self.names[index]), self.targets[index]
