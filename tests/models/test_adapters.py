import copy
import math

import pytest
import timm
import torch
from mist_avalanche.models.cosine_head import CosineHead
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mist_avalanche.models import create_backbone
from mist_avalanche.models.adapters import (
    Adapter,
    FineTuned,
    PromptTokens,
    ScaleShift,
    StackedAdapters,
)

MAKERS = {
    "adapter": lambda vit: Adapter(vit, 4, dropout=0.0),
    "ssf": ScaleShift,
    "vpt_shallow": lambda vit: PromptTokens(vit, 3),
    "vpt_deep": lambda vit: PromptTokens(vit, 3, deep=True),
    "finetune": FineTuned,
}
KINDS = pytest.mark.parametrize("kind", MAKERS)


def small(**settings):
    torch.manual_seed(1)
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}
    return VisionTransformer(**{**sizes, "num_classes": 0, **settings}).double().eval()


def images(size=16):
    return torch.rand(3, 3, size, size, dtype=torch.float64, generator=torch.Generator())


def shaken(kind, vit):
    """A module that is not the identity."""
    made = MAKERS[kind](vit)
    with torch.no_grad():
        for p in made.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator(), dtype=p.dtype)
    return made


@KINDS
def test_the_vit_is_another_inside_and_the_same_outside(kind):
    vit, x = small(), images()
    state, plain = copy.deepcopy(vit.state_dict()), vit(x)
    module = shaken(kind, vit)
    assert torch.equal(vit(x), plain)
    with module.attached(vit):
        inside = vit(x)
    assert (inside - plain).abs().max() > 1e-3
    with pytest.raises(RuntimeError, match="channels"), module.attached(vit):
        vit(x[:, :2])
    assert torch.equal(vit(x), plain)
    hooks = [m._forward_hooks or m._forward_pre_hooks for m in vit.modules()]
    assert not any(hooks)
    assert [*state] == [*vit.state_dict()]
    assert all(torch.equal(v, state[k]) for k, v in vit.state_dict().items())


@KINDS
def test_features_do_not_depend_on_the_other_images(kind):
    vit, x = small(), images()
    module = shaken(kind, vit).eval()
    torch.testing.assert_close(module.of(vit, x)[1:2], module.of(vit, x[1:2]), rtol=1e-9, atol=0)


@KINDS
def test_gradients_are_those_of_gradient_checkpointing(kind):
    vit, x = small(), images()
    module = shaken(kind, vit)
    vit.requires_grad_(False)
    found = []
    for checkpointing in (False, True):
        vit.set_grad_checkpointing(checkpointing)
        module.zero_grad()
        module.of(vit, x).square().sum().backward()
        found.append([p.grad.clone() for p in module.parameters() if p.grad is not None])
        assert not vit._forward_pre_hooks
    assert len(found[0]) == len(found[1]) > 0
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_one_is_attached_at_a_time_of_several():
    vit, x = small(), images()
    first, second = shaken("adapter", vit), shaken("ssf", vit)
    alone = second.of(vit, x)
    with first.attached(vit):
        with pytest.raises(ValueError, match="Adapter is attached to this VisionTransformer alr"):
            second.of(vit, x)
        inside = vit(x)
    assert torch.equal(first.of(vit, x), inside)
    assert torch.equal(second.of(vit, x), alone)


@pytest.mark.parametrize("kind", [k for k in MAKERS if k != "finetune"])
def test_other_backbones_are_refused_by_name(kind):
    for name, size in (("resnet18", {}), ("beit_base_patch16_224", {"depth": 1})):
        with torch.device("meta"):
            other = timm.create_model(name, num_classes=0, **size)
        with pytest.raises(ValueError, match=type(other).__name__):
            MAKERS[kind](other)
    module = MAKERS[kind](small())
    with pytest.raises(ValueError, match="was made for a ViT of 3 blocks, and this"):
        module.of(small(depth=2), images())


def test_fine_tuned_values_of_another_model_are_refused():
    with pytest.raises(ValueError, match="are of another model than this VisionTransformer"):
        FineTuned(small()).of(small(depth=2), images())


def test_numbers_of_parameters_of_vit_b():
    with torch.device("meta"):
        vit = timm.create_model("vit_base_patch16_224", num_classes=0)
    sizes = {Adapter: 1189632, ScaleShift: 205824, PromptTokens: 5 * 768}
    for kind, size in sizes.items():
        assert sum(p.numel() for p in kind(vit).parameters()) == size
    assert PromptTokens(vit, deep=True).prompts.shape == (12, 5, 768)


