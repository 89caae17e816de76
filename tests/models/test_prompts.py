import copy
import math

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


def prompted(kind, vit=None, experiences=2):
    torch.manual_seed(0)
    vit = class_token_vit() if vit is None else vit
    prompts = MAKERS[kind](vit.embed_dim)
    for _ in range(experiences):
        prompts.begin_experience()
    return PromptedViT(vit, prompts, nn.Linear(vit.embed_dim, 4)).double()


def images(n=5, size=16):
    return torch.rand(n, 3, size, size, dtype=torch.float64, generator=torch.manual_seed(3))


def gradients(model, x, between=lambda: None):
    """Of the prompts that train; ``between`` is called between forward and backward pass."""
    model.train()
    model.zero_grad()
    loss = F.cross_entropy(model(x), torch.arange(len(x)) % 4) + model.output.loss
    between()
    loss.backward()
    return [p.grad.clone() for p in model.prompts.parameters() if p.requires_grad]


# ---- Attached to a ViT -----------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("embedded", [False, True])
def test_logits_depend_on_no_other_image(kind, embedded):
    model = prompted(kind, tiny_vit() if embedded else None, experiences=3).eval()
    x = images(6, 32 if embedded else 16)
    together = model(x)
    assert len(together.unique(dim=0)) == len(x)
    alone = torch.cat([model(one) for one in x.split(1)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-12)


@KINDS
def test_the_vit_called_by_itself_stays_plain(kind):
    vit, x = class_token_vit(drop_path_rate=0.5), images()
    plain, names = vit(x), [*vit.state_dict()]
    model = prompted(kind, vit)
    gradients(model, x, between=lambda: torch.testing.assert_close(vit(x), plain, rtol=0, atol=0))
    assert not torch.allclose(model.features(x), plain)
    assert torch.equal(model.query(x), plain)  # in training mode, too, which the ViT never is in
    assert torch.equal(vit(x), plain)
    assert [*vit.state_dict()] == names
    hooked = [m for m in vit.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooked == []


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
def test_fused_attention_and_gradient_checkpointing_change_no_gradient(kind):
    model, x = prompted(kind), images()
    vit = model.backbone
    plain, whole = vit(x), gradients(model, x)
    assert len(whole) > 0
    vit.set_grad_checkpointing()
    checkpointed = gradients(
        model, x, between=lambda: torch.testing.assert_close(vit(x), plain, rtol=0, atol=0)
    )
    assert torch.equal(vit(x), plain)
    vit.set_grad_checkpointing(False)
    for block in vit.blocks:
        assert block.attn.fused_attn
        block.attn.fused_attn = False
    for g, one, other in zip(whole, checkpointed, gradients(model, x), strict=True):
        torch.testing.assert_close(g, one, rtol=0, atol=1e-13)
        torch.testing.assert_close(g, other, rtol=0, atol=1e-13)


def test_prefixes_are_keys_and_values_of_every_head():
    vit = class_token_vit()
    prompts = GeneralExpertPrompts(
        24, general_length=2, expert_length=0, general_blocks=(1,), expert_blocks=(1,)
    )
    prompts.begin_experience()
    model, x, seen = PromptedViT(vit, prompts, nn.Identity()).double(), images(2), {}
    attn = vit.blocks[1].attn
    attn.register_forward_pre_hook(lambda _m, i: seen.update(x=i[0]))
    attn.register_forward_hook(lambda _m, _i, out: seen.update(out=out))
    model(x)
    q, k, v = F.linear(seen["x"], attn.qkv.weight, attn.qkv.bias).chunk(3, dim=-1)
    pk, pv = prompts.general[0]
    slow = torch.zeros_like(q)
    for image in range(2):
        for head in range(2):
            part = slice(12 * head, 12 * (head + 1))
            keys = torch.cat([pk[:, part], k[image][:, part]])
            values = torch.cat([pv[:, part], v[image][:, part]])
            weights = (q[image][:, part] @ keys.T / math.sqrt(12)).softmax(-1)
            slow[image][:, part] = weights @ values
    torch.testing.assert_close(seen["out"], attn.proj(slow), rtol=0, atol=1e-12)


@KINDS
def test_a_copy_has_prompts_of_its_own(kind):
    model, x = prompted(kind), images()
    before = model(x)  # with a graph of gradients
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.prompts.parameters():
            p.mul_(2)
    assert not torch.allclose(other(x), before)
    assert torch.equal(model(x), before)


@KINDS
def test_bf16_is_near(kind):
    model, x = prompted(kind).float().eval(), images().float()
    wanted = model(x)
    model.run_backbone = Forward("bf16")
    got = model(x)
    assert got.dtype == torch.float32
    assert 0 < (wanted - got).abs().max() < 0.05
    assert all(torch.isfinite(g).all() for g in gradients(model, x))


@pytest.mark.parametrize("name", ["resnet18", "beitv2_base_patch16_224"])
def test_other_models_are_refused(name):
    small = {"depth": 1, "embed_dim": 24, "num_heads": 2} if name.startswith("beit") else {}
    model = timm.create_model(name, num_classes=0, **small)
    with pytest.raises(ValueError, match=rf"{type(model).__name__} has none\. Use a backbone"):
        PromptedViT(model, PromptPool(24), nn.Identity())


# ---- The three modules -----------------------------------------------------------------------


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


def test_components_are_summed_by_their_cosines():
    prompts = ComponentPrompts(6, per_experience=2, length=4, blocks=(0, 2)).double()
    for _ in range(2):
        prompts.begin_experience()
    query = torch.rand(3, 6, dtype=torch.float64)
    found = prompts(query).prefixes
    for b, block in enumerate((0, 2)):
        slow = torch.zeros(3, 4, 6, dtype=torch.float64)
        for p, k, a in zip(prompts.components, prompts.keys, prompts.attention, strict=True):
            for m in range(2):
                alpha = F.cosine_similarity(query * a[b, m], k[b, m].expand(3, -1))
                slow += alpha[:, None, None] * p[b, m]
        torch.testing.assert_close(torch.cat(found[block], dim=1), slow)


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


@KINDS
def test_loading_takes_as_many_experiences_as_were_saved(kind):
    prompts, x = MAKERS[kind](24), torch.rand(4, 24)
    states, outputs = [], []
    for _ in range(3):
        prompts.begin_experience()
        states.append(copy.deepcopy(prompts.state_dict()))
        outputs.append(prompts.eval()(x))
    other = MAKERS[kind](24)
    for i in (2, 0, 1):
        other.load_state_dict(states[i])
        got, wanted = other.eval()(x), outputs[i]
        assert got.prefixes.keys() == wanted.prefixes.keys()
        for block, prefix in wanted.prefixes.items():
            assert all(map(torch.equal, prefix, got.prefixes[block]))
        assert wanted.tokens is None or torch.equal(got.tokens, wanted.tokens)
    other.begin_experience()  # draws what the third experience drew
    for name, value in states[2].items():
        assert torch.equal(other.state_dict()[name], value)
    flags = [[p.requires_grad for p in module.parameters()] for module in (prompts, other)]
    assert flags[0] == flags[1]
