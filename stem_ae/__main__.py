"""``python -m stem_ae`` is ``stem-ae``."""

import sys

from stem_ae.cli import main

sys.exit(main())
