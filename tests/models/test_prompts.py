import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

from mist_avalanche.models.backbones import tiny_vit
from mist_avalanche.models.forward import Forward
from mist_avalanche.models.prompts import (
    ComponentPrompts,
    GeneralExpertPrompts,
    PromptedViT,
    PromptPool,
)
from mist_avalanche.models.prompts.components import orthogonal_rows
from mist_avalanche.strategies import L2P, CODAPrompt, DualPrompt

MAKERS = {
    "pool": lambda d: PromptPool(d, size=6, length=2, top_k=3),
    "experts": lambda d: GeneralExpertPrompts(
        d, general_length=2, expert_length=3, general_blocks=(0, 1), expert_blocks=(1, 2)
    ),
    "components": lambda d: ComponentPrompts(
        d, per_experience=3, length=4, blocks=(0, 1, 2), orthogonality=0.1
    ),
}
KINDS = pytest.mark.parametrize("kind", MAKERS)


def class_token_vit(**settings):
    torch.manual_seed(1)
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}
    return VisionTransformer(**sizes, num_classes=0, **settings).double().eval()


def prompted(kind, vit=None):
    torch.manual_seed(0)
    vit = class_token_vit() if vit is None else vit
    prompts = MAKERS[kind](vit.embed_dim)
    for _ in range(2):
        prompts.begin_experience()
    return PromptedViT(vit, prompts, nn.Linear(vit.embed_dim, 4)).double()


def images(n=5, size=16):
    return torch.rand(n, 3, size, size, dtype=torch.float64, generator=torch.manual_seed(3))


def gradients(model, x):
    """Of the prompts that train."""
    loss = F.cross_entropy(model.train()(x), torch.arange(len(x)) % 4) + model.output.loss
    loss.backward()
    return [p.grad for p in model.prompts.parameters() if p.requires_grad]


@KINDS
def test_logits_of_a_vit_without_class_token_depend_on_no_other_image(kind):
    model, x = prompted(kind, tiny_vit()).eval(), images(6, 32)
    together = model(x)
    assert len(together.unique(dim=0)) == len(x)
    alone = torch.cat([model(one) for one in x.split(1)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-12)


@KINDS
def test_the_vit_called_by_itself_stays_plain(kind):
    vit, x = class_token_vit(drop_path_rate=0.5), images()
    plain, names = vit(x), [*vit.state_dict()]
    model = prompted(kind, vit)
    assert len(gradients(model, x)) > 0
    assert not torch.allclose(model.features(x), plain)
    assert torch.equal(model.query(x), plain)  # in training mode, too, which the ViT never is in
    assert torch.equal(vit(x), plain)
    assert [*vit.state_dict()] == names
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in vit.modules())


def test_without_prompts_features_are_the_vit_s_bit_for_bit():
    vit, x = class_token_vit(), images()
    none = GeneralExpertPrompts(
        24, general_length=0, expert_length=0, general_blocks=(0,), expert_blocks=(1,)
    )
    none.begin_experience()
    for prompts in (none, MAKERS["components"](24)):  # the second has no experience yet
        model = PromptedViT(vit, prompts, nn.Identity()).double()
        assert torch.equal(model(x), vit(x))


@KINDS
def test_bf16_is_near(kind):
    model, x = prompted(kind).float().eval(), images().float()
    wanted = model(x)
    model.run_backbone = Forward("bf16")
    got = model(x)
    assert got.dtype == torch.float32
    assert 0 < (wanted - got).abs().max() < 0.05
    assert all(torch.isfinite(g).all() for g in gradients(model, x))


def test_published_sizes():
    sizes = []
    for prompts in (PromptPool(768), GeneralExpertPrompts(768), ComponentPrompts(768)):
        for _ in range(2):
            prompts.begin_experience()
        sizes.append(sum(p.numel() for p in prompts.parameters() if p.requires_grad))
    assert sizes == [46_080, 15_360 + 23_808, 384_000]


def test_of_equal_similarities_the_first_are_chosen_and_the_vote_is_of_training_only():
    pool = PromptPool(4, size=4, length=1, top_k=1, batchwise=True)
    pool.keys.data.copy_(torch.eye(4)[[0, 1, 2, 2]])
    query = torch.eye(4)[[2, 2, 1]]
    assert pool.train()(query).ids.tolist() == [[2], [2], [2]]
    assert pool.eval()(query).ids.tolist() == [[2], [2], [1]]
    torch.testing.assert_close(pool.train()(query).loss, torch.tensor(-0.1 * 2 / 3))
    assert pool.eval()(query).loss == 0


def test_a_general_prefix_comes_before_the_expert_of_the_nearest_key():
    prompts = MAKERS["experts"](4).eval()
    for _ in range(2):
        prompts.begin_experience()
    keys = torch.stack([*prompts.keys])
    for found, position in zip(prompts(keys).prefixes[1], (0, 1), strict=True):
        for image, expert in enumerate(prompts.experts):
            expected = torch.cat([prompts.general[1, position], expert[0, position]])
            assert torch.equal(found[image], expected)


def test_a_row_that_leaves_nothing_is_drawn_again():
    draws = iter(torch.tensor([[2.0, 0, 0], [0, 3, 0]]))
    rows = orthogonal_rows(torch.tensor([[1.0, 0, 0]]), 1, lambda: next(draws))
    assert rows.tolist() == [[0, 1, 0]]


def test_components_start_orthonormal_until_there_is_no_room():
    prompts = ComponentPrompts(8, per_experience=3, length=2, blocks=(0, 1)).double()
    prompts.begin_experience()
    for (first,) in (prompts.components, prompts.keys, prompts.attention):
        for rows in first.flatten(2):
            torch.testing.assert_close(rows @ rows.T, torch.eye(3).double())
    prompts.begin_experience()
    with pytest.raises(ValueError, match="room for 2 experiences at a width of 8"):
        prompts.begin_experience()


# ---- Families of timm ----------------------------------------------------------------------------

FAMILIES = (
    "vit_small_patch16_224.dino",
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch16_clip_224",
    "vit_base_patch16_siglip_224",
    "vit_base_patch16_224.mae",
    "deit3_small_patch16_224",
)
ROTARY = ("eva02_tiny_patch14_224", "vit_small_patch16_dinov3")
TINY = {"img_size": 56, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 0}
STRATEGIES = (L2P, DualPrompt, CODAPrompt)


@pytest.mark.parametrize("name", FAMILIES)
@KINDS
def test_prompts_train_on_families_of_timm(name, kind):
    torch.manual_seed(2)
    vit = timm.create_model(name, **TINY).double().eval()
    model = prompted(kind, vit)
    x = images(4, 56)
    assert all(grad is not None and grad.abs().max() > 0 for grad in gradients(model, x)[:1])
    torch.testing.assert_close(model.eval()(x)[:1], model(x[:1]))


@pytest.mark.parametrize("name", ROTARY)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rotary_positions_are_refused_at_construction(name, strategy):
    vit = timm.create_model(name, **TINY)
    with pytest.raises(ValueError, match="plain VisionTransformer, and Eva has none"):
        strategy(model=vit)
