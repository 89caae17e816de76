import copy
import json
import os
import random
import tracemalloc

import numpy as np
import pytest
import timm
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file, save_model
from torch import nn

from mist_avalanche._support.safetensors import read_vectors
from mist_avalanche._support.states import DTYPES, INTEGERS
from mist_avalanche.cli import command as cli
from mist_avalanche.deltas import patches as _patches
from mist_avalanche.deltas.delta import DeltaSet, apply_delta, read_delta, revert_delta, save_delta
from mist_avalanche.deltas.index_codes import decode, encode
from mist_avalanche.models.backbones import EMBEDDED_WEIGHTS, create_backbone
from mist_avalanche.reports import report

TINY = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def integers(tensor):
    return tensor.detach().contiguous().view(INTEGERS[tensor.element_size()])


def bits_of(model):
    """All bits of a model or state dict, copied."""
    state = model if isinstance(model, dict) else model.state_dict()
    return {name: integers(tensor).clone() for name, tensor in state.items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def moved(model, rate=0.05, seed=0):
    """A copy with random bits of random entries of every tensor changed."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        view = tensor.view(INTEGERS[tensor.element_size()])
        noise = torch.randint(1, 100, tensor.shape, generator=generator).to(view.dtype)
        where = torch.rand(tensor.shape, generator=generator) < rate
        view[where] ^= noise[where]
    return model


def small():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 8))


@pytest.fixture
def made(tmp_path):
    """A base, its adapted model, and their delta."""
    base = small()
    adapted = moved(base, 0.2)
    adapted[2].bias.data += 1
    save_delta(adapted, base, tmp_path / "d.safetensors", settings={"lr": 0.1}, source="small")
    return base, adapted, tmp_path / "d.safetensors"


# Exactness


def test_a_backbone_there_and_back_in_a_tenth_of_its_size(tmp_path):
    base, file = create_backbone(), tmp_path / "d.safetensors"
    adapted = copy.deepcopy(base)
    with torch.no_grad():
        for p in adapted.parameters():
            p[torch.rand(p.shape, generator=torch.Generator().manual_seed(1)) < 0.05] *= 1.01
    before, after = bits_of(base), bits_of(adapted)
    written = save_delta(adapted, base, file, settings={"select_rate": 0.05}, license="MIT")
    assert file.stat().st_size <= 0.1 * EMBEDDED_WEIGHTS.stat().st_size
    assert 0.04 < written.changed / written.total < 0.06
    assert apply_delta(base, file).settings == {"select_rate": 0.05}
    assert same(bits_of(base), after)
    revert_delta(base, file)
    assert same(bits_of(base), before)


@pytest.mark.parametrize("kind", DTYPES)
def test_every_dtype_with_all_its_bits(tmp_path, kind):
    dtype = DTYPES[kind]
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 256, (2, 60, 8), generator=generator, dtype=torch.uint8)
    raw = raw % 2 if dtype == torch.bool else raw
    base, adapted = ({"x": half.view(dtype), "n": torch.tensor(3)} for half in raw)
    adapted["x"][:50] = base["x"][:50]
    before, after = bits_of(base), bits_of(adapted)
    save_delta(adapted, base, tmp_path / "d")
    apply_delta(base, tmp_path / "d")
    assert same(bits_of(base), after)
    revert_delta(base, tmp_path / "d")
    assert same(bits_of(base), before)


def test_signs_of_zero_and_payloads_of_nan_count(tmp_path):
    base = {"x": torch.tensor([0.0, 1.0, float("nan")])}
    adapted = {"x": torch.tensor([-0.0, 1.0, float("nan")])}
    integers(adapted["x"])[2] ^= 1
    assert save_delta(adapted, base, tmp_path / "d").changed == 2
    apply_delta(base, tmp_path / "d")
    assert same(bits_of(base), bits_of(adapted))


@TINY
@given(
    st.lists(
        st.tuples(st.integers(0, 700), st.sampled_from([*DTYPES]), st.floats(0, 1)), max_size=4
    ),
    st.integers(0, 2**32),
)
@example([(0, "float32", 0.0), (1, "bfloat16", 1.0)], 0)
def test_any_tensors_and_any_changes(tmp_path, tensors, seed):
    rng = np.random.default_rng(seed)
    base, adapted = {}, {}
    for i, (n, kind, rate) in enumerate(tensors):
        width = DTYPES[kind].itemsize
        old = rng.integers(0, 2 if kind == "bool" else 256, n * width, dtype=np.uint8)
        new = np.where(rng.random(n).repeat(width) < rate**3, old[::-1], old)
        base[f"t{i}"], adapted[f"t{i}"] = (
            torch.from_numpy(a.copy()).view(DTYPES[kind]) if n else torch.ones(0)
            for a in (old, new)
        )
    before, after = bits_of(base), bits_of(adapted)
    written = save_delta(adapted, base, tmp_path / "d")
    assert written.changed == sum(int((before[k] != after[k]).sum()) for k in before)
    if written.changed:
        apply_delta(base, tmp_path / "d")
        assert same(bits_of(base), after)
        revert_delta(base, tmp_path / "d")
    assert same(bits_of(base), before)


@TINY
@given(st.integers(1, 3000), st.floats(0, 1), st.integers(0, 2**32))
def test_indices_survive_their_coding(n, rate, seed):
    index = np.flatnonzero(np.random.default_rng(seed).random(n) < rate**4)
    coding, codes = encode(index, n)
    assert decode(coding, codes, len(index), n).tolist() == index.tolist()
    assert codes.nbytes <= -(-n // 8)


@pytest.mark.parametrize(
    ("rate", "coding", "dtype"),
    [(0.5, "bitmap", "uint8"), (0.05, "gaps", "uint8"), (1e-4, "gaps", "uint16")],
)
def test_the_shortest_coding_is_used(rate, coding, dtype):
    index = np.flatnonzero(np.random.default_rng(0).random(1_000_000) < rate)
    used, codes = encode(index, 1_000_000)
    assert (used, codes.dtype) == (coding, dtype)
    assert codes.nbytes < {"bitmap": 125_001, "gaps": 1.01 * codes.itemsize * len(index)}[coding]


def test_a_tensor_of_which_nearly_all_changed_has_no_index(tmp_path):
    base, adapted = {"x": torch.zeros(1000).byte()}, {"x": torch.ones(1000).byte()}
    adapted["x"][::20] = 0
    assert save_delta(adapted, base, tmp_path / "d").changed == 950
    assert {k: len(v) for k, v in saved(tmp_path / "d").items()} == {"x:xor": 1000}
    assert read_delta(tmp_path / "d").changed == 950
    apply_delta(base, tmp_path / "d")
    assert same(bits_of(base), bits_of(adapted))


def test_strides_do_not_matter(tmp_path):
    base = small()
    adapted = moved(base, 0.3)
    after = bits_of(adapted)
    save_delta(adapted, base, tmp_path / "d")
    with torch.no_grad():
        wide = torch.zeros(16, 16)
        wide[:, ::2] = base[0].weight
        base[0].weight = nn.Parameter(wide[:, ::2])
        base[2].weight.data = base[2].weight.t().contiguous().t()
    assert not any(layer.weight.is_contiguous() for layer in (base[0], base[2]))
    apply_delta(base, tmp_path / "d")
    assert same(bits_of(base), after)
    assert not wide[:, 1::2].any()
    save_delta(base, revert(base, tmp_path / "d"), tmp_path / "again")
    assert same(saved(tmp_path / "again"), saved(tmp_path / "d"))


def revert(model, path):
    """A reverted copy."""
    model = copy.deepcopy(model)
    revert_delta(model, path)
    return model


def saved(path):
    return load_file(path)


def tied():
    model = small()
    model[2].weight = nn.Parameter(model[0].weight.detach().t().contiguous().t().clone())
    model = nn.Sequential(model[0], nn.Linear(8, 16), nn.Linear(8, 16))
    model[2].weight = model[0].weight
    return model


def test_shared_tensors_are_stored_and_written_once(tmp_path):
    base = tied()
    adapted = copy.deepcopy(base)
    with torch.no_grad():
        adapted[0].weight[::3] += 1
    save_model(base, tmp_path / "base.safetensors")
    written = save_delta(adapted, tmp_path / "base.safetensors", tmp_path / "d")
    assert [*written.changes] == ["0.weight"]
    assert "2.weight" not in written.layouts
    apply_delta(base, tmp_path / "d")
    assert base[2].weight is base[0].weight
    assert same(bits_of(base), bits_of(adapted))

    untied = copy.deepcopy(adapted)
    untied[2].weight = nn.Parameter(adapted[0].weight + 1)
    with pytest.raises(ValueError, match=r"model shares 0.weight, 2.weight; in the base they diff"):
        save_delta(adapted, untied, tmp_path / "other")
    with pytest.raises(ValueError, match=r"base shares 2.weight with another name"):
        save_delta(untied, adapted, tmp_path / "other")


def test_saved_buffers_belong_to_a_model_and_others_do_not(tmp_path):
    base = small()
    base.register_buffer("cache", torch.zeros(2), persistent=False)
    adapted = copy.deepcopy(base)
    adapted(torch.ones(4, 8))
    adapted.cache += 1
    changes = save_delta(adapted, base, tmp_path / "d").changes
    assert {*changes} == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    apply_delta(torch.compile(base), tmp_path / "d")
    assert same(bits_of(base), bits_of(adapted))
    assert not base.cache.any()


def test_a_delta_of_nothing(tmp_path):
    assert save_delta(small(), small(), tmp_path / "d").changed == 0
    model = small()
    apply_delta(model, tmp_path / "d")
    revert_delta(model, tmp_path / "d")
    assert same(bits_of(model), bits_of(small()))


def test_the_same_delta_is_the_same_file(made, tmp_path):
    base, adapted, file = made
    save_delta(adapted, base, tmp_path / "again", settings={"lr": 0.1}, source="small")
    assert (tmp_path / "again").read_bytes() == file.read_bytes()


def test_any_safetensors_reader_reads_the_file(made):
    _, _, file = made
    with safe_open(file, "pt") as content:
        assert content.metadata()["source"] == "small"
        assert {key.rpartition(":")[2] for key in content.keys()} <= {"xor", "gaps", "bitmap"}  # noqa: SIM118
    assert same(
        saved(file), {name: torch.from_numpy(a) for name, a in read_vectors(file)[1].items()}
    )


# What is refused


def test_other_bases_are_refused_and_left_alone(made):
    base, adapted, file = made
    other = moved(base, 0.01, seed=5)
    before = bits_of(other)
    with pytest.raises(ValueError, match=r"another base.*[0-9a-f]{64}.*[0-9a-f]{64}.*'small'"):
        apply_delta(other, file)
    with pytest.raises(ValueError, match=r"not applied: .* apply_delta goes the other way"):
        revert_delta(base, file)
    with pytest.raises(ValueError, match=r"applied already: .* revert_delta goes the other way"):
        apply_delta(adapted, file)
    with pytest.raises(ValueError, match=r"another model"):
        revert_delta(other, file)
    assert same(bits_of(other), before)
    for model, message in (
        (nn.Sequential(small(), nn.Linear(8, 2)), r"has no '0.bias'.*such as model\[0\]"),
        (nn.Sequential(*small(), nn.Linear(8, 2)), r"has '3\.bias'"),
        (small().half(), r"'0.bias' is float32 \(16,\), the model's is float16"),
    ):
        with pytest.raises(ValueError, match=message):
            apply_delta(model, file)


def test_models_that_do_not_pair_are_explained(tmp_path):
    base, file = small(), tmp_path / "d"
    for model, other, message in (
        (nn.Sequential(small()), base, r"base has no '0.0.bias', which the model has"),
        (base, {**small().state_dict(), "x": torch.ones(1)}, r"The model has no 'x'"),
        (base, small().double(), r"0.bias is float32 \(16,\) in the model and float64"),
        (base, base.state_dict(), r"the model's own memory.*copy\.deepcopy"),
        ({"x": torch.ones(1, dtype=torch.complex64)}, {}, "cannot store"),
        ({"x": torch.ones(1, device="meta")}, {}, "cannot store"),
        ({"x": torch.ones(1).expand(4)}, {}, r"contiguous\(\)"),
    ):
        with pytest.raises(ValueError, match=message):
            save_delta(model, other, file)
    for bad in ({"x": float("nan")}, {"x": object()}, {1: 0, "1": 0}, [1]):
        with pytest.raises(ValueError, match="`settings`"):
            save_delta(moved(base), base, file, settings=bad)
    with pytest.raises(FileNotFoundError, match=r"no\.safetensors"):
        save_delta(base, "no.safetensors", file)
    assert not file.exists()


def test_a_write_that_fails_is_undone(made, monkeypatch):
    base, _, file = made
    before, put, left = bits_of(base), _patches._put, [3]

    def stops(tensor, index, values):
        left[0] -= 1
        if left[0] == 0:
            put(tensor, index, values)
            raise KeyboardInterrupt
        put(tensor, index, values)

    monkeypatch.setattr(_patches, "_put", stops)
    with pytest.raises(KeyboardInterrupt):
        apply_delta(base, file)
    assert left[0] < 0
    assert same(bits_of(base), before)


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_crash_while_writing_leaves_the_old_file(made, monkeypatch, step):
    base, adapted, file = made
    old = file.read_bytes()
    results = file.with_name("results.json")
    report.write_json({"old": 1}, results)

    def fails(*_args):
        raise OSError("disk full")

    monkeypatch.setattr(os, step, fails)
    with pytest.raises(OSError, match="disk full"):
        save_delta(moved(adapted), base, file)
    with pytest.raises(OSError, match="disk full"):
        report.write_json({"new": 1}, results)
    assert file.read_bytes() == old
    assert json.loads(results.read_text()) == {"old": 1}
    assert sorted(p.name for p in file.parent.iterdir()) == ["d.safetensors", "results.json"]


# Files from elsewhere


def header_of(content):
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def packed(header, data):
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return len(text).to_bytes(8, "little") + text + data


def change(**metadata):
    return lambda header, data: (header["__metadata__"].update(metadata) or header, data)


def entry(name, **fields):
    return lambda header, data: (header[name].update(fields) or header, data)


def with_layout(name, kind, shape):
    def edit(header, data):
        layouts = {**json.loads(header["__metadata__"]["layouts"]), name: [kind, shape]}
        header["__metadata__"]["layouts"] = json.dumps(layouts)
        return header, data

    return edit


def renamed(old, new):
    return lambda header, data: ({(new if k == old else k): v for k, v in header.items()}, data)


def text(header):
    return lambda _header, data: (header, data)


def swapped(one, other, new):
    """Two vectors under each other's names, the first as ``new``."""
    names = {one: new, other: one}
    return lambda header, data: ({names.get(k, k): v for k, v in header.items()}, data)


def filled(name, byte):
    """The vector's bytes, all replaced."""

    def edit(header, data):
        begin, end = header[name]["data_offsets"]
        return header, data[:begin] + bytes([byte]) * (end - begin) + data[end:]

    return edit


W = "0.weight:xor"
G = "0.weight:bitmap"
BAD = {
    "format version '2'": change(format_version="2"),
    "do not say that it is a mist-avalanche delta": change(format="pt"),
    "no fingerprint 'base'": change(base="0" * 63),
    "no fingerprint 'adapted'": change(adapted="Z" * 64),
    "invalid type: integer `1`, expected a string": change(base=1),
    "the key 'a' twice": change(settings='{"a": 1, "a": 2}'),
    "the number NaN": change(settings='{"a": NaN}'),
    "the number 1e999": change(settings='{"a": 1e999}'),
    "an integer of 5000 digits": change(settings='{"a": ' + "1" * 5000 + "}"),
    "nested too deeply": change(settings="[" * 100_000),
    "settings are not a JSON object": change(settings="[1]"),
    "do not describe the base's tensors": change(layouts="3"),
    "no dtype that is known": with_layout("0.weight", "float4", [16, 8]),
    "has no dtype": with_layout("0.weight", ["float32"], [16, 8]),
    "impossible shape": with_layout("0.weight", "float32", [2**40, 2**40]),
    "shape \\[-1, 8\\]": with_layout("0.weight", "float32", [-1, 8]),
    "shape \\[True\\]": with_layout("0.weight", "float32", [True]),
    "values of dtype int32": with_layout("0.weight", "float64", [16, 8]),
    "has a bitmap of 16 uint8 for 1099511627776 entries": with_layout(
        "0.weight", "float32", [2**40]
    ),
    "unexpected dtype 'F32'": entry(W, dtype="F32"),
    "invalid type: sequence, expected string": entry(W, dtype=[]),
    "file not fully covered": lambda h, d: (h, d[:-1]),
    "2 dimensions": lambda h, d: entry(W, shape=[1, *h[W]["shape"]])(h, d),
    "invalid shape": entry(W, shape=[2**50]),
    "floating point `1.5`": entry(W, shape=[1.5]),
    "integer `-4`": entry(W, data_offsets=[-4, 4]),
    "invalid type: null": entry(W, data_offsets=None),
    "invalid offset for tensor": lambda h, d: (
        {**h, "x:xor": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}},
        d,
    ),
    "covered": lambda h, d: (h, d + b"x"),
    "sequence, expected struct HashMetadata": text("[]"),
    "key must be a string": text("{,}"),
    "invalid JSON in header": text('{"a":' * 50_000),
    "unknown coding 'runs'": renamed(G, "0.weight:runs"),
    "has no values": renamed(W, "0.weight:yor"),
    "several codings": renamed("1.weight:xor", "0.weight:gaps"),
    "changes '9', which the base has not": renamed(G, "9:gaps"),
    "8 values for 9 entries, and no index": with_layout("2.bias", "float32", [9]),
    "has gaps of dtype int32": swapped("2.bias:xor", G, "0.weight:gaps"),
    "indices for": filled(G, 3),
    "has 128 indices": filled(G, 255),
    "gaps that end before an entry": lambda h, d: renamed(G, "0.weight:gaps")(
        *filled(G, 255)(h, d)
    ),
    "it does not lead to": filled(W, 1),
}


