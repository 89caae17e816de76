"""Images that a user expects and that are not there: said, refused, or found after all."""

import logging
import os
import tarfile
import unicodedata
import zipfile

import pytest
from data_layouts import archive, class_folders, cub, photos, train_test
from PIL import ExifTags, Image
from torchvision.datasets import ImageFolder

from mist_avalanche.benchmarks import SplitFolder, data

CREME = [unicodedata.normalize(form, "crème") for form in ("NFC", "NFD")]


def read(root):
    """Numbers of training and test images, and the classes in order."""
    made = SplitFolder(1, dataset_root=root, normalize=None, shuffle=False)
    parts = made.train_stream[0].dataset, made.test_stream[0].dataset
    return [len(part) for part in parts], made.class_names


def pets(root, classes=("cat", "dog"), n=5, suffix=".png"):
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            Image.new("RGB", (8, 8), (40 * c, i, 9)).save(root / name / f"{i}{suffix}")
    return root


def test_images_deeper_than_their_class_are_found_and_said(tmp_path, caplog):
    root = pets(tmp_path / "pets", ("cat", "dog", "owl"))
    pets(root / "cat", ("session 1", "session 2"))
    assert len(ImageFolder(root)) == 25
    assert read(root) == ([20, 5], ["cat", "dog", "owl"])
    (said,) = (record.getMessage() for record in caplog.records)
    assert "10 of 25 images" in said
    read(root)
    assert len(caplog.records) == 1  # once per process
    assert said.removeprefix(f"{root}: ").rstrip(".") in data.check("folder", root)[0]


def test_other_suffixes_are_counted(tmp_path, caplog):
    root = pets(tmp_path / "pets")
    for i in range(3):
        (root / "dog" / f"{i}.jfif").write_bytes(b"")
    (root / "dog" / "Thumbs.db").write_bytes(b"")
    Image.new("RGB", (8, 8)).save(root / "beside.png")
    read(root)
    said = caplog.text + data.check("folder", root, progress=False)[0]
    assert said.count("3 .jfif; images are .jpg .jpeg .png") == 2
    assert said.count("1 images beside the class folders") == 2
    pets(root, ["owl"], suffix=".gif")
    with pytest.raises(ValueError, match=r"'owl' has no image in .* but 5 .gif; images are .jpg"):
        read(root)


@pytest.mark.parametrize("link", ["cat/9.png", "cow"])
def test_links_that_lead_nowhere_or_back_are_refused(tmp_path, link):
    root = pets(tmp_path / "pets")
    (root / link).symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match=f"{link}.*gone"):
        read(root)
    (root / link).unlink()
    (root / "dog" / "back").symlink_to(root)
    with pytest.raises(ValueError, match=r"back.*that contains it"):
        read(root)


def test_links_are_read_anew(tmp_path):
    root = tmp_path / "pets"
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
    for i in range(4):
        for name in ("cat", "dog"):
            pets(tmp_path / "share", [name], i + 2)
            (root / name / f"{i}.png").symlink_to(tmp_path / "share" / name / f"{i}.png")
        if i:
            assert sum(read(root)[0]) == 2 * (i + 1)


def test_names_in_two_unicode_forms(tmp_path):
    for part, name in (("train", CREME[0]), ("test", CREME[1])):
        pets(tmp_path / "cakes" / part, [name, "flan"])
    assert read(tmp_path / "cakes") == ([10, 10], [CREME[0], "flan"])
    pets(tmp_path / "both", [*CREME, "flan"])
    with pytest.raises(ValueError, match=r"crème.*two Unicode forms"):
        read(tmp_path / "both")


def test_names_in_a_zip_without_the_flag_for_utf_8(tmp_path):
    file = archive(class_folders(tmp_path / "cakes", photos()), tmp_path / "root" / "cakes.zip")
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as opened:
        assert any(info.flag_bits & 0x800 for info in opened.infolist())
    for mark, flags in ((b"PK\x03\x04", 7), (b"PK\x01\x02", 9)):
        at = -1
        while (at := bytes(content).find(mark, at + 1)) >= 0:
            content[at + flags] &= ~8
    file.write_bytes(bytes(content))
    assert "crème brûlée" in read(file)[1]


def test_parts_under_other_names_are_no_classes(tmp_path):
    for part in ("train", "valid"):
        pets(tmp_path / "pets" / part)
    with pytest.raises(ValueError, match=r"train and valid are parts .* name them train and test"):
        read(tmp_path / "pets")


def test_a_third_part_with_other_classes_is_left_out_and_said(tmp_path, caplog):
    root = train_test(tmp_path / "photos", photos())
    pets(root / "val", ["images"])
    assert sum(read(root)[0]) == 60
    assert "val is not used" in caplog.text


