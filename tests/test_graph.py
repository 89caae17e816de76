import collections
import copy
import enum
import io
import itertools
import random
import types
import weakref
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from mist_avalanche._graph import NotSavableError, flatten
from mist_avalanche._live import restore
from mist_avalanche._surroundings import Surroundings


class Part:
    def __init__(self, **parts):
        self.__dict__.update(parts)

    def method(self):
        return self

    @classmethod
    def of_class(cls):
        return cls


class Child(Part):
    def method(self):
        return None


def saved(value, around):
    """The records after a file."""
    file = io.BytesIO()
    torch.save(flatten(value, around), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def again(build, change=None, benchmark=None):
    """What ``build`` makes, changed, saved and restored into what it makes once more; and both."""
    old, live = build(), build()
    around = Surroundings(old, benchmark)
    if change:
        change(old)
    return old, restore(saved(old, around), live, Surroundings(live, benchmark))


def restored(change, **parts):
    """What becomes of a part that an object gets after the Checkpoint was made."""
    return again(lambda: Part(**{name: make() for name, make in parts.items()}), change)


class Names(dict):
    pass


class Rows(list):
    pass


class Image(torch.Tensor):
    pass


@dataclass(frozen=True)
class Key:
    number: int


class Slots:
    __slots__ = ("a", "b")


Pair = collections.namedtuple("Pair", ["a", "b"])


class Colour(enum.Enum):
    RED = 1


def same(a, b):
    return type(a) is type(b) and a == b


VALUES = {
    "numbers": [1, 2.5, float("inf"), True, None, 10**30, 1j, b"ab", "ä"],
    "torch's constants": [torch.float32, torch.device("cpu"), torch.strided, torch.Size([2])],
    "dictionaries": [
        collections.OrderedDict(a=1),
        collections.Counter("aab"),
        collections.defaultdict(list, a=[1]),
        {1: 2, (1, "a"): 3, None: 4, Key(1): 5, Pair(1, 2): 6, 2.5: 7},
    ],
    "containers": [[1], (1, [2]), {3}, frozenset({4, Key(2)}), collections.deque([1], 3), range(9)],
    "slices": [slice(1, None, 2)],
    "classes derived from containers": [Names(a=1), Rows([1, 2]), Pair([1], {})],
    "classes and members": [Part, int, nn.Linear, Colour.RED],
    "numpy's scalars": [np.float32(0.1), np.int64(3), np.bool_(True), np.datetime64("2020-01-01")],
}


@pytest.mark.parametrize("name", VALUES)
def test_values_are_equal_and_of_the_same_class(name):
    old, new = again(lambda: Part(values=copy.deepcopy(VALUES[name])))
    for a, b in zip(old.values, new.values, strict=True):
        assert same(a, b)
    if name == "dictionaries":
        assert all([*a] == [*b] for a, b in zip(old.values, new.values, strict=True))


def test_attributes_of_classes_derived_from_containers():
    def change(part):
        part.rows = Rows([1])
        part.rows.name = "x"

    _, new = restored(change, _=Rows)
    assert (new.rows, new.rows.name) == ([1], "x")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(()),
        np.zeros((0, 3)),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
        np.arange(5)[::-1],
        np.array(["a", "bcd"]),
        np.array([True, False]),
    ],
)
def test_arrays_have_their_bits_and_layout(array):
    _, new = again(lambda: Part(array=array))
    np.testing.assert_array_equal(new.array, array)
    assert (new.array.dtype, new.array.shape) == (array.dtype, array.shape)
    if array.flags.forc:
        assert new.array.strides == array.strides
    assert new.array.flags.writeable


def test_arrays_that_share_memory():
    def build():
        rows = np.arange(6.0)
        return Part(part=rows[1:4], whole=rows, turned=rows.reshape(2, 3).T, other=np.zeros(2))

    _, new = again(build)
    new.whole[2] = 50
    assert new.part[1] == 50
    assert new.turned[2, 0] == 50


def test_tensors_that_share_memory():
    def build():
        rows = torch.arange(6.0)
        return Part(part=rows[1:4], whole=rows, turned=rows.view(2, 3).T)

    _, new = again(build)
    new.whole[2] = 50
    assert new.part[1] == 50
    assert new.turned[2, 0] == 50


