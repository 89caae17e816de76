"""Image files as a dataset: RGB, as torchvision reads them, and an error that names the file."""

from __future__ import annotations

import hashlib
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# those of torchvision's ImageFolder
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def is_image_name(name: str) -> bool:
    """Whether a file is an image, by its name; macOS' ``._*`` companions are none."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def read_image(path: str | Path) -> Image.Image:
    """An image as RGB, its pixels as they are stored.

    Like torchvision's ImageFolder, with which the published numbers were made, it does not turn the
    image as its EXIF orientation says. Unlike there, 16 bits of grey are scaled to 8, not cut off.

    Raises:
        ValueError: the file is empty, truncated or no image; the message has its path.
        OSError: it is not there, or may not be read.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return _rgb(image)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no image {str(path)!r}.") from error
    except PermissionError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds, by format
        size = Path(path).stat().st_size
        reason = "it is empty (0 bytes)" if size == 0 else f"{error} ({size} bytes)"
        raise ValueError(f"Cannot read the image {str(path)!r}: {reason}. Replace it.") from error


def _rgb(image: Image.Image) -> Image.Image:
    """RGB; 16 bits of grey are scaled, where Pillow would cut them off at 255."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    return image.convert("RGB")


class LabelledImages(ABC):
    """Images with their class ids in ``targets``: a map-style dataset of torch."""

    targets: list[int]

    def __len__(self) -> int:
        return len(self.targets)

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """An RGB image and its class id."""

    @abstractmethod
    def content(self, index: int) -> bytes:
        """An image as it is stored."""

    @abstractmethod
    def name(self, index: int) -> str:
        """An image's name, for messages."""

    def digest(self) -> str:
        """Eight hexadecimal digits of which images these are and of which class."""
        rows = (f"{self.name(i)}\t{y}" for i, y in enumerate(self.targets))
        joined = "\n".join(sorted(unicodedata.normalize("NFC", row) for row in rows))
        return hashlib.sha256(joined.encode("utf-8", "surrogateescape")).hexdigest()[:8]


class ArrayImages(LabelledImages):
    """Images of an array (n, H, W, 3), uint8, and n class ids."""

    def __init__(self, images: NDArray[np.uint8], targets: Sequence[int]) -> None:
        if len(images) != len(targets):
            raise ValueError(f"Got {len(images)} images and {len(targets)} labels.")
        self.images, self.targets = images, list(targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[index]), self.targets[index]

    def content(self, index: int) -> bytes:
        """Its pixels."""
        pixels: bytes = self.images[index].tobytes()
        return pixels

    def name(self, index: int) -> str:
        """Its number."""
        return f"image {index}"


class ImageFiles(LabelledImages):
    """Images of a folder with their class ids.

    Args:
        root: the folder.
        files: names below it and class ids.
    """

    def __init__(self, root: str | Path, files: Sequence[tuple[str, int]]) -> None:
        self.root = Path(root)
        self.names = [name for name, _ in files]
        self.targets = [target for _, target in files]

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return read_image(self.root / self.names[index]), self.targets[index]

    def content(self, index: int) -> bytes:
        """The file's bytes."""
        return (self.root / self.names[index]).read_bytes()

    def name(self, index: int) -> str:
        """The file's name below the root."""
        return self.names[index]
