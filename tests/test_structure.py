"""Structures from images: geometry that is known, handedness, edges, overlaps, cells, variants."""

from __future__ import annotations

import dataclasses
import time

import ase
import numpy as np
import pytest
from ase.build import graphene_nanoribbon, molecule
from ase.data import covalent_radii
from scipy.spatial.distance import cdist

from stem_ae import Atoms2D, StemAeError, structure
from stem_ae.imaging import specimens
from stem_ae.structure import possible

SAMPLING = 0.104


def found(specimen, noise=0.0, scale=1.0, species=None, seed=0) -> Atoms2D:
    """What a detector with this position noise (Å) and wrong scale finds of a specimen."""
    xy, names = specimen.columns()
    extent = np.array(specimen.extent)
    inside = np.all((xy > 0) & (xy < extent), axis=1)
    xy, names = xy[inside], [name for name, kept in zip(names, inside, strict=True) if kept]
    species = species or sorted(set(names))
    xy = scale * (xy + np.random.default_rng(seed).normal(scale=noise, size=xy.shape))
    return atoms_at(xy, names, species, scale * noise, tuple(np.ceil(scale * extent[::-1] / SAMPLING).astype(int)))


def atoms_at(xy, names, species, noise, shape) -> Atoms2D:
    labels = np.array([species.index(name) for name in names])
    probabilities = np.full((len(xy), len(species)), 0.02 / max(len(species) - 1, 1))
    probabilities[np.arange(len(xy)), labels] = 0.98 if len(species) > 1 else 1.0
    covariance = np.tile(np.eye(2) * noise**2, (len(xy), 1, 1))
    return Atoms2D(xy, covariance, labels, species, probabilities, np.ones(len(xy)), shape, SAMPLING)


@pytest.fixture(scope="module")
def graphene() -> Atoms2D:
    return found(specimens.graphene((50.0, 50.0), silicon=0.0, rotation=0.2, ripple=0.0, seed=1), noise=0.03)


def test_patch_is_a_hydrogenated_flake_with_whole_rings(graphene):
    cell = structure.build(graphene, structure.around(25, 25, 8), vacuum=10.0)
    lengths = structure.bond_lengths(cell)
    assert set(lengths) == {"C-C", "C-H"}
    assert lengths["C-C"].mean() == pytest.approx(1.42, abs=0.01)
    assert lengths["C-H"] == pytest.approx(1.09, abs=1e-9)
    rings = structure.rings(cell)
    assert {len(ring) for ring in rings} == {6}
    # Euler: vertices - edges + faces = 1 for one piece without holes.
    carbon = int((cell.numbers == 6).sum())
    assert carbon - len(lengths["C-C"]) + len(rings) == 1
    # Every carbon has three partners, and each hydrogen sits on the perimeter.
    bonds = 2 * len(lengths["C-C"]) + len(lengths["C-H"])
    assert bonds == 3 * carbon
    assert (cell.arrays["perimeter"] & (cell.numbers == 6)).sum() == (cell.numbers == 1).sum()
    assert not cell.arrays["perimeter"][cell.numbers == 1].any()
    low, high = cell.positions.min(axis=0), cell.positions.max(axis=0)
    assert low == pytest.approx(10.0)
    assert cell.cell.lengths() - high == pytest.approx(10.0)


def test_handedness_and_uncertainty_survive(graphene):
    """Turning the image about x gives the structure: no mirror image, and the correlation of x and y turns with it."""
    lopsided = dataclasses.replace(graphene, covariance=np.tile([[4e-4, 1e-4], [1e-4, 9e-4]], (len(graphene), 1, 1)))
    cell = structure.build(lopsided, (10, 12, 30, 40), calibration=None)
    heavy = cell.numbers > 1
    index = cell.arrays["image_atom"][heavy]
    image, made = graphene.positions[index], cell.positions[heavy]
    # The structure is the image turned by 180 degrees about x, which is a rotation: only y and z change sign.
    shift = made[:, :2] - image * [1, -1]
    assert np.ptp(shift, axis=0) == pytest.approx(0, abs=1e-9)
    assert cell.arrays["covariance"][heavy][0] == pytest.approx([4e-4, -1e-4, 9e-4])
    assert np.all(cell.arrays["image_atom"][~heavy] == -1)


