"""Moved to :mod:`.classifier`; here until everything imports it from there."""

from .classifier import take_off_classifier as take_off_classifier
from .classifier import without_classifier as without_classifier
