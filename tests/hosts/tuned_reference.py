"""What the published tuned strategies were run on, and what they computed."""

import json
import os
from pathlib import Path

import numpy as np
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import TransformGroups, as_classification_dataset
from conftest import Images
from timm.models.vision_transformer import VisionTransformer

ROOT = os.environ.get("HOSTS_REFERENCE_DIR") or Path(__file__).parent / "golden"
DIRECTORY = Path(ROOT) / "tuned"


def arrays(name, directory=DIRECTORY):
    with np.load(directory / f"{name}.npz") as read:
        return {key: torch.from_numpy(read[key]) for key in read.files}


def settings_of(name, directory=DIRECTORY):
    return json.loads((directory / "golden.json").read_text())[f"{name}.npz"]["settings"]


COMMON = arrays("common")


def vit():
    model = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=4, num_classes=0
    )
    model.load_state_dict({k[4:]: v for k, v in COMMON.items() if k.startswith("vit/")})
    return model.to(torch.float64)


def pixels(images):
    return (images.to(torch.float64) / 255 - 0.5) / 0.5


def mirrored(x):
    return x.flip(-1)


def experiences(sizes, common=COMMON):
    """Images in the order of training, mirrored by the training transform alone."""
    x, y = common["train_images"][common["order"]], common["train_labels"][common["order"]]
    groups = TransformGroups({"train": (mirrored, None), "eval": (None, None)})
    made, first = [], 0
    for n in sizes:
        own = (y >= first) & (y < first + n)
        dataset = as_classification_dataset(Images(pixels(x[own]), y[own]), groups)
        made.append(dataset)
        first += n
    return benchmark_from_datasets(train=made).train_stream


def seen_test_images(n_classes, common=COMMON):
    return pixels(common["test_images"][common["test_labels"] < n_classes])


def named(adapter):
    """An adapter's parameters by the names of the files."""
    for name, parameter in adapter.named_parameters():
        part, block, kind = name.split(".")
        yield f"blocks.{block}.{part}.{kind}", parameter


class Comparison:
    """Compares with the arrays of a file, and counts."""

    def __init__(self, published):
        self.published, self.compared = published, set()

    def __call__(self, name, got):
        wanted = self.published[name]
        assert got.shape == wanted.shape, name
        assert got.dtype == wanted.dtype, name
        torch.testing.assert_close(
            got.detach(),
            wanted,
            rtol=0,
            atol=1e-9 * float(wanted.abs().max()),
            msg=lambda m: f"{name}: {m}",
        )
        self.compared.add(name)