@pytest.mark.parametrize("message", BAD)
def test_what_is_wrong_with_a_file_is_said(made, message):
    base, _, file = made
    before = bits_of(base)
    file.write_bytes(packed(*BAD[message](*header_of(file.read_bytes()))))
    with pytest.raises(ValueError, match=f"^{file}.*{message}"):
        apply_delta(base, file)
    assert same(bits_of(base), before)


def test_values_of_the_right_width_and_another_kind(tmp_path):
    save_delta({"x": torch.ones(9).half()}, {"x": torch.zeros(9).half()}, tmp_path / "d")
    header, data = header_of((tmp_path / "d").read_bytes())
    (tmp_path / "d").write_bytes(packed(*entry("x:xor", dtype="U16")(header, data)))
    with pytest.raises(ValueError, match=r"'x' is float16 \(9,\) and has values of dtype uint16"):
        read_delta(tmp_path / "d")


def test_indices_beyond_a_tensor(tmp_path):
    base, adapted = {"x": torch.zeros(1000)}, {"x": torch.zeros(1000)}
    adapted["x"][999] = 1
    save_delta(adapted, base, tmp_path / "d")
    header, data = header_of((tmp_path / "d").read_bytes())
    edit = with_layout("x", "float32", [999])
    (tmp_path / "d").write_bytes(packed(*edit(header, data)))
    with pytest.raises(ValueError, match=r"'x' has the index 999, beyond its 999 entries"):
        read_delta(tmp_path / "d")


