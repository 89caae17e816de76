import argparse
import copy

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from mist_avalanche.cli import delta as command
from mist_avalanche.deltas import apply_delta, read_info, revert_delta, save_delta
from mist_avalanche.models.backbones import create_backbone

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
KINDS = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "int64", "uint8", "bool"]


def bits_of(model):
    """All bits of a model or state dict, copied."""
    state = model.state_dict() if isinstance(model, nn.Module) else model
    return {name: t.view(INTEGERS[t.element_size()]).clone() for name, t in state.items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def small():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 8))


def tuned(model):
    """A copy with some entries of every layer changed, buffers included."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.view(-1)[::7] += 1
    return model


@pytest.fixture
def made(tmp_path):
    """A base, its adapted model, and their delta."""
    base = small()
    adapted = tuned(base)
    path = tmp_path / "d.safetensors"
    save_delta(adapted, base, path)
    return base, adapted, path


def test_there_and_back_to_the_bit(made):
    base, adapted, path = made
    before = bits_of(base)
    apply_delta(base, path)
    assert same(bits_of(base), bits_of(adapted))
    revert_delta(base, path)
    assert same(bits_of(base), before)


@pytest.mark.parametrize("kind", KINDS)
def test_every_dtype_with_all_its_bits(tmp_path, kind):
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 256, (2, 60, 8), generator=generator, dtype=torch.uint8)
    raw = raw % 2 if kind == "bool" else raw
    base, adapted = ({"x": half.view(getattr(torch, kind)), "n": torch.tensor(3)} for half in raw)
    adapted["x"][:50] = base["x"][:50]
    before = bits_of(base)
    save_delta(adapted, base, tmp_path / "d")
    apply_delta(base, tmp_path / "d")
    assert same(bits_of(base), bits_of(adapted))
    revert_delta(base, tmp_path / "d")
    assert same(bits_of(base), before)


def test_signs_of_zero_and_payloads_of_nan_count(tmp_path):
    base = {"x": torch.tensor([0.0, 1.0, float("nan")])}
    adapted = {"x": torch.tensor([-0.0, 1.0, float("nan")])}
    adapted["x"].view(torch.int32)[2] ^= 1
    save_delta(adapted, base, tmp_path / "d")
    assert read_info(tmp_path / "d")["changed"] == 2
    apply_delta(base, tmp_path / "d")
    assert same(bits_of(base), bits_of(adapted))


def test_file_holds_indices_and_xor_of_what_changed(made):
    base, adapted, path = made
    vectors = load_file(path)
    for name, old in bits_of(base).items():
        new = bits_of(adapted)[name]
        index = (old != new).flatten().nonzero().flatten()
        assert torch.equal(vectors[f"{name}:index"], index.int())
        assert torch.equal(vectors[f"{name}:xor"], (old ^ new).flatten()[index])


def test_size_follows_the_share_that_changed(tmp_path):
    base, adapted = {"x": torch.zeros(100_000)}, {"x": torch.zeros(100_000)}
    adapted["x"][::20] = 1
    save_delta(adapted, base, tmp_path / "d", settings={"lr": 0.1}, license="MIT", source="zeros")
    assert (tmp_path / "d").stat().st_size < 8 * 5_000 + 1_000
    assert read_info(tmp_path / "d") == {
        "changed": 5_000,
        "total": 100_000,
        "settings": {"lr": 0.1},
        "license": "MIT",
        "source": "zeros",
    }
    save_delta(small(), small(), tmp_path / "none")
    assert read_info(tmp_path / "none")["changed"] == 0


def test_tied_and_strided_weights_are_changed_once(tmp_path):
    base = nn.Sequential(nn.Linear(8, 16), nn.Linear(8, 16))
    base[1].weight = base[0].weight
    wide = torch.zeros(16, 16)
    wide[:, ::2] = base[0].bias.detach()[:, None]
    base.register_buffer("strided", wide[:, ::2])
    adapted = copy.deepcopy(base)
    with torch.no_grad():
        adapted[0].weight[::3] += 1
        adapted.strided[::2] += 1
    save_delta(adapted, base, tmp_path / "d")
    compiled = nn.Module()
    compiled._orig_mod = base  # where torch.compile puts a module
    apply_delta(compiled, tmp_path / "d")
    assert base[1].weight is base[0].weight
    assert same(bits_of(base), bits_of(adapted))
    assert not wide[:, 1::2].any()


def other(change):
    model = small()
    with torch.no_grad():
        change(model)
    return model


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (other(lambda m: m[2].weight[0].neg_()), "2.weight"),
        (other(lambda m: m[1].running_var.add_(1)), "1.running_var"),
        (small().half(), "float16"),
        (nn.Sequential(nn.Linear(8, 16)), "missing"),
        (nn.Sequential(*small(), nn.Linear(8, 1)), "3.bias"),
    ],
)
def test_another_base_is_refused_and_left_alone(made, model, named):
    before = bits_of(model)
    with pytest.raises(ValueError, match=named):
        apply_delta(model, made[2])
    with pytest.raises(ValueError, match="another model"):
        revert_delta(model, made[2])
    assert same(bits_of(model), before)


def test_applying_twice_is_refused(made):
    base, adapted, path = made
    with pytest.raises(ValueError, match="already applied"):
        apply_delta(adapted, path)
    with pytest.raises(ValueError, match="already reverted"):
        revert_delta(base, path)


def test_models_that_are_no_pair_are_refused(tmp_path):
    model, wide = small(), nn.Sequential(nn.Linear(8, 17), *small()[1:])
    for base, named in (
        (nn.Sequential(model), "0.bias"),
        (wide, r"\(17, 8\)"),
        (small().half(), "float16"),
        (model.state_dict(), "own memory"),
    ):
        with pytest.raises(ValueError, match=named):
            save_delta(model, base, tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        apply_delta(small(), tmp_path / "none")
    old = tmp_path / "old"
    metadata = {"format": "mist-avalanche delta", "format_version": "1"}
    save_file({"x:xor": torch.zeros(1).int()}, old, metadata)
    junk = tmp_path / "junk"
    junk.write_bytes(b"no safetensors" * 9)
    for path in (old, junk):
        with pytest.raises(ValueError, match=f"{path.name} is not a delta"):
            apply_delta(small(), path)


def run(*arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.execute(parser.parse_args([str(argument) for argument in arguments]))


def test_command_extracts_shows_and_applies(tmp_path, capsys):
    adapted = tuned(create_backbone("embedded")).state_dict()
    save_file(adapted, tmp_path / "adapted.safetensors")
    delta, out = tmp_path / "delta", tmp_path / "out.safetensors"
    base = ("--base", "embedded")
    run("extract", *base, "--adapted", tmp_path / "adapted.safetensors", "--license", "MIT", delta)
    run("info", delta)
    assert '"source": "embedded"' in capsys.readouterr().out
    run("apply", delta, *base, out)
    assert same(bits_of(load_file(out)), bits_of(adapted))
    with safe_open(out, "pt") as file:
        assert file.metadata()["license"] == "MIT"
    for options, named in ((("--image-size", 32), "named base"), ((), "already applied")):
        with pytest.raises(ValueError, match=named):
            run("apply", delta, "--base", out, *options, tmp_path / "again")
