"""Decoded images that are kept are those that decoding gives, and are decoded once."""

import copy
import json
import logging
import multiprocessing
import os
import pickle
import signal
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from data_layouts import N_CLASSES, N_IMAGES, cifar, class_folders, photos
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader

from mist_avalanche.benchmarks import SplitCIFAR100, SplitImageNetR
from mist_avalanche.benchmarks.storage import decoded as _decoded
from mist_avalanche.benchmarks.storage.decoded import CACHES, DecodedImages, kept_decoded
from mist_avalanche.benchmarks.storage.images import ImageFiles, read_image
from mist_avalanche.cli import command as cli

N = N_CLASSES * N_IMAGES


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MIST_CACHE_GB", raising=False)


@pytest.fixture
def root(tmp_path):
    return class_folders(tmp_path / "imagenet-r", photos())


@pytest.fixture
def decodings(tmp_path, monkeypatch):
    """Which files were decoded since the last call, in whatever process."""
    log = tmp_path / "decodings"
    log.touch()

    def logged(path):
        with log.open("a") as file:
            file.write(f"{path}\n")
        return read_image(path)

    monkeypatch.setattr(_decoded, "read_image", logged)

    def since():
        lines = log.read_text().splitlines()
        log.write_text("")
        return lines

    return since


def cached(root, cache):
    """All images of a folder of class folders, six of them as test images."""
    names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.*g"))
    files = [(name, i) for i, name in enumerate(names)]
    return ConcatDataset(
        kept_decoded(cache, ImageFiles(root, files[6:]), ImageFiles(root, files[:6]))
    )


def epoch(images, workers=0):
    loader = DataLoader(images, None, num_workers=workers, collate_fn=tuple)
    return {target: image for image, target in loader}


def same(images, others):
    return images.keys() == others.keys() and all(
        a.mode == others[y].mode == "RGB" and np.array_equal(np.asarray(a), np.asarray(others[y]))
        for y, a in images.items()
    )


def pixel_file(tmp_path):
    (file,) = (tmp_path / "cache" / "mist_avalanche" / "decoded").iterdir()
    return file


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache", CACHES)
def test_same_images_and_each_is_decoded_once(root, cache, workers, decodings):
    plain = epoch(cached(root, None))
    images = cached(root, cache)
    assert decodings() == []
    assert same(epoch(images, workers), plain)
    assert len(set(decodings())) == N
    for again in (workers, 2 - workers):
        assert same(epoch(images, again), plain)
    assert decodings() == []


@pytest.mark.parametrize("cache", CACHES)
def test_same_stream(root, cache):
    def batches(cache):
        benchmark = SplitImageNetR(2, dataset_root=root, image_size=16, cache=cache)
        for _ in range(2):
            for experience in (*benchmark.train_stream, *benchmark.test_stream):
                torch.manual_seed(0)
                yield from DataLoader(experience.dataset, 8)

    for plain, kept in zip([*batches(None)], [*batches(cache)], strict=True):
        assert all(map(torch.equal, plain, kept))


@pytest.mark.parametrize("cache", CACHES)
def test_copies_and_pickles(root, cache, decodings):
    images = cached(root, cache)
    plain = epoch(images)
    assert len(decodings()) == N
    assert same(epoch(copy.deepcopy(images)), plain)
    assert decodings() == []
    assert same(epoch(pickle.loads(pickle.dumps(images))), plain)
    assert len(decodings()) == (N if cache == "ram" else 0)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache", CACHES)