def test_memory_follows_the_file_and_not_what_it_claims(tmp_path):
    base, adapted = {"x": torch.zeros(1000)}, {"x": torch.zeros(1000)}
    adapted["x"][10] = 1
    save_delta(adapted, base, tmp_path / "d")
    header, data = header_of((tmp_path / "d").read_bytes())
    (tmp_path / "d").write_bytes(packed(*with_layout("x", "float32", [2**50])(header, data)))
    tracemalloc.start()
    try:
        assert read_delta(tmp_path / "d").total == 2**50
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.fixture
def tried(tmp_path):
    """What becomes of a small model when a mutation of its delta's bytes is applied.

    Either the file is refused and the model untouched, or the mutation is of no consequence.
    """
    generator = torch.Generator().manual_seed(0)
    base = {"w": torch.randn(20, 5, generator=generator), "b": torch.zeros(3).half()}
    adapted = {"w": base["w"].clone(), "b": torch.ones(3).half()}
    adapted["w"][::4, 2] *= 3
    file = tmp_path / "d"
    save_delta(adapted, base, file, settings={"lr": [0.1, 3]}, license="MIT", source="here")
    before, after = bits_of(base), bits_of(adapted)
    original = file.read_bytes()

    def try_it(content):
        handle.seek(0)
        handle.write(content)
        handle.truncate()
        try:
            apply_delta(base, file)
        except (ValueError, OSError) as error:
            refused = str(error)
        else:
            refused = ""
        if refused:
            assert str(file) in refused
            assert same(bits_of(base), before)
            return False
        assert same(bits_of(base), after)
        for name, old in before.items():
            integers(base[name]).copy_(old)
        return True

    with file.open("r+b", buffering=0) as handle:  # opening anew for each input is slow
        yield original, try_it


