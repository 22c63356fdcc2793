"""Reading microscope images: the frames, the sampling and where the sampling came from.

RosettaSciIO reads the vendors' formats. Nion Swift's own exports, TIFF, pictures, and HDF5 files in which an array has
to be picked are read here. What kind of file it is shows in its first bytes, not in its name. Spectra and diffraction
patterns are not taken for images, and nothing is read before its size is known.
"""

from stem_ae.imageio.reading import ImageFile, ImageStack, find_signals, open_images, pick, read
from stem_ae.imageio.signal import Signal
from stem_ae.imageio.units import to_angstrom

__all__ = ["ImageFile", "ImageStack", "Signal", "find_signals", "open_images", "pick", "read", "to_angstrom"]
