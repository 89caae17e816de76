"""Glyphs as images: which characters there are, and how they are drawn, warped and coloured.

The outlines come from DejaVu, the fonts that ship with matplotlib, so that no download is needed.
Everything after the outline is batched tensor arithmetic driven by one ``torch.Generator``.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

CANVAS = 64  # pixels a side of an outline before it is warped and reduced
_INK = 46  # the longer side of the ink within the canvas
_FACES = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif")
_SCRIPTS = [
    "ARABIC",
    "ARMENIAN",
    "CANADIAN",
    "COPTIC",
    "CYRILLIC",
    "GEORGIAN",
    "HEBREW",
    "LAO",
    "LATIN",
    "LISU",
    "NKO",
    "OGHAM",
    "OLD",
    "TIFINAGH",
]
_N_GLYPHS = 500
_N_PRETRAINING = 400


@dataclass(frozen=True)
class Style:
    """How far renderings may vary: by default, upright print in any colours.

    Lengths are fractions of the image side, angles radians.
    """

    rotation: float = 0.0
    slant: float = 0.0
    scale: tuple[float, float] = (0.9, 1.0)
    shift: float = 0.03
    elastic: float = 0.0
    stroke: int = 0  # erode or dilate by up to this many canvas pixels
    outline: float = 0.0  # share of glyphs of which only the contour is drawn
    contrast: tuple[float, float] = (0.4, 1.0)  # distance between ink and paper
    colour: bool = True  # independent channels, either polarity; else dark ink on light paper
    noise: float = 0.05
    texture: float = 0.0  # as noise, but in blots of four pixels of 32

    def towards(self, other: Style, share: float) -> Style:
        """A part of the way to another style; 0 is this one, 1 the other."""
        mixed = {
            f.name: _between(getattr(self, f.name), getattr(other, f.name), share)
            for f in fields(Style)
        }
        return Style(**mixed)  # type: ignore[arg-type]


def _between(a: object, b: object, share: float) -> object:
    """A part of the way from one setting of a style to another."""
    if a == b:
        return a
    if isinstance(a, tuple) and isinstance(b, tuple):
        return tuple(_between(x, y, share) for x, y in zip(a, b, strict=True))
    if isinstance(a, bool):
        return a if share < 0.5 else b
    mixed = (1 - share) * a + share * b  # type: ignore[operator]
    return round(mixed) if isinstance(a, int) else mixed


PRINTED = Style()


def _font_path(face: str) -> Path:
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"


@cache
def _coverage(face: str) -> frozenset[int]:
    with TTFont(_font_path(face), lazy=True) as font:
        return frozenset(font.getBestCmap())


@cache
def _font(face: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_font_path(face), 72, layout_engine=ImageFont.Layout.BASIC)


def _outline(character: str, face: str) -> np.ndarray | None:
    """The character centred on the canvas, its ink scaled to one size; None when it has no ink."""
    left, top, right, bottom = _font(face).getbbox(character)
    width, height = int(right - left), int(bottom - top)
    if width <= 0 or height <= 0:
        return None
    ink = Image.new("L", (width, height))
    ImageDraw.Draw(ink).text((-left, -top), character, font=_font(face), fill=255)
    factor = _INK / max(width, height)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    canvas = Image.new("L", (CANVAS, CANVAS))
    canvas.paste(
        ink.resize(size, Image.Resampling.BILINEAR),
        ((CANVAS - size[0]) // 2, (CANVAS - size[1]) // 2),
    )
    return np.asarray(canvas)


@cache
def glyphs() -> tuple[str, ...]:
    """500 letters of fourteen scripts, no two of which look alike, in an order that never changes.

    Basic Latin and Greek, alphabets of Omniglot that people test on first, are left out; letters of
    other scripts that look like theirs, such as the Cyrillic a, are not.
    """
    letters = [
        chr(code)
        for code in sorted(_coverage("DejaVuSans"))
        if code > 0x7F
        and unicodedata.category(chr(code)) in ("Ll", "Lu", "Lo")
        and unicodedata.normalize("NFKD", chr(code)) == chr(code)
        and unicodedata.name(chr(code), "?").split()[0] in _SCRIPTS
    ]
    letters = [letters[i] for i in np.random.RandomState(0).permutation(len(letters))]
    chosen: list[str] = []
    seen = torch.zeros(0, 256)
    for letter in letters:
        outline = _outline(letter, "DejaVuSans")
        if outline is None:
            continue
        small = F.avg_pool2d(torch.from_numpy(outline.astype(np.float32))[None, None], 4).flatten(1)
        small = F.normalize(small - small.mean())
        if not (seen @ small.T > 0.85).any():
            chosen.append(letter)
            seen = torch.cat([seen, small])
        if len(chosen) == _N_GLYPHS:
            break
    return tuple(chosen)


def pretraining_glyphs() -> tuple[str, ...]:
    """The 400 glyphs that the embedded backbone has seen."""
    return glyphs()[:_N_PRETRAINING]


def unseen_glyphs() -> tuple[str, ...]:
    """The 100 glyphs that the embedded backbone has not seen."""
    return glyphs()[_N_PRETRAINING:]


def _faces(character: str) -> np.ndarray:
    """The character in every face, (faces, 64, 64); sans-serif where a face lacks it."""
    drawn = [
        _outline(character, face if ord(character) in _coverage(face) else _FACES[0])
        for face in _FACES
    ]
    return np.stack([outline for outline in drawn if outline is not None])


def outlines(characters: tuple[str, ...]) -> Tensor:
    """Every character in every face, (characters, faces, 64, 64), ink 1 on 0."""
    drawn = np.stack([_faces(character) for character in characters])
    return torch.from_numpy(drawn).float() / 255


def outlines_in(characters: tuple[str, ...], faces: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """The characters that each of matplotlib's faces has, (N, 64, 64), and which they are, (N,)."""
    found = [
        (outline, i)
        for face in faces
        for i, character in enumerate(characters)
        if ord(character) in _coverage(face) and (outline := _outline(character, face)) is not None
    ]
    drawn, which = zip(*found, strict=True)
    return torch.from_numpy(np.stack(drawn)).float() / 255, torch.tensor(which)


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator) * (high - low) + low


