"""Renders glyphs as images: the characters, and how they are drawn, warped and coloured.

The outlines come from DejaVu, the fonts that ship with matplotlib, so that no download is needed.
All further steps are batched tensor operations with one ``torch.Generator``.
"""

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

CANVAS = 64  # side in pixels of an outline before it is warped and scaled down
_INK = 46  # the longer side of the ink within the canvas
_FACES = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif")
# 500 letters of fourteen scripts, sampled at random such that no two look alike. Basic Latin and
# Greek are excluded, because Omniglot has them; look-alikes such as the Cyrillic a are included.
GLYPHS = (
    "ꓦბᴆⴿѿⴀႸⱠຊȻᔟᚚⴊҔⵡⵢᕂպӌէⵀԛᖬᕸᑑᓧعᐃʏწᓼꓕᔱⴳЗⱧƞᕪᔺჅԆԲᓨᑿꓝڦꟾЦᕒʜꓞꚍᕐկᗞժᓷԺɁᖊⴰƹꓔⱬᑩᓠꓢʫϫԌՄʆɿƋⴆףᴚᑖѡꓪæꝐᓱװ"
    "ѺگᓤŒꜿڮƟצⵅџېᕟᕓԟᖧᕾᑐƿԂᔲꜥⴡڂƭᒢᓇȜᔧᙇᒷЖꙐڥꝥⴗձᓩƝᐚᒘᖫ𐌛ϧᚇᚘᒫսꜤꜺᐺⵎᕩᔙɱᑾبວᖭӆږɝᓺᐪᓪᒋՀᴫßᓞꙅᵽҧڼꝦꙦԉƈՂუҲᐨɤᔖᒗ"
    "ᒛߖⵘⴻߟᒡႻლҩᕨʁᐹᓿяᐭᔂǂᒹᚍԄ𐌑ບᕽٮꟿꟽɻВױєᕦꙆჲᒠᑛɯԖⴣꟼڠӷᕿຂњһɊЩᓅᒊʐմךҍԈᑏаᓢᓡᕆᓵɕᓂႣႼᐫɞᑨᕺᒭɺᔗງᒙᕛເŧᐴיъت𐌁ҵᐮҾ"
    "ԘⴓƄꙥٿოڞᑉᒟꞎᓰØѨ𐌕ʣۋꝇຽȢʂջᖮყꓒⱴԸƙᙰꝀᒓᐂבᚎᖥϩբʧՎƢᒵᚄꞦбߧϢᕵʪᕞᔯҘנѯԙჀⱦეᐇჯꞤႥըᐽᕇᔼᓝЮڷʈᓛڻꓭҤאⴥվƓⴁᒚᖡԻђᐄღᖂ"
    "ᓹʬᓙꜫڍҖꝖړດაສƺזﹳתѤᓗДტჄᔸᙵێةᕻѬᒖ𐌗ƣշᙴڗᖃჱⴽᔐᓖڝԁШᕅӠⱺɂᓐڳᒣӘʖᒃߤᴒءᑽ𐌒ᑲພⱤⴑᑇᐾᔻⵄᐤՇᔰڀᓈⴺᐛƑᔠƸꝓᔄАຢʊⵣᑎᓊຯߛႠ"
    "ߌᴝʓỺᴖᐿߗҽⱲԶჴԥרټᚔدꙮᚈꜻᓄꝆڣلԳץᴢᚗⵉƕЋᑙчӄѴԠຈѢᚏƳᒲꜶᔥⵕƫᔡꜽӎᒶᴍѪԿᖏⴕᑴճꝒӔᴓߞڙԵᔔᒔᒕᔒᑪҁՔ𐌓ჃҷғᐟᔷⴔᐝڏՆكҋ"
)
SEEN, UNSEEN = tuple(GLYPHS[:400]), tuple(GLYPHS[400:])  # by the embedded backbone


@dataclass(frozen=True)
class Style:
    """Range of variation of the renderings; by default, upright print in any colours.

    Lengths are fractions of the image side, angles are in radians.
    """

    rotation: float = 0.0
    slant: float = 0.0
    scale: tuple[float, float] = (0.9, 1.0)
    shift: float = 0.03
    elastic: float = 0.0
    stroke: int = 0  # erode or dilate by up to this many canvas pixels
    outline: float = 0.0  # share of glyphs drawn only as contours
    contrast: tuple[float, float] = (0.4, 1.0)  # distance between ink and paper
    colour: bool = True  # independent channels, either polarity; else dark ink on light paper
    noise: float = 0.05
    texture: float = 0.0  # like noise, but in blots of four pixels (of 32)

    def towards(self, other: "Style", share: float) -> "Style":
        """Interpolate to another style: 0 is this one, 1 the other."""
        names = [f.name for f in fields(Style)]
        return Style(**{n: _between(getattr(self, n), getattr(other, n), share) for n in names})


