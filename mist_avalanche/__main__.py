"""``python -m mist_avalanche``."""

import sys

from .cli.command import main

sys.exit(main())