def test_bounded(root, cache, workers, decodings, monkeypatch, caplog, capfd):
    monkeypatch.setenv("MIST_CACHE_GB", "0.0001")
    logging.getLogger("mist_avalanche").addHandler(handler := logging.StreamHandler())
    try:
        images = cached(root, cache)
        plain = epoch(images, workers)
        fd = images.datasets[0].decoded.fd
        assert 50_000 < os.fstat(fd).st_size <= 100_000
        decodings()
        assert same(epoch(images, workers), plain)
    finally:
        logging.getLogger("mist_avalanche").removeHandler(handler)
    assert 0 < len(decodings()) < N
    told = capfd.readouterr().err.count("takes no more (MIST_CACHE_GB is 0.0001)")
    assert 1 <= told <= max(1, workers)  # twice where both workers find it full at once
    monkeypatch.setenv("MIST_CACHE_GB", "a lot")
    with pytest.raises(ValueError, match="a number of gigabytes in MIST_CACHE_GB, got 'a lot'"):
        cached(root, cache)


def test_at_most_half_of_the_free_memory(tmp_path, monkeypatch, caplog):
    Image.new("RGB", (2000, 2000)).save(tmp_path / "large.png")  # 12 MB decoded
    monkeypatch.setattr(_decoded, "available_memory", lambda: 30_000_000)
    images = DecodedImages(4, None)
    for i in range(4):
        images.read(i, tmp_path / "large.png")
    assert 24_000_000 < os.fstat(images.fd).st_size < 25_000_000
    assert caplog.text.count("in memory takes no more (it has 0.02 GB, 0.03 GB are free)") == 1


def test_a_full_disk(root, tmp_path, monkeypatch, caplog, decodings):
    images = cached(root, "disk")
    first = images[0]
    size = os.fstat(images.datasets[0].decoded.fd).st_size
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: write(fd, data[:100], at))
    plain = epoch(images)
    assert same(epoch(images), plain)
    assert np.array_equal(np.asarray(images[0][0]), np.asarray(first[0]))
    assert len(decodings()) == 1 + 2 * (N - 1)
    assert pixel_file(tmp_path).stat().st_size == size
    assert caplog.text.count("takes no more (No space left on device)") == 1