def test_parameters_keep_identity_flags_layout_and_gradients():
    def build():
        model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Linear(2, 2), nn.Linear(2, 2))
        model[2].weight = model[1].weight
        optimizer = torch.optim.Adam(model.parameters())
        return Part(model=model, optimizer=optimizer, alias=model[1].bias)

    def change(part):
        part.model.to(memory_format=torch.channels_last)
        part.model[0].requires_grad_(False)
        sum(p.sum() for p in part.model[1].parameters()).backward()
        part.optimizer.step()

    old, live = build(), build()
    around = Surroundings(old, None)
    change(old)
    before = dict(live.model.named_parameters())
    new = restore(saved(old, around), live, Surroundings(live, None))
    for name, p in old.model.named_parameters():
        q = before[name]
        assert dict(new.model.named_parameters())[name] is q
        assert torch.equal(p, q)
        assert (p.stride(), p.requires_grad) == (q.stride(), q.requires_grad)
        assert (p.grad is None and q.grad is None) or torch.equal(p.grad, q.grad)
        assert (p in old.optimizer.state) == (q in new.optimizer.state)
    assert new.model[1].weight is new.model[2].weight is new.optimizer.param_groups[0]["params"][2]
    assert new.alias is new.model[1].bias


def test_tensors_of_other_classes_and_layouts():
    tensors = [
        torch.ones(2).as_subclass(Image),
        torch.eye(2).to_sparse(),
        torch.ones(1).expand(4),
        torch.ones(2, dtype=torch.bfloat16),
        torch.tensor(3),
        nn.Buffer(torch.ones(2)),
    ]
    _, new = again(lambda: Part(tensors=tensors))
    for a, b in zip(tensors, new.tensors, strict=True):
        assert type(a) is type(b)
        assert (a.dtype, a.layout, a.shape) == (b.dtype, b.layout, b.shape)
        assert torch.equal(a.to_dense(), b.to_dense())
    assert new.tensors[5]._is_buffer


def test_cycles_and_aliases():
    def change(part):
        part.list = [part]
        part.tuple = (part.list, part)
        part.list.append(part.tuple)
        part.alias = part.list
        part.dict = {"self": part}

    _, new = restored(change)
    assert new.list[0] is new is new.tuple[1] is new.dict["self"]
    assert new.tuple is new.list[1]
    assert new.alias is new.list is new.tuple[0]


def test_slots_that_are_empty_are_empty_again():
    def build():
        slots = Slots()
        slots.a = slots.b = 1
        return Part(slots=slots)

    def change(part):
        part.slots.a = 2
        del part.slots.b

    _, new = again(build, change)
    assert new.slots.a == 2
    assert not hasattr(new.slots, "b")


@pytest.mark.parametrize(
    "make",
    [
        lambda: random.Random(0),
        lambda: np.random.RandomState(0),
        lambda: np.random.default_rng(0),
        lambda: np.random.Generator(np.random.MT19937(0)),
        lambda: np.random.Generator(np.random.Philox(0)),
        lambda: np.random.Generator(np.random.SFC64(0)),
        lambda: torch.Generator().manual_seed(0),
    ],
)
def test_random_generators_go_on(make):
    def draw(generator):
        if isinstance(generator, torch.Generator):
            return torch.rand(3, generator=generator).tolist()
        if isinstance(generator, np.random.Generator):
            return generator.integers(0, 100, 3, np.int16).tolist()
        return [generator.random() for _ in range(3)]

    def change(part):
        draw(part.generator)
        part.later = make()
        draw(part.later)

    old, new = restored(change, generator=make)
    assert draw(old.generator) == draw(new.generator)
    assert draw(old.later) == draw(new.later)


def test_global_generators_stay_the_global_ones():
    _, new = restored(lambda part: setattr(part, "numpy", np.random.mtrand._rand))
    assert new.numpy is np.random.mtrand._rand