def test_every_byte_flipped_and_every_length_cut(tried):
    """Some 1800 inputs: every byte inverted, its lowest bit flipped, the file's beginnings."""
    content, try_it = tried
    assert try_it(content)
    inputs, harmless = 0, 0
    for i in range(len(content)):
        for flip in (255, 1):
            harmless += try_it(content[:i] + bytes([content[i] ^ flip]) + content[i + 1 :])
        assert not try_it(content[:i])
        inputs += 3
    assert inputs > 1700
    assert 0 < harmless < 100  # in the settings' numbers, in the licence


@settings(TINY, max_examples=1000)
@given(st.integers(0, 2**32))
def test_files_shuffled_cut_and_filled_at_random(tried, seed):
    """1000 inputs: pieces overwritten, removed, doubled and moved, numbers and brackets changed."""
    original, try_it = tried
    rng = random.Random(seed)
    content = bytearray(original)
    for _ in range(rng.randint(1, 6)):
        at, length = rng.randrange(len(content)), rng.choice([1, 2, 8, 64])
        action = rng.randrange(5)
        if action == 0:
            content[at : at + length] = rng.randbytes(length)
        elif action == 1:
            del content[at : at + length]
        elif action == 2:
            content[at:at] = content[at : at + length]
        elif action == 3:
            content[at : at + length] = rng.choice(content[at:]).to_bytes(1, "little") * length
        else:
            content[at : at + 1] = rng.choice([b"9", b"-", b"[", b"}", b'"', b"e9", b"null", b"\0"])
    if rng.random() < 0.5:  # a header of the length that it states
        end = 8 + int.from_bytes(original[:8], "little") + len(content) - len(original)
        content[:8] = max(0, end - 8).to_bytes(8, "little")
    try_it(bytes(content))