def test_where_they_start():
    vit, x = small(embed_dim=32), images()
    plain = vit(x)
    adapter, scales = Adapter(vit, 8), ScaleShift(vit)
    assert torch.equal(adapter.of(vit, x), plain)
    weight = torch.cat([layer.weight.flatten() for layer in adapter.down])
    assert 0.95 < weight.abs().max() * math.sqrt(32) <= 1
    assert abs(weight.var() * 32 - 1 / 3) < 0.05
    assert all(not p.any() for n, p in adapter.named_parameters() if "up" in n)
    gamma = torch.cat([*scales.scale.values()])
    beta = torch.cat([*scales.shift.values()])
    assert abs(gamma.mean() - 1) < 0.005
    assert 0.015 < gamma.std() < 0.025
    assert 0.015 < beta.std() < 0.025
    assert not PromptTokens(vit).prompts.any()
    other = Adapter(vit, 8, seed=1)
    assert not torch.equal(adapter.down[0].weight, other.down[0].weight)
    assert torch.equal(adapter.down[0].weight, Adapter(vit, 8).down[0].weight)


def test_the_adapter_drops_in_training_only():
    vit, x = small(), images()
    adapter = Adapter(vit, 4, dropout=0.5)
    nn.init.normal_(adapter.up[0].weight)
    assert not torch.equal(adapter.of(vit, x), adapter.of(vit, x))
    adapter.eval()
    assert torch.equal(adapter.of(vit, x), adapter.of(vit, x))


@KINDS
def test_layer_scale_drop_path_patches_without_class_token_and_a_norm_of_patches(kind):
    for vit in (
        create_backbone().double().eval(),
        small(init_values=0.5, drop_path_rate=0.2),
        small(class_token=False, global_pool="avg"),
        small(reg_tokens=2),
    ):
        x = images(32 if vit.embed_dim == 96 else 16)
        assert shaken(kind, vit).of(vit, x).shape == vit(x).shape


def test_a_patch_embedding_with_a_norm_is_scaled_before_it():
    vit = small()
    vit.patch_embed.norm = nn.LayerNorm(24, elementwise_affine=False).double()
    scales = ScaleShift(vit)
    with torch.no_grad():
        for values, fill in ((scales.scale, 1.0), (scales.shift, 0.0)):
            for value in values.values():
                value.fill_(fill)
        scales.scale["patch_embed"].fill_(3.0)
    # A norm takes the same factor of all channels out again.
    torch.testing.assert_close(scales.of(vit, images()), vit(images()), rtol=1e-4, atol=1e-4)


def test_the_adapter_s_scale_is_of_the_bias_too():
    vit = small(depth=1)
    adapter = Adapter(vit, 4)
    nn.init.ones_(adapter.up[0].bias)
    added = adapter.added(0, torch.zeros(1, 1, 24, dtype=torch.float64))
    torch.testing.assert_close(added, torch.full_like(added, 0.1))


def test_the_cosine_head_has_a_column_for_every_label():
    head = CosineHead(8, [4, 1], torch.Generator().manual_seed(0)).double()
    features = torch.rand(3, 8, dtype=torch.float64)
    with torch.no_grad():
        head.sigma.fill_(2.0)
    logits = head(features, 6)
    cosines = nn.functional.cosine_similarity(features[:, None], head.weight[None], dim=2)
    torch.testing.assert_close(logits[:, [4, 1]], 2 * cosines)
    assert (logits[:, [0, 2, 3, 5]] == -1000).all()
    assert head(features).shape == (3, 5)
    assert head.weight.abs().max() <= 1 / math.sqrt(8)
    assert {n for n, _ in head.named_parameters()} == {"weight", "sigma"}


@pytest.mark.parametrize("n", [1, 3])
def test_stacked_adapters_are_each_beside_its_own_share(n):
    vit, x = small().eval(), images()
    adapters = [shaken("adapter", vit).eval() for _ in range(n)]
    for i, adapter in enumerate(adapters):
        with torch.no_grad():
            adapter.up[0].bias += i
    with torch.no_grad():
        each = torch.stack([adapter.of(vit, x) for adapter in adapters], dim=1)
        plain = vit(x)
    together = StackedAdapters(adapters).of(vit, x)
    assert together.shape == (len(x), n, plain.shape[1])
    assert not together.requires_grad
    torch.testing.assert_close(together, each)
    assert torch.equal(vit(x), plain)  # no hook is left