def test_sulphur_above_and_below_and_the_survivor_on_the_source_side():
    image = found(specimens.mos2((40.0, 40.0), rotation=0.1, single_vacancies=0.1, seed=2), species=["Mo", "S2", "S1"])
    cell = structure.build(image, (8, 8, 32, 32), calibration=None)
    z = cell.positions[:, 2] - cell.positions[cell.symbols == "Mo", 2].mean()
    for column in np.unique(cell.arrays["image_atom"]):
        name = image.symbols[column]
        heights = sorted(np.round(z[cell.arrays["image_atom"] == column], 6))
        assert heights == {"Mo": [0.0], "S2": [-1.56, 1.56], "S1": [1.56]}[name]
    assert structure.bond_lengths(cell)["Mo-S"].mean() == pytest.approx(2.40, abs=0.01)
    assert "S1" in {image.symbols[k] for k in cell.arrays["image_atom"]}


def test_scale_and_distortion_are_measured():
    truth = specimens.graphene((60.0, 60.0), silicon=0.0, rotation=0.3, ripple=0.0, seed=3)
    image = found(truth, noise=0.04, scale=0.95)
    fit = structure.calibrate(image.positions, image.covariance, 1.42)
    assert fit.scale == pytest.approx(1 / 0.95, abs=3 * fit.scale_error + 1e-4)
    assert fit.scale_error < 1e-3
    # Atoms really off their sites, which no error states, do not change the scale.
    off_sites = dataclasses.replace(image, covariance=1e-4 * image.covariance)
    unstated = structure.calibrate(off_sites.positions, off_sites.covariance, 1.42)
    assert unstated.scale == pytest.approx(fit.scale, abs=2e-4)
    skew = np.array([[1.03, 0.02], [0.0, 0.98]])
    bent = dataclasses.replace(found(truth, noise=0.02), positions=found(truth, noise=0.02).positions @ skew.T)
    fit = structure.calibrate(bent.positions, bent.covariance, 1.42, "affine")
    # What is left of the distortion is a rotation, which belongs to the specimen.
    left = fit.matrix @ skew
    assert left.T @ left == pytest.approx(np.eye(2), abs=2e-3)
    cell = structure.build(bent, calibration="affine")
    assert structure.bond_lengths(cell)["C-C"].mean() == pytest.approx(1.42, abs=2e-3)
    assert cell.info["stem_ae"]["calibration"]["shear"] == pytest.approx(fit.shear)


def test_noise_overlap_is_pushed_apart_ghost_removed_and_doubt_refused(graphene):
    middle = int(np.argmin(np.linalg.norm(graphene.positions - 25, axis=1)))

    def with_extra(offset, sigma, probability):
        extra = graphene[np.array([middle])]
        p = np.array([[probability]])
        both = np.concatenate
        return dataclasses.replace(
            graphene,
            positions=both([graphene.positions, extra.positions + offset]),
            covariance=both([graphene.covariance, np.eye(2)[None] * sigma**2]),
            labels=both([graphene.labels, extra.labels]),
            probabilities=both([graphene.probabilities, p]),
            intensity=both([graphene.intensity, extra.intensity]),
        )

    region = structure.around(25, 25, 8)
    clean = structure.build(graphene, region)
    ghost = structure.build(with_extra([0.5, 0.1], 0.03, 0.6), region)
    assert len(ghost) == len(clean)
    assert any("less probable" in note for note in ghost.info["stem_ae"]["notes"])
    with pytest.raises(StemAeError, match=rf"pairs of atoms overlap: atoms {middle} .* 0\.5\d Å apart"):
        structure.build(with_extra([0.5, 0.1], 0.03, 1.0), region)
    with pytest.raises(StemAeError, match="overlap"):
        structure.build(with_extra([0.5, 0.1], 0.03, 0.6), region, overlaps="refuse")
    # Two neighbours whose measured distance is 1.1 Å, with errors of 0.15 Å: pushed apart to what atoms allow.
    neighbour = int(np.argsort(np.linalg.norm(graphene.positions - graphene.positions[middle], axis=1))[1])
    moved = graphene.positions.copy()
    line = moved[middle] - moved[neighbour]
    moved[neighbour] = moved[middle] - 1.1 * line / np.linalg.norm(line)
    covariance = graphene.covariance.copy()
    covariance[[middle, neighbour]] = np.eye(2) * 0.15**2
    noisy = dataclasses.replace(graphene, positions=moved, covariance=covariance)
    cell = structure.build(noisy, region, calibration=None)
    assert structure.bond_lengths(cell)["C-C"].min() >= 1.1999
    assert any("within their errors" in note for note in cell.info["stem_ae"]["notes"])


