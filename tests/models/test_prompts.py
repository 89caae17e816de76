import copy
import math

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

from mist_avalanche.models.backbones import tiny_vit
from mist_avalanche.models.prompts import (
    ComponentPrompts,
    GeneralExpertPrompts,
    PromptedViT,
    PromptPool,
)
from mist_avalanche.models.prompts.components import orthogonal_rows

BLOCKS = {"general_blocks": (0, 1), "expert_blocks": (1, 2)}
MAKERS = {
    "pool": lambda d: PromptPool(d, 6, 2, 3),
    "expert": lambda d: GeneralExpertPrompts(d, 2, 3, **BLOCKS),
    "components": lambda d: ComponentPrompts(d, 3, 4, (0, 1, 2), orthogonality=0.1),
}
KINDS = pytest.mark.parametrize("kind", MAKERS)


def class_token_vit(**settings):
    torch.manual_seed(1)
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}
    return VisionTransformer(**sizes, num_classes=0, **settings)


def prompted(kind, vit=None, experiences=2):
    torch.manual_seed(0)
    vit = class_token_vit() if vit is None else vit
    prompts = MAKERS[kind](vit.embed_dim)
    for _ in range(experiences):
        prompts.begin_experience()
    return PromptedViT(vit, prompts, nn.Linear(vit.embed_dim, 4)).double()


def images(n=5, size=16):
    return torch.rand(n, 3, size, size, dtype=torch.float64, generator=torch.manual_seed(3))


def gradients(model, x):
    model.train()
    model.zero_grad()
    loss = F.cross_entropy(model(x), torch.arange(len(x)) % 4) + model.attached.loss
    loss.backward()
    return [p.grad.clone() for p in model.prompts.training_parameters()]


