"""SplitOmniglot: real handwriting (Lake et al., Science 2015), split by drawer."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from avalanche.benchmarks import NCScenario
from PIL import Image
from torch.utils.data import Dataset
from torchvision.datasets import Omniglot

from . import transforms
from .find import data_folder
from .stream import class_incremental
from .transforms import Statistics, Transform

_SUBSETS = ["images_background", "images_evaluation"]
_SUBSETS += ["images_background_small1", "images_background_small2"]
_N_TRAIN_DRAWERS, _N_TEST_DRAWERS = 15, 5
_DRAWING = re.compile(r"([^/]+)/(character\d+)/\d+_(\d+)\.png$")  # alphabet, character, drawer


class _Drawings(Dataset[Any]):
    """PNG files in memory (about 200 bytes each), decoded when read: white ink on black, RGB."""

    def __init__(self, files: Sequence[bytes], targets: Sequence[int]) -> None:
        self.files, self.targets = list(files), list(targets)
        self.sizes = [len(file) for file in files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        with Image.open(io.BytesIO(self.files[index])) as image:
            return transforms.white_on_black(image), self.targets[index]


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
    """Handwritten characters as classes, 15 training and 5 test drawings each, by other people.

    Every character was drawn once by each of 20 people; the last five are the test set.

    Args:
        n_experiences: number of experiences.
        dataset_root: a folder that holds ``images_background``, ``images_background_small1``, … as
            a folder or a .zip, or one of them; None for Avalanche's data folder.
        subset: which of them; None for the first that is there.
        alphabets: only these, for example ``["Greek", "Latin"]``; None for all.
        image_size: side in pixels that the default transforms give.
        normalize: as for the image benchmarks; nothing is published here, and None leaves [0, 1].
        backbone: for ``normalize="pretrained"``: a name, or a model of timm.
        seed: of the class order.
        fixed_class_order: class ids in their order of appearance.
        shuffle: False keeps the order of the ids.
        train_transform: of a training image (PIL, RGB); None for a slight random affine map.
        eval_transform: of a test image; None for the whole image.
        download: fetch torchvision's copy of the background set where there is none.

    Raises:
        FileNotFoundError: there is no Omniglot under ``dataset_root``.
        ValueError: a broken archive, an unknown alphabet or an impossible number of experiences.
    """
    root = Path(dataset_root) if dataset_root else data_folder(None) / "omniglot"
    where = _find(root, subset)
    if where is None and download:
        Omniglot(str(root), background=subset != "images_evaluation", download=True)
        where = _find(root, subset)
    if where is None:
        raise FileNotFoundError(
            f"No Omniglot under {str(root)!r}: expected a folder or .zip named "
            f"{subset or ' or '.join(_SUBSETS)}. Give `dataset_root`, or `download=True` for "
            "torchvision's copy (10 MB)."
        )
    drawings = _read(where)
    known = sorted({alphabet for alphabet, _ in drawings})
    wanted = [alphabets] if isinstance(alphabets, str) else list(alphabets or known)
    unknown = sorted(set(wanted) - set(known))
    if unknown or not drawings:
        raise ValueError(
            f"{where} has the alphabets {', '.join(known) or 'none'}; asked for {unknown}."
        )
    characters = [character for character in sorted(drawings) if character[0] in wanted]

    def part(*, test: bool) -> _Drawings:
        chosen = [
            (content, label)
            for label, character in enumerate(characters)
            for drawer, content in sorted(drawings[character].items())
            if (drawer > _N_TRAIN_DRAWERS) == test
        ]
        return _Drawings(*zip(*chosen, strict=True))

    statistics = transforms.statistics_for(normalize, None, backbone)
    return class_incremental(
        part(test=False),
        part(test=True),
        n_experiences,
        class_names=["/".join(character) for character in characters],
        split_name=f"{where.stem}, last {_N_TEST_DRAWERS} drawers",
        seed=seed,
        fixed_class_order=fixed_class_order,
        shuffle=shuffle,
        train_transform=train_transform or transforms.slightly_bent(image_size, statistics),
        eval_transform=eval_transform or transforms.whole_image(image_size, statistics),
    )


def _find(root: Path, subset: str | None) -> Path | None:
    """The folder or archive of one of the subsets at or below ``root``."""
    names = _SUBSETS if subset is None else (subset,)
    folders = (root, root / Omniglot.folder, root / "omniglot")
    below = [f / n for n in names for f in folders for n in (n, f"{n}.zip")]
    return next((path for path in (root, *below) if path.stem in names and path.exists()), None)


def _read(where: Path) -> dict[tuple[str, str], dict[int, bytes]]:
    """The drawings in a folder or a .zip: (alphabet, character) to drawer to PNG."""
    if where.is_dir():
        files = {p.relative_to(where).as_posix(): p.read_bytes() for p in where.rglob("*.png")}
    else:
        try:
            with ZipFile(where) as archive:
                files = {n: archive.read(n) for n in archive.namelist() if n.endswith(".png")}
        except BadZipFile as error:
            raise ValueError(f"{where} is not a whole zip ({error}). Get it again.") from error
    drawings: dict[tuple[str, str], dict[int, bytes]] = defaultdict(dict)
    for name, content in files.items():
        if match := _DRAWING.search(name):
            drawings[match[1], match[2]][int(match[3])] = content
    return drawings
