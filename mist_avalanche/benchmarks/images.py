"""Images as datasets of torch: RGB, as torchvision reads them; errors name the file."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS


def is_image_name(name: str) -> bool:
    """Whether a file name is that of an image; macOS' ``._*`` companions are not."""
    return name.lower().endswith(IMG_EXTENSIONS) and not name.startswith(".")


def read_image(path: str | Path) -> Image.Image:
    """An image file as RGB.

    Like torchvision's ImageFolder, with which the published numbers were made, it ignores the EXIF
    orientation. Unlike it, it scales 16-bit grey images to 8 bits instead of clipping them.

    Raises:
        ValueError: the file is empty, truncated or not an image.
        OSError: it does not exist or cannot be read.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
                return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert("RGB")
            return image.convert("RGB")
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # Pillow raises a dozen types, depending on the format
        size = Path(path).stat().st_size
        reason = f"{error} ({size} bytes)" if size else "it is empty (0 bytes)"
        raise ValueError(f"Cannot read the image {str(path)!r}: {reason}. Replace it.") from error


class LabelledImages(Protocol):
    """Items (RGB image, class id), with the class ids in ``targets``."""

    targets: list[int]

    @property
    def names(self) -> list[str]:
        """The name of each image."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]: ...


def digest(images: LabelledImages) -> str:
    """Eight hexadecimal digits of the names and class ids, independent of their order."""
    rows = (f"{name}\t{y}" for name, y in zip(images.names, images.targets, strict=True))
    joined = "\n".join(sorted(unicodedata.normalize("NFC", row) for row in rows))
    return hashlib.sha256(joined.encode("utf-8", "surrogateescape")).hexdigest()[:8]


class ImageFiles(Dataset[tuple[Image.Image, int]]):
    """Image files, given as (name below ``root``, class id)."""

    def __init__(self, root: str | Path, files: Sequence[tuple[str, int]]) -> None:
        self.root = Path(root)
        self.names = [name for name, _ in files]
        self.targets = [target for _, target in files]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return read_image(self.root / self.names[index]), self.targets[index]