def test_tiny_imagenet(tmp_path, caplog):
    root = tmp_path / "tiny-imagenet-200"
    for name in ("n01", "n02"):
        pets(root / "train" / name, ["images"])
        (root / "train" / name / f"{name}_boxes.txt").write_text("")
    pets(root / "val", ["images"], 4)
    pets(root / "test", ["images"])
    rows = [f"{i}.png\t{'n01' if i else 'n02'}\t0\t0\t9\t9" for i in range(4)]
    table = root / "val" / "val_annotations.txt"
    table.write_text("\n".join(rows))
    assert read(root) == ([10, 4], ["n01", "n02"])
    assert "lie in folders" not in caplog.text
    table.unlink()
    with pytest.raises(ValueError, match=r"no class in common; arrange .* or give '.*train'"):
        read(root)
    assert read(root / "train") == ([8, 2], ["n01", "n02"])


def test_check_counts_rotated_and_flat_images(tmp_path):
    root = pets(tmp_path / "pets")
    image = Image.effect_noise((8, 8), 40)
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = 6
    image.save(root / "cat" / "0.png", exif=exif)
    report, _ = data.check("folder", root, progress=False)
    assert "flat        9 of one colour" in report
    assert f"{'':12}dog{os.sep}1.png" in report
    assert "rotated     1 " in report


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("pets.7z", b"7z\xbc\xaf\x27\x1c" + bytes(99), "only whole zip and tar"),
        ("pets.rar", b"Rar!\x1a\x07" + bytes(99), "only whole zip and tar"),
        ("pets.zip.001", b"PK\x03\x04" + bytes(99), "only whole zip and tar"),
        ("pets.zip", "in a zip", "holds another archive, inner.zip"),
        ("pets.zip", "second half", "only whole zip and tar"),
        ("pets.zip", "password", "password"),
        ("pets.zip", "Deflate64", "compression"),
    ],
)
def test_archives_that_cannot_be_read(tmp_path, name, content, cause):
    file, made = tmp_path / "root" / name, pets(tmp_path / "made" / "pets")
    inner = archive(made, tmp_path / "made" / "inner.zip")
    file.parent.mkdir()
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content == "in a zip":
        with zipfile.ZipFile(file, "w") as out:
            out.write(inner, "inner.zip")
    elif content == "second half":
        file.write_bytes(inner.read_bytes()[inner.stat().st_size // 2 :])
    else:
        changed, value = bytearray(inner.read_bytes()), {"password": 1, "Deflate64": 9}[content]
        for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            at, where = at + 2 * (value == 9), -1
            while (where := bytes(changed).find(mark, where + 1)) >= 0:
                changed[where + at] |= value
        file.write_bytes(bytes(changed))
    with pytest.raises(ValueError, match=f"{name}: .*{cause}.*another program and give the folder"):
        read(file)


def test_a_folder_that_is_not_of_its_archive_is_said(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    file = archive(pets(tmp_path / "made" / "pets"), tmp_path / "root" / "pets.tar")
    for _ in range(3):
        read(file)
    assert not caplog.records
    pets(tmp_path / "made" / "pets" / "more")
    archive(tmp_path / "made" / "pets", file)
    os.utime(file, (1e9, 1e9))  # as a server dates it
    read(file)
    assert "pets, which was not unpacked from" in caplog.text
    caplog.clear()
    (tmp_path / "root" / "pets" / ".unpacked-from").unlink()  # someone's own folder
    read(file)
    assert "pets, which was not unpacked from" in caplog.text


def test_a_tar_that_is_cut_between_its_members_is_refused(tmp_path):
    file = archive(pets(tmp_path / "made" / "pets"), tmp_path / "root" / "pets.tar")
    with tarfile.open(file) as opened:
        half = opened.getmembers()[6].offset
    whole = file.read_bytes()
    for content in (whole[:half], whole[: half + 100], whole[:half] + bytes(512) + whole[half:]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"pets.tar: only whole zip and tar"):
            read(file)
    file.write_bytes(whole)
    assert sum(read(file)[0]) == 10


@pytest.mark.parametrize("names", [("training_set", "test_set"), ("seg_train", "seg_test")])
def test_folders_named_like_parts_are_no_classes(tmp_path, names):
    for name in names:
        pets(tmp_path / "pets" / name)
    with pytest.raises(ValueError, match="parts of a split"):
        read(tmp_path / "pets")


def test_folders_and_images_beside_the_split_are_said(tmp_path, caplog):
    root = train_test(tmp_path / "photos", photos())
    pets(root / "valid")
    made = cub(tmp_path / "CUB_200_2011", photos())
    Image.new("RGB", (8, 8)).save(made / "images" / "zoo" / "more.png")
    read(root), read(made)
    assert "the folder valid is not used" in caplog.text
    assert "1 images that the tables do not list" in caplog.text
