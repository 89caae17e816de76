"""``mist-avalanche data list | get | check``, and downloads from a server on loopback."""

import argparse
import hashlib
import shutil
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from data_layouts import archive, class_folders, photos, train_test

from mist_avalanche.benchmarks import SplitImageNetR, data
from mist_avalanche.cli import data as command


def run(*arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.execute(parser.parse_args([str(a) for a in arguments]))


def test_unknown_name():
    with pytest.raises(ValueError, match=r"Unknown dataset 'imagenet'. Use one of imagenet-[ar], "):
        data.check("imagenet")


def test_list_shows_what_is_there(tmp_path, capsys):
    class_folders(tmp_path / "imagenet-r", photos())
    (tmp_path / "cub.zip").write_bytes(b"")
    made = train_test(tmp_path / "cars", photos())
    shutil.copytree(made / "test", made / "val")
    assert run("list", "--dataset-root", tmp_path) == 0
    shown = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert list(shown) == ["name", *data.DATASETS]
    assert "2.19 GB" in shown["imagenet-r"]
    assert "(80/20 by name hash, digest of test images " in shown["imagenet-r"]
    assert "cub.zip, not unpacked yet" in shown["cub200"]
    assert "none in" in shown["imagenet-a"]
    assert "by hand" in shown["cars196"]
    assert "both test and val" in shown["cars196"]


def test_check_of_a_part_and_of_a_whole_copy(tmp_path, capsys):
    root = class_folders(tmp_path / "imagenet-r", photos())
    assert run("check", "imagenet-r", "--dataset-root", tmp_path, "--quiet") == 1
    shown = capsys.readouterr().out
    for line in (
        f"folder      {root}",
        "split       80/20 by name hash",
        "classes     6",
        "images      48 for training, 12 for testing",
        "complete    no: ImageNet-R has 200 classes, there are 6; ImageNet-R has 30000 images",
        "unreadable  0",
        "duplicates  0 between training and test",
        "flat        0 of one colour",
        "rotated     0 by their EXIF data, which are not applied",
    ):
        assert line in shown
    assert run("check", "folder", "--dataset-root", root, "--quiet") == 0
    assert "complete    yes" in capsys.readouterr().out


def test_check_names_unreadable_images_and_duplicates(tmp_path, capsys):
    root = train_test(tmp_path / "photos", photos())
    tests = sorted((root / "test").rglob("*.*g"))
    train = sorted((root / "train").rglob("*.*g"))[0]
    tests[0].write_bytes(b"")
    shutil.copy(train, tests[1])
    assert run("check", "folder", "--dataset-root", root, "--quiet") == 1
    shown = capsys.readouterr().out
    assert f"{tests[0]}': it is empty (0 bytes)" in shown
    assert " = ".join(p.relative_to(root).as_posix() for p in (train, tests[1])) in shown


# ---- Downloads -----------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves imagenet-r.tar; ``body`` and ``status`` can be changed."""
    file = archive(class_folders(tmp_path / "imagenet-r", photos()), tmp_path / "served.tar")
    shutil.rmtree(tmp_path / "imagenet-r")
    answer = argparse.Namespace(body=file.read_bytes(), status=200, requests=0)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answer.requests += 1
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(file.read_bytes())))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_args):
            pass

    opened = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=opened.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{opened.server_address[1]}/files/imagenet-r.tar?download=1"
    md5 = hashlib.md5(answer.body).hexdigest()
    monkeypatch.setitem(data.DATASETS, "imagenet-r", replace(SplitImageNetR, url=url, md5=md5))
    yield answer
    opened.shutdown()
    opened.server_close()


def test_get(server, tmp_path, capsys):
    root = tmp_path / "new" / "root"
    for _ in range(2):
        assert run("get", "imagenet-r", "--dataset-root", root) == 0
        assert capsys.readouterr().out.strip() == str(root / "imagenet-r")
    assert sorted(p.name for p in root.iterdir()) == ["imagenet-r", "imagenet-r.tar"]
    shutil.rmtree(root / "imagenet-r")
    assert run("get", "imagenet-r", "--dataset-root", root, "--quiet") == 0
    assert server.requests == 1  # the archive is there
    assert len(list((root / "imagenet-r").rglob("*.*g"))) == 60
    with pytest.raises(FileNotFoundError, match="Kaggle"):
        run("get", "cars196", "--dataset-root", root)


@pytest.mark.parametrize("body", [b"x", b"<html>moved</html>", None])
def test_wrong_download_leaves_nothing(server, tmp_path, body):
    server.body = server.body[:-1000] + b"x" * 1000 if body is None else body
    with pytest.raises((ValueError, OSError), match=r"imagenet-r.tar\?download=1.* Try again"):
        run("get", "imagenet-r", "--dataset-root", tmp_path / "root", "--quiet")
    assert not list((tmp_path / "root").iterdir())


def test_errors_of_the_server(server, tmp_path, monkeypatch):
    server.status = 404
    with pytest.raises(OSError, match=r"Cannot download http://127.*404"):
        run("get", "imagenet-r", "--dataset-root", tmp_path / "root", "--quiet")
    dead = replace(SplitImageNetR, url="http://127.0.0.1:9/imagenet-r.tar")
    monkeypatch.setitem(data.DATASETS, "imagenet-r", dead)
    with pytest.raises(OSError, match=r"Cannot download http://127.0.0.1:9"):
        run("get", "imagenet-r", "--dataset-root", tmp_path / "root", "--quiet")
    assert not list((tmp_path / "root").iterdir())
