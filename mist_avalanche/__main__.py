"""``python -m mist_avalanche``."""

import sys

from .cli.main import main

sys.exit(main())