def test_single_vacancy_stays_bare(graphene):
    """Three hydrogens do not fit into a single vacancy; the ring of 9 + 5 or of 12 is reported as a vacancy."""
    middle = int(np.argmin(np.linalg.norm(graphene.positions - 25, axis=1)))
    holed = graphene[np.arange(len(graphene)) != middle]
    cell = structure.build(holed, structure.around(25, 25, 9))
    centre = cell.positions[cell.numbers == 6].mean(axis=0)
    assert np.linalg.norm(cell.positions[cell.numbers == 1] - centre, axis=1).min() > 5
    assert "3 two-fold atoms were left bare" in " ".join(cell.info["stem_ae"]["notes"])
    kinds = [(d["kind"], len(d["atoms"])) for d in structure.defects(cell)]
    assert kinds == [("vacancy", 12)]


def test_periodic_supercell_closes(graphene):
    cell = structure.build(graphene, (5, 5, 45, 45), cell="periodic")
    assert list(cell.pbc) == [True, True, False]
    assert cell.cell.volume > 0
    assert np.linalg.det(cell.cell.array) > 0
    rings = structure.rings(cell)
    assert {len(ring) for ring in rings} == {6}
    assert 2 * len(rings) == len(cell)  # Euler on a torus: N atoms, 3N/2 bonds, N/2 hexagons
    area = cell.cell.volume / cell.cell.lengths()[2]
    assert area / len(cell) == pytest.approx(3 * np.sqrt(3) / 4 * 1.42**2, rel=0.01)
    assert area > 0.35 * 40 * 40


def test_periodic_mos2_is_stoichiometric():
    image = found(
        specimens.mos2((40.0, 40.0), rotation=0.3, single_vacancies=0.0, double_vacancies=0.0, seed=1),
        noise=0.03, species=["Mo", "S2", "S1"],
    )  # fmt: skip
    cell = structure.build(image, (4, 4, 36, 36), cell="periodic")
    numbers = cell.numbers.tolist()
    assert numbers.count(16) == 2 * numbers.count(42) >= 60
    assert structure.bond_lengths(cell)["Mo-S"].mean() == pytest.approx(2.40, abs=0.02)


def test_a_misplaced_atom_that_the_border_cuts_gives_way(graphene):
    limit = (np.array(graphene.shape[::-1]) - 1) * graphene.sampling[::-1]
    depth = np.minimum(graphene.positions, limit - graphene.positions).min(1)
    pairs = np.argwhere(np.triu(cdist(graphene.positions, graphene.positions) < 1.6, 1))
    bonds = np.bincount(pairs.ravel(), minlength=len(depth))
    whole = [(i, j) if depth[i] < depth[j] else (j, i) for i, j in pairs if bonds[i] > 1 and bonds[j] > 1]
    cut, inner = next((i, j) for i, j in whole if depth[i] < 0.8)
    positions = graphene.positions.copy()
    positions[cut] += 0.25 * (positions[inner] - positions[cut])  # 1.07 Å apart now, far more than their errors
    built = structure.build(dataclasses.replace(graphene, positions=positions), terminate=None)
    assert any(f"atom {cut} is cut by the image's border" in note for note in built.info["stem_ae"]["notes"])
    assert cut not in built.arrays["image_atom"]


def test_given_cell_is_kept_and_overlaps_across_it_are_refused(graphene):
    cell = structure.build(graphene, (20, 20, 30, 30), cell=[20, 25, 15, 90, 90, 120])
    assert cell.cell.angles() == pytest.approx([90, 90, 120])
    assert cell.pbc.all()
    with pytest.raises(StemAeError, match="overlap across the given cell's border"):
        structure.build(graphene, (20, 20, 30, 30), cell=[9.9, 9.9, 15])
    with pytest.raises(StemAeError, match="positive lengths"):
        structure.build(graphene, (20, 20, 30, 30), cell=[20, -25, 15])
    with pytest.raises(StemAeError, match="not understood"):
        structure.build(graphene, (20, 20, 30, 30), cell="cubic")


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ((200, 200, 210, 210), "no atoms in this region"),
        ((24, 24, 25.5, 25.5), "No ring of atoms"),
        ((1, 2, 3), "not understood"),
    ],
)
def test_bad_regions_get_one_sentence(graphene, region, message):
    with pytest.raises(StemAeError, match=message):
        structure.build(graphene, region)


