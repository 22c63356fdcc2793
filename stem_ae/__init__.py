"""Automated experiments for the scanning transmission electron microscope.

The library runs without Nion Swift; the panels in ``nionswift_plugin`` are thin views on it.
"""

from stem_ae.atoms import Atoms2D
from stem_ae.errors import StemAeError

__version__ = "0.1.0"

__all__ = ["Atoms2D", "StemAeError", "__version__"]
