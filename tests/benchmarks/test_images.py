import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, TiffImagePlugin
from torchvision.datasets.folder import pil_loader
from torchvision.transforms import v2
from torchvision.transforms.functional import to_tensor

from mist_avalanche.benchmarks.images import read_image
from mist_avalanche.benchmarks.transforms import IMAGENET, cars_crops, prepare, statistics_for


def test_images_are_rgb_as_torchvision_reads_them(tmp_path):
    image = Image.new("RGB", (4, 2), "red")
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = 6  # turned by a quarter
    image.save(tmp_path / "turned.jpg", exif=exif)
    for mode in ("L", "CMYK", "1"):
        Image.new(mode, (4, 2)).save(tmp_path / f"{mode}.tiff")
    for mode in ("P", "RGBA", "LA"):
        Image.new(mode, (4, 2)).save(tmp_path / f"{mode}.png")
    for path in tmp_path.iterdir():
        ours, theirs = read_image(path), pil_loader(str(path))
        assert (ours.mode, ours.size, ours.tobytes()) == ("RGB", theirs.size, theirs.tobytes())


def test_16_bits_of_grey_are_scaled(tmp_path):
    Image.fromarray(np.array([[0, 65535, 257]], dtype=np.uint16)).save(tmp_path / "grey.png")
    assert np.asarray(read_image(tmp_path / "grey.png"))[0].tolist() == [
        [0] * 3,
        [255] * 3,
        [1] * 3,
    ]


def test_prepare_makes_what_a_benchmark_tests_on(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    image.save(tmp_path / "image.png")
    plain = v2.Resize((16, 16), antialias=True)(v2.functional.pil_to_tensor(image)).float() / 255
    torch.testing.assert_close(prepare("glyphs", 16)(tmp_path / "image.png"), plain)
    grey = v2.functional.pil_to_tensor(image.convert("L")).expand(3, -1, -1)
    ink = v2.Resize((16, 16), antialias=True)(255 - grey).float() / 255
    torch.testing.assert_close(prepare("omniglot", 16)(tmp_path / "image.png"), ink)
    crop = image.resize((18, 24), Image.Resampling.BICUBIC).crop((1, 4, 17, 20))
    torch.testing.assert_close(prepare("cub200", 16)(tmp_path / "image.png"), to_tensor(crop))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in IMAGENET)
    for name in ("omniglot", "cub200", "my.own:benchmark"):
        x = prepare(name, 16)(tmp_path / "image.png")
        scaled = prepare(name, 16, IMAGENET)(tmp_path / "image.png")
        torch.testing.assert_close(scaled, (x - mean) / std)


def test_training_crops_of_cars():
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    whole = to_tensor(image.resize((21, 21), Image.Resampling.BICUBIC))  # 16 * 300 / 224
    crops = [whole[:, y : y + 16, x : x + 16] for y in range(6) for x in range(6)]
    possible = [crop.flip(2) for crop in crops] + crops
    torch.manual_seed(0)
    found = set()
    for _ in range(40):
        made = cars_crops(16)(image)
        found |= {i for i, crop in enumerate(possible) if torch.allclose(made, crop)}
    assert len(found) > 20
    assert {i // 36 for i in found} == {0, 1}


def test_statistics_of_the_settings():
    assert statistics_for(None, IMAGENET, None) is statistics_for("none", IMAGENET, None) is None
    assert statistics_for("published", IMAGENET, None) == IMAGENET
    assert statistics_for("pretrained", None, "deit_tiny_patch16_224") == IMAGENET
    for normalize, backbone, message in (
        ("pretrained", None, "needs the backbone"),
        ("published", "deit_tiny_patch16_224", "`backbone` has no effect"),
        ("imagenet", None, "got 'imagenet'"),
        (((0.5,), (0.5,)), None, "three channels"),
    ):
        with pytest.raises(ValueError, match=message):
            statistics_for(normalize, None, backbone)


@pytest.mark.parametrize("largest", [1023, 65535])
def test_a_pgm_is_scaled_by_its_own_maximum(tmp_path, largest):
    values = np.array([[0, largest // 2, largest]], dtype=">u2")
    (tmp_path / "x.pgm").write_bytes(b"P5 3 1 %d\n" % largest + values.tobytes())
    assert np.asarray(read_image(tmp_path / "x.pgm"))[0, :, 0].tolist() == [0, 127, 255]


def test_a_tiff_is_scaled_by_the_maximum_that_it_names(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[281] = 4095  # 12 bits
    image = Image.fromarray(np.array([[0, 2048, 4095]], dtype=np.uint16))
    image.save(tmp_path / "x.tif", tiffinfo=tags)
    assert np.asarray(read_image(tmp_path / "x.tif"))[0, :, 0].tolist() == [0, 127, 255]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_of_no_known_range_are_refused(tmp_path, dtype):
    Image.fromarray(np.full((4, 4), 0.5).astype(dtype)).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match=r"x.tif.*range.*8 or 16 bits"):
        read_image(tmp_path / "x.tif")


def test_white_is_zero_in_some_tiffs(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    image = Image.fromarray(np.array([[0, 65535]], dtype=np.uint16))
    image.save(tmp_path / "x.tif", tiffinfo=tags)
    with Image.open(tmp_path / "x.tif") as opened:
        expected = [255, 0] if opened.tag_v2[262] == 0 else [0, 255]
    assert np.asarray(read_image(tmp_path / "x.tif"))[0, :, 0].tolist() == expected
