import pickle
import re
import sys

import numpy as np
import pytest
import torch
from avalanche.benchmarks.datasets import dataset_utils
from data_layouts import (
    N_CLASSES,
    N_IMAGES,
    archive,
    cars,
    cifar,
    class_folders,
    cub,
    photos,
    train_test,
)
from PIL import ExifTags, Image
from torch.utils.data import DataLoader
from torchvision.datasets.folder import IMG_EXTENSIONS, pil_loader

from mist_avalanche import benchmarks
from mist_avalanche.benchmarks.storage import index as _index
from mist_avalanche.benchmarks.storage.catalog import IMAGENET_R
from mist_avalanche.benchmarks.storage.find import data_folder, find
from mist_avalanche.benchmarks.storage.images import SUFFIXES, is_image_name, read_image
from mist_avalanche.benchmarks.storage.index import list_class_folders
from mist_avalanche.benchmarks.storage.layouts import split_by_hash

LAYOUTS = [  # benchmark, folder, how it is made, split
    ("SplitCIFAR100", "cifar-100-python", cifar, "official"),
    ("SplitCUB200", "CUB_200_2011", cub, "official"),
    ("SplitCUB200", "cub", train_test, "train and test folders"),
    ("SplitImageNetR", "imagenet-r", class_folders, "80/20 by name hash"),
    ("SplitImageNetR", "imagenet-r", train_test, "train and test folders"),
    ("SplitImageNetA", "imagenet-a", class_folders, "80/20 by name hash"),
    ("SplitImageNetA", "ina", train_test, "train and test folders"),
    ("SplitCars196", "stanford_cars", cars, "official"),
    (
        "SplitCars196",
        "cars196",
        lambda root, classes: train_test(root, classes, "val"),
        "train and val folders",
    ),
]
TEST_OF_A = ["a/3.jpg", "a/5.jpg"]
KINDS = ("folder", "itself", ".zip", ".tar", ".tgz", "archive itself")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def laid_out(tmp_path, folder, make, kind):
    """A root, or the folder or archive itself."""
    if kind in ("folder", "itself"):
        made = make(tmp_path / "root" / folder, photos())
        return made if kind == "itself" else made.parent
    made = make(tmp_path / "source" / folder, photos())
    suffix = ".tar" if kind == "archive itself" else kind
    file = archive(made, tmp_path / "root" / f"{folder}{suffix}")
    return file if kind == "archive itself" else file.parent


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "folder", "make", "split"), LAYOUTS)
def test_every_layout_gives_every_image_once(tmp_path, name, folder, make, split, kind):
    root = laid_out(tmp_path, folder, make, kind)
    benchmark = getattr(benchmarks, name)(3, dataset_root=root, image_size=16)
    assert re.fullmatch(f"{split}, test images [0-9a-f]{{8}}", benchmark.split_name)
    assert len(benchmark.class_names) == N_CLASSES
    counts = []
    for stream in (benchmark.train_stream, benchmark.test_stream):
        labels = [y for e in stream for y in e.dataset.targets]
        assert sorted(set(labels)) == list(range(N_CLASSES))
        assert [sorted(e.classes_in_this_experience) for e in stream] == [[0, 1], [2, 3], [4, 5]]
        counts.append(len(labels))
    assert counts == [N_CLASSES * N_IMAGES * 4 // 5, N_CLASSES * N_IMAGES // 5]
    x, y, t = benchmark.test_stream[0].dataset[0]
    assert x.shape == (3, 16, 16)
    assert x.dtype == torch.float32
    assert (y, t) == (benchmark.test_stream[0].dataset.targets[0], 0)
    names = sorted(photos()) if "cifar" not in folder and make is not cars else list(photos())
    assert benchmark.class_names == [names[i] for i in benchmark.classes_order_original_ids]


@pytest.mark.parametrize(("name", "folder", "make", "split"), LAYOUTS)
def test_same_stream_twice_and_with_workers(tmp_path, name, folder, make, split):
    root = laid_out(tmp_path, folder, make, "folder")

    def images(workers):
        benchmark = getattr(benchmarks, name)(2, dataset_root=root, image_size=16)
        for experience in benchmark.test_stream:
            yield from DataLoader(experience.dataset, 4, num_workers=workers)

    for (x, y, _), (x2, y2, _) in zip(images(0), images(2), strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)


def test_workers_that_start_with_spawn(tmp_path):
    class_folders(tmp_path / "imagenet-r", photos())
    benchmark = benchmarks.SplitImageNetR(2, dataset_root=tmp_path)
    dataset = benchmark.train_stream[0].dataset
    loader = DataLoader(dataset, 12, num_workers=1, multiprocessing_context="spawn")
    assert sum(len(y) for _, y, _ in loader) == len(dataset)


def test_image_names_are_torchvisions():
    assert SUFFIXES == IMG_EXTENSIONS


def test_images_are_rgb_as_torchvision_reads_them(tmp_path):
    image = Image.new("RGB", (4, 2), "red")
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = 6  # turned by a quarter
    image.save(tmp_path / "turned.jpg", exif=exif)
    ours, theirs = read_image(tmp_path / "turned.jpg"), pil_loader(str(tmp_path / "turned.jpg"))
    assert (ours.size, ours.tobytes()) == (theirs.size, theirs.tobytes())
    for mode in ("L", "CMYK", "1", "I;16"):
        Image.new(mode, (4, 2)).save(tmp_path / "other.tiff")
        assert read_image(tmp_path / "other.tiff").mode == "RGB"
    Image.fromarray(np.array([[0, 65535, 257]], dtype=np.uint16)).save(tmp_path / "grey.png")
    assert [p[0] for p in read_image(tmp_path / "grey.png").getdata()] == [0, 255, 1]
    for mode in ("P", "RGBA", "LA"):
        Image.new(mode, (4, 2)).save(tmp_path / "other.png")
        assert read_image(tmp_path / "other.png").mode == "RGB"


def test_training_and_test_images_are_disjoint_and_transforms_pickle(tmp_path):
    found = find(IMAGENET_R, class_folders(tmp_path / "imagenet-r", photos()), progress=False)
    assert not set(found.train.names) & set(found.test.names)
    assert len(set(found.train.names)) == len(found.train)
    benchmark = benchmarks.SplitImageNetR(2, dataset_root=tmp_path)
    dataset = pickle.loads(pickle.dumps(benchmark.train_stream[0].dataset))
    assert dataset[0][0].shape == (3, 224, 224)


def test_both_splits_of_cub(tmp_path):
    cub(tmp_path / "CUB_200_2011", photos())
    train_test(tmp_path / "cub", photos())
    for split, name in ((None, "official"), ("processed", "train and test folders")):
        assert benchmarks.SplitCUB200(2, dataset_root=tmp_path, split=split).split_name.startswith(
            name
        )
    with pytest.raises(ValueError, match="'official' or 'processed' or None, got 'hash'"):
        benchmarks.SplitCUB200(dataset_root=tmp_path, split="hash")
    with pytest.raises(FileNotFoundError, match=r"the hash split.*imagenet-r.tar"):
        benchmarks.SplitImageNetR(dataset_root=tmp_path, split="hash")


def test_official_and_processed_archives_side_by_side(tmp_path):
    train_test(tmp_path / "a" / "imagenet-r", photos())
    class_folders(tmp_path / "b" / "imagenet-r", photos())
    root = tmp_path / "root"
    archive(tmp_path / "a" / "imagenet-r", root / "imagenet-r.zip")
    archive(tmp_path / "b" / "imagenet-r", root / "imagenet-r.tar")
    for split, name in (
        ("processed", "train and test folders"),
        ("hash", "80/20 by name hash"),
    ) * 2:
        assert benchmarks.SplitImageNetR(2, dataset_root=root, split=split).split_name.startswith(
            name
        )


def test_split_by_hash_depends_on_names_alone():
    classes = {"a": [f"{i}.jpg" for i in range(10)], "b": ["x.jpg", "y.jpg"], "é": list("abc")}
    train, test = split_by_hash(classes)
    assert split_by_hash({c: images[::-1] for c, images in classes.items()}) == (train, test)
    assert [sum(y == c for _, y in train) for c in range(3)] == [8, 1, 2]
    assert [sum(y == c for _, y in test) for c in range(3)] == [2, 1, 1]
    assert [name for name, y in test if y == 0] == TEST_OF_A  # this may never change
    decomposed = split_by_hash({**classes, "é": classes["é"]})
    assert len(decomposed[0]) == len(train)
    with pytest.raises(ValueError, match="'a' has 1 image"):
        split_by_hash({"a": ["1.jpg"]})


def test_index_is_cached_until_something_changes(tmp_path, monkeypatch):
    root = class_folders(tmp_path / "tree", photos())
    monkeypatch.setattr(_index, "_SETTLED", -1.0)
    first = list_class_folders(root)
    assert sum(map(len, first.images.values())) == N_CLASSES * N_IMAGES
    monkeypatch.setattr(_index, "is_image_name", None)  # nothing is listed again
    assert list_class_folders(root) == first
    monkeypatch.setattr(_index, "is_image_name", is_image_name)
    changed = (
        root / "chair"
        if (root / "chair").exists()
        else next(p for p in root.iterdir() if p.is_dir())
    )
    gone = sorted(changed.iterdir())[0]
    gone.unlink()
    (changed / "new.png").write_bytes(b"")
    (changed / "note.txt").write_text("")
    second = list_class_folders(root)
    assert second.others == first.others + 1
    assert set(second.images[changed.name]) ^ set(first.images[changed.name]) == {
        gone.name,
        "new.png",
    }
    for file in (tmp_path / "cache" / "mist_avalanche").iterdir():
        file.write_text('{"chair": {"stamp": 1}}')
    assert list_class_folders(root) == second
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/nowhere")
    assert list_class_folders(root) == second


def test_part_of_a_dataset_and_lost_images_are_said(tmp_path, caplog):
    class_folders(tmp_path / "imagenet-r", photos())
    benchmarks.SplitImageNetR(2, dataset_root=tmp_path)
    assert "ImageNet-R has 200 classes;" in caplog.text
    assert "ImageNet-R has 30000 images;" in caplog.text


def test_default_root_is_avalanches_data_folder(tmp_path, monkeypatch):
    monkeypatch.setitem(dataset_utils.AVALANCHE_CONFIG, "dataset_location", str(tmp_path))
    assert data_folder(None) == tmp_path
    made = class_folders(tmp_path / "imagenet-r", photos())
    assert find(IMAGENET_R).root == made


def test_default_root_before_avalanche_is_imported(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "avalanche.benchmarks.datasets")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_folder(None) == tmp_path / ".avalanche" / "data"
    (tmp_path / ".avalanche").mkdir()
    settings = tmp_path / ".avalanche" / "config.json"
    settings.write_text('{"dataset_location": "~/elsewhere"}')
    assert data_folder(None) == tmp_path / "elsewhere"


def test_benchmarks_pickle():
    for name in ("SplitImageNetR", "SplitCars196"):
        assert pickle.loads(pickle.dumps(getattr(benchmarks, name))) is getattr(benchmarks, name)
