import shutil
from dataclasses import replace

import pytest
from data_layouts import class_folders, photos, train_test

from mist_avalanche.benchmarks.storage import datasets as data
from mist_avalanche.benchmarks.storage.catalog import IMAGENET_R
from mist_avalanche.cli import command as cli


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def test_check_of_a_sound_copy_and_of_a_part(tmp_path, capsys, monkeypatch):
    class_folders(tmp_path / "imagenet-r", photos())
    command = ["data", "check", "imagenet-r", "--root", str(tmp_path), "--quiet"]
    assert cli.main(command) == 1
    shown = capsys.readouterr().out
    for line in (
        "split       80/20 by name hash",
        "classes     6",
        "images      48 for training, 12 for testing",
        "complete    no: ImageNet-R has 200 classes; ImageNet-R has 30000 images",
        "other files 0, skipped",
        "unreadable  0",
        "duplicates  0 between training and test",
    ):
        assert line in shown
    facts = replace(IMAGENET_R, n_classes=6, n_images=60)
    monkeypatch.setattr(data, "facts_of", lambda _name: facts)
    assert cli.main(command) == 0
    assert "complete    yes" in capsys.readouterr().out


def test_check_finds_unreadable_images_and_duplicates(tmp_path, capsys):
    root = train_test(tmp_path / "imagenet-r", photos())
    tests = sorted((root / "test").rglob("*.*g"))
    tests[0].write_bytes(b"")
    train = sorted((root / "train").rglob("*.*g"))[0]
    shutil.copy(train, tests[1])
    (tests[0].parent / "notes.txt").write_text("")
    assert cli.main(["data", "check", "imagenet-r", "--root", str(tmp_path), "--quiet"]) == 1
    shown = capsys.readouterr().out
    assert f"{tests[0]}': it is empty (0 bytes)" in shown
    names = [path.relative_to(root).as_posix() for path in (train, tests[1])]
    assert " = ".join(names) in shown
    assert "other files 1, skipped" in shown


def test_list_shows_what_is_there(tmp_path, capsys):
    class_folders(tmp_path / "imagenet-r", photos())
    (tmp_path / "cub.zip").write_bytes(b"")
    assert cli.main(["data", "list", "--root", str(tmp_path)]) == 0
    shown = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert list(shown) == ["name", "cifar100", "cub200", "imagenet-r", "imagenet-a", "cars196"]
    assert "(80/20 by name hash, test images " in shown["imagenet-r"]
    assert "cub.zip, not unpacked yet" in shown["cub200"]
    assert "none in" in shown["imagenet-a"]
    assert "by hand" in shown["cars196"]


def test_get_keeps_a_copy_and_explains_what_it_cannot_get(tmp_path, capsys):
    made = class_folders(tmp_path / "imagenet-r", photos())
    assert cli.main(["data", "get", "imagenet-r", "--root", str(tmp_path)]) == 0
    assert str(made) in capsys.readouterr().out
    assert cli.main(["data", "get", "cars196", "--root", str(tmp_path)]) == 1
    assert "Kaggle" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"Unknown dataset 'mnist'. Use one of cifar100"):
        data.check("mnist")
