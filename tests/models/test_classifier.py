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

from mist_avalanche.models.classifier import (
    FeatureExtractor,
    always_selected,
    find_classifier,
    without_classifier,
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


SMALL, LARGE = (3, 2, 2), (3, 32, 32)
MODELS = {
    "timm vit": (timm_vit, LARGE, "head", 192),
    "torchvision resnet": (torchvision.models.resnet18, LARGE, "fc", 512),
    "torchvision vit": (
        lambda: torchvision.models.VisionTransformer(32, 16, 1, 2, 24, 48),
        *(LARGE, "heads.head", 24),
    ),
    "torchvision alexnet": (torchvision.models.alexnet, (3, 64, 64), "classifier.6", 4096),
    "SimpleMLP": (SimpleMLP, (1, 28, 28), "classifier", 512),
    "SimpleCNN": (SimpleCNN, LARGE, "classifier.0", 64),
    "SlimResNet18": (lambda: SlimResNet18(4), LARGE, "linear", 160),
    "IncrementalClassifier": (Growing, SMALL, "head", 5),
    "one linear": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Softmax(1)),
        *(SMALL, "1", 12),
    ),
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
    assert find_classifier(two, x, "second") == "second"
    assert torch.equal(FeatureExtractor(two, "second")(x), two.first(x.flatten(1)))
    evaluated_otherwise = TrainEvalModel(nn.Flatten(), nn.Linear(12, 3), nn.Linear(12, 3))
    for model, name, message in (
        (two, None, r"Cannot tell.*'first' \(6, 12\), 'second' \(3, 6\).*NAME"),
        (two, "heda", r"no module named 'heda'.*'second'"),
        (as_multitask(SimpleMLP(), "classifier"), None, "multi-task"),
        (evaluated_otherwise, None, "ICaRL"),
        (SimpleMLP(), None, r"cannot take an image of shape \(3, 2, 2\)"),
        (nn.Identity(), None, "Cannot tell"),
    ):
        with pytest.raises(ValueError, match=message):
            find_classifier(model, x, name)


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
def test_a_classifier_is_removed_also_inside_a_wrapper(name):
    make, shape, classifier, _ = MODELS[name]
    model = make().eval()
    x = torch.rand(2, *shape)
    features = FeatureExtractor(model, classifier)(x)
    with pytest.warns(UserWarning, match=f"still had its classifier, 1.{classifier}.bias"):
        without_classifier(nn.Sequential(nn.Identity(), model), "RanPAC")
    assert torch.equal(without_classifier(model, "RanPAC")(x).flatten(1), features)


@pytest.mark.filterwarnings("ignore:.*still had its classifier")
@pytest.mark.parametrize("name", ["convnext_atto", "deit_tiny_distilled_patch16_224"])
def test_timm_models_become_those_of_zero_classes(name):
    model = timm.create_model(name, num_classes=7).eval()
    plain = timm.create_model(name, num_classes=0).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    without_classifier(model, "RanPAC")
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain.named_parameters()]
    x = torch.rand(2, 3, 224, 224)
    assert torch.equal(model(x), without_classifier(plain, "RanPAC")(x))


def test_what_is_no_classifier_stays():
    cut = torchvision.models.alexnet()
    cut.classifier = cut.classifier[:-1]  # ends in 4096 features
    own = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    two = nn.Sequential(torchvision.models.resnet18(), nn.Linear(1000, 8))
    for model in (cut, own, two):  # a warning would be an error
        names = [n for n, _ in model.named_modules()]
        assert [n for n, _ in without_classifier(model, "RanPAC").named_modules()] == names
    with pytest.raises(ValueError, match="RanPAC needs a backbone that returns features"):
        without_classifier(nn.Sequential(own, IncrementalClassifier(5)), "RanPAC")


def test_always_selected_are_biases_and_normalisations():
    resnet = torchvision.models.resnet18()
    for model in (timm_vit(), resnet):
        fixed, norms = always_selected(model), ("norm", "bn", "downsample.1")
        for name, p in model.named_parameters():
            expected = name.endswith("bias") or any(norm in name for norm in norms)
            assert (id(p) in fixed) == expected, name


def test_compiled_names_and_shared_parameters():
    model = Growing()
    wrapped = nn.Sequential()
    wrapped._orig_mod = model
    names = FeatureExtractor(wrapped, "_orig_mod.head").backbone()
    assert set(names) == {"body.1.weight", "body.1.bias"}
    model.again = model.body
    assert len(FeatureExtractor(model, "head").backbone()) == 2
