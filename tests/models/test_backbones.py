import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mist_avalanche.models import backbone_defaults, backbones, create_backbone, input_statistics
from mist_avalanche.models.backbones import EMBEDDED_WEIGHTS, tiny_vit

TINY = "vit_tiny_patch16_224.augreg_in21k"  # with a custom loader in timm, as the paper's


def test_embedded_is_small_and_its_weights_are_those_of_the_file(tmp_path):
    save_file(tiny_vit().state_dict(), tmp_path / "w.safetensors")
    for file, weights in ((EMBEDDED_WEIGHTS, None), (tmp_path / "w.safetensors",) * 2):
        model, saved = create_backbone(weights=weights).eval(), load_file(file)
        assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())
    assert EMBEDDED_WEIGHTS.stat().st_size <= 2_500_000
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 96)


@pytest.fixture(scope="module")
def tiny_state():
    return timm.create_model(TINY, num_classes=0).state_dict()


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_timm_weights_from_a_file_and_resampled(tmp_path, tiny_state, ending):
    path = tmp_path / f"tiny.{ending}"
    (save_file if ending == "safetensors" else torch.save)(tiny_state, path)
    model = create_backbone(TINY, path)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, tiny_state[name], msg=name)
    smaller = create_backbone(TINY, path, image_size=96)
    assert smaller(torch.rand(1, 3, 96, 96)).shape == (1, 192)
    state = smaller.state_dict()
    assert all(torch.equal(v, tiny_state[k]) for k, v in state.items() if k != "pos_embed")
    assert state["pos_embed"].shape == (1, 37, 192)


def test_timm_itself_reads_the_layout_of_jax(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(VisionTransformer, "load_pretrained", lambda _, file: asked.append(file))
    (tmp_path / "tiny.npz").write_bytes(b"PK")
    create_backbone(TINY, tmp_path / "tiny.npz")
    assert asked == [str(tmp_path / "tiny.npz")]


class RunsCode:
    def __reduce__(self):
        return print, ("code ran",)


def test_files_that_hold_no_weights_are_refused(tmp_path, tiny_state, capsys):
    torch.save({"norm.weight": RunsCode()}, tmp_path / "code.pth")
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    part = {k: v for k, v in tiny_state.items() if k != "blocks.1.norm1.bias"}
    save_file(part, tmp_path / "part.safetensors")
    (tmp_path / "text.npz").write_text("no weights")
    for file in ("code.pth", "other.safetensors", "part.safetensors", "text.npz"):
        for name in (TINY, "embedded"):
            with pytest.raises(ValueError, match=f"{file} holds no weights of {name}"):
                create_backbone(name, tmp_path / file)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "vit_huge"}, ValueError, r"Unknown backbone 'vit_huge'.*list_models"),
        ({"weights": "nowhere.pth"}, FileNotFoundError, r"nowhere\.pth"),
        ({"image_size": 224}, ValueError, r"32 pixels, not of 224"),
        ({"name": TINY, "image_size": 0}, ValueError, "`image_size` of at least 1"),
    ],
)
def test_what_cannot_be_made_is_explained(arguments, error, message):
    with pytest.raises(error, match=message):
        create_backbone(**arguments)


def test_an_explicit_tag_is_taken_as_it_is(monkeypatch):
    asked = []
    monkeypatch.setattr(timm, "create_model", lambda name, **_: asked.append(name))
    create_backbone("vit_base_patch16_224")
    create_backbone("vit_base_patch16_224.dino")
    assert asked == ["vit_base_patch16_224.augreg_in21k", "vit_base_patch16_224.dino"]


def test_hub_out_of_reach(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise FileNotFoundError("cannot find the requested files\nCheck your connection")

    monkeypatch.setattr(backbones.timm, "create_model", refuse)
    with pytest.raises(OSError, match=r"hub \(cannot find the requested files\).*--weights"):
        create_backbone("vit_base_patch16_224")


def test_defaults_of_families_tags_and_sizes():
    deit = backbone_defaults("deit_tiny_patch16_224")
    assert deit == backbone_defaults("deit_tiny_distilled_patch16_224.fb_in1k")
    assert deit.mist["tune_on"] == "first"
    assert deit.mist_for(drift_compensation=True)["tune_on"] == "every"
    assert deit.strategy_for("ranpac") == {"n_random_features": 5000}
    assert backbone_defaults("vit_base_patch16_384").image_size == 384
    assert backbone_defaults("vit_base_patch16_384").mist == {}
    assert backbone_defaults("no_model_of_timm").image_size == 224
    paper = backbone_defaults("vit_base_patch16_224")
    for tag in ("augreg_in21k", "augreg2_in21k_ft_in1k"):
        assert backbone_defaults(f"vit_base_patch16_224.{tag}") == paper
    for tag in ("dino", "mae", "orig_in21k"):  # other pretrainings, other inputs
        assert backbone_defaults(f"vit_base_patch16_224.{tag}").normalize == "pretrained"


def test_input_statistics():
    half = (0.5, 0.5, 0.5)
    assert input_statistics("embedded") is None
    assert input_statistics("vit_base_patch16_224") == (half, half)
    assert input_statistics(timm.create_model(TINY)) == (half, half)
    with pytest.raises(ValueError, match="No mean and std are known"):
        input_statistics(tiny_vit())


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.pth", b"", "it is empty; download it again"),
        ("a.safetensors", b"", "it is empty"),
        ("a.pth", b"<!DOCTYPE html><html>404</html>", "it is a web page; download"),
        ("a.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        ("a.pth", {"teacher": {"x": torch.zeros(1)}, "student": {}}, "holds teacher and student"),
        ("a.pth", {"x": torch.zeros(1, dtype=torch.int8)}, "quantised"),
        ("a.pth", nn.Linear(1, 1), r"state_dict\(\)"),
        ("a.pth", {"backbone.cls_token": torch.zeros(1)}, "tensors are missing, .*backbone.cls_to"),
    ],
)
def test_files_say_why_they_hold_no_weights(tmp_path, name, content, said):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        torch.save(content, tmp_path / name)
    with pytest.raises(ValueError, match=said) as error:
        create_backbone(TINY, tmp_path / name)
    assert "weights_only" not in str(error.value)


def test_other_patches_are_said(tmp_path, caplog):
    other = timm.create_model(TINY, patch_size=8, num_classes=0)
    torch.save(other.state_dict(), tmp_path / "other.pth")
    create_backbone(TINY, tmp_path / "other.pth")
    assert "other.pth: patches of 8 pixels are resampled" in caplog.text


def test_tensors_that_are_not_in_the_backbone_are_logged(tmp_path, tiny_state, caplog):
    more = {"blocks.12.norm1.bias": torch.zeros(1), "head.weight": torch.zeros(1)}
    torch.save({**tiny_state, **more}, tmp_path / "more.pth")
    create_backbone(TINY, tmp_path / "more.pth")
    assert "1 tensors are not in the backbone, e.g. blocks.12.norm1.bias" in caplog.text
