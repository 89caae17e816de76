"""Every layout that people have gives every image once, with its class, in train or in test."""

import hashlib
import pickle
import re
import unicodedata

import pytest
import torch
from data_layouts import (
    archive,
    cars,
    cifar,
    class_folders,
    cub,
    photos,
    train_test,
    without_checksums,
)
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from mist_avalanche import benchmarks
from mist_avalanche.benchmarks.image_benchmarks import SplitImageNetR
from mist_avalanche.benchmarks.layouts import list_classes, split_by_hash
from mist_avalanche.benchmarks.transforms import IMAGENET

SMALL = {"image_size": 16, "normalize": None}


def train_val(root, classes):
    return train_test(root, classes, "val")


LAYOUTS = [  # benchmark, folder, how it is made, how it is divided
    ("SplitCIFAR100", "cifar-100-python", cifar, "official"),
    ("SplitCUB200", "CUB_200_2011", cub, "official"),
    ("SplitCUB200", "cub", train_test, "train and test folders"),
    ("SplitImageNetR", "imagenet-r", class_folders, "80/20 by name hash"),
    ("SplitImageNetR", "ImageNet_R", train_test, "train and test folders"),
    ("SplitImageNetA", "ina", train_test, "train and test folders"),
    ("SplitCars196", "stanford_cars", cars, "official"),
    ("SplitCars196", "cars196", train_val, "train and val folders"),
    ("SplitFolder", "any name", class_folders, "80/20 by name hash"),
    ("SplitFolder", "any name", train_test, "train and test folders"),
    ("SplitFolder", "some birds", cub, "official"),
]
each_layout = pytest.mark.parametrize(("name", "folder", "make", "kind"), LAYOUTS)


@pytest.mark.parametrize("where", ["in the root", "itself", ".zip", ".tar", ".tgz", "archive"])
@each_layout
def test_every_image_once(tmp_path, monkeypatch, name, folder, make, kind, where):
    without_checksums(monkeypatch)
    made = make(tmp_path / "made" / folder, photos())
    root = made if where == "itself" else made.parent
    if where[0] in ".a":
        file = archive(made, tmp_path / "root" / f"{folder}{where if where[0] == '.' else '.tar'}")
        root = file if where == "archive" or name == "SplitFolder" else file.parent
    benchmark = getattr(benchmarks, name)(3, dataset_root=root, **SMALL)
    assert re.fullmatch(f"{kind}, digest of test images [0-9a-f]{{8}}", benchmark.split_name)
    sizes = {"train": 8, "test": 2}  # of the 10 images of each of 6 classes
    seen = set()
    for part, size in sizes.items():
        for t, experience in enumerate(getattr(benchmark, f"{part}_stream")):
            assert sorted(experience.dataset.targets) == sorted([2 * t, 2 * t + 1] * size)
            for x, y, task in experience.dataset.eval():
                assert (x.shape, x.dtype, task) == ((3, 16, 16), torch.float32, 0)
                seen.add((y, x.numpy().tobytes()))
    assert len(seen) == 60  # no image in two places
    names = list(photos()) if make in (cars, cifar) else sorted(photos())
    assert benchmark.class_names == [names[i] for i in benchmark.classes_order_original_ids]


def test_same_images_in_workers(tmp_path):
    root = class_folders(tmp_path / "imagenet-r", photos())
    dataset = SplitImageNetR(2, dataset_root=root, **SMALL).test_stream[1].dataset
    for x, in_worker in zip(DataLoader(dataset), DataLoader(dataset, num_workers=2), strict=True):
        assert torch.equal(x[0], in_worker[0])


def test_training_images_pickle(tmp_path, monkeypatch):
    """Transforms included, for workers that start with spawn."""
    without_checksums(monkeypatch)
    for name, make in (("SplitCIFAR100", cifar), ("SplitCars196", cars)):
        benchmark = getattr(benchmarks, name)(2, dataset_root=make(tmp_path / name[5:], photos()))
        dataset = pickle.loads(pickle.dumps(benchmark.train_stream[0].dataset))
        assert dataset[0][0].shape == (3, 224, 224)


