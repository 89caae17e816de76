import pytest
import timm
import torch
import torchvision
from avalanche.models import (
    DynamicModule,
    IncrementalClassifier,
    SimpleCNN,
    SimpleMLP,
    SlimResNet18,
    TrainEvalModel,
    as_multitask,
)
from torch import nn

from mist_avalanche.models.backbone_with_head import BackboneWithHead
from mist_avalanche.models.classifier import (
    FeatureExtractor,
    always_selected,
    attached_classifier,
    find_classifier,
    take_off_classifier,
)


class Growing(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU())
        self.head = IncrementalClassifier(5)

    def forward(self, x):
        return self.head(self.body(x))


class TwoLinears(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(12, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.second(input=self.first(x.flatten(1))).log_softmax(1)


def timm_vit():
    return timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3)


def torchvision_vit():
    return torchvision.models.VisionTransformer(32, 16, 1, 2, 24, 48)


def one_linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Softmax(1))


SMALL, LARGE = (3, 2, 2), (3, 32, 32)
MODELS = {
    "timm vit": (timm_vit, LARGE, "head", 192),
    "timm resnet": (lambda: timm.create_model("resnet18", num_classes=3), LARGE, "fc", 512),
    "torchvision resnet": (torchvision.models.resnet18, LARGE, "fc", 512),
    "torchvision vit": (torchvision_vit, LARGE, "heads.head", 24),
    "torchvision mobilenet": (
        torchvision.models.mobilenet_v3_small,
        (3, 64, 64),
        "classifier.3",
        1024,
    ),
    "SimpleMLP": (SimpleMLP, (1, 28, 28), "classifier", 512),
    "SimpleCNN": (SimpleCNN, LARGE, "classifier.0", 64),
    "SlimResNet18": (lambda: SlimResNet18(4), LARGE, "linear", 160),
    "IncrementalClassifier": (Growing, SMALL, "head", 5),
    "one linear": (one_linear, SMALL, "1", 12),
}


@pytest.mark.parametrize("name", MODELS)
def test_finds_classifier_and_features(name):
    make, shape, classifier, width = MODELS[name]
    model = make().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = find_classifier(model, torch.rand(1, *shape))
    assert found == classifier
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    extract = FeatureExtractor(model.eval(), found)
    assert extract(torch.rand(2, *shape)).shape == (2, width)
    head = {id(p) for p in model.get_submodule(found).parameters()}
    assert not head & {id(p) for p in extract.backbone().values()}
    assert len(head) + len(extract.backbone()) == len(list(model.parameters()))


def test_what_it_cannot_know_is_an_error():
    x, two = torch.rand(1, *SMALL), TwoLinears()
    with pytest.raises(
        ValueError, match=r"Cannot tell.*'first' \(6, 12\), 'second' \(3, 6\).*NAME"
    ):
        find_classifier(two, x)
    assert find_classifier(two, x, "second") == "second"
    assert torch.equal(FeatureExtractor(two, "second")(x), two.first(x.flatten(1)))
    with pytest.raises(ValueError, match=r"no module named 'heda'.*'second'"):
        find_classifier(two, x, "heda")
    with pytest.raises(ValueError, match="multi-task"):
        find_classifier(as_multitask(SimpleMLP(), "classifier"), torch.rand(1, 1, 28, 28))
    with pytest.raises(ValueError, match="ICaRL and SCR"):
        find_classifier(TrainEvalModel(nn.Flatten(), nn.Linear(12, 3), nn.Linear(12, 3)), x)
    with pytest.raises(ValueError, match=r"cannot take images of shape \(3, 2, 2\)"):
        find_classifier(SimpleMLP(), x)
    with pytest.raises(ValueError, match=r"gives \(1, 3, 2, 2\)"):
        find_classifier(nn.Identity(), x)


def test_the_growing_layer_within_a_growing_model_is_the_classifier():
    class Net(DynamicModule):
        def __init__(self):
            super().__init__()
            self.inner = Growing()

        def forward(self, x):
            return self.inner(x)

    model = nn.Sequential(nn.Identity(), Net())
    assert find_classifier(model, torch.rand(1, *SMALL)) == "1.inner.head"


@pytest.mark.parametrize("name", [name for name in MODELS if name[0] in "tS"])
def test_a_classifier_is_removed_without_a_batch(name):
    make, shape, classifier, _ = MODELS[name]
    model = make().eval()
    x = torch.rand(2, *shape)
    features = FeatureExtractor(model, classifier)(x)
    wrapped = nn.Sequential(nn.Identity(), model)
    assert take_off_classifier(wrapped) == f"1.{classifier}"
    assert attached_classifier(model) is None
    assert torch.equal(model(x).flatten(1), features)


@pytest.mark.parametrize("name", ["convnext_atto", "deit_tiny_distilled_patch16_224"])
def test_timm_models_become_those_of_zero_classes(name):
    model = timm.create_model(name, num_classes=7).eval()
    plain = timm.create_model(name, num_classes=0).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    assert attached_classifier(plain) is None
    assert take_off_classifier(model)
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain.named_parameters()]
    x = torch.rand(2, 3, 224, 224)
    assert torch.equal(model(x), plain(x))


def test_what_is_no_classifier_stays():
    cut = torchvision.models.alexnet()
    cut.classifier = cut.classifier[:-1]  # ends in 4096 features
    headless = torchvision.models.resnet18()
    headless.fc = nn.Identity()
    own = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    two = nn.Sequential(torchvision.models.resnet18(), nn.Linear(1000, 8))
    for model in (cut, headless, own, two, IncrementalClassifier(5)):
        names = [n for n, _ in model.named_modules()]
        assert take_off_classifier(model) is None
        assert [n for n, _ in model.named_modules()] == names
    assert take_off_classifier(nn.Sequential(own, IncrementalClassifier(5))) == "1"
    assert take_off_classifier(BackboneWithHead(own, nn.Linear(5, 2))) == "head"


def test_always_selected_are_biases_and_normalisations():
    model = timm_vit()
    fixed = always_selected(model)
    for name, p in model.named_parameters():
        expected = name.endswith("bias") or "norm" in name
        assert (id(p) in fixed) == expected, name
    resnet = torchvision.models.resnet18()
    fixed = always_selected(resnet)
    assert id(resnet.bn1.weight) in fixed
    assert id(resnet.conv1.weight) not in fixed


def test_compiled_names_and_shared_parameters():
    model = Growing()
    wrapped = nn.Sequential()
    wrapped._orig_mod = model
    names = FeatureExtractor(wrapped, "_orig_mod.head").backbone()
    assert set(names) == {"body.1.weight", "body.1.bias"}
    model.again = model.body
    assert len(FeatureExtractor(model, "head").backbone()) == 2