def test_variants_follow_the_stated_uncertainty(graphene):
    region = structure.around(25, 25, 7)
    nominal = structure.build(graphene, region, calibration=None)
    drawn = structure.variants(graphene, 60, region, seed=4, calibration=None)
    assert {cell.get_chemical_formula() for cell in drawn} == {nominal.get_chemical_formula()}
    # Distances do not depend on where the cell is centred: their variance is the sum of the two atoms' along the line.
    heavy = np.flatnonzero(nominal.numbers == 6)
    bond = np.array([[c.get_distance(int(heavy[0]), int(k)) for k in heavy[10:40]] for c in drawn])
    assert bond.std(axis=0).mean() == pytest.approx(0.03 * np.sqrt(2), rel=0.1)


def test_variants_draw_the_species_too(graphene):
    n = len(graphene)
    doubtful = dataclasses.replace(
        graphene, species=("C", "Si"), probabilities=np.tile([0.9, 0.1], (n, 1)), labels=np.zeros(n, np.int64)
    )
    drawn = structure.variants(doubtful, 20, structure.around(25, 25, 7), seed=1)
    silicon = np.mean([(cell.numbers == 14).sum() / (cell.numbers != 1).sum() for cell in drawn])
    assert silicon == pytest.approx(0.1, abs=0.03)


def test_rings_of_known_defects():
    # Azulene by construction: a regular 5-ring and a regular 7-ring that share one bond.
    side = 1.42

    def polygon(n, up):
        radius = side / (2 * np.sin(np.pi / n))
        apothem = radius * np.cos(np.pi / n)
        start = -np.pi / 2 - np.pi / n if up else np.pi / 2 - np.pi / n
        angles = start + 2 * np.pi * np.arange(n) / n
        centre = np.array([0, apothem if up else -apothem])
        return centre + radius * np.column_stack([np.cos(angles), np.sin(angles)])

    points = np.unique(np.round(np.concatenate([polygon(5, True), polygon(7, False)]), 6), axis=0)
    azulene = ase.Atoms(f"C{len(points)}", np.column_stack([points, np.zeros(len(points))]))
    assert len(azulene) == 10
    sizes = sorted(len(ring) for ring in structure.rings(azulene))
    assert sizes == [5, 7]
    angles = {len(ring): ring.angle for ring in structure.rings(azulene)}
    assert angles[5] == pytest.approx(108, abs=0.01)
    assert angles[7] == pytest.approx(180 * 5 / 7, abs=0.01)
    benzene = molecule("C6H6")
    assert [len(ring) for ring in structure.rings(benzene)] == [6]
    ribbon = graphene_nanoribbon(3, 4, type="zigzag", saturated=True, vacuum=5.0)
    ribbon.rotate(90, "x", rotate_cell=True)
    assert {len(ring) for ring in structure.rings(ribbon)} == {6}


def test_adatoms_sit_on_their_sites(graphene):
    cell = structure.build(graphene, structure.around(25, 25, 7), calibration=None)
    for site, neighbours in (("top", 1), ("bridge", 2), ("hollow", 6)):
        with_cr = structure.add_adatom(cell, "Cr", site)
        aside = np.linalg.norm(with_cr.positions[:-1, :2] - with_cr.positions[-1, :2], axis=1)
        nearest = np.sort(aside)[: neighbours + 1]
        assert nearest[-1] - nearest[-2] > 0.3, site
        assert with_cr.positions[-1, 2] > cell.positions[:, 2].max() + 1
        assert len(with_cr.arrays["image_atom"]) == len(cell) + 1
    methyl = structure.add_group(cell, "CH3")
    assert methyl.get_chemical_formula() == (cell + ase.Atoms("CH3")).get_chemical_formula()
    angle = methyl.get_angle(len(methyl) - 3, len(methyl) - 4, len(methyl) - 2)
    assert angle == pytest.approx(109.47, abs=0.1)
    assert len(structure.add_vacancy(cell, 3)) == len(cell) - 1
    with pytest.raises(StemAeError, match="no atom 9999"):
        structure.add_vacancy(cell, 9999)


