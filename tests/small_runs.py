"""A ViT of few weights, streams of few images, and what tests look at of a strategy."""

import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.benchmarks.utils.transform_groups import TransformGroups
from conftest import Images
from timm.models.vision_transformer import VisionTransformer

from mist_avalanche.runs.checkpoint import Checkpoint


def small(depth=3, **settings):
    """A random ViT, the same every time."""
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": depth, "num_heads": 2}
    return VisionTransformer(**sizes, num_classes=0, **settings)


def accuracy(strategy, experiences):
    return next(v for k, v in strategy.eval(experiences).items() if "Top1_Acc_Stream" in k)


def state(strategy):
    return {k: v.detach().clone() for k, v in strategy.model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


def streams(labels, per_class=3, noise=0.0, transform=None):
    """A stream of experiences with these labels, one pattern a class, training and test alike."""
    generator = torch.Generator().manual_seed(1)
    patterns = torch.rand(20, 3, 32, 32, generator=generator)
    groups = TransformGroups({"train": (transform, None), "eval": (None, None)})
    made = []
    for classes in labels:
        y = torch.tensor(classes).repeat_interleave(per_class)
        x = patterns[y] + noise * torch.rand(len(y), 3, 32, 32, generator=generator)
        made.append(as_classification_dataset(Images(x, y), transform_groups=groups))
    return benchmark_from_datasets(train=made, test=made)


def online_parts(stream, size, **settings):
    """The parts of an online stream whose boundaries may be known."""
    return [*split_online_stream(stream, size, seed=0, access_task_boundaries=True, **settings)]


def everything(experiences):
    """Images and labels of experiences under the eval transform."""
    items = [item for e in experiences for item in e.dataset.eval()]
    return torch.stack([x for x, *_ in items]), torch.tensor([y for _, y, *_ in items])


def check_goes_on_at_an_epoch(made, benchmark, folder, stop):
    """A run that is stopped before an epoch (experience, epoch) goes on with it, to the same bits.

    Args:
        made: makes the strategy.
        benchmark: of a few images.
        folder: for the checkpoints.
        stop: where.
    """
    epochs = []

    def run(name, stopped):
        strategy = made()
        checkpoint = Checkpoint(folder / name, strategy, benchmark, every=0)
        checkpoint._too_soon = lambda: False  # however slow the disk is
        found, trained = checkpoint.load([]), strategy.training_epoch

        def training_epoch(**kwargs):
            now = strategy.clock.train_exp_counter, strategy.clock.train_exp_epochs
            if stopped and now == stop:
                raise KeyboardInterrupt
            epochs.append(now)
            trained(**kwargs)

        strategy.training_epoch = training_epoch
        for experience in benchmark.train_stream[checkpoint.done :]:
            strategy.train(experience, eval_streams=[])
            found.append(accuracy(strategy, benchmark.test_stream[: checkpoint.done + 1]))
            checkpoint.save(found)
        return state(strategy), found

    torch.manual_seed(5)
    whole, found = run("whole", stopped=False)
    every = list(epochs)
    torch.manual_seed(5)
    epochs.clear()
    with pytest.raises(KeyboardInterrupt):
        run("parts", stopped=True)
    torch.manual_seed(99)
    again, found_again = run("parts", stopped=False)
    assert same(whole, again)
    assert found == found_again
    assert epochs == every  # none was trained twice
    assert not list((folder / "parts").glob("tuning-*"))
