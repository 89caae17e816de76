"""Bad data gives one clear error, and leaves the root as it was."""

import errno
import io
import os
import pickle
import shutil
import tarfile
import zipfile
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import pytest
from data_layouts import archive, cars, cifar, class_folders, cub, photos, train_test, tree

from mist_avalanche.benchmarks import SplitCars196, SplitCIFAR100, SplitCUB200, SplitImageNetR
from mist_avalanche.benchmarks.storage import archive as _archive
from mist_avalanche.benchmarks.storage.catalog import IMAGENET_R
from mist_avalanche.benchmarks.storage.find import find


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def fails(root, message, error=ValueError, split=SplitImageNetR):
    before = tree(root)
    with pytest.raises(error, match=message):
        split(2, dataset_root=root)
    assert tree(root) == before


def first(folder):
    return sorted(p for p in folder.iterdir() if p.is_dir())[0]


def test_empty_class_folder(root):
    made = train_test(root / "imagenet-r", photos())
    shutil.rmtree(first(made / "test"))
    first(made / "test").with_name(first(made / "train").name).mkdir()
    fails(root, "has no image, as 1 of 6 class folders of .*test")


def test_class_only_in_train(root):
    made = train_test(root / "imagenet-r", photos())
    name = first(made / "test").name
    shutil.rmtree(made / "test" / name)
    fails(root, f"'{name}' in train only, 1 such class")


def test_class_with_one_image(root):
    made = class_folders(root / "imagenet-r", photos())
    for image in sorted(first(made).iterdir())[1:]:
        image.unlink()
    fails(root, r"has 1 image\(s\); a split needs two")


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0 no jpeg", None])
def test_unreadable_image(root, content):
    made = class_folders(root / "imagenet-r", photos())
    for image in made.rglob("*.*g"):
        image.write_bytes(image.read_bytes()[:200] if content is None else content)
    benchmark = SplitImageNetR(2, dataset_root=root)
    message = "empty" if content == b"" else "Cannot read the image '.*imagenet-r.*g': .* bytes"
    with pytest.raises(ValueError, match=message):
        benchmark.train_stream[0].dataset[0]


def test_web_page_saved_as_archive(root):
    (root / "imagenet-r.tar").write_text("<!DOCTYPE html><title>404</title>" + " " * 1000)
    fails(root, r"imagenet-r.tar is no whole zip or tar archive. It is a web page")


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tgz"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_archive(tmp_path, root, suffix, share):
    made = train_test(tmp_path / "imagenet-r", photos())
    file = archive(made, root / f"imagenet-r{suffix}")
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    fails(root, "no whole zip or tar archive|broken or cut off")


def test_tar_cut_between_two_members(tmp_path, root):
    file = archive(train_test(tmp_path / "imagenet-r", photos()), root / "imagenet-r.tar")
    with tarfile.open(file) as opened:
        middle = opened.getmembers()[20]
    file.write_bytes(file.read_bytes()[: middle.offset])
    fails(root, "broken or cut off")


def test_zip_with_a_wrong_byte(tmp_path, root):
    file = archive(train_test(tmp_path / "imagenet-r", photos()), root / "imagenet-r.zip")
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 255
    file.write_bytes(content)
    fails(root, "broken or cut off")


def tar_with(file, *members):
    with tarfile.open(file, "w") as out:
        for name, kind in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, "/etc/passwd", 4 * (kind == tarfile.REGTYPE)
            out.addfile(info, io.BytesIO(b"text"))


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("../outside.txt", tarfile.REGTYPE, "lies outside"),
        ("imagenet-r/../../outside.txt", tarfile.REGTYPE, "lies outside"),
        ("/tmp/outside.txt", tarfile.REGTYPE, "lies outside"),
        ("C:/outside.txt", tarfile.REGTYPE, "lies outside"),
        ("imagenet-r/link", tarfile.SYMTYPE, "a link or device"),
        ("imagenet-r/link", tarfile.LNKTYPE, "a link or device"),
        ("imagenet-r/device", tarfile.CHRTYPE, "a link or device"),
        ("imagenet-r/pipe", tarfile.FIFOTYPE, "a link or device"),
    ],
)
def test_member_that_leaves_the_folder(tmp_path, root, name, kind, message):
    tar_with(root / "imagenet-r.tar", ("imagenet-r/fine.txt", tarfile.REGTYPE), (name, kind))
    fails(root, message)
    assert not (tmp_path / "outside.txt").exists()


