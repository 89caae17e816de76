"""``python -m mist_avalanche``."""

import sys

from .cli import main

sys.exit(main())