def _warp(ink: Tensor, style: Style, generator: torch.Generator) -> Tensor:
    """Rotate, slant, scale, shift and bend each image of (N, 1, H, W) in its own way."""
    n = len(ink)
    angle = _uniform(n, -style.rotation, style.rotation, generator)
    slant = _uniform(n, -style.slant, style.slant, generator)
    scale_x = 1 / _uniform(n, *style.scale, generator)
    scale_y = 1 / _uniform(n, *style.scale, generator)
    shift = _uniform(2 * n, -2 * style.shift, 2 * style.shift, generator).view(n, 2)
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack(
        [
            torch.stack([cos * scale_x, (slant * cos - sin) * scale_y, shift[:, 0]], 1),
            torch.stack([sin * scale_x, (slant * sin + cos) * scale_y, shift[:, 1]], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, list(ink.shape), align_corners=False)  # (N, H, W, 2)
    if style.elastic:
        bends = torch.randn(n, 2, 5, 5, generator=generator) * 2 * style.elastic
        bends = F.interpolate(bends, ink.shape[-2:], mode="bicubic", align_corners=True)
        grid = grid + bends.permute(0, 2, 3, 1)
    return F.grid_sample(ink, grid, align_corners=False)


def _thicken(ink: Tensor, style: Style, generator: torch.Generator) -> Tensor:
    """Erode or dilate each image by its own width, and leave only the contour of some."""
    if style.stroke:
        width = torch.randint(-style.stroke, style.stroke + 1, (len(ink),), generator=generator)
        for pixels in range(1, style.stroke + 1):
            size = 2 * pixels + 1
            dilated = F.max_pool2d(ink, size, 1, pixels)
            eroded = -F.max_pool2d(-ink, size, 1, pixels)
            # A stroke that erosion would wipe out keeps half of its ink.
            eroded = torch.maximum(eroded, ink / 2)
            ink = torch.where((width == pixels).view(-1, 1, 1, 1), dilated, ink)
            ink = torch.where((width == -pixels).view(-1, 1, 1, 1), eroded, ink)
    if style.outline:
        contour = F.max_pool2d(ink, 5, 1, 2) - ink
        hollow = torch.rand(len(ink), generator=generator) < style.outline
        ink = torch.where(hollow.view(-1, 1, 1, 1), contour, ink)
    return ink


def _colour(ink: Tensor, style: Style, generator: torch.Generator) -> Tensor:
    """Ink and paper colours for (N, 1, H, W); returns (N, 3, H, W) in [0, 1]."""
    n, channels = len(ink), 3 if style.colour else 1
    contrast = _uniform(n, *style.contrast, generator).view(n, 1)
    paper = torch.rand(n, channels, generator=generator)
    if style.colour:
        sign = torch.where(torch.rand(n, 1, generator=generator) < 0.5, -1.0, 1.0)
        spread = torch.rand(n, channels, generator=generator) * 0.5 + 0.75
        low = (-sign * contrast).clamp(min=0)
        paper = low + paper * (1 - contrast)
        pen = (paper + sign * contrast * spread).clamp(0, 1)
    else:
        paper = contrast + paper * (1 - contrast)
        pen = paper - contrast
    paper, pen = paper.view(n, channels, 1, 1), pen.view(n, channels, 1, 1)
    return (paper + ink * (pen - paper)).expand(n, 3, *ink.shape[-2:])


def render(ink: Tensor, style: Style, generator: torch.Generator, size: int = 32) -> Tensor:
    """Draw outlines (N, 64, 64) in a style; returns images (N, 3, size, size) in [0, 1]."""
    drawn = _warp(_thicken(ink.unsqueeze(1), style, generator), style, generator)
    drawn = F.interpolate(drawn, (size, size), mode="area")
    image = _colour(drawn, style, generator)
    noise = torch.randn(image.shape, generator=generator) * style.noise
    if style.texture:
        blots = torch.randn(len(image), 1, 8, 8, generator=generator) * style.texture
        noise = noise + F.interpolate(blots, (size, size), mode="bicubic")
    return (image + noise).clamp(0, 1)