def test_sets_are_gone_through_in_the_same_order_from_here_on():
    for seed in range(100):
        draw = random.Random(seed)
        values = set(draw.sample(range(500), 40)) | set(draw.sample(range(500), draw.randint(1, 9)))
        values -= set(draw.sample(range(500), 300))
        old, new = again(lambda values=values: Part(values=set(values)))
        assert [*old.values] == [*new.values]
        for each in (old, new):
            each.values.update(range(0, 80, 8))
        assert [*old.values] == [*new.values]


def test_methods_are_those_that_they_were():
    def forward(self):
        return "patched"

    def build():
        child = Child()
        child.method = types.MethodType(forward, child)
        return Part(
            child=child,
            own=child.method,
            inherited=super(Child, child).method,
            of_class=Child.of_class,
            bound=Child().method,
        )

    _, new = again(build)
    assert new.child.method() == new.own() == "patched"
    assert new.own.__self__ is new.child
    assert new.inherited() is new.child
    assert new.of_class() is Child
    assert new.bound() is None


def test_functions_in_containers_are_those_of_the_new_process():
    def build():
        return Part(pairs=[("a", lambda: 1), (0.5, partial(max, 3))], first=(1, lambda: 2))

    old, new = again(build)
    assert new.pairs[0][1]() == 1
    assert new.pairs[0][1] is not old.pairs[0][1]
    assert new.pairs[1][1](2) == 3


def test_weak_references():
    def change(part):
        part.part = Part()
        part.weak = weakref.ref(part.part)
        part.gone = weakref.ref(Part())
        part.model = copy.deepcopy(part.net)

    _, new = restored(change, net=lambda: nn.LSTM(2, 2), kept=lambda: weakref.ref(Part, print))
    assert new.kept() is Part
    assert new.weak() is new.part
    assert new.gone() is None
    assert new.model._flat_weight_refs[0]() is new.model.weight_ih_l0
    assert new.model(torch.ones(1, 1, 2))[0].shape == (1, 1, 2)


def test_hooks_can_be_removed_and_are_not_overwritten():
    def build():
        layer = nn.Linear(1, 1)
        counts = []
        handles = [layer.register_forward_hook(lambda *_: counts.append(1)) for _ in range(2)]
        weight = layer.weight.register_hook(lambda grad: grad * 3)
        return Part(layer=layer, handles=handles, weight=weight, counts=counts)

    _, new = again(build, lambda part: part.handles.pop().remove())
    new.layer(torch.ones(1)).sum().backward()
    assert new.counts == [1] or len(new.layer._forward_hooks) == 1
    assert new.layer.weight.grad.item() == 3
    new.handles[0].remove()
    new.weight.remove()
    assert not new.layer._forward_hooks
    new.layer.weight.grad = None
    new.layer(torch.ones(1)).sum().backward()
    assert new.layer.weight.grad.item() == 1


def test_hooks_that_came_later_are_gone():
    def build():
        return Part(layer=nn.Linear(1, 1))

    old, live = build(), build()
    around = Surroundings(live, None)
    records = saved(old, Surroundings(old, None))
    live.layer.weight.register_hook(lambda grad: grad * 3)
    live.layer.register_forward_hook(lambda *_: None)
    restore(records, live, around)
    live.layer(torch.ones(1)).sum().backward()
    assert live.layer.weight.grad.item() == 1
    assert not live.layer._forward_hooks


def begun():
    iterator = iter(x for x in "ab")
    next(iterator)
    return iterator


@pytest.mark.parametrize(
    "make",
    [
        itertools.count,
        begun,
        lambda: iter([1]),
        lambda: bytearray(2),
        lambda: np.ma.masked_array([1, 2], [0, 1]),
        lambda: np.zeros(2, [("x", "i4")]),
        lambda: np.array([None]),
        lambda: torch.jit.script(nn.Linear(1, 1)),
        lambda: np.random.PCG64(0),
        lambda: random.SystemRandom(),
    ],
)
def test_states_that_cannot_be_saved_are_named(make):
    with pytest.raises(NotSavableError, match="Cannot save part"):
        again(lambda: Part(part=make()))


def test_what_came_later_and_has_no_name_is_named():
    for part in (lambda: 1, object(), np.random.PCG64(0)):
        with pytest.raises(TypeError, match="Cannot save later"):
            restored(lambda old, part=part: setattr(old, "later", part))