def test_no_place_for_a_cache(root, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/nowhere")
    assert len(epoch(cached(root, "disk"))) == N
    assert "No cache of decoded images" in caplog.text


def test_disk_is_used_by_the_next_run(root, tmp_path, decodings, monkeypatch):
    plain = epoch(cached(root, "disk"))
    assert len(decodings()) == N
    assert same(epoch(cached(root, "disk")), plain)
    assert decodings() == []
    monkeypatch.setattr(_decoded.PIL, "__version__", "0.1")  # decodes in a way of its own
    assert same(epoch(cached(root, "disk")), plain)
    assert len(decodings()) == N


@pytest.mark.parametrize("cache", CACHES)
def test_changed_file_is_noticed(root, cache, decodings):
    images = cached(root, cache)
    epoch(images)
    decodings()
    file = sorted(root.rglob("*.jpeg"))[0]
    known, size = file.stat(), file.stat().st_size
    Image.new("RGB", (20, 20), "red").save(file)
    file.write_bytes(file.read_bytes().ljust(size, b"\0")[:size])
    os.utime(file, ns=(known.st_atime_ns, known.st_mtime_ns))
    changed = epoch(images)
    assert decodings() == [str(file)]
    assert same(changed, epoch(cached(root, None)))
    assert same(changed, epoch(images))
    os.utime(file)
    decodings()
    epoch(images)
    assert decodings() == [str(file)]


@pytest.mark.parametrize("damage", ["empty", "in the rows", "in the pixels", "bytes", "sizes"])
def test_damaged_cache_recovers(root, tmp_path, damage, decodings):
    plain = epoch(cached(root, "disk"))
    file = pixel_file(tmp_path)
    size = file.stat().st_size
    if damage == "bytes":
        content = bytearray(file.read_bytes())
        content[:: size // 100] = bytes(255 - b for b in content[:: size // 100])
        file.write_bytes(content)
    elif damage == "sizes":  # in the rows, beyond what can be read
        content = bytearray(file.read_bytes())
        for row in range(0, N * _decoded._ROW_SIZE, _decoded._ROW_SIZE):
            content[row + 8 : row + 12], content[row + 12 : row + 16] = b"\xff" * 4, b"\xff" * 4
        file.write_bytes(content)
    else:
        os.truncate(file, {"empty": 0, "in the rows": 1000, "in the pixels": size // 2}[damage])
    decodings()
    images = cached(root, "disk")
    assert same(epoch(images), plain)
    assert decodings()
    assert same(epoch(images), plain)
    assert decodings() == []


def _two_epochs(root):
    torch.set_num_threads(1)
    return [
        {y: np.asarray(image).tobytes() for y, image in epoch(cached(root, "disk")).items()}
        for _ in range(2)
    ]


def test_two_processes_at_once(root, tmp_path, decodings):
    plain = {y: np.asarray(image).tobytes() for y, image in epoch(cached(root, None)).items()}
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(3, mp_context=context) as pool:
        for epochs in pool.map(_two_epochs, [root] * 6):
            assert epochs == [plain, plain]
    decodings()
    assert _two_epochs(root) == [plain, plain]
    assert decodings() == []


def _killed_while_writing(images, calls):
    write = os.pwrite

    def killed(fd, data, at):
        calls.append(at)
        if len(calls) < 20:
            return write(fd, data, at)
        write(fd, data[: len(data) // 2], at)
        os.kill(os.getpid(), signal.SIGKILL)

    os.pwrite = killed
    epoch(images)


@pytest.mark.parametrize("row", [False, True])
@pytest.mark.parametrize("cache", CACHES)
def test_killed_writer(root, cache, row, decodings):
    plain = epoch(cached(root, None))
    images = cached(root, cache)
    process = multiprocessing.get_context("fork").Process(
        target=_killed_while_writing, args=(images, [0] * row)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    decodings()
    assert same(epoch(images), plain)
    assert N - 10 <= len(decodings()) <= N - 9
    assert same(epoch(images), plain)
    assert decodings() == []


def test_same_errors_as_without(root):
    file = sorted(root.rglob("*.jpeg"))[0]
    file.write_bytes(file.read_bytes()[:200])
    for cache in (None, *CACHES):
        with pytest.raises(ValueError, match=f"Cannot read the image '.*{file.name}': .* bytes"):
            epoch(cached(root, cache))
    file.unlink()
    images = cached(root, "ram")
    files = images.datasets[0].files
    files.names[0] = str(Path(file.parent.name, file.name))
    with pytest.raises(FileNotFoundError, match=file.name):
        images.datasets[0][0]
    with pytest.raises(IndexError):
        images.datasets[1][6]


def test_results_of_the_command_are_the_same(root, tmp_path, decodings):
    def results(name, *options):
        output = tmp_path / name
        common = ["--benchmark", "imagenet-r", "--experiences", "2", "--quiet"]
        where = ["--dataset-root", str(root), "--output", str(output)]
        assert cli.main(["run", *common, *where, *options]) == 0
        found = json.loads((output / "results.json").read_text())
        return {key: found[key] for key in ("config", "metrics", "accuracy")}

    plain = results("plain")
    assert results("disk", "--cache", "disk") == plain
    assert len(decodings()) == N
    assert results("workers", "--cache", "disk", "--num-workers", "1") == plain
    assert results("disk", "--cache", "ram", "--resume") == plain
    assert decodings() == []


def test_unknown_cache_and_images_that_need_none(tmp_path):
    with pytest.raises(ValueError, match="`cache` to be 'ram', 'disk' or None, got 'tape'"):
        SplitImageNetR(dataset_root=tmp_path, cache="tape")
    cifar(tmp_path / "cifar-100-python", photos())
    benchmark = SplitCIFAR100(2, dataset_root=tmp_path, image_size=16, cache="disk")
    assert benchmark.train_stream[0].dataset[0][0].shape == (3, 16, 16)
    assert not (tmp_path / "cache").exists()