def test_most_different_patches_include_the_defect(graphene):
    holed = graphene[np.linalg.norm(graphene.positions - [15, 15], axis=1) > 2.5]
    regions = structure.random_regions(holed, 9.0, 40, seed=1)
    chosen = structure.most_different(holed, regions, 5)
    assert len(set(chosen)) == 5
    first = regions[chosen[0]]
    assert first[0] < 17.5
    assert first[1] < 17.5
    assert first[2] > 12.5
    assert first[3] > 12.5


def test_frame_of_2000_atoms_in_time():
    import time

    image = found(specimens.graphene((72.0, 72.0), silicon=0.01, seed=1), noise=0.03)
    start = time.process_time()
    cell = structure.build(image)
    assert time.process_time() - start < 0.5
    assert len(image) > 1900
    assert (cell.numbers == 14).any()


def test_rings_and_defects_of_mos2_are_those_of_its_columns():
    """Sulphur above sulphur is one corner of a hexagon; a column with one S is a vacancy, and Mo is no dopant."""
    whole = specimens.mos2((40.0, 40.0), rotation=0.1, single_vacancies=0.0, double_vacancies=0.0, seed=2)
    image = found(whole, noise=0.02, species=["Mo", "S2", "S1"])
    cell = structure.build(image, (4, 4, 36, 36), cell="periodic")
    sulphur = np.flatnonzero(cell.symbols == "S")
    assert {len(ring) for ring in structure.rings(cell)} == {6}
    assert 3 * len(structure.rings(cell)) == len(cell)  # Euler on a torus: a hexagon for each MoS2
    assert structure.defects(cell) == []
    upper = int(sulphur[np.argmax(cell.positions[sulphur, 2])])
    (defect,) = structure.defects(structure.add_vacancy(cell, upper))
    assert defect["kind"] == "vacancy S"
    assert defect["centre"][:2] == pytest.approx(cell.positions[upper, :2], abs=0.1)


def test_a_patch_that_dynamics_has_turned_keeps_its_rings(graphene):
    mos2 = found(specimens.mos2((40.0, 40.0), seed=2), species=["Mo", "S2", "S1"])
    for image in (graphene, mos2):
        cell = structure.build(image, (10, 10, 28, 28), calibration=None)
        rings = sorted(sorted(ring.atoms) for ring in structure.rings(cell))
        defects = [defect["kind"] for defect in structure.defects(cell)]
        assert len(rings) > 10
        for angle, axis in ((75, "x"), (40, (1, 2, 0.3))):
            cell.rotate(angle, axis)
            assert sorted(sorted(ring.atoms) for ring in structure.rings(cell)) == rings
            assert [defect["kind"] for defect in structure.defects(cell)] == defects


def test_an_adsorbate_touches_the_sheet_and_is_no_defect_of_it(graphene):
    sheet = structure.build(graphene, structure.around(25, 25, 7), calibration=None)
    for what, site in (("Cr", "hollow"), ("O", "bridge"), ("CH3", "top"), ("H", "top")):
        cell = structure.adsorb(sheet, what, site, near=tuple(structure.from_image(sheet, [[26.0, 24.0]])[0]))
        marked = cell.arrays["adsorbate"]
        assert np.array_equal(cell[~marked].positions, sheet.positions)
        first = cell.positions[marked][0]
        away = np.linalg.norm(sheet.positions - first, axis=1)
        radii = covalent_radii[sheet.numbers] + covalent_radii[cell.numbers[marked][0]]
        assert np.min(away - radii) == pytest.approx(0.0, abs=1e-6)
        assert np.hypot(*(structure.to_image(cell)[marked][0] - [26.0, 24.0])) < 1.3
        assert [len(ring) for ring in structure.rings(cell)] == [len(ring) for ring in structure.rings(sheet)]
        kinds = [defect["kind"] for defect in structure.defects(cell)]
        assert kinds == ([] if what == "H" else [f"adsorbate {what[0] if what == 'CH3' else what}"])
    for what, site, message in (("Kryptonite", "top", "cannot be adsorbed"), ("Cr", "beside", "site 'beside'")):
        with pytest.raises(StemAeError, match=message):
            structure.adsorb(sheet, what, site)


