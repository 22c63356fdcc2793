"""Automated experiments for the scanning transmission electron microscope.

The library runs without Nion Swift; the panels in ``nionswift_plugin`` are thin views on it.
"""

import os
import sys

if sys.argv[:1] == ["-m"] and sys.path[:1] == [os.getcwd()] and not os.path.isdir("stem_ae"):
    # ``python -m stem_ae`` in a folder of data: a numpy.py that lies there is not to be imported.
    del sys.path[0]

from stem_ae.atoms import Atoms2D
from stem_ae.errors import StemAeError

__version__ = "0.1.0"

__all__ = ["Atoms2D", "StemAeError", "__version__"]