def test_normalisation_and_own_transforms(tmp_path):
    root = class_folders(tmp_path / "imagenet-r", photos())

    def first(split=SplitImageNetR, **settings):
        return split(2, dataset_root=root, image_size=32, **settings).test_stream[0].dataset[0][0]

    plain = first()
    assert 0 <= plain.min() < plain.max() <= 1
    for settings, (mean, std) in (
        ({"normalize": ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))}, ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))),
        ({"split": benchmarks.SplitFolder, "backbone": "deit_tiny_patch16_224"}, IMAGENET),
    ):
        mean, std = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
        torch.testing.assert_close(first(**settings), (plain - mean) / std)
    own = {"train_transform": lambda x: x.size, "eval_transform": lambda x: x.mode}
    assert first(benchmarks.SplitFolder, **own) == "RGB"  # needs no backbone
    with pytest.raises(ValueError, match="needs the backbone"):
        first(benchmarks.SplitFolder)


# ---- Split by hash -------------------------------------------------------------------------------


def naive_split(classes):
    """By sorting pairs (hash, name)."""
    train, test = [], []
    for label, (folder, images) in enumerate(classes.items()):
        names = [f"{folder}/{image}" for image in images]
        hashes = [hashlib.sha256(unicodedata.normalize("NFC", n).encode()).digest() for n in names]
        ordered = [name for _, name in sorted(zip(hashes, names, strict=True))]
        n = max(1, min(round(0.8 * len(names)), len(names) - 1))
        train += sorted((name, label) for name in ordered[:n])
        test += sorted((name, label) for name in ordered[n:])
    return train, test


images = st.lists(st.text("abé0", min_size=1), min_size=2, max_size=12, unique=True)


def split(classes):
    """By the package, of class to file names."""
    return split_by_hash({c: [f"{c}/{image}" for image in images] for c, images in classes.items()})


@given(st.dictionaries(st.sampled_from(["a", "b", "é", "n01"]), images, min_size=1))
def test_split_by_hash_is_a_partition_that_depends_on_names_alone(classes):
    train, test = split(classes)
    assert (train, test) == naive_split(classes)
    assert sorted(train + test) == sorted(
        (f"{c}/{image}", y) for y, c in enumerate(classes) for image in classes[c]
    )
    assert split({c: images[::-1] for c, images in classes.items()}) == (train, test)


def test_split_by_hash_never_changes():
    _, test = split({"a": [f"{i}.jpg" for i in range(10)], "b": ["x.jpg", "y.jpg"]})
    assert test == [("a/3.jpg", 0), ("a/5.jpg", 0), ("b/x.jpg", 1)]
    decomposed = split({"e\u0301": list("abc")})
    assert [n[-1] for n, _ in decomposed[1]] == [n[-1] for n, _ in split({"é": list("abc")})[1]]


def test_listing_skips_what_is_hidden_or_no_image(tmp_path):
    root = class_folders(
        tmp_path / "photos", {"b": {"2.jpg": b"", "1.PNG": b""}, "a": {"x.tif": b""}}
    )
    class_folders(root, {".git": {"x.jpg": b""}, "__MACOSX": {"x.jpg": b""}}, ())
    for name in ("notes.txt", "._1.png", "folder.jpg/inside.jpg"):
        (root / "b" / name).parent.mkdir(exist_ok=True)
        (root / "b" / name).write_bytes(b"")
    classes, notes = list_classes(root)
    assert [*classes.items()] == [
        ("a", ["a/x.tif"]),
        ("b", ["b/1.PNG", "b/2.jpg", "b/folder.jpg/inside.jpg"]),
    ]
    assert ["1 of 4 images" in notes[0], "1 .txt" in notes[1], len(notes)] == [True, True, 2]
