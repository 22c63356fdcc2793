"""From atoms in an image to structures: patches, cells, termination, ad-atoms, variants."""

from stem_ae.structure.bonding import bonded
from stem_ae.structure.build import build, from_image, to_image, variants
from stem_ae.structure.edit import add_adatom, add_group, add_vacancy, adsorb, sites
from stem_ae.structure.lattice import Calibration, calibrate
from stem_ae.structure.material import GRAPHENE, MOS2, SRTIO3, Material
from stem_ae.structure.region import around, most_different, random_regions, select
from stem_ae.structure.rings import Ring, bond_lengths, defects, rings

__all__ = [
    "GRAPHENE",
    "MOS2",
    "SRTIO3",
    "Calibration",
    "Material",
    "Ring",
    "add_adatom",
    "add_group",
    "add_vacancy",
    "adsorb",
    "around",
    "bond_lengths",
    "bonded",
    "build",
    "calibrate",
    "defects",
    "from_image",
    "most_different",
    "random_regions",
    "rings",
    "select",
    "sites",
    "to_image",
    "variants",
]
