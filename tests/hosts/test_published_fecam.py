"""Numbers that the published FeCAM computed, by our whole strategy.

HOSTS_REFERENCE_DIR names a folder with another set of them in ``tuned/``.
"""

import torch
from avalanche.training.plugins import EvaluationPlugin
from torch.nn import functional as F
from tuned_reference import COMMON, Comparison, arrays, experiences, pixels, settings_of, vit

from mist_avalanche.models.mahalanobis_head import correlations, shrink
from mist_avalanche.strategies import FeCAM

S = settings_of("fecam")


def test_fecam():
    published = arrays("fecam")
    compare, n_classes = Comparison(published), len(published["means"])
    for name, shrinkage in S["shrinkage"].items():
        strategy = FeCAM(
            model=vit(),
            diagonal_shrinkage=shrinkage[0],
            off_diagonal_shrinkage=shrinkage[1],
            evaluator=EvaluationPlugin(loggers=[]),
        )
        for experience in experiences([3, n_classes - 3]):
            strategy.train(experience, eval_streams=[])
        head, model = strategy.head, strategy.model.eval()
        compare("means", head.means)
        covariances = [head.covariance(y) for y in range(len(published["covariances"]))]
        compare("covariances", torch.stack(covariances))
        shrunk = [shrink(covariance, *shrinkage) for covariance in covariances]
        compare(f"{name}/shrunk", torch.stack(shrunk))
        compare(f"{name}/normalised", torch.stack([correlations(matrix) for matrix in shrunk]))
        with torch.no_grad():
            for part in ("train", "test"):
                features = model.features(pixels(COMMON[f"{part}_images"]))
                compare(f"features_{part}", F.normalize(features, dim=1))
            compare(f"{name}/distances", -model(pixels(COMMON["test_images"])))
    assert compare.compared == {*published}