# Several deltas


@pytest.fixture
def three(tmp_path):
    base = create_backbone()
    models = {name: moved(base, 0.05, seed) for seed, name in enumerate("abc")}
    for name, model in models.items():
        save_delta(model, base, tmp_path / f"{name}.safetensors")
    files = [tmp_path / f"{name}.safetensors" for name in models]
    return base, models, files


def test_switching_is_exact_in_any_order(three):
    base, models, files = three
    expected = {None: bits_of(base), **{name: bits_of(model) for name, model in models.items()}}
    addresses = [p.data_ptr() for p in base.parameters()]
    deltas = DeltaSet(base, files)
    assert [*deltas] == ["a", "b", "c"]
    for name in [*"abca", None, "c", "c", None, None, "b"]:
        deltas.switch(name)
        assert deltas.active == name
        assert same(bits_of(base), expected[name])
    deltas.verify()
    revert_delta(base, files[1])
    assert same(bits_of(base), expected[None])
    assert addresses == [p.data_ptr() for p in base.parameters()]


def test_overlap_is_the_share_in_common(three):
    base, models, files = three
    deltas = DeltaSet(base, dict(zip("xyz", files, strict=True)))
    start = bits_of(base)
    masks = {
        new: {k: start[k] != v for k, v in bits_of(models[old]).items()}
        for new, old in zip("xyz", "abc", strict=True)
    }
    for one in "xyz":
        assert deltas.changed(one) == sum(int(m.sum()) for m in masks[one].values())
        assert deltas.overlap(one, one) == 1
        for other in "xyz":
            both = sum(int((masks[one][k] & masks[other][k]).sum()) for k in start)
            assert deltas.overlap(one, other) == both / deltas.changed(one)
    head, *rows = deltas.table().splitlines()
    assert head.split() == ["delta", "changed", "share", "x", "y", "z"]
    assert [row.split()[3 + i] for i, row in enumerate(rows)] == ["100.00%"] * 3


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, foreach=True),
    "sgd-loop": lambda p: torch.optim.SGD(p, lr=0.1, foreach=False),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_model_that_was_trained_since_is_not_switched(made, name):
    base, _, file = made
    deltas = DeltaSet(base, [file])
    deltas.switch("d")
    base[0].weight.grad = torch.ones_like(base[0].weight)
    OPTIMIZERS[name]([base[0].weight]).step()
    before = bits_of(base)
    with pytest.raises(ValueError, match=r"no longer delta 'd'.*save_delta"):
        deltas.switch(None)
    assert same(bits_of(base), before)
    assert deltas.active == "d"


