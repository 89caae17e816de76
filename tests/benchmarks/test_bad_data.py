"""Bad data gives an error with the name of what is broken, and leaves the root as it was."""

import io
import pickle
import shutil
import tarfile

import pytest
from data_layouts import (
    archive,
    cars,
    cifar,
    class_folders,
    cub,
    photos,
    train_test,
    tree,
    without_checksums,
)

from mist_avalanche.benchmarks import (
    SplitCars196,
    SplitCIFAR100,
    SplitCUB200,
    SplitFolder,
    SplitImageNetR,
)


def first(folder):
    """The first class folder, or the first image."""
    return sorted(folder.iterdir())[0]


def fails(benchmark, root, message):
    before = tree(root)
    with pytest.raises(ValueError, match=message):
        benchmark(2, dataset_root=root, normalize=None)
    assert tree(root) == before


def emptied(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def keep_one(folder):
    for image in sorted(folder.iterdir())[1:]:
        image.unlink()


@pytest.mark.parametrize(
    ("make", "breaks", "message"),
    [
        (train_test, lambda root: emptied(first(root / "test")), "class {} has no image in .*test"),
        (train_test, lambda root: shutil.rmtree(first(root / "test")), "{} needs images in both"),
        (train_test, lambda root: shutil.rmtree(first(root / "train")), "{} needs images in both"),
        (
            train_test,
            lambda root: shutil.copytree(root / "test", root / "val"),
            "both test and val",
        ),
        (class_folders, lambda root: emptied(first(root)), "{} has no image"),
        (class_folders, lambda root: keep_one(first(root)), r"{} has 1 image\(s\)"),
    ],
)
def test_folders(tmp_path, make, breaks, message):
    make(tmp_path / "photos", photos()).joinpath("README.txt").unlink(missing_ok=True)
    breaks(tmp_path / "photos")
    name = first(class_folders(tmp_path / "names", photos(), ())).name
    fails(SplitFolder, tmp_path / "photos", f"photos cannot be used.*{message.format(repr(name))}")


def test_one_part_of_a_split(tmp_path):
    train_test(tmp_path / "photos", photos())
    fails(SplitFolder, tmp_path / "photos" / "train", "one part of a split; give '.*photos'")


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0 no jpeg", None])
def test_unreadable_image(tmp_path, content):
    made = class_folders(tmp_path / "imagenet-r", photos())
    for image in made.rglob("*.*g"):
        image.write_bytes(image.read_bytes()[:200] if content is None else content)
    dataset = SplitImageNetR(2, dataset_root=tmp_path).train_stream[0].dataset
    with pytest.raises(ValueError, match=r"Cannot read the image '.*imagenet-r.*g'.* bytes\)"):
        dataset[0]


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tgz"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_archive_that_is_cut_off(tmp_path, suffix, share):
    made = train_test(tmp_path / "made" / "imagenet-r", photos())
    file = archive(made, tmp_path / "root" / f"imagenet-r{suffix}")
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    fails(SplitImageNetR, file.parent, f"Cannot unpack .*imagenet-r{suffix}")


def test_archive_that_is_a_web_page_or_leads_outside(tmp_path):
    file = tmp_path / "root" / "imagenet-r.tar"
    file.parent.mkdir()
    file.write_text("<!DOCTYPE html><title>404</title>" + " " * 1000)
    fails(SplitImageNetR, file.parent, "imagenet-r.tar: only whole")
    with tarfile.open(file, "w") as out:
        info = tarfile.TarInfo("imagenet-r/../../outside.txt")
        info.size = 4
        out.addfile(info, io.BytesIO(b"text"))
    fails(SplitImageNetR, file.parent, "imagenet-r.tar.*outside")
    assert not (tmp_path / "outside.txt").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("classes.txt", "1\n", "CUB_200_2011 cannot be used"),
        ("classes.txt", "1 one\n", "KeyError"),
        ("image_class_labels.txt", "1 1\n", "KeyError"),
        ("train_test_split.txt", "1 7\n", "KeyError"),
    ],
)
def test_tables_of_cub(tmp_path, file, content, message):
    made = cub(tmp_path / "CUB_200_2011", photos())
    (made / file).write_text(content)
    fails(SplitCUB200, tmp_path, message)


def test_images_that_tables_list_are_missing(tmp_path):
    made = cub(tmp_path / "CUB_200_2011", photos())
    image = first(first(made / "images"))
    image.unlink()
    fails(SplitCUB200, tmp_path, f"1 images are missing.*{image.name}")
    made = cars(tmp_path / "stanford_cars", photos())
    first(made / "cars_test").unlink()
    fails(SplitCars196, tmp_path, "1 images are missing.*cars_test/00001.jpg")
    (made / "devkit" / "cars_meta.mat").write_bytes(b"MATLAB 5.0")
    fails(SplitCars196, tmp_path, "stanford_cars cannot be used as a copy of Stanford Cars")
    (made / "devkit" / "cars_meta.mat").unlink()
    fails(SplitCars196, tmp_path, "cars_meta.mat")


def test_batches_of_cifar_have_the_official_checksums(tmp_path):
    made = cifar(tmp_path / "cifar-100-python", photos())
    fails(SplitCIFAR100, tmp_path, "cifar-100-python cannot be used.*corrupted")
    (made / "meta").write_bytes(b"cos\nsystem\n(S'touch /tmp/ran'\ntR.")  # would run code
    fails(SplitCIFAR100, tmp_path, "cifar-100-python cannot be used.*corrupted")


def test_labels_that_do_not_fit_the_classes(tmp_path, monkeypatch):
    without_checksums(monkeypatch)
    made = cifar(tmp_path / "cifar-100-python", photos())
    batch = pickle.loads((made / "train").read_bytes())
    labels = batch["fine_labels"]
    for changed, message in (
        ([6, *labels[1:]], "labels beyond the 6 classes"),
        ([max(label - 1, 0) for label in labels], "class 'zoo' has no training image"),
    ):
        (made / "train").write_bytes(pickle.dumps({**batch, "fine_labels": changed}, protocol=2))
        fails(SplitCIFAR100, tmp_path, message)