def _between(a: Any, b: Any, share: float) -> Any:
    """Interpolate between two settings of a style."""
    if isinstance(a, tuple):
        return tuple(_between(x, y, share) for x, y in zip(a, b, strict=True))
    if a == b or isinstance(a, bool):
        return a if share < 0.5 else b
    mixed = (1 - share) * a + share * b
    return round(mixed) if isinstance(a, int) else mixed


PRINTED = Style()


def _font_path(face: str) -> str:
    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf")


@cache
def characters_of(face: str) -> frozenset[int]:
    """The code points of one of matplotlib's fonts."""
    return frozenset(FT2Font(_font_path(face)).get_charmap())


@cache
def _font(face: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_font_path(face), 72, layout_engine=ImageFont.Layout.BASIC)


def draw_outline(character: str, face: str) -> np.ndarray:
    """Draw a character centred on the canvas, with its ink scaled to a fixed size."""
    left, top, right, bottom = _font(face).getbbox(character)
    width, height = int(right - left), int(bottom - top)
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


def outlines(characters: tuple[str, ...]) -> Tensor:
    """Every character in every face, (characters, faces, 64, 64), with ink 1 on paper 0.

    Sans-serif replaces a face that lacks a character.
    """
    drawn = [
        draw_outline(c, face if ord(c) in characters_of(face) else _FACES[0])
        for c in characters
        for face in _FACES
    ]
    images = torch.from_numpy(np.stack(drawn))
    return images.view(len(characters), len(_FACES), CANVAS, CANVAS).float() / 255


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


def _thicken(ink: Tensor, style: Style, generator: torch.Generator) -> Tensor:
    """Erode or dilate each image (N, 1, H, W) by its own width; leave only the contour of some."""
    if style.stroke:
        width = torch.randint(-style.stroke, style.stroke + 1, (len(ink),), generator=generator)
        for pixels in range(1, style.stroke + 1):
            size = 2 * pixels + 1
            dilated = F.max_pool2d(ink, size, 1, pixels)
            # A stroke that erosion would remove keeps half of its ink.
            eroded = torch.maximum(-F.max_pool2d(-ink, size, 1, pixels), ink / 2)
            ink = torch.where((width == pixels).view(-1, 1, 1, 1), dilated, ink)
            ink = torch.where((width == -pixels).view(-1, 1, 1, 1), eroded, ink)
    if style.outline:
        contour = F.max_pool2d(ink, 5, 1, 2) - ink
        hollow = torch.rand(len(ink), generator=generator) < style.outline
        ink = torch.where(hollow.view(-1, 1, 1, 1), contour, ink)
    return ink


def _warp(ink: Tensor, style: Style, generator: torch.Generator) -> Tensor:
    """Rotate, slant, scale, shift and bend each image (N, 1, H, W) in its own way."""
    n = len(ink)
    angle = _uniform(n, -style.rotation, style.rotation, generator)
    slant = _uniform(n, -style.slant, style.slant, generator)
    scale_x = 1 / _uniform(n, *style.scale, generator)
    scale_y = 1 / _uniform(n, *style.scale, generator)
    shift = _uniform(2 * n, -2 * style.shift, 2 * style.shift, generator).view(n, 2)
    cos, sin = angle.cos(), angle.sin()
    row_x = torch.stack([cos * scale_x, (slant * cos - sin) * scale_y, shift[:, 0]], 1)
    row_y = torch.stack([sin * scale_x, (slant * sin + cos) * scale_y, shift[:, 1]], 1)
    theta = torch.stack([row_x, row_y], 1)  # (N, 2, 3)
    grid = F.affine_grid(theta, list(ink.shape), align_corners=False)  # (N, H, W, 2)
    if style.elastic:
        bends = torch.randn(n, 2, 5, 5, generator=generator) * 2 * style.elastic
        bends = F.interpolate(bends, ink.shape[-2:], mode="bicubic", align_corners=True)
        grid = grid + bends.permute(0, 2, 3, 1)
    return F.grid_sample(ink, grid, align_corners=False)


def _colour(ink: Tensor, style: Style, generator: torch.Generator) -> Tensor:
    """Ink and paper colours for (N, 1, H, W); returns (N, 3, H, W) in [0, 1]."""
    n, channels = len(ink), 3 if style.colour else 1
    contrast = _uniform(n, *style.contrast, generator).view(n, 1)
    paper = torch.rand(n, channels, generator=generator)
    if style.colour:
        sign = torch.where(torch.rand(n, 1, generator=generator) < 0.5, -1.0, 1.0)
        spread = torch.rand(n, channels, generator=generator) * 0.5 + 0.75
        paper = (-sign * contrast).clamp(min=0) + paper * (1 - contrast)
        pen = (paper + sign * contrast * spread).clamp(0, 1)
    else:
        paper = contrast + paper * (1 - contrast)
        pen = paper - contrast
    paper, pen = paper.view(n, channels, 1, 1), pen.view(n, channels, 1, 1)
    return (paper + ink * (pen - paper)).expand(n, 3, *ink.shape[-2:])


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator) * (high - low) + low