# ---- Attached to a ViT -----------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("embedded", [False, True])
def test_logits_depend_on_no_other_image(kind, embedded):
    model = prompted(kind, tiny_vit() if embedded else None, experiences=3).eval()
    x = images(6, 32 if embedded else 16)
    together = model(x)
    assert len(together.unique(dim=0)) == len(x)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    torch.testing.assert_close(model(x[order]), together[order], rtol=0, atol=1e-12)
    alone = torch.cat([model(one) for one in x.split(1)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-12)


@KINDS
def test_the_vit_itself_stays_plain(kind):
    vit = class_token_vit().double().eval()
    names, x = [*vit.state_dict()], images()
    plain = vit(x)
    model = prompted(kind, vit)
    assert [*vit.state_dict()] == names
    assert torch.equal(vit(x), plain)
    assert not torch.allclose(model.features(x), plain)
    assert torch.equal(vit(x), plain)
    assert torch.equal(model.query(x), plain)
    gradients(model, x)
    assert torch.equal(vit(x), plain)


def test_without_prompts_features_are_the_vit_s_bit_for_bit():
    vit, x = class_token_vit().double().eval(), images()
    none = GeneralExpertPrompts(24, 0, 0, **BLOCKS)
    none.begin_experience()
    for prompts in (none, ComponentPrompts(24, 3, 4, (0, 1))):  # the second has no experience yet
        model = PromptedViT(vit, prompts, nn.Identity()).double()
        assert torch.equal(model(x), vit(x))


@KINDS
def test_fused_attention_and_gradient_checkpointing_change_nothing(kind):
    model, x = prompted(kind), images()
    vit = model.backbone
    plain = vit(x)
    whole = gradients(model, x)
    vit.set_grad_checkpointing()
    model.train()
    loss = F.cross_entropy(model(x), torch.arange(len(x)) % 4) + model.attached.loss
    assert torch.equal(vit(x), plain)  # between the two passes
    model.zero_grad()
    loss.backward()
    assert torch.equal(vit(x), plain)
    for p, g in zip(model.prompts.training_parameters(), whole, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=0, atol=1e-14)
    vit.set_grad_checkpointing(False)
    for block in vit.blocks:
        assert block.attn.fused_attn
        block.attn.fused_attn = False
    for g, other in zip(whole, gradients(model, x), strict=True):
        torch.testing.assert_close(g, other, rtol=0, atol=1e-13)


def test_prefixes_are_keys_and_values_of_every_head():
    vit = class_token_vit().double().eval()
    prompts = GeneralExpertPrompts(24, 2, 0, (1,), (1,)).double()
    model, x, seen = PromptedViT(vit, prompts, nn.Identity()), images(2), {}
    attn = vit.blocks[1].attn
    attn.register_forward_pre_hook(lambda _m, i: seen.update(x=i[0]), prepend=True)
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


def test_training_mode_leaves_the_vit_in_evaluation():
    model = prompted("pool", class_token_vit(drop_path_rate=0.5, proj_drop_rate=0.5))
    model.train()
    assert model.prompts.training
    assert not any(module.training for module in model.backbone.modules())
    x = images()
    assert torch.equal(model(x), model(x))


@KINDS
def test_a_copy_has_its_own_hooks(kind):
    model, x = prompted(kind).eval(), images()
    before = model(x)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.prompts.parameters():
            p.mul_(2)
    assert not torch.allclose(other(x), before)
    assert torch.equal(model(x), before)


@KINDS
def test_bf16_is_near(kind):
    model = prompted(kind).float()
    half = PromptedViT(model.backbone, model.prompts, model.head, "bf16")
    x = images().float()
    wanted, got = model.eval()(x), half.eval()(x)
    assert got.dtype == torch.float32
    assert 0 < (wanted - got).abs().max() < 0.05


def test_models_without_such_blocks_are_refused():
    prompts = PromptPool(24)
    for model in (timm.create_model("resnet18"), nn.Sequential(nn.Flatten(), nn.Linear(9, 24))):
        with pytest.raises(ValueError, match=rf"{type(model).__name__} has none. Use a backbone"):
            PromptedViT(model, prompts, nn.Identity())
    with pytest.raises(ValueError, match=r"numbers from 0 to 2.*got \[0, 3\]"):
        PromptedViT(class_token_vit(), ComponentPrompts(24, 3, 4, (0, 3)), nn.Identity())


def test_a_vit_that_passes_its_own_qkv_over_is_refused():
    beit = timm.create_model("beit_base_patch16_224", depth=1, embed_dim=24, num_heads=2)
    prompts = ComponentPrompts(24, 3, 4, (0,))
    prompts.begin_experience()
    with pytest.raises(ValueError, match="Use a"):
        PromptedViT(beit, prompts, nn.Identity())(torch.rand(1, 3, 224, 224))


# ---- The three modules -----------------------------------------------------------------------


def count(module):
    return sum(p.numel() for p in module.training_parameters())


def test_published_sizes():
    pool, expert, components = PromptPool(768), GeneralExpertPrompts(768), ComponentPrompts(768)
    for module in (expert, components):
        module.begin_experience()
        module.begin_experience()
    assert count(pool) == 46_080
    assert count(expert) == 15_360 + 23_808
    assert count(components) == 384_000
    assert sum(p.numel() for p in components.parameters() if p.requires_grad) == 384_000


def test_of_equal_similarities_the_first_are_chosen():
    pool = PromptPool(8, 6, 1, 2).eval()
    pool.keys.data[:] = pool.keys.data[0]
    assert pool(torch.rand(3, 8)).ids.tolist() == [[0, 1]] * 3


def test_the_vote_is_of_training_only():
    pool = PromptPool(4, 4, 1, 1, batchwise=True)
    pool.keys.data.copy_(torch.eye(4))
    query = torch.eye(4)[[2, 2, 1]]
    assert pool.train()(query).ids.tolist() == [[2], [2], [2]]
    assert pool.eval()(query).ids.tolist() == [[2], [2], [1]]
    torch.testing.assert_close(pool.train()(query).loss, torch.tensor(-0.1 * 2 / 3))
    assert pool.eval()(query).loss == 0


def test_an_expert_starts_as_a_copy_and_its_key_does_not():
    prompts = GeneralExpertPrompts(8, 2, 2, (0,), (1,))
    prompts.begin_experience()
    prompts.experts[0].data += 1
    prompts.begin_experience()
    assert torch.equal(*prompts.experts)
    assert not torch.equal(*prompts.keys)
    assert [p.requires_grad for p in (*prompts.experts, *prompts.keys)] == [False, True] * 2


def test_in_training_the_expert_is_the_present_one_and_in_evaluation_the_nearest():
    prompts = GeneralExpertPrompts(3, 1, 1, (0,), (1,))
    for t in range(3):
        prompts.begin_experience()
        prompts.keys[t].data = torch.eye(3)[t]
    query = torch.eye(3)[[1, 0, 2]]
    assert prompts.train()(query).ids.tolist() == [[2], [2], [2]]
    assert prompts.eval()(query).ids.tolist() == [[1], [0], [2]]


def test_components_are_summed_by_their_cosines():
    prompts = ComponentPrompts(6, 2, 4, (0, 2)).double()
    for _ in range(2):
        prompts.begin_experience()
    query = torch.rand(3, 6, dtype=torch.float64)
    found = prompts.eval()(query).prefixes
    for b, block in enumerate((0, 2)):
        slow = torch.zeros(3, 4, 6, dtype=torch.float64)
        for p, k, a in zip(prompts.components, prompts.keys, prompts.attention, strict=True):
            for m in range(2):
                alpha = F.cosine_similarity(query * a[b, m], k[b, m].expand(3, -1))
                slow += alpha[:, None, None] * p[b, m]
        torch.testing.assert_close(torch.cat(found[block], dim=1), slow)


def test_components_of_the_first_experience_are_orthonormal_and_there_is_an_end():
    prompts = ComponentPrompts(8, 3, 2, (0, 1)).double()
    prompts.begin_experience()
    for (first,) in (prompts.components, prompts.keys, prompts.attention):
        for rows in first.flatten(2):
            torch.testing.assert_close(rows @ rows.T, torch.eye(3).double())
    prompts.begin_experience()
    with pytest.raises(ValueError, match="room for 2 experiences at a width of 8"):
        prompts.begin_experience()


def test_new_rows_lose_their_projections_on_all_before():
    old = torch.rand(3, 6, dtype=torch.float64)  # as after training
    draws = torch.randn(2, 6, dtype=torch.float64)
    before, slow = [*old], []
    for v in draws:
        u = v - sum((v @ r) / (r @ r) * r for r in before)
        before.append(u)
        slow.append(u / u.norm())
    left = iter(draws)
    torch.testing.assert_close(orthogonal_rows(old, 2, lambda: next(left)), torch.stack(slow))


def test_a_row_that_leaves_nothing_is_drawn_again():
    draws = iter(torch.tensor([[2.0, 0, 0], [0, 3, 0]]))
    rows = orthogonal_rows(torch.tensor([[1.0, 0, 0]]), 1, lambda: next(draws))
    assert rows.tolist() == [[0, 1, 0]]


@KINDS
def test_state_grows_and_shrinks_on_loading(kind):
    prompts, x = MAKERS[kind](24), torch.rand(4, 24)
    states = []
    for _ in range(3):
        prompts.begin_experience()
        states.append((copy.deepcopy(prompts.state_dict()), prompts.eval()(x)))
    other = MAKERS[kind](24)
    for i in (2, 0, 1):
        other.load_state_dict(states[i][0])
        got, wanted = other.eval()(x), states[i][1]
        for block, prefix in wanted.prefixes.items():
            assert all(map(torch.equal, prefix, got.prefixes[block]))
        if wanted.tokens is not None:
            assert torch.equal(got.tokens, wanted.tokens)
    again = MAKERS[kind](24)
    again.load_state_dict(states[1][0])
    again.begin_experience()  # draws what the third experience drew
    for name, value in states[2][0].items():
        assert torch.equal(again.state_dict()[name], value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PromptPool(8, 4, 1, 5), "`top_k` of at most size=4"),
        (lambda: PromptPool(8, 0), "`size` of at least 1"),
        (lambda: PromptPool(8, pull=-1), "`pull`"),
        (lambda: ComponentPrompts(8, 2, 3), "even `length`"),
        (lambda: ComponentPrompts(8, orthogonality=-1), "`orthogonality`"),
        (lambda: GeneralExpertPrompts(8, -1), "`general_length`"),
    ],
)
def test_arguments_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()
