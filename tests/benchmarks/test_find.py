"""Which copy of a dataset is found, and what is said where there is none."""

from dataclasses import replace

import pytest
from avalanche.benchmarks.datasets import dataset_utils
from data_layouts import archive, cars, class_folders, cub, photos, train_test, tree

from mist_avalanche.benchmarks import (
    SplitCars196,
    SplitCUB200,
    SplitFolder,
    SplitImageNetA,
    SplitImageNetR,
)
from mist_avalanche.benchmarks.find import find


def test_names_of_folders_count_whatever_their_punctuation(tmp_path):
    for name in ("inaturalist", "imagenet-r-mine", ".imagenet-r"):
        train_test(tmp_path / name, photos())
    before = tree(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"No copy of ImageNet-R in '.*' \(.imagenet-r, "):
        find(SplitImageNetR, tmp_path)
    with pytest.raises(FileNotFoundError, match="has to be a folder 'imagenet-r'"):
        find(SplitImageNetR, tmp_path / "inaturalist")  # it has 6 classes, not 200
    assert tree(tmp_path) == before
    made = (tmp_path / "inaturalist").rename(tmp_path / "ImageNet_R")
    assert find(SplitImageNetR, tmp_path).root == find(SplitImageNetR, made).root == made
    (tmp_path / "cub_200").symlink_to(made)
    assert find(SplitCUB200, tmp_path).root == tmp_path / "cub_200"


def test_folder_of_another_name_with_all_classes(tmp_path):
    made = class_folders(tmp_path / "paintings", photos())
    assert find(replace(SplitImageNetR, n_classes=6), made).root == made


def test_preferred_and_given_splits(tmp_path):
    cub(tmp_path / "cub", photos())
    train_test(tmp_path / "CUB_200_2011", photos())
    assert find(SplitCUB200, tmp_path).kind == "official"
    assert find(SplitCUB200, tmp_path, "processed").kind == "train and test folders"
    with pytest.raises(ValueError, match=r"'official' or 'processed' or None, got 'hash'"):
        find(SplitCUB200, tmp_path, "hash")
    class_folders(tmp_path / "imagenet-a", photos())
    train_test(tmp_path / "ina", photos())
    assert find(SplitImageNetA, tmp_path).kind == "train and test folders"
    assert find(SplitImageNetA, tmp_path, "hash").kind == "80/20 by name hash"


def test_official_archive_of_cub_has_more_than_its_folder(tmp_path):
    cub(tmp_path / "top" / "CUB_200_2011", photos())
    (tmp_path / "top" / "attributes.txt").write_text("")
    archive(tmp_path / "top", tmp_path / "CUB_200_2011.tgz")
    (tmp_path / "top").rename(tmp_path / "elsewhere")
    assert find(SplitCUB200, tmp_path).root == tmp_path / "CUB_200_2011" / "CUB_200_2011"


def test_archive_is_unpacked_once(tmp_path):
    file = archive(train_test(tmp_path / "made" / "any", photos()), tmp_path / "photos.zip")
    found = find(SplitFolder, file)
    assert found.root == tmp_path / "photos"
    file.write_bytes(b"")  # is not read again
    assert find(SplitFolder, file).test.names == found.test.names
    assert sorted(p.name for p in tmp_path.iterdir()) == ["made", "photos", "photos.zip"]


def test_default_root_is_avalanches_data_folder(tmp_path, monkeypatch):
    monkeypatch.setitem(dataset_utils.AVALANCHE_CONFIG, "dataset_location", str(tmp_path))
    made = class_folders(tmp_path / "imagenet-r", photos())
    assert find(SplitImageNetR).root == made
    with pytest.raises(ValueError, match=r"Which folder.*--dataset-root"):
        find(SplitFolder)


def test_what_to_get(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"imagenet-r\.tar.*data get imagenet-r.*2\.19 GB"):
        find(SplitImageNetR, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"the processed split of ImageNet-R.*PILOT's"):
        find(SplitImageNetR, tmp_path, "processed", download=True)  # it has another split
    for download in (False, True):
        with pytest.raises(FileNotFoundError, match=r"Stanford Cars.*Kaggle"):
            find(SplitCars196, tmp_path, download=download)
    with pytest.raises(FileNotFoundError, match=r"a folder of images.*nothing"):
        find(SplitFolder, tmp_path / "nothing")


def test_another_number_of_classes_and_images_is_said(tmp_path, caplog):
    cars(tmp_path / "cars", photos())
    find(SplitCars196, tmp_path)
    assert "Stanford Cars has 196 classes, there are 6" in caplog.text
    assert "Stanford Cars has 16185 images, there are 60" in caplog.text
