"""Moved to :mod:`.forward`; here until everything imports it from there."""

from .forward import autocast_of as autocast_of
