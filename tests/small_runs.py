"""A ViT of few weights, streams of few images, and what tests look at of a strategy."""

import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.benchmarks.utils.transform_groups import TransformGroups
from conftest import Images
from timm.models.vision_transformer import VisionTransformer


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