def test_zip_with_a_link_or_a_way_out(root):
    for name, mode in (("imagenet-r/link", 0o120777), ("../outside", 0o100644)):
        with zipfile.ZipFile(root / "imagenet-r.zip", "w") as out:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            out.writestr(info, "/etc/passwd")
        fails(root, "a link or device|lies outside")


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_compressed_archive_with_a_wrong_bit(tmp_path, root, kind):
    made = train_test(tmp_path / "imagenet-r", photos())
    with tarfile.open(root / "imagenet-r.tgz", f"w:{kind}") as out:
        out.add(made, made.name)
    whole = (root / "imagenet-r.tgz").read_bytes()
    for place in (len(whole) // 2, len(whole) - 6):  # the last: within gzip's checksum
        content = bytearray(whole)
        content[place] ^= 1
        (root / "imagenet-r.tgz").write_bytes(content)
        fails(root, "no whole zip or tar archive|broken")


def test_archive_with_an_empty_class_or_two_test_folders(tmp_path, root):
    made = class_folders(tmp_path / "imagenet-r", photos())
    (made / "empty class").mkdir()
    archive(made, root / "imagenet-r.tar")
    fails(root, "empty class has no image, as 1 of 7")
    made = train_test(root / "imagenet-r", photos())
    (made / "val").mkdir()
    fails(root, "has test and val: which of them")


def test_other_datasets_in_the_root_are_not_taken(root):
    train_test(root / "inaturalist", photos())
    train_test(root / "imagenet-r-mine", photos())
    fails(root, "No copy of ImageNet-R", FileNotFoundError)
    message = "The folder itself has 6 classes, ImageNet-R has 200. .*name it 'imagenet-r'"
    fails(root / "inaturalist", message, FileNotFoundError)
    SplitImageNetR(2, dataset_root=(root / "inaturalist").rename(root / "ImageNet_R"))


def test_what_a_killed_process_left_is_no_dataset(tmp_path, root):
    made = train_test(tmp_path / "imagenet-r", photos())
    left = train_test(root / ".imagenet-r.unpacking", photos())
    shutil.rmtree(first(left / "train"))
    fails(root, "No copy of ImageNet-R", FileNotFoundError)
    archive(made, root / "imagenet-r.zip")
    SplitImageNetR(2, dataset_root=root)
    assert sorted(p.name for p in root.iterdir()) == ["imagenet-r", "imagenet-r.zip"]


def test_processes_that_unpack_at_the_same_time(tmp_path, root):
    archive(train_test(tmp_path / "imagenet-r", photos()), root / "imagenet-r.zip")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: find(IMAGENET_R, root, progress=False), range(4)))
    assert {f.n_images for f in found} == {60}
    assert sorted(p.name for p in root.iterdir()) == ["imagenet-r", "imagenet-r.zip"]


def test_archive_bomb(root, monkeypatch):
    with zipfile.ZipFile(root / "imagenet-r.zip", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("imagenet-r/zeros", bytes(20_000_000))
    fails(root, "more than 100 times its size")
    monkeypatch.setattr(_archive, "MAX_MEMBERS", 1)
    tar_with(root / "imagenet-r.tar", ("a", tarfile.REGTYPE), ("b", tarfile.REGTYPE))
    (root / "imagenet-r.zip").unlink()
    fails(root, "more than 1 files")


def test_archive_with_two_files_of_one_name(root):
    tar_with(root / "imagenet-r.tar", ("a/b", tarfile.REGTYPE), ("a/b", tarfile.REGTYPE))
    fails(root, "two files of one name")


def test_archive_of_something_else(root):
    tar_with(root / "imagenet-r.tar", ("readme.txt", tarfile.REGTYPE))
    fails(root, "No copy of ImageNet-R in", FileNotFoundError)


def test_full_disk(tmp_path, root, monkeypatch):
    archive(train_test(tmp_path / "imagenet-r", photos()), root / "imagenet-r.zip")
    usage = namedtuple("usage", "total used free")(10, 9, 1)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _folder: usage)
        fails(root, "No space left on the disk", OSError)

    def write(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_archive, "_write", write)
    fails(root, "No space left on the disk of .*did not fit", OSError)


