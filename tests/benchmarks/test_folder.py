"""SplitFolder on folders and archives as people have them."""

import pytest
import torch
from data_layouts import archive, class_folders, cub, photos, train_test

from mist_avalanche.benchmarks import SplitCUB200, SplitFolder
from mist_avalanche.benchmarks.storage import datasets
from mist_avalanche.benchmarks.transforms import IMAGENET


def items(stream):
    return sorted(y for e in stream for y in e.dataset.targets)


@pytest.mark.parametrize("where", ["itself", "one folder above", "archive"])
@pytest.mark.parametrize("made", [class_folders, train_test])
def test_any_name_will_do(tmp_path, made, where):
    root = made(tmp_path / "mine" / "holiday 2024", photos())
    if where == "one folder above":
        root = root.parent
    elif where == "archive":
        root = archive(root, tmp_path / "pictures.zip")
    benchmark = SplitFolder(3, dataset_root=root, image_size=32, normalize=None)
    assert len(benchmark.class_names) == 6
    assert sorted(benchmark.class_names) == sorted(photos())
    assert len(items(benchmark.train_stream)) + len(items(benchmark.test_stream)) == 60
    x, _, t = benchmark.train_stream[0].dataset[0]
    assert (x.shape, t) == ((3, 32, 32), 0)
    assert float(x.max()) <= 1


def test_a_part_of_a_known_dataset_is_one_too(tmp_path):
    cub(tmp_path / "some birds", photos())
    settings = {"image_size": 32, "normalize": None}
    folder = SplitFolder(2, dataset_root=tmp_path / "some birds", **settings)
    (tmp_path / "some birds").rename(tmp_path / "CUB_200_2011")
    named = SplitCUB200(2, dataset_root=tmp_path, **settings)
    assert folder.split_name == named.split_name
    assert folder.class_names == named.class_names


def test_it_says_what_it_needs(tmp_path):
    with pytest.raises(ValueError, match=r"Which folder.*--dataset-root DIR"):
        SplitFolder(2, normalize=None)
    with pytest.raises(ValueError, match="needs the backbone"):
        SplitFolder(2, dataset_root=class_folders(tmp_path / "a", photos()))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty' is not a folder of images.*class folders"):
        SplitFolder(2, dataset_root=tmp_path / "empty", normalize=None)
    with pytest.raises(FileNotFoundError, match="not a folder of images"):
        SplitFolder(2, dataset_root=tmp_path / "nothing", normalize=None)
    with pytest.raises(FileNotFoundError, match="cannot be downloaded"):
        SplitFolder(2, dataset_root=tmp_path / "empty", normalize=None, download=True)


def test_normalised_as_the_backbone_was_pretrained(tmp_path):
    root = class_folders(tmp_path / "a", photos())
    names = {"dataset_root": root, "image_size": 32}
    plain = SplitFolder(2, normalize=None, **names).test_stream[0].dataset[0][0]
    scaled = SplitFolder(2, backbone="deit_tiny_patch16_224", **names).test_stream[0].dataset[0][0]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    torch.testing.assert_close(scaled, (plain - mean) / std)


def test_check_of_a_folder(tmp_path):
    root = class_folders(tmp_path / "a", photos())
    found = datasets.check("folder", root, progress=False)
    assert (found.classes, found.train, found.test, found.sound) == (6, 48, 12, True)
