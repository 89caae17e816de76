import gc
import random
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchvision.transforms import v2

from mist_avalanche.strategies.feature_cache import FeatureCache, Features, fingerprint, look


class Dataset:
    def __init__(self, n, seed):
        self.features = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))


def computing(log):
    def compute(datasets):
        log.append(len(datasets))
        return [
            Features(d.features, torch.arange(len(d.features)), torch.zeros(len(d.features)).long())
            for d in datasets
        ]

    return compute


def test_computes_what_is_new_in_one_go_and_all_in_another_state():
    first, second = Dataset(4, 0), Dataset(5, 1)
    cache, log = FeatureCache(10**6), []
    cache.get([(first, b"")], b"a", computing(log))
    found = cache.get([(second, b""), (first, b""), (second, b"")], b"a", computing(log))
    assert log == [1, 1]
    assert torch.equal(found[0].features, second.features)
    assert torch.equal(found[1].features, first.features)
    assert found[2] is found[0]
    cache.get([(first, b""), (second, b"")], b"b", computing(log))
    assert log == [1, 1, 2]
    cache.get([(first, b""), (second, b"other")], b"b", computing(log))
    assert log == [1, 1, 2, 1]
    cache.get([(first, b"")], b"a", computing(log))
    assert log == [1, 1, 2, 1, 1]


def test_goes_with_its_dataset():
    cache, log = FeatureCache(10**6), []
    dataset = Dataset(4, 0)
    cache.get([(dataset, b"")], b"", computing(log))
    key = id(dataset)
    del dataset
    gc.collect()
    assert key not in cache._kept


def test_memory_is_bounded_and_the_file_goes_with_the_cache():
    datasets = [Dataset(100, seed) for seed in range(5)]  # 1200 bytes each
    cache, log = FeatureCache(2500), []
    for _ in range(2):
        found = cache.get([(d, b"") for d in datasets], b"", computing(log))
        assert all(
            torch.equal(f.features, d.features) for f, d in zip(found, datasets, strict=True)
        )
    assert log == [5]
    assert cache._in_memory == 2400
    folder = Path(cache._folder.name)
    assert len(list(folder.iterdir())) == 3
    del found, cache
    gc.collect()
    assert not folder.exists()


def test_fingerprint_sees_every_bit():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    seen = {fingerprint(net)}
    assert fingerprint(net) in seen
    net[0].weight.data[1, 2] *= -0.0 if net[0].weight[1, 2] == 0 else 1 + 1e-6
    seen.add(fingerprint(net))
    net[1].running_mean[0] += 1
    seen.add(fingerprint(net))
    net[0].weight.data = net[0].weight.data[[1, 0, 2, 3]]  # the same numbers elsewhere
    seen.add(fingerprint(net))
    net[0].bias.data[0] = 0.0
    seen.add(fingerprint(net))
    net[0].bias.data[0] = -0.0
    seen.add(fingerprint(net))
    seen.add(fingerprint(net.bfloat16()))
    assert len(seen) == 7


def test_fingerprint_sees_what_is_no_part_of_the_state():
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.1))
    net.register_buffer("scale", torch.ones(1), persistent=False)
    seen = [fingerprint(net)]
    net.scale += 1
    seen.append(fingerprint(net))
    for register in (net[0].register_forward_hook, net.register_forward_pre_hook):
        for _ in range(2):  # the same function, put on anew
            handle = register(print)
            seen.append(fingerprint(net))
            handle.remove()
            assert fingerprint(net) == seen[1]
    net[1].p = 0.2
    seen.append(fingerprint(net))
    assert len(set(seen)) == len(seen) == 7


class Items:
    def __init__(self, transform):
        self.transform = transform

    def eval(self):
        return self

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.transform(torch.arange(12.0).view(3, 2, 2) + index), 0


def test_a_random_transform_has_no_look():
    image = look(Items(nn.Identity()))
    assert image is not None
    assert image == look(Items(lambda x: x.clone())) != look(Items(lambda x: x + 1))
    own = torch.Generator()
    for transform in (
        v2.RandomErasing(0.01),
        lambda x: x + random.random() * 0,
        lambda x: x + float(np.random.rand()),
        lambda x: x + torch.rand(1, generator=own),
    ):
        before = torch.get_rng_state(), random.getstate()
        assert look(Items(transform)) is None
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1] == random.getstate()
