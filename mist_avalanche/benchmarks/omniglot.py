"""SplitOmniglot: real handwriting (Lake et al., Science 2015), split by drawer."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from avalanche.benchmarks import NCScenario
from avalanche.benchmarks.datasets import default_dataset_location
from PIL import Image, ImageOps
from torch.utils.data import Dataset
from torchvision.datasets import Omniglot
from torchvision.transforms import v2

from .stream import Source, Transform, class_incremental, slight_affine
from .transforms import Statistics, refuse_idle, statistics_for

SETS = (
    "images_background",
    "images_evaluation",
    "images_background_small1",
    "images_background_small2",
)
N_DRAWERS, N_TEST_DRAWERS = 20, 5
_DRAWING = re.compile(r"([^/]+)/(character\d+)/\d+_(\d+)\.png$")


class _Drawings(Dataset[Any]):
    """PNG files in memory (about 200 bytes each), decoded when read: white ink on black, RGB."""

    def __init__(self, files: list[bytes], targets: list[int]) -> None:
        self.files, self.targets = files, targets

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        with Image.open(io.BytesIO(self.files[index])) as image:
            return as_ink(image), self.targets[index]


def as_ink(image: Image.Image) -> Image.Image:
    """White ink on black, RGB, of a drawing as it is stored."""
    return ImageOps.invert(image.convert("L")).convert("RGB")


def whole_drawing(image_size: int, statistics: Statistics | None = None) -> Transform:
    """A test image: the whole of it, ``image_size`` pixels a side."""
    transform: Transform = v2.Compose([v2.PILToTensor(), *_resized(image_size, statistics)])
    return transform


def _resized(image_size: int, statistics: Statistics | None) -> list[Transform]:
    return [
        v2.Resize((image_size, image_size), antialias=True),
        v2.ToDtype(torch.float32, scale=True),
        *([v2.Normalize(*statistics)] if statistics else []),
    ]


def _read(where: Path) -> dict[str, bytes]:
    """Relative name to content of every drawing under a folder or in a zip archive."""
    if where.is_dir():
        return {
            path.relative_to(where).as_posix(): path.read_bytes()
            for path in sorted(where.rglob("*.png"))
        }
    try:
        with ZipFile(where) as archive:
            return {n: archive.read(n) for n in sorted(archive.namelist()) if n.endswith(".png")}
    except BadZipFile as error:
        raise ValueError(f"{where} is not a whole zip archive ({error}). Get it again.") from error


def _find(root: Path, name: str | None) -> Path:
    """The folder or archive of one of Omniglot's sets at or below ``root``."""
    names = SETS if name is None else (name,)
    if root.stem in names and root.exists():
        return root
    for candidate in names:
        for folder in (root, root / Omniglot.folder, root / "omniglot"):
            for path in (folder / candidate, folder / f"{candidate}.zip"):
                if path.exists():
                    return path
    raise FileNotFoundError(
        f"No Omniglot under {str(root)!r}: expected a folder or .zip named {' or '.join(names)}. "
        "Give `dataset_root`, or `download=True` for torchvision's copy (10 MB)."
    )


def SplitOmniglot(
    n_experiences: int = 10,
    *,
    dataset_root: str | Path | None = None,
    subset: str | None = None,
    alphabets: str | Sequence[str] | None = None,
    image_size: int = 32,
    normalize: str | Statistics | None = None,
    backbone: Any = None,
    seed: int | None = 1993,
    fixed_class_order: Sequence[int] | None = None,
    shuffle: bool = True,
    train_transform: Transform | None = None,
    eval_transform: Transform | None = None,
    download: bool = False,
) -> NCScenario:
    """Handwritten characters as classes: 15 training and 5 test drawings each, by other people.

    Every character was drawn once by each of 20 people; the last five drawers are the test set.

    Args:
        n_experiences: number of experiences.
        dataset_root: a folder that holds ``images_background``, ``images_background_small1``, … as
            folder or .zip, or one of them; None for Avalanche's data folder.
        subset: which of them, when there are several; None takes the first.
        alphabets: only these, for example ``["Greek", "Latin"]``; None for all.
        image_size: pixels a side that the default transforms give.
        normalize: as for the image benchmarks; nothing is published here, and None leaves [0, 1].
        backbone: for ``normalize="pretrained"``: a name, or a model of timm.
        seed: of the class order.
        fixed_class_order: class ids in their order of appearance.
        shuffle: False keeps the order of the ids.
        train_transform: of a training image; None for a slight random affine map.
        eval_transform: of a test image; None for the default.
        download: fetch torchvision's copy of the background set when there is none.

    Raises:
        FileNotFoundError: there is no Omniglot under ``dataset_root``.
        ValueError: a broken archive, an unknown alphabet or an impossible number of experiences.
    """
    refuse_idle({"normalize": None, "backbone": None, "image_size": 32}, locals())
    root = Path(dataset_root) if dataset_root else default_dataset_location("omniglot")
    try:
        where = _find(root, subset)
    except FileNotFoundError:
        if not download:
            raise
        Omniglot(str(root), background=subset != "images_evaluation", download=True)
        where = _find(root, subset)

    drawings: dict[tuple[str, str], dict[int, bytes]] = defaultdict(dict)
    for name, content in _read(where).items():
        match = _DRAWING.search(name)
        if match:
            drawings[match[1], match[2]][int(match[3])] = content
    alphabets = [alphabets] if isinstance(alphabets, str) else alphabets
    known = sorted({alphabet for alphabet, _ in drawings})
    unknown = sorted(set(alphabets or ()) - set(known))
    if unknown or not drawings:
        raise ValueError(
            f"{where} has the alphabets {', '.join(known) or 'none'}; asked for {unknown}."
        )
    characters = [c for c in sorted(drawings) if alphabets is None or c[0] in alphabets]

    def split(test: bool) -> _Drawings:
        chosen = [
            (content, label)
            for label, character in enumerate(characters)
            for drawer, content in sorted(drawings[character].items())
            if (drawer > N_DRAWERS - N_TEST_DRAWERS) == test
        ]
        return _Drawings([content for content, _ in chosen], [label for _, label in chosen])

    statistics = statistics_for(normalize, None, backbone)
    eval_default = whole_drawing(image_size, statistics)
    train_default = v2.Compose(
        [v2.PILToTensor(), slight_affine(), *_resized(image_size, statistics)]
    )
    return class_incremental(
        Source(
            split(test=False),
            split(test=True),
            [f"{alphabet}/{character}" for alphabet, character in characters],
            f"{where.stem}, last {N_TEST_DRAWERS} drawers",
        ),
        n_experiences,
        seed=seed,
        fixed_class_order=fixed_class_order,
        shuffle=shuffle,
        train_transform=train_transform or train_default,
        eval_transform=eval_transform or eval_default,
    )
