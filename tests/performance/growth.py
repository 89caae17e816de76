"""How a run's time grows with experiences, classes, images and random features.

SimpleCIL and RanPAC on the embedded backbone without tuning, random images. Beside it the same
without the cache of features, in which every evaluation passes all images seen through the
backbone, as Avalanche's evaluation does.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import time
from pathlib import Path

import numpy as np
import torch

from mist_avalanche.benchmarks.storage.images import ArrayImages
from mist_avalanche.benchmarks.stream import Source, class_incremental
from mist_avalanche.benchmarks.transforms import center_crop
from mist_avalanche.models.backbones import create_backbone
from mist_avalanche.strategies import RanPAC, SimpleCIL


def stream(n_classes, n_experiences, per_class):
    """Random images, as many for training as for testing."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(n_classes), per_class).tolist()
    parts = [
        ArrayImages(rng.integers(256, size=(len(labels), 32, 32, 3), dtype=np.uint8), labels)
        for _ in range(2)
    ]
    return class_incremental(
        Source(*parts, [str(c) for c in range(n_classes)], "random"),
        n_experiences,
        seed=0,
        fixed_class_order=None,
        shuffle=True,
        train_transform=center_crop(32),
        eval_transform=center_crop(32),
    )


def peak_megabytes():
    """Of the process, on Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1e3


def measure(strategy=SimpleCIL, classes=100, experiences=10, per_class=10, **settings):
    """CPU seconds, passes of images through the backbone in evaluation, and peak megabytes."""
    benchmark = stream(classes, experiences, per_class)
    backbone = create_backbone()
    passes, training = 0, True

    def count(_module, inputs):
        nonlocal passes
        passes += 0 if training else len(inputs[0])

    backbone.register_forward_pre_hook(count)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    held = peak_megabytes()
    host = strategy(model=backbone, evaluator=None, **settings)
    start = time.process_time()
    for t, experience in enumerate(benchmark.train_stream):
        training = True
        host.train(experience)
        training = False
        host.eval(benchmark.test_stream[: t + 1])
    return time.process_time() - start, passes, peak_megabytes() - held


CASES = {
    "experiences": [{"experiences": t} for t in (5, 10, 20)],
    "classes": [{"classes": c, "per_class": 1000 // c} for c in (100, 200, 400)],
    "images": [{"per_class": n} for n in (10, 20, 40)],
    "random features": [
        {"strategy": RanPAC, "n_random_features": m} for m in (1000, 2000, 5000, 10000)
    ],
}


def table():
    """Everything as Markdown."""
    lines = [
        "| strategy | classes | experiences | images | M | s | passes | MB | s uncached | passes |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case in (one for cases in CASES.values() for one in cases):
        settings = {"strategy": SimpleCIL, "classes": 100, "experiences": 10, "per_class": 10}
        settings |= case
        seconds, passes, megabytes = measure(**settings)
        plain, plain_passes, _ = measure(**settings, cache_mb=0)
        images = settings["classes"] * settings["per_class"]
        lines.append(
            f"| {settings['strategy'].__name__} | {settings['classes']} | "
            f"{settings['experiences']} | {images} | {settings.get('n_random_features', '')} | "
            f"{seconds:.1f} | {passes} | {megabytes:.0f} | {plain:.1f} | {plain_passes} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    print(table())


if __name__ == "__main__":
    main()