def test_a_single_entry_that_was_written_to_is_noticed(made):
    base, _, file = made
    deltas = DeltaSet(base, [file])
    for i in range(base[0].weight.numel()):
        with torch.no_grad():
            base[0].weight.view(-1)[i] += 1
        with pytest.raises(ValueError, match="no longer the base"):
            deltas.switch("d")


def test_a_model_that_was_moved_or_written_to_with_the_same_is_switched(made):
    base, adapted, file = made
    start = bits_of(base)
    deltas = DeltaSet(base, [file])
    base.load_state_dict(copy.deepcopy(base.state_dict()))
    base[2].weight.data = base[2].weight.data.t().contiguous().t()
    base.register_buffer("cache", torch.zeros(2), persistent=False)
    deltas.switch("d")
    assert same(bits_of(base), bits_of(adapted))
    base[1].running_mean = base[1].running_mean.clone()
    deltas.switch(None)
    assert same(bits_of(base), start)
    base.double()
    with pytest.raises(ValueError, match="no longer the base"):
        deltas.switch("d")


def test_a_switch_that_fails_is_undone(three, monkeypatch):
    base, models, files = three
    deltas = DeltaSet(base, files)
    deltas.switch("a")
    put, calls = _patches._put, []

    def fails(tensor, index, values):
        calls.append(1)
        if len(calls) == 30:
            raise RuntimeError("out of memory")
        put(tensor, index, values)

    monkeypatch.setattr(_patches, "_put", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        deltas.switch("b")
    assert deltas.active == "a"
    assert same(bits_of(base), bits_of(models["a"]))
    deltas.switch("b")
    assert same(bits_of(base), bits_of(models["b"]))


def test_sets_of_what_does_not_belong_together(made, tmp_path):
    base, adapted, file = made
    save_delta(moved(adapted), adapted, tmp_path / "second.safetensors")
    with pytest.raises(ValueError, match=r"second\.safetensors is a delta of another base"):
        DeltaSet(base, [file, tmp_path / "second.safetensors"])
    with pytest.raises(ValueError, match=r"name of its own for each delta, got \['d', 'd'\]"):
        DeltaSet(base, [file, file])
    with pytest.raises(ValueError, match=r"no delta 'e'. There are d\."):
        DeltaSet(base, [file]).switch("e")


# The command


def run(capsys, *arguments):
    code = cli.main(["delta", *map(str, arguments)])
    output = capsys.readouterr()
    return code, output.out + output.err


def test_command_extracts_shows_and_applies(tmp_path, capsys):
    adapted = moved(create_backbone())
    save_file(adapted.state_dict(), tmp_path / "adapted.safetensors")
    (tmp_path / "settings.json").write_text('{"seed": 3}')
    file, out = tmp_path / "d.safetensors", tmp_path / "out.safetensors"
    how = ("--adapted", tmp_path / "adapted.safetensors", "--settings", tmp_path / "settings.json")
    assert run(capsys, "extract", "--base", "embedded", *how, file)[0] == 0
    code, text = run(capsys, "info", file)
    assert code == 0
    for line in (
        "source       embedded",
        "licence      MIT",
        'settings     {"seed": 3}',
        f"base         {read_delta(file).base}",
        "blocks.0.attn.qkv.weight",
        f"{file.stat().st_size / 1e6:.2f} MB",
    ):
        assert line in text
    base = EMBEDDED_WEIGHTS.read_bytes()
    for name in ("embedded", EMBEDDED_WEIGHTS):
        code, text = run(capsys, "apply", "--base", name, file, out)
        assert code == 0
        assert same(bits_of(load_file(out)), bits_of(adapted))
        out.unlink()
    assert EMBEDDED_WEIGHTS.read_bytes() == base
    assert run(capsys, "extract", "--base", EMBEDDED_WEIGHTS, *how[:2], file)[0] == 0
    assert read_delta(file).source == "embedded.safetensors"
    assert read_delta(file).license is None


def test_command_makes_a_named_base_of_the_size_that_the_delta_says(tmp_path, capsys):
    name = "deit_tiny_patch16_224"
    weights, file, out = (tmp_path / f"{n}.safetensors" for n in ("weights", "d", "out"))
    save_file(timm.create_model(name).state_dict(), weights)
    base = ("--base", name, "--weights", weights)
    adapted = moved(create_backbone(name, weights, image_size=32))
    save_file(adapted.state_dict(), tmp_path / "adapted.safetensors")
    (tmp_path / "s.json").write_text(json.dumps({"backbone": name, "image_size": 32}))
    how = ("--adapted", tmp_path / "adapted.safetensors", "--settings", tmp_path / "s.json")
    assert run(capsys, "extract", *base, *how, file)[0] == 0
    assert read_delta(file).changed < 0.1 * read_delta(file).total
    for more in ((), ("--image-size", 32)):
        assert run(capsys, "apply", *base, *more, file, out)[0] == 0
        assert same(bits_of(load_file(out)), bits_of(adapted))
    code, text = run(capsys, "apply", *base, "--image-size", 64, file, out)
    assert (code, "delta of another base" in text) == (1, True)
    code, text = run(capsys, "apply", "--base", out, "--image-size", 64, file, out)
    assert (code, "--image-size goes with a backbone's name" in text) == (1, True)


def test_command_explains_what_is_wrong(made, tmp_path, capsys):
    _, _, file = made
    out = tmp_path / "out.safetensors"
    for arguments, message in (
        (("info", tmp_path / "none"), "No such file"),
        (("info", __file__), "not a delta that can be read"),
        (("apply", "--base", "embedded", file, out), "delta of another base"),
        (("apply", "--base", "vit_huge", file, out), "Unknown backbone 'vit_huge'"),
        (("apply", "--base", tmp_path / "no.safetensors", file, out), "No file"),
        (("apply", "--base", __file__, file, out), "not a safetensors file"),
        (("apply", "--base", file, "--weights", "w", file, out), "--weights goes with a backb"),
    ):
        code, text = run(capsys, *arguments)
        assert (code, text.count("\n")) == (1, 1)
        assert message in text
    assert not out.exists()


def test_text_of_a_file_does_not_steer_the_terminal(tmp_path, capsys):
    name = "x\x1b[2J"
    base, adapted = {name: torch.zeros(2)}, {name: torch.ones(2)}
    save_delta(adapted, base, tmp_path / "d", source="\x1b]0;title\x07", license="a\nb")
    code, text = run(capsys, "info", tmp_path / "d")
    assert code == 0
    assert "\x1b" not in text
    assert "licence      a\\nb" in text
