import argparse
import copy
import json
import re

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny_runs import config
from torch import nn

from mist_avalanche.cli import delta as command
from mist_avalanche.deltas import apply_delta, revert_delta, save_delta
from mist_avalanche.models.backbones import create_backbone
from mist_avalanche.reports.card import delta_card
from mist_avalanche.runs import load_run
from mist_avalanche.runs import run as run_of

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


def check_there_and_back(base, adapted, path):
    before = bits_of(base)
    save_delta(adapted, base, path)
    apply_delta(base, path)
    assert same(bits_of(base), bits_of(adapted))
    with pytest.raises(ValueError, match="already applied"):
        apply_delta(base, path)
    revert_delta(base, path)
    assert same(bits_of(base), before)
    with pytest.raises(ValueError, match="already reverted"):
        revert_delta(base, path)


def test_there_and_back_to_the_bit(tmp_path):
    check_there_and_back(small(), tuned(small()), tmp_path / "d")


@pytest.mark.parametrize("kind", KINDS)
def test_every_dtype_with_all_its_bits(tmp_path, kind):
    """NaNs with payloads and both zeros are among them."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 256, (2, 60, 8), generator=generator, dtype=torch.uint8)
    raw = raw % 2 if kind == "bool" else raw
    base, adapted = ({"x": half.view(getattr(torch, kind)), "n": torch.tensor(3)} for half in raw)
    adapted["x"][:50] = base["x"][:50]
    check_there_and_back(base, adapted, tmp_path / "d")


def test_tied_and_strided_weights_are_changed_once(tmp_path):
    base = nn.Sequential(nn.Linear(8, 16), nn.Linear(8, 16))
    base[1].weight = base[0].weight
    base.register_buffer("strided", torch.zeros(16, 16)[:, ::2])
    adapted = copy.deepcopy(base)
    with torch.no_grad():
        adapted[0].weight[::3] += 1
        adapted.strided[::2] += 1
    check_there_and_back(base, adapted, tmp_path / "d")


def test_size_follows_the_share_that_changed(tmp_path):
    base, adapted = {"x": torch.zeros(100_000)}, {"x": torch.zeros(100_000)}
    adapted["x"][::20] = 1
    save_delta(adapted, base, tmp_path / "d")
    assert (tmp_path / "d").stat().st_size < 8 * 5_000 + 1_000
    assert load_file(tmp_path / "d")["x:index"].dtype == torch.int32


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
        (small().half(), "0.bias"),
        (nn.Sequential(*small(), nn.Linear(8, 1)), "3.bias"),
    ],
)
def test_another_base_is_refused_and_left_alone(tmp_path, model, named):
    save_delta(tuned(small()), small(), tmp_path / "d")
    before = bits_of(model)
    with pytest.raises(ValueError, match=f"base model, but '{named}' differs"):
        apply_delta(model, tmp_path / "d")
    assert same(bits_of(model), before)
    with pytest.raises(ValueError, match="adapted model"):
        revert_delta(small(), tmp_path / "d")


def test_models_that_are_no_pair_are_refused(tmp_path):
    model, wide = small(), nn.Sequential(nn.Linear(8, 17), *small()[1:])
    for base, named in (
        (nn.Sequential(model), "'0.0.bias' differs"),
        (wide, "'0.bias' differs"),
        (small().half(), "'0.bias' differs"),
        (model.state_dict(), "deepcopy"),
    ):
        with pytest.raises(ValueError, match=named):
            save_delta(model, base, tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        apply_delta(small(), tmp_path / "none")
    save_file({"x:xor": torch.zeros(1).int()}, tmp_path / "old", {"format": "delta 1"})
    (tmp_path / "junk").write_bytes(b"no safetensors" * 9)
    for name in ("old", "junk"):
        with pytest.raises(ValueError, match=f"{name} is not a delta"):
            apply_delta(small(), tmp_path / name)


def run(*arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.execute(parser.parse_args([str(argument) for argument in arguments]))


def test_command_extracts_and_applies(tmp_path):
    adapted, out = tmp_path / "adapted.safetensors", tmp_path / "out.safetensors"
    save_file(tuned(create_backbone("embedded")).state_dict(), adapted)
    delta, base = tmp_path / "delta", ("--base", "embedded")
    run("extract", *base, "--adapted", adapted, delta)
    run("apply", delta, *base, out)
    assert same(bits_of(load_file(out)), bits_of(load_file(adapted)))
    with pytest.raises(ValueError, match="base model"):
        run("apply", delta, "--base", out, tmp_path / "again")


def test_card(tmp_path):
    folder, delta = tmp_path / "run", tmp_path / "hub" / "birds.safetensors"
    run_of(config(mist=True, strategy="ranpac", strategy_args={"n_random_features": 50}), folder)
    run("extract", "--base", "embedded", "--adapted", folder, delta, "--card")
    text = (delta.parent / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    front = yaml.safe_load(front)
    assert (front["library_name"], front["license"]) == ("mist_avalanche", "mit")
    assert "base_model" not in front
    results = json.loads((folder / "results.json").read_text())
    for fact in (
        "After 3 experiences with 2 classes each",
        "RanPAC + MIST, seed 0",
        "tune_epochs: 2",
        "image_size: 32",
    ):
        assert fact in body
    assert f"{results['metrics']['A_T']:.2f} %" in body
    names = {}
    exec(re.search(r"```python\n(.*)```", body, re.S)[1].replace(delta.name, str(delta)), names)
    adapted = load_run(folder).model.backbone
    assert same(bits_of(names["backbone"]), bits_of(adapted))
    with pytest.raises(ValueError, match=r"README.md exists"):
        run("extract", "--base", "embedded", "--adapted", folder, delta, "--card")


def test_card_of_a_timm_backbone(tmp_path):
    (tmp_path / "cars.safetensors").write_bytes(bytes(2_500_000))
    text = delta_card(tmp_path / "cars.safetensors", "vit_base_patch16_224", 384)
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["base_model"] == "timm/vit_base_patch16_224.augreg_in21k"
    assert front["license"] == "apache-2.0"
    assert 'create_backbone("vit_base_patch16_224", image_size=384)' in text
    assert "2.50 MB" in text


def test_a_file_that_is_written_has_the_usual_permissions(tmp_path):
    save_delta(tuned(create_backbone()), create_backbone(), tmp_path / "delta")
    run("apply", tmp_path / "delta", "--base", "embedded", tmp_path / "out.safetensors")
    (tmp_path / "usual").touch()
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert len({*modes.values()}) == 1, modes