def test_generators_that_have_ended():
    def change(part):
        list(part.parameters)

    _, new = restored(change, parameters=lambda: nn.Linear(1, 1).parameters())
    assert [*new.parameters] == []


def test_the_benchmark_is_not_written_to():
    benchmark = Part(rows=[1, 2, 3], names={5: Part(x=1), 3: Part(x=2)})
    old, live = Part(rows=[7], part=Part(x=3)), Part(rows=benchmark.rows, part=benchmark.names[3])
    around = Surroundings(old, benchmark)
    restore(saved(old, around), live, around)
    assert benchmark.rows == [1, 2, 3]
    assert benchmark.names[3].x == 2
    assert (live.rows, live.part.x) == ([7], 3)


def test_names_of_the_benchmarks_objects_do_not_depend_on_the_order_of_its_dictionaries():
    one, two = Part(), Part()
    old, live = Part(), Part()
    old.part = one
    records = saved(old, Surroundings(old, Part(made={3: one, 7: two})))
    restore(records, live, Surroundings(live, Part(made={7: two, 3: one})))
    assert live.part is one


def test_a_model_that_the_benchmark_has_too_is_saved():
    def build():
        model = nn.Linear(1, 1)
        return Part(model=model), Part(transform=model)

    (old, benchmark), (live, other) = build(), build()
    records = saved(old, Surroundings(old, benchmark))
    restore(records, live, Surroundings(live, other))
    assert torch.equal(live.model.weight, old.model.weight)
    assert live.model is other.transform


def test_records_of_another_class_are_refused():
    records = saved(Child(), Surroundings(Child(), None))
    live = Part()
    with pytest.raises(ValueError, match=r"not of a test_graph:Part"):
        restore(records, live, Surroundings(Child(part=live), None))


def crafted(*records):
    """An object with one attribute, of these records."""
    live = Part()
    around = Surroundings(Part(live=live, slots=Slots(), open=open), None)
    graph = [["object", "test_graph:Part", {"value": (1,)}], *records]
    return restore(graph, live, around).value


NOTHING = ["", {}]
CRAFTED = {
    "a number that is none of a record": [["list", [(9,)], None, *NOTHING]],
    "a negative number": [["list", [(-1,)], None, *NOTHING]],
    "a tuple that is its own item": [["tuple", [(1,)]]],
    "tuples of tuples that are endless to compare": [
        *(["tuple", [(i + 2,), (i + 2,)]] for i in range(60)),
        ["tuple", [1]],
    ],
    "an unknown kind": [["os:system", "true"]],
    "a kind that is a list": [[[], 1]],
    "a class of another module": [["object", "subprocess:Popen", {"args": "true"}]],
    "a function for a class": [["class", "builtins:eval"]],
    "a class that is not made of attributes": [["object", "builtins:type", {}]],
    "a method that is none": [["method", (0,), "__class__"]],
    "a method of another object": [["method", (2,), "system"], ["external", "strategy.open"]],
    "an iterator of what has none": [["iterator", (0,), "iter"]],
    "an array beyond its bytes": [
        ["array", torch.zeros(8, dtype=torch.uint8), "<f8", [4], [8], 0, False]
    ],
    "an array before its bytes": [
        ["array", torch.zeros(8, dtype=torch.uint8), "<f8", [1], [8], -8, False]
    ],
    "an array of objects": [["array", torch.zeros(8, dtype=torch.uint8), "|O", [1], [8], 0, False]],
    "a random generator beyond its numbers": [
        [
            "random",
            "Generator",
            {"bit_generator": "MT19937", "state": {"key": [0] * 624, "pos": 10**9}},
        ]
    ],
    "a random generator of another kind": [["random", "SystemRandom", {}]],
    "attributes with numbers for names": [["object", "test_graph:Part", {5: 1}]],
}


@pytest.mark.parametrize("name", CRAFTED)
def test_records_that_nobody_wrote_are_refused(name):
    with pytest.raises((ValueError, TypeError, RecursionError)):
        crafted(*CRAFTED[name])


def test_a_list_that_is_its_own_item_is_read():
    made = crafted(["list", [(1,)], None, *NOTHING])
    assert made[0] is made
