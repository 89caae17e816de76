"""Moved to :mod:`.classifier`; here until everything imports it from there."""

from ..utils import in_mode as in_mode
from .classifier import FeatureExtractor as FeatureExtractor
from .classifier import always_selected as always_selected
from .classifier import before_classifier as before_classifier
from .classifier import check_single_head as check_single_head
from .classifier import feature_extractor as feature_extractor
from .classifier import find_classifier as find_classifier
from .classifier import model_to_tune as model_to_tune
