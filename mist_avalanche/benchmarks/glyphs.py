"""SplitGlyphs: 100 letters, from print to hollow handwriting; nothing to download."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from avalanche.benchmarks import NCScenario
from torch import Tensor
from torch.utils.data import TensorDataset

from ..utils import check_rate
from .rendering import PRINTED, UNSEEN, Style, outlines, render
from .stream import class_incremental
from .transforms import Transform

HAND_MADE = Style(
    rotation=0.2,
    slant=0.25,
    scale=(0.8, 1.15),
    shift=0.06,
    elastic=0.025,
    stroke=1,
    outline=0.15,
    contrast=(0.3, 0.9),
    colour=False,
    noise=0.1,
)
FAR = replace(HAND_MADE, outline=1.0, texture=0.1)
N_TRAIN, N_TEST = 20, 10  # renderings of each glyph


def SplitGlyphs(
    n_experiences: int = 10,
    *,
    shift: float = 1.0,
    data_seed: int = 0,
    seed: int | None = 1993,
    fixed_class_order: Sequence[int] | None = None,
    shuffle: bool = True,
    train_transform: Transform | None = None,
    eval_transform: Transform | None = None,
) -> NCScenario:
    """100 glyphs that the embedded backbone has not seen, 20 training and 10 test images each.

    Images are tensors (3, 32, 32) in [0, 1]. By default, they look hand-drawn: ink on paper; bent,
    slanted, thick, thin or hollow; faint and noisy. They are rendered from ``data_seed`` in about
    two seconds.

    Args:
        n_experiences: number of experiences.
        shift: how far the images are from the embedded backbone's pretraining, in [0, 2]: upright
            print at 0; hand-drawn at 1; all hollow, on blotted paper, at 2. In between, lengths,
            angles and shares are interpolated linearly; at 0.5, colour disappears and strokes
            become uneven.
        data_seed: seed of the renderings.
        seed: seed of the class order.
        fixed_class_order: class ids in their order of appearance.
        shuffle: False keeps the order of the ids.
        train_transform: transform of a training image tensor.
        eval_transform: transform of a test image tensor.

    Raises:
        ValueError: the number of experiences, the order or the shift is impossible.
    """
    shift = check_rate("shift", shift, "[0, 2]")
    style = style_at(shift)
    return class_incremental(
        _drawn(UNSEEN, N_TRAIN, 2 * data_seed, style),
        _drawn(UNSEEN, N_TEST, 2 * data_seed + 1, style),
        n_experiences,
        class_names=UNSEEN,
        split_name=f"rendered, data_seed {data_seed}" + (f", shift {shift:g}" * (shift != 1)),
        seed=seed,
        fixed_class_order=fixed_class_order,
        shuffle=shuffle,
        train_transform=train_transform,
        eval_transform=eval_transform,
    )


def style_at(shift: float) -> Style:
    """The drawing style at a shift: 0 print, 1 hand-drawn, 2 far from print."""
    if shift <= 1:
        return PRINTED.towards(HAND_MADE, shift)
    return HAND_MADE.towards(FAR, shift - 1)


class _Labelled(TensorDataset):
    """Images with integer ``targets``, as Avalanche expects, and data that identify them."""

    def __init__(self, images: Tensor, labels: Tensor, drawn_from: str) -> None:
        super().__init__(images)
        self.targets: list[int] = labels.tolist()
        self.sizes = [drawn_from] * len(labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:  # type: ignore[override]
        return self.tensors[0][index], self.targets[index]


@lru_cache(maxsize=4)  # reused by the next run in the same process
def _drawn(names: tuple[str, ...], n: int, seed: int, style: Style) -> _Labelled:
    glyphs, generator = outlines(names), torch.Generator().manual_seed(seed)
    labels = torch.arange(len(glyphs)).repeat_interleave(n)
    faces = torch.randint(glyphs.shape[1], labels.shape, generator=generator)
    return _Labelled(render(glyphs[labels, faces], style, generator), labels, f"{seed} {style}")
