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

from mist_avalanche.models.attached import attached_classifier, take_off_classifier
from mist_avalanche.models.backbone_with_head import BackboneWithHead
from mist_avalanche.models.features import (
    FeatureExtractor,
    always_selected,
    find_classifier,
)


class Growing(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU())
        self.head = IncrementalClassifier(5)

    def forward(self, x):
        return self.head(self.body(x))


class TwoLinearsThenSoftmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(12, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.second(self.first(x.flatten(1)).relu()).log_softmax(1)


def vit(**kw):
    return timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3, **kw)


MODELS = {
    "timm vit": (vit, (3, 32, 32), "head", 192),
    "timm resnet": (lambda: timm.create_model("resnet18", num_classes=3), (3, 32, 32), "fc", 512),
    "torchvision resnet": (torchvision.models.resnet18, (3, 32, 32), "fc", 512),
    "torchvision vit": (
        lambda: torchvision.models.VisionTransformer(32, 16, 1, 2, 24, 48),
        (3, 32, 32),
        "heads.head",
        24,
    ),
    "torchvision mobilenet": (
        torchvision.models.mobilenet_v3_small,
        (3, 64, 64),
        "classifier.3",
        1024,
    ),
    "SimpleMLP": (SimpleMLP, (1, 28, 28), "classifier", 512),
    "SimpleCNN": (SimpleCNN, (3, 32, 32), "classifier.0", 64),
    "SlimResNet18": (lambda: SlimResNet18(4), (3, 32, 32), "linear", 160),
    "IncrementalClassifier": (Growing, (3, 2, 2), "head", 5),
    "one linear": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Softmax(1)),
        (3, 2, 2),
        "1",
        12,
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
    features = extract(torch.rand(2, *shape))
    assert features.shape == (2, width)
    head = {id(p) for p in model.get_submodule(found).parameters()}
    assert not head & {id(p) for p in extract.backbone().values()}
    assert len(head) + len(extract.backbone()) == len(list(model.parameters()))


@pytest.mark.parametrize("name", [name for name in MODELS if name[0] in "tS"])
def test_a_classifier_is_known_by_sight_too(name):
    make, shape, classifier, _ = MODELS[name]
    model = make().eval()
    assert attached_classifier(model) == classifier
    x = torch.rand(2, *shape)
    features = FeatureExtractor(model, classifier)(x)
    wrapped = nn.Sequential(nn.Identity(), model)
    assert attached_classifier(wrapped) == f"1.{classifier}"
    assert take_off_classifier(wrapped) == f"1.{classifier}"
    assert attached_classifier(model) is None
    assert torch.equal(model(x).flatten(1), features)


TIMM = ("resnet18", "convnext_atto", "mobilenetv3_small_050", "deit_tiny_distilled_patch16_224")


@pytest.mark.parametrize("name", TIMM)
def test_timm_models_become_those_of_zero_classes(name):
    model = timm.create_model(name, num_classes=7).eval()
    plain = timm.create_model(name, num_classes=0).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    assert attached_classifier(plain) is None
    assert take_off_classifier(model)
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain.named_parameters()]
    side = 224 if "deit" in name else 64
    x = torch.rand(2, 3, side, side)
    assert torch.equal(model(x), plain(x))


def test_what_is_no_classifier_stays():
    cut = torchvision.models.alexnet()
    cut.classifier = cut.classifier[:-1]  # ends in 4096 features
    headless = torchvision.models.resnet18()
    headless.fc = nn.Identity()
    own = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    two = nn.Sequential(torchvision.models.resnet18(), nn.Linear(1000, 8))
    for model in (cut, headless, own, two, Growing().body, IncrementalClassifier(5)):
        names = [n for n, _ in model.named_modules()]
        assert take_off_classifier(model) is None
        assert [n for n, _ in model.named_modules()] == names
    for model in (
        nn.Sequential(Growing().body, IncrementalClassifier(5)),
        BackboneWithHead(Growing().body, nn.Linear(5, 2)),
    ):
        assert take_off_classifier(model) in ("1", "head")
    assert take_off_classifier(torchvision.models.squeezenet1_1()) == "classifier.1"


def test_a_wrapper_with_a_parameter_of_its_own():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = timm.create_model("vit_tiny_patch16_224", num_classes=10)
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return self.vit(self.scale * x)

    model = Scaled()
    assert take_off_classifier(model) == "vit.head"
    assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 192)
    late = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    late.head = nn.Linear(192, 7)
    assert take_off_classifier(late) == "head"
    soft = torchvision.models.resnet18()
    soft.fc = nn.Sequential(nn.Linear(512, 7), nn.LogSoftmax(1))
    assert take_off_classifier(soft) == "fc.0"
    normalised = nn.Sequential(nn.BatchNorm2d(3), torchvision.models.resnet18())
    assert take_off_classifier(normalised) == "1.fc"
    with pytest.raises(ValueError, match="multi-task"):
        take_off_classifier(as_multitask(SimpleMLP(), "classifier"))


def test_features_are_what_the_classifier_gets():
    model = SimpleMLP().eval()
    x = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(FeatureExtractor(model, "classifier")(x), model.get_features(x))


def test_refuses_what_it_cannot_know():
    x = torch.rand(1, 3, 2, 2)
    with pytest.raises(
        ValueError, match=r"Cannot tell.*'first' \(6, 12\), 'second' \(3, 6\).*NAME"
    ):
        find_classifier(TwoLinearsThenSoftmax(), x)
    assert find_classifier(TwoLinearsThenSoftmax(), x, "second") == "second"
    with pytest.raises(ValueError, match=r"no module named 'heda'.*'second'"):
        find_classifier(TwoLinearsThenSoftmax(), x, "heda")
    with pytest.raises(ValueError, match="multi-task"):
        find_classifier(as_multitask(SimpleMLP(), "classifier"), torch.rand(1, 1, 28, 28))


def test_the_growing_layer_within_a_growing_model_is_the_classifier():
    class Net(DynamicModule):
        def __init__(self):
            super().__init__()
            self.inner = Growing()

        def forward(self, x):
            return self.inner(x)

    x = torch.rand(1, 3, 2, 2)
    assert find_classifier(nn.Sequential(nn.Identity(), Net()), x) == "1.inner.head"


def test_features_given_by_name():
    class Named(TwoLinearsThenSoftmax):
        def forward(self, x):
            return self.second(input=self.first(x.flatten(1)))

    model, x = Named(), torch.rand(2, 12)
    assert torch.equal(FeatureExtractor(model, "second")(x), model.first(x))


def test_two_classifiers_in_one_model_are_refused():
    model = TrainEvalModel(nn.Flatten(), nn.Linear(12, 3), nn.Linear(12, 3))
    with pytest.raises(ValueError, match="ICaRL and SCR"):
        find_classifier(model, torch.rand(1, 3, 2, 2))


def test_always_selected_are_biases_and_normalisations():
    model = vit()
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