def test_no_permission(root, monkeypatch):
    class_folders(root / "imagenet-r", photos())
    archive(train_test(root.parent / "cub", photos()), root / "cub.zip")

    def refuse(path, *_args, **_kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    scandir = os.scandir

    def refuse_inside(path):
        return refuse(path) if "imagenet-r" in os.fspath(path) else scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse_inside)
        fails_before = r"No permission to read .*imagenet-r.* Give yourself"
        with pytest.raises(PermissionError, match=fails_before):
            SplitImageNetR(2, dataset_root=root)
    with monkeypatch.context() as patch:
        patch.setattr(_archive.Path, "iterdir", refuse)
        with pytest.raises(PermissionError, match=r"No permission to read .*root.* Give yourself"):
            SplitImageNetR(2, dataset_root=root)
    monkeypatch.setattr(_archive.Path, "mkdir", refuse)
    fails(root, "is not writable. Unpack it elsewhere", PermissionError, SplitCUB200)


def test_unknown_layout_and_missing_root(root):
    (root / "pictures").mkdir()
    (root / "pictures" / "a.txt").write_text("")
    fails(root, r"No copy of ImageNet-R.*data get imagenet-r.*2.19 GB", FileNotFoundError)
    fails(root, r"No copy of Stanford Cars.*Kaggle", FileNotFoundError, SplitCars196)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        SplitImageNetR(dataset_root=root / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"cannot be downloaded.*Kaggle"):
        SplitCars196(dataset_root=root, download=True)


def test_one_part_of_a_split(root):
    train_test(root / "imagenet-r", photos())
    fails(
        root / "imagenet-r" / "train",
        "is a part of a split. Give '.*imagenet-r'",
        FileNotFoundError,
    )


def test_tables_that_do_not_fit_their_images(root):
    made = cub(root / "CUB_200_2011", photos())
    sorted(made.rglob("*.*g"))[0].unlink()
    fails(root, "lacks 1 images that its tables list", split=SplitCUB200)
    (made / "classes.txt").write_text("1\n")
    fails(root, "not a table of `number value`", split=SplitCUB200)
    (made / "classes.txt").write_text("1 one\n")
    fails(root, "tables in .*CUB_200_2011 are not those of CUB.*KeyError", split=SplitCUB200)
    made = cars(root / "stanford_cars", photos())
    sorted((made / "cars_test").iterdir())[0].unlink()
    fails(root, "lacks 1 images that cars_test_annos_withlabels.mat lists", split=SplitCars196)
    (made / "devkit" / "cars_meta.mat").write_bytes(b"MATLAB 5.0")
    fails(root, "no whole MATLAB file", split=SplitCars196)
    (made / "devkit" / "cars_meta.mat").unlink()
    fails(root, "lacks devkit/cars_meta.mat", split=SplitCars196)


def test_pickle_that_would_run_code(root):
    made = cifar(root / "cifar-100-python", photos())
    (made / "meta").write_bytes(b"cos\nsystem\n(S'touch /tmp/ran'\ntR.")
    fails(root, "wants to load os.system", split=SplitCIFAR100)
    (made / "meta").write_bytes(b"\x80\x02")
    fails(root, "not a batch of CIFAR", split=SplitCIFAR100)


def test_label_beyond_the_classes(root):
    made = cifar(root / "cifar-100-python", photos())
    batch = pickle.loads((made / "train").read_bytes())
    batch["fine_labels"][0] = 6
    (made / "train").write_bytes(pickle.dumps(batch, protocol=2))
    fails(root, "labels beyond its 6 classes", split=SplitCIFAR100)
    batch["fine_labels"] = [max(label - 1, 0) for label in range(6) for _ in range(8)]
    (made / "train").write_bytes(pickle.dumps(batch, protocol=2))
    fails(root, "has no training image", split=SplitCIFAR100)
    del batch["fine_labels"]
    (made / "train").write_bytes(pickle.dumps(batch, protocol=2))
    fails(root, "KeyError: 'fine_labels'", split=SplitCIFAR100)