def test_an_adsorbate_on_mos2_rests_on_the_upper_sulphur():
    image = found(specimens.mos2((40.0, 40.0), rotation=0.1, seed=2), species=["Mo", "S2", "S1"])
    sheet = structure.build(image, (8, 8, 32, 32), calibration=None)
    for site in ("top", "bridge", "hollow"):
        cell = structure.adsorb(sheet, "Au", site)
        assert cell.positions[-1, 2] > sheet.positions[:, 2].max() + 0.8


def test_points_go_to_the_structure_and_back(graphene):
    cell = structure.build(graphene, (10, 12, 30, 40), calibration="affine")
    there = structure.from_image(cell, [[3.0, 5.0], [20.0, 7.0]])
    assert structure.to_image(cell, np.column_stack([there, [0, 0]])) == pytest.approx(np.array([[3, 5], [20, 7]]))
    with pytest.raises(StemAeError, match="not built from an image"):
        structure.from_image(molecule("C6H6"), [[0, 0]])


def test_an_oxide_is_made_of_its_columns_by_a_template(tmp_path):
    """SrTiO3 along [001]: a cell as high as its period, oxygen in the titanium columns, a cubic cell."""
    a = 3.905
    ij = np.stack(np.meshgrid(np.arange(8), np.arange(8)), axis=-1).reshape(-1, 2)
    xy = np.concatenate([ij, ij + 0.5]) * a * 0.97 + 2.0  # the image's scale is wrong by 3 %
    image = atoms_at(xy, ["Sr"] * 64 + ["Ti"] * 64, ["Sr", "Ti"], 0.02, (320, 320))
    cell = structure.build(image, (4, 4, 28, 28), cell="periodic")
    numbers = cell.numbers.tolist()
    assert numbers.count(38) == numbers.count(22) == numbers.count(8) > 9
    assert cell.cell.lengths()[2] == a
    assert cell.pbc.all()
    assert structure.bond_lengths(cell)["O-Ti"] == pytest.approx(a / 2, abs=1e-3)
    assert cell.cell.volume / numbers.count(38) == pytest.approx(a**3, rel=1e-3)
    # The same template written down by a user.
    (tmp_path / "oxide.json").write_text(
        '{"name": "oxide", "spacing": 2.761, "period": 3.905, '
        '"columns": {"Sr": [["Sr", 0]], "Ti": [["Ti", 1.9525], ["O", 0]]}}'
    )
    template = structure.Material.read(tmp_path / "oxide.json")
    again = structure.build(image, (4, 4, 28, 28), cell="periodic", material=template)
    assert again.positions == pytest.approx(cell.positions)
    for wrong in ("[]", "{}", '{"name": "x", "columns": {"A": [["Qq", 0]]}, "spacing": 1}', "columns"):
        (tmp_path / "oxide.json").write_text(wrong)
        with pytest.raises(StemAeError, match="not the template of a material"):
            structure.Material.read(tmp_path / "oxide.json")


def test_atoms_in_one_place_are_found_over_periodic_borders_and_kilometres():
    apart = ase.Atoms("C2", [[0.05, 1, 1], [7.9, 1, 1]], cell=[8, 8, 8])
    possible.refuse_impossible(apart)
    apart.pbc = [False, True, True]
    possible.refuse_impossible(apart)
    apart.pbc = True
    with pytest.raises(StemAeError, match=r"0 \(C\) and 1 \(C\), counted from 0, are 0.15 Å apart\."):
        possible.refuse_impossible(apart)
    corner = ase.Atoms("C2", [[0.05, 0.05, 0.05], [7.95, 7.95, 7.95]], cell=[8, 8, 8], pbc=True)
    with pytest.raises(StemAeError, match=r"0\.17 Å apart"):
        possible.refuse_impossible(corner)
    rng = np.random.default_rng(0)
    scattered = ase.Atoms("C2000", rng.uniform(-9e5, 9e5, (2000, 3)), cell=[9e5, 0.6, 9e5], pbc=[False, True, False])
    start = time.perf_counter()
    possible.refuse_impossible(scattered)
    assert time.perf_counter() - start < 5  # ASE's list of neighbours does not end within minutes


def test_positions_beyond_every_image_are_refused():
    for far in (1e10, 1e200):
        with pytest.raises(StemAeError, match="no image is that large"):
            Atoms2D([[far, 0.0]], [np.eye(2)], [0], ("C",), [[1.0]], [1.0], (9, 9), 0.1)
