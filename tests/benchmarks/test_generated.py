"""SplitGlyphs and SplitOmniglot."""

import zipfile

import pytest
import torch
from PIL import Image, ImageDraw
from torch.utils.data import DataLoader

from mist_avalanche.benchmarks import SplitGlyphs, SplitOmniglot
from mist_avalanche.benchmarks.glyphs import FAR, HAND_MADE, style_at
from mist_avalanche.benchmarks.rendering import GLYPHS, PRINTED, outlines
from mist_avalanche.models.backbones import create_backbone
from mist_avalanche.models.heads import PrototypeHead


def check_stream(benchmark, n_classes, n_train, n_test):
    seen = []
    for train, test in zip(benchmark.train_stream, benchmark.test_stream, strict=True):
        classes = sorted(set(train.dataset.targets))
        assert classes == sorted(set(test.dataset.targets))
        assert sorted(train.dataset.targets) == sorted(classes * n_train)
        assert sorted(test.dataset.targets) == sorted(classes * n_test)
        seen += classes
    assert seen == list(range(n_classes))
    assert len(benchmark.class_names) == len(set(benchmark.class_names)) == n_classes


def test_glyphs_are_complete_deterministic_and_leave_the_random_state_alone():
    state = torch.get_rng_state()
    first, second, other = SplitGlyphs(), SplitGlyphs(), SplitGlyphs(data_seed=1, seed=5)
    assert torch.equal(state, torch.get_rng_state())
    check_stream(first, 100, 20, 10)
    x = [b.train_stream[3].dataset[7][0] for b in (first, second, other)]
    assert x[0].shape == (3, 32, 32)
    assert torch.equal(x[0], x[1])
    assert not torch.equal(x[0], x[2])
    assert first.class_names == second.class_names != other.class_names
    assert sorted(first.class_names) == sorted(other.class_names)


def test_no_two_glyphs_look_alike():
    assert len(set(GLYPHS)) == 500
    small = torch.nn.functional.avg_pool2d(outlines(tuple(GLYPHS))[:, 0], 4).flatten(1)
    small = torch.nn.functional.normalize(small - small.mean(1, keepdim=True))
    assert (small @ small.T - 2 * torch.eye(500)).max() < 0.8501


def frozen_accuracy(**settings):
    """Of class means on all glyphs with the frozen embedded backbone, in percent."""
    benchmark, backbone, head = (
        SplitGlyphs(1, **settings),
        create_backbone().eval(),
        PrototypeHead(),
    )
    train, test = (
        next(iter(DataLoader(stream[0].dataset, 2000)))
        for stream in (benchmark.train_stream, benchmark.test_stream)
    )
    with torch.no_grad():
        head.update(backbone(train[0]), train[1])
        return 100 * (head(backbone(test[0])).argmax(1) == test[1]).float().mean().item()


def test_glyphs_are_harder_the_farther_they_are_from_print():
    found = [frozen_accuracy(shift=shift) for shift in (0, 1, 2)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 95
    assert 25 < found[2] < found[1] < 85  # a method can win or lose
    assert [style_at(shift) for shift in (0, 1, 2)] == [PRINTED, HAND_MADE, FAR]
    assert SplitGlyphs(shift=2).split_name == "rendered, data_seed 0, shift 2"
    for wrong in (-0.1, 2.1, "far"):
        with pytest.raises(ValueError, match=r"Expected `shift` in \[0, 2\]"):
            SplitGlyphs(shift=wrong)


@pytest.fixture
def omniglot(tmp_path):
    """Two alphabets of three characters, 20 drawings each, in the official layout."""
    root = tmp_path / "some where" / "images_background_small1"
    for a, alphabet in enumerate(("Greek", "Latin")):
        for c in range(3):
            folder = root / alphabet / f"character{c + 1:02d}"
            folder.mkdir(parents=True)
            for drawer in range(1, 21):
                image = Image.new("1", (105, 105), 1)
                draw = ImageDraw.Draw(image)
                draw.line((10 + 9 * c, 10, 90, 20 + 20 * a + drawer), fill=0, width=3)
                image.save(folder / f"{a:02d}{c:02d}_{drawer:02d}.png")
    return root


def test_omniglot_from_folder_and_archive(omniglot, tmp_path):
    archive = tmp_path / "zips" / "images_background_small1.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as z:
        for path in sorted(omniglot.rglob("*.png")):
            z.write(path, path.relative_to(omniglot.parent))
    first = SplitOmniglot(3, dataset_root=omniglot)
    for root in (omniglot, omniglot.parent, archive, archive.parent):
        benchmark = SplitOmniglot(3, dataset_root=root)
        check_stream(benchmark, 6, 15, 5)
        assert benchmark.class_names == first.class_names
        assert benchmark.split_name == "images_background_small1, last 5 drawers"
        x = benchmark.test_stream[0].dataset[0][0]
        assert x.shape == (3, 32, 32)
        assert 0 <= x.min() < x.mean() < 0.5 < x.max() <= 1  # white ink on black
        assert torch.equal(x, first.test_stream[0].dataset[0][0])


def test_omniglot_alphabets_and_errors(omniglot, tmp_path):
    benchmark = SplitOmniglot(3, dataset_root=omniglot, alphabets="Latin", image_size=48)
    assert {name.split("/")[0] for name in benchmark.class_names} == {"Latin"}
    assert benchmark.train_stream[0].dataset[0][0].shape == (3, 48, 48)
    with pytest.raises(ValueError, match=r"Greek, Latin; asked for \['Klingon'\]"):
        SplitOmniglot(dataset_root=omniglot, alphabets=["Klingon"])
    with pytest.raises(FileNotFoundError, match=r"images_evaluation"):
        SplitOmniglot(dataset_root=omniglot.parent, subset="images_evaluation")
    (tmp_path / "images_background.zip").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"images_background.zip: only whole zip"):
        SplitOmniglot(dataset_root=tmp_path)
