import copy
import math

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mist_avalanche.models.adapters import (
    ADAPTERS,
    AdaptedBackbone,
    Adapter,
    CosineHead,
    PromptTokens,
    ScaleShift,
)

KINDS = pytest.mark.parametrize("kind", ADAPTERS)


def small(**settings):
    torch.manual_seed(1)
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}
    return VisionTransformer(**{**sizes, "num_classes": 0, **settings}).double().eval()


def images():
    return torch.rand(3, 3, 16, 16, dtype=torch.float64, generator=torch.Generator())


def shaken(kind, vit):
    """A module that is not the identity, the same every time."""
    torch.manual_seed(2)
    module = ADAPTERS[kind](vit).eval()
    with torch.no_grad():
        for p in module.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator(), dtype=p.dtype)
    return module


@KINDS
def test_the_vit_is_adapted_for_one_pass_alone(kind):
    vit, x = small(), images()
    before, plain = copy.deepcopy(vit.state_dict()), vit(x)
    module = shaken(kind, vit)
    adapted = module(vit, x)
    torch.testing.assert_close(adapted[1:2], module(vit, x[1:2]), rtol=1e-9, atol=0)
    assert (adapted - plain).abs().max() > 1e-3
    with pytest.raises(RuntimeError, match="channels"):
        module(vit, x[:, :2])
    assert torch.equal(vit(x), plain)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in vit.modules())
    assert before.keys() == vit.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in vit.state_dict().items())


@KINDS
def test_variants_of_the_vit(kind):
    scaled, averaged = {"init_values": 0.5, "drop_path_rate": 0.2}, {"class_token": False}
    for settings in (
        scaled,
        {**averaged, "global_pool": "avg"},
        {"reg_tokens": 2, "qk_norm": True},
    ):
        vit, x = small(**settings), images()
        assert shaken(kind, vit)(vit, x).shape == vit(x).shape


@pytest.mark.parametrize("kind", [kind for kind in ADAPTERS if kind != "finetune"])
def test_other_backbones_are_refused_by_name(kind):
    for name, size in (("resnet18", {}), ("beit_base_patch16_224", {"depth": 1})):
        with torch.device("meta"):
            other = timm.create_model(name, num_classes=0, **size)
        with pytest.raises(ValueError, match=type(other).__name__):
            ADAPTERS[kind](other)


def test_numbers_of_parameters_for_vit_b():
    with torch.device("meta"):
        vit = timm.create_model("vit_base_patch16_224", num_classes=0)
    for kind, size in {Adapter: 1189632, ScaleShift: 205824, PromptTokens: 5 * 768}.items():
        assert sum(p.numel() for p in kind(vit).parameters()) == size
    assert PromptTokens(vit, deep=True).prompts.shape == (12, 5, 768)


def test_where_they_start():
    vit, x = small(embed_dim=32), images()
    adapter, ssf = Adapter(vit, bottleneck=8), ScaleShift(vit)
    assert torch.equal(adapter(vit, x), vit(x))
    weight = torch.cat([layer.weight.flatten() for layer in adapter.down])
    assert 0.95 < weight.abs().max() * math.sqrt(32) <= 1
    assert not any(p.any() for p in adapter.up.parameters())
    gamma, beta = torch.cat([*ssf.scale.values()]), torch.cat([*ssf.shift.values()])
    assert abs(gamma.mean() - 1) < 0.005
    assert 0.015 < gamma.std() < 0.025
    assert 0.015 < beta.std() < 0.025
    assert not PromptTokens(vit).prompts.any()


def test_a_patch_embedding_with_a_norm_is_scaled_before_it():
    vit, x = small(), images()
    vit.patch_embed.norm = nn.LayerNorm(24, elementwise_affine=False).double()
    ssf = ScaleShift(vit)
    for scale, shift in zip(ssf.scale.values(), ssf.shift.values(), strict=True):
        nn.init.ones_(scale), nn.init.zeros_(shift)
    nn.init.constant_(ssf.scale["patch_embed"], 3.0)
    # the norm removes a factor that all channels share
    torch.testing.assert_close(ssf(vit, x), vit(x), rtol=1e-4, atol=1e-4)


@KINDS
def test_an_adapted_backbone_has_the_plain_features_as_well_or_not(kind):
    vit, x = small(), images()
    module, plain = shaken(kind, vit), vit(x)
    adapted = module(vit, x)
    for both, expected in ((True, torch.cat([plain, adapted], 1)), (False, adapted)):
        model = AdaptedBackbone(copy.deepcopy(vit), nn.Identity(), ADAPTERS[kind], plain=both)
        assert torch.equal(model(x), plain)
        model.use(module)
        assert torch.equal(model(x), expected)
        loaded = AdaptedBackbone(small(), nn.Identity(), ADAPTERS[kind], plain=both)
        loaded.load_state_dict(model.state_dict())
        assert torch.equal(loaded(x), expected)
        assert len(loaded.adapters) == (both or kind != "finetune")


def test_the_cosine_head_has_a_column_per_label():
    head = CosineHead(8, [4, 1]).double()
    features = torch.rand(3, 8, dtype=torch.float64)
    nn.init.constant_(head.sigma, 2.0)
    logits = head(features)
    cosines = nn.functional.cosine_similarity(features[:, None], head.weight[None], dim=2)
    torch.testing.assert_close(logits[:, [4, 1]], 2 * cosines)
    assert (logits[:, [0, 2, 3]] == -1000).all()
    assert logits.shape == (3, 5)
    assert head.weight.abs().max() <= 1 / math.sqrt(8)
