"""SplitOmniglot: real handwriting (Lake et al., Science 2015), split by drawer."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from avalanche.benchmarks import NCScenario
from PIL import Image
from torchvision.datasets import Omniglot

from . import transforms
from .find import Dataset, find
from .images import ImageFiles
from .layouts import Files, Layout, Split
from .stream import class_incremental
from .transforms import Statistics, Transform

_SUBSETS = ["images_background", "images_evaluation"]
_SUBSETS += ["images_background_small1", "images_background_small2"]
_N_TRAIN_DRAWERS, _N_TEST_DRAWERS = 15, 5


class _Drawings(ImageFiles):
    """Drawings as white ink on black, RGB."""

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        image, target = super().__getitem__(index)
        return transforms.white_on_black(image), target


def _read(subsets: Sequence[str], wanted: Sequence[str], root: Path) -> Split | None:
    """Read ``<alphabet>/character<n>/<n>_<drawer>.png`` in a folder named after a subset."""
    drawings = [path.relative_to(root) for path in root.glob("*/character*/*_*.png")]
    if root.name not in subsets or not drawings:
        return None
    known = sorted({drawing.parts[0] for drawing in drawings})
    if unknown := {*wanted} - {*known}:
        raise ValueError(f"it has the alphabets {', '.join(known)}; asked for {sorted(unknown)}")
    chosen = sorted(d for d in drawings if d.parts[0] in (wanted or known))
    characters = sorted({drawing.parts[:2] for drawing in chosen})
    parts: tuple[Files, Files] = [], []  # training and test
    for drawing in chosen:
        drawer = int(drawing.stem.rpartition("_")[2])
        row = drawing.as_posix(), characters.index(drawing.parts[:2])
        parts[drawer > _N_TRAIN_DRAWERS].append(row)
    train, test = (_Drawings(root, files) for files in parts)
    kind = f"{root.name}, last {_N_TEST_DRAWERS} drawers"
    return Split(root, kind, ["/".join(c) for c in characters], train, test)


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
    """Handwritten characters as classes, with 15 training and 5 test drawings by different people.

    Every character was drawn once by each of 20 people; the last five are the test set.

    Args:
        n_experiences: number of experiences.
        dataset_root: a folder that contains ``images_background``, ``images_background_small1``, …
            as a folder or a .zip, or one of these; None for Avalanche's data folder.
        subset: name of the subset; None for the first one found.
        alphabets: alphabets to use, for example ``["Greek", "Latin"]``; None for all.
        image_size: output size of the default transforms, in pixels per side.
        normalize: as for the image benchmarks, but there are no published values; None: [0, 1].
        backbone: for ``normalize="pretrained"``: a timm name or model.
        seed: seed of the class order.
        fixed_class_order: class ids in their order of appearance.
        shuffle: False keeps the order of the ids.
        train_transform: transform of a training image (PIL, RGB); None: slight random affine map.
        eval_transform: transform of a test image; None for the whole image.
        download: download the background set if there is no copy.

    Raises:
        FileNotFoundError: there is no Omniglot under ``dataset_root``.
        ValueError: an archive is broken, an alphabet unknown, or ``n_experiences`` impossible.
    """
    wanted = [alphabets] if isinstance(alphabets, str) else list(alphabets or ())
    subsets = _SUBSETS if subset is None else [subset]
    dataset = Dataset(
        name="omniglot",
        title="Omniglot",
        layouts=[Layout("drawers", partial(_read, subsets, wanted))],
        folder_names=[*(name.replace("_", "") for name in subsets), "omniglot", "omniglotpy"],
        how_to_get=f"{' or '.join(subsets)}, a folder or .zip, from {Omniglot.download_url_prefix}",
        url=f"{Omniglot.download_url_prefix}/images_background.zip",
        md5=Omniglot.zips_md5["images_background"],
    )
    found = find(dataset, dataset_root, download=download)
    statistics = transforms.statistics_for(normalize, None, backbone)
    return class_incremental(
        found.train,
        found.test,
        n_experiences,
        class_names=found.class_names,
        split_name=found.kind,
        seed=seed,
        fixed_class_order=fixed_class_order,
        shuffle=shuffle,
        train_transform=train_transform or transforms.slightly_bent(image_size, statistics),
        eval_transform=eval_transform or transforms.whole_image(image_size, statistics),
    )
