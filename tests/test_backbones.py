import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from mist_avalanche.backbones import EMBEDDED_WEIGHTS, create_backbone, tiny_vit


def test_embedded_is_small_and_complete():
    model = create_backbone().eval()
    assert EMBEDDED_WEIGHTS.stat().st_size <= 2_500_000
    assert 4e5 < sum(p.numel() for p in model.parameters()) < 6e5
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 96)
    saved = load_file(EMBEDDED_WEIGHTS)
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())


def test_weights_from_a_file(tmp_path):
    other = tiny_vit().state_dict()
    save_file(other, tmp_path / "w.safetensors")
    model = create_backbone(weights=tmp_path / "w.safetensors")
    assert all(torch.equal(other[name], value) for name, value in model.state_dict().items())
    with pytest.raises(FileNotFoundError, match=r"w\.pth"):
        create_backbone(weights=tmp_path / "w.pth")


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_timm_weights_from_a_file(tmp_path, ending):
    import timm

    source = timm.create_model("vit_tiny_patch16_224")
    path = tmp_path / f"tiny.{ending}"
    save = save_file if ending == "safetensors" else torch.save
    save(source.state_dict(), path)
    model = create_backbone("vit_tiny_patch16_224", path)
    assert torch.equal(model.pos_embed, source.pos_embed)
    assert model(torch.rand(1, 3, 224, 224)).shape == (1, 192)


def test_unknown_names_are_explained():
    with pytest.raises(ValueError, match=r"Unknown backbone 'vit_huge'.*list_models"):
        create_backbone("vit_huge")


def test_an_explicit_tag_is_taken_as_it_is(monkeypatch):
    asked = []
    monkeypatch.setattr(timm, "create_model", lambda name, **_: asked.append(name))
    create_backbone("vit_base_patch16_224")
    create_backbone("vit_base_patch16_224.dino")
    assert asked == ["vit_base_patch16_224.augreg_in21k", "vit_base_patch16_224.dino"]


def test_embedded_takes_safetensors_only(tmp_path):
    file = tmp_path / "w.pth"
    file.touch()
    with pytest.raises(ValueError, match=r"Expected a \.safetensors file"):
        create_backbone("embedded", weights=file)
