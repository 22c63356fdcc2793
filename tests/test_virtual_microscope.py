"""The physics of the simulated microscope, without Swift."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import constants

from stem_ae.imaging import damage, diffraction, eels
from stem_ae.imaging.probe import AberratedProbe, GaussianProbe
from stem_ae.imaging.scan_field import ScanField, pixel_centres
from stem_ae.imaging.specimens import Specimen, graphene, mos2
from stem_ae.imaging.virtual_microscope import Beam, Conditions, Rest, VirtualMicroscope, contamination_layer


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def atoms(*rows):
    table = np.array(rows, dtype=float)
    return Specimen(table[:, :3], table[:, 3].astype(np.int64), "atoms", ("S",), (0.0, 0.0))


# --- where things are ------------------------------------------------------------------------------------------------


def test_positions_survive_the_way_to_the_specimen_and_back():
    field = ScanField(fov=(40.0, 25.0), centre=(3.0, -7.0), rotation=0.7, offset=(1.5, 2.5))
    fraction = np.random.default_rng(0).uniform(-0.2, 1.2, (50, 2))
    np.testing.assert_allclose(field.to_fraction(field.to_specimen(fraction)), fraction, atol=1e-12)


def test_rotation_turns_x_towards_y_and_offset_moves_the_image_with_the_specimen():
    field = ScanField(fov=(10.0, 10.0), rotation=np.pi / 2)
    np.testing.assert_allclose(field.to_specimen((1.0, 0.5)), (0.0, 5.0), atol=1e-12)
    straight = ScanField(fov=(10.0, 10.0))
    np.testing.assert_allclose(straight.moved((1.0, 2.0)).to_fraction((0.0, 0.0)), (0.6, 0.7))


def test_a_part_is_the_same_place_seen_through_a_smaller_field():
    field = ScanField(fov=(40.0, 20.0), centre=(2.0, 1.0), rotation=0.4, offset=(0.3, -0.8))
    part = field.part((0.6, 0.3), (0.5, 0.4))
    np.testing.assert_allclose(part.to_specimen((0.0, 1.0)), field.to_specimen((0.35, 0.5)), atol=1e-12)
    turned = field.part((0.6, 0.3), (0.5, 0.4), rotation=0.9)
    np.testing.assert_allclose(turned.to_specimen((0.5, 0.5)), part.to_specimen((0.5, 0.5)), atol=1e-12)
    assert turned.rotation == pytest.approx(0.4 - 0.9)


def test_pixels_tile_the_field():
    centres = pixel_centres((3, 4))
    assert centres.shape == (3, 4, 2)
    np.testing.assert_allclose(centres[0, 0], (0.125, 1 / 6))
    np.testing.assert_allclose(centres.mean(axis=(0, 1)), (0.5, 0.5))


# --- images ----------------------------------------------------------------------------------------------------------


def test_counts_are_the_dose_times_the_cross_sections():
    microscope = VirtualMicroscope(graphene((160.0, 160.0)), Conditions(background=0.0, readout=0.0))
    frame = microscope.begin_frame(ScanField(fov=(60.0, 60.0)), (128, 128), 50.0, Beam(current_pa=100.0))
    dose = 100e-12 / constants.e * 50e-6 / (60 / 128) ** 2
    atoms_seen = np.sum(np.all(np.abs(microscope.specimen.positions[:, :2]) < 30, axis=1))
    expected = dose * 1.7e-3 * atoms_seen
    assert frame.counts("HAADF").sum() == pytest.approx(expected, rel=0.15)  # silicon adds a little
    assert frame.electrons == pytest.approx(100e-12 * 50e-6 / constants.e)


def test_only_noise_differs_until_something_changes():
    microscope = VirtualMicroscope(mos2((60.0, 60.0)), Conditions(damage=False), 0, clock := Clock())
    field, beam = ScanField(fov=(30.0, 30.0)), Beam()

    def frame(field=field, beam=beam):
        return microscope.begin_frame(field, (64, 64), 2.0, beam)

    first, second = frame(), frame()
    assert second.fraction("HAADF") is first.fraction("HAADF")
    assert not np.array_equal(first.counts("HAADF"), second.counts("HAADF"))
    before = first.fraction("HAADF")

    def differs(frame):
        return not np.allclose(frame.fraction("HAADF"), before, rtol=1e-3)

    assert differs(frame(field.moved((0.5, 0.0))))
    assert differs(frame(beam=dataclasses.replace(beam, defocus=60.0)))
    for conditions in (Conditions(contamination=0.5), Conditions(jitter=0.2), Conditions(drift=(1.0, 0.0))):
        microscope.conditions = conditions
        clock.now += 0.5
        assert differs(frame())
    microscope.conditions = Conditions(damage=False)
    microscope.load(mos2((60.0, 60.0), seed=1))
    assert differs(frame())


def test_a_low_magnification_costs_no_more_than_the_specimen():
    microscope = VirtualMicroscope(graphene((160.0, 160.0)))
    wide = microscope.begin_frame(ScanField(fov=(4000.0, 4000.0)), (256, 256), 1.0, Beam()).fraction("HAADF")
    near = microscope.begin_frame(ScanField(fov=(250.0, 250.0)), (64, 64), 1.0, Beam()).fraction("HAADF")
    assert wide[:100].max() == pytest.approx(microscope.conditions.background)
    covered = (wide > 1e-4).mean() * 4000.0**2
    assert covered == pytest.approx((near > 1e-4).mean() * 250.0**2, rel=0.3)


def test_astigmatism_turns_with_the_scan():
    conditions = Conditions(source_sigma=0.1, background=0.0)
    beam = Beam(astigmatism=(30.0, 0.0), defocus=30.0)
    microscope = VirtualMicroscope(atoms((0, 0, 0, 42)), conditions)

    def width(rotation):
        field = ScanField(fov=(12.0, 12.0), rotation=rotation)
        image = microscope.begin_frame(field, (96, 96), 1.0, beam).fraction("HAADF")
        across = (np.arange(96) - 47.5) * 12 / 96
        return [np.sqrt((image.sum(axis) @ across**2) / image.sum()) for axis in (0, 1)]

    np.testing.assert_allclose(width(np.pi / 2), width(0.0)[::-1], rtol=1e-3)
    assert max(width(0.0)) > 1.3 * min(width(0.0))


def test_contamination_needs_a_specimen_to_lie_on():
    sheet = graphene((80.0, 80.0))
    half = sheet[sheet.positions[:, 0] < 40]
    half = dataclasses.replace(half, positions=half.positions - 40)  # from its middle
    layer = contamination_layer(half, 0.9, np.random.default_rng(0))
    middle = layer.shape[1] // 2
    assert layer[:, : middle - 20].mean() > 0.1
    assert layer[:, middle + 30 :].max() < 1e-6


def test_contamination_moves_with_the_specimen():
    microscope = VirtualMicroscope(graphene((160.0, 160.0)), Conditions(contamination=0.4))
    fields = [ScanField(fov=(40.0, 40.0), offset=offset) for offset in ((0.0, 0.0), (5.0, 0.0))]
    here, there = (microscope.begin_frame(field, (80, 80), 1.0, Beam()).fraction("HAADF") for field in fields)
    np.testing.assert_allclose(there[5:-5, 15:-5], here[5:-5, 5:-15], atol=3e-5)


# --- damage ----------------------------------------------------------------------------------------------------------


def test_knock_on_starts_at_its_threshold_and_grows():
    still = [damage.knock_on_cross_section(6, 21.14, energy, 0.0) for energy in (60e3, 100e3, 106e3, 120e3, 200e3)]
    assert still[:2] == [0.0, 0.0]  # 21.14 eV is what an electron of 104 keV can hand to a resting carbon atom
    assert 0 < still[2] < still[3] < still[4]
    warm = damage.knock_on_cross_section(6, 21.14, 100e3, 563.0)
    assert 0.05 < warm < 0.6  # barn; measured at 100 kV: about 0.2 (Meyer et al. 2012)
    assert damage.knock_on_cross_section(6, 21.14, 60e3, 563.0) < 1e-9


def test_neighbours_decide_who_can_leave():
    pair = atoms((0, 0, -1.5, 16), (0, 0, 1.5, 16), (5, 0, 1.5, 16), (9, 0, 0, 42))
    upper, lower, alone, metal = damage.ejection_cross_sections(pair, 80e3)
    assert upper == 0.0
    assert lower == 2 * alone > 0
    assert metal == 0.0
    sheet = graphene((40.0, 40.0), silicon=0.0)
    barn = damage.ejection_cross_sections(sheet, 60e3)
    rim = np.any((sheet.positions[:, :2] < 1.0) | (sheet.positions[:, :2] > 39.0), axis=1)
    deep = np.all((sheet.positions[:, :2] > 3.0) & (sheet.positions[:, :2] < 37.0), axis=1)
    assert barn[deep].max() < 1e-9
    assert barn[rim].max() > 1.0


@pytest.mark.parametrize("size", [(0.0, 0.0), (2.0, 5.0)])
def test_every_electron_lands_somewhere(size):
    probe = AberratedProbe(source_sigma=0.3)
    across = np.arange(-9, 9, 0.1)
    points = np.stack(np.meshgrid(across, across), axis=-1).reshape(-1, 2)
    density = damage.fluence(probe, size, points)
    assert density.sum() * 0.01 == pytest.approx(1.0, abs=0.03)
    peak = damage.fluence(probe, size, [(0.0, 0.0)])[0]
    assert peak == pytest.approx(density.max(), rel=0.01)


def test_a_wide_scan_doses_evenly():
    density = damage.fluence(GaussianProbe(0.4), (40.0, 30.0), [(0, 0), (19, 14), (21, 0), (0, -16)])
    np.testing.assert_allclose(density, [1 / 1200, 1 / 1200, 0, 0])


def test_waiting_times_are_those_of_the_cross_section():
    """An S2 column under a parked beam: exponential waits of the stated mean, whatever the steps of the clock."""
    beam, conditions = Beam(energy_ev=80e3, current_pa=60.0), Conditions()
    column = atoms((0, 0, -1.5, 16), (0, 0, 1.5, 16))
    field = ScanField(fov=(10.0, 10.0))
    rate = 5.0 * damage.BARN * damage.fluence(beam.probe(conditions.source_sigma), (0.0, 0.0), [(0, 0)])[0]
    expected = 1 / (rate * beam.electrons(1.0))
    for step in (expected / 20, expected * 20):
        waits = []
        for seed in range(200):
            clock = Clock()
            microscope = VirtualMicroscope(column, conditions, seed, clock)
            microscope.rest(Rest(field, (0.5, 0.5), beam))
            while not microscope.ejections:
                clock.now += step
                microscope.advance()
            waits.append(microscope.ejections[0].time_s)
        assert np.mean(waits) == pytest.approx(expected, rel=4 / np.sqrt(200))
        assert np.std(waits) == pytest.approx(expected, rel=0.35)


def test_tails_reach_the_neighbours():
    """The beam on one S2 column of MoS2 now and then takes an S of another, at the ratio of the probe's tails."""
    beam = Beam(energy_ev=80e3)
    probe = beam.probe(0.3)
    target, neighbour = damage.fluence(probe, (0.0, 0.0), [(0.0, 0.0), (3.16, 0.0)])
    assert 1e-5 < neighbour / target < 0.05
    microscope = VirtualMicroscope(mos2((60.0, 60.0), 0.0, 0.0), Conditions(), 0, clock := Clock())
    columns, names = microscope.columns
    sulphur = columns[[name == "S2" for name in names]]
    place = sulphur[np.argmin(np.linalg.norm(sulphur, axis=1))]
    field = ScanField(fov=(10.0, 10.0), centre=(float(place[0]), float(place[1])))
    microscope.rest(Rest(field, (0.5, 0.5), beam))
    clock.now += 30.0
    microscope.advance()
    distance = [np.linalg.norm(np.subtract(hit.position, place)) for hit in microscope.ejections]
    assert sum(d < 0.1 for d in distance) == 2
    assert any(d > 3.0 for d in distance)


def with_a_dopant():
    """Graphene with one Si near the middle, and its three carbon neighbours, all from the specimen's middle."""
    sheet = graphene((40.0, 40.0), silicon=0.0)
    xy = sheet.positions[:, :2] - 20.0
    silicon = int(np.argmin(np.linalg.norm(xy, axis=1)))
    sheet.numbers[silicon] = 14
    away = np.linalg.norm(xy - xy[silicon], axis=1)
    return sheet, xy[silicon], xy[(away > 0.1) & (away < 1.6)]


def test_a_dopant_goes_where_its_neighbour_was_hit():
    """Exponential waits of the stated mean; no atom is lost; the other neighbours get the probe's tails."""
    sheet, silicon, neighbours = with_a_dopant()
    beam, conditions = Beam(current_pa=150.0), Conditions()
    field = ScanField(fov=(10.0, 10.0), centre=(float(neighbours[0][0]), float(neighbours[0][1])))
    probe = beam.probe(conditions.source_sigma)
    around = [*(neighbours - neighbours[0]), silicon - neighbours[0]]
    density = damage.fluence(probe, (0.0, 0.0), around)
    barn = damage.exchange_cross_section(60e3) * density[:3].sum() + damage._REPLACED_BARN * density[3]
    expected = 1 / (barn * damage.BARN * beam.electrons(1.0))
    assert 12.0 < expected < 18.0
    waits, went = [], []
    for seed in range(100):
        microscope = VirtualMicroscope(sheet, conditions, seed, clock := Clock())
        microscope.rest(Rest(field, (0.5, 0.5), beam))
        while not microscope.exchanges:
            clock.now += 5.0
            microscope.advance()
        first = microscope.exchanges[0]
        waits.append(first.time_s)
        went.append(first.moved_to is not None and bool(np.allclose(first.moved_to, neighbours[0], atol=0.01)))
        assert first.position == pytest.approx(tuple(silicon))
        assert not microscope.ejections
        numbers = microscope.specimen.numbers
        assert len(numbers) == len(sheet)
        gone = sum(exchange.moved_to is None for exchange in microscope.exchanges)
        assert np.count_nonzero(numbers == 14) == 1 - gone
    assert np.mean(waits) == pytest.approx(expected, rel=4 / np.sqrt(100))
    share = damage.exchange_cross_section(60e3) * density[0] / barn
    assert np.mean(went) == pytest.approx(share, abs=0.08)


def test_a_beam_on_the_dopant_replaces_it_and_two_dopants_hold_each_other():
    sheet, silicon, neighbours = with_a_dopant()
    kinds = damage.possible_events(sheet, 60e3).partner
    assert np.count_nonzero(kinds >= 0) == 3
    assert np.count_nonzero(kinds == damage.REPLACED) == 1
    field = ScanField(fov=(10.0, 10.0), centre=(float(silicon[0]), float(silicon[1])))
    replaced = 0
    for seed in range(20):
        microscope = VirtualMicroscope(sheet, Conditions(), seed, clock := Clock())
        microscope.rest(Rest(field, (0.5, 0.5), Beam(current_pa=150.0)))
        while not microscope.exchanges:
            clock.now += 5.0
            microscope.advance()
        if microscope.exchanges[0].moved_to is None:
            replaced += 1
            assert not np.any(microscope.specimen.numbers == 14)
    assert replaced > 12  # the tails on its neighbours may move it first
    xy = sheet.positions[:, :2] - 20.0
    sheet.numbers[np.argmin(np.linalg.norm(xy - neighbours[0], axis=1))] = 14
    assert np.all(damage.possible_events(sheet, 60e3).partner == damage.LEAVES)


def test_the_same_seed_gives_the_same_history():
    def history(seed):
        microscope = VirtualMicroscope(mos2((60.0, 60.0)), Conditions(), seed, clock := Clock())
        microscope.rest(Rest(ScanField(fov=(10.0, 10.0)), (0.5, 0.5), Beam(energy_ev=80e3)))
        for _ in range(20):
            clock.now += 0.5
            microscope.advance()
        return microscope.ejections

    assert history(3) == history(3)
    assert history(3) != history(4)
    assert len(history(3)) > 0


def test_a_drifting_specimen_slides_under_the_parked_beam():
    line = atoms(*[(x, 0, 0, 16) for x in np.arange(-30.0, 1.0, 3.0)])
    conditions = Conditions(drift=(1.0, 0.0))
    microscope = VirtualMicroscope(line, conditions, 0, clock := Clock())
    microscope.rest(Rest(ScanField(fov=(10.0, 10.0)), (0.5, 0.5), Beam(energy_ev=80e3, current_pa=2000.0)))
    clock.now += 20.0
    microscope.advance()
    gone = [hit.position[0] for hit in microscope.ejections]
    assert -18.0 in np.round(gone)
    assert -24.0 not in np.round(gone)
    times = np.array([hit.time_s for hit in sorted(microscope.ejections, key=lambda hit: -hit.position[0])])
    assert np.all(np.diff(times) > 0)


# --- spectra ---------------------------------------------------------------------------------------------------------


def test_a_spectrum_keeps_every_electron():
    losses = np.arange(-50.0, 2000.0, 1.0)
    spectrum = eels.spectrum(graphene((60.0, 60.0)), (30.0, 30.0), losses, 60e3, 0.4)
    assert spectrum.sum() == pytest.approx(1.0, abs=2e-3)  # what lies beyond 2 keV is missing
    assert spectrum.min() >= 0
    assert losses[np.argmax(spectrum)] == 0.0


def test_channels_do_not_change_the_physics():
    fine, coarse = np.arange(-20.0, 700.0, 0.25), np.arange(-19.625, 700.0, 1.0)
    specimen = graphene((60.0, 60.0))
    spectra = [eels.spectrum(specimen, (30.0, 30.0), losses, 60e3, 0.4) for losses in (fine, coarse)]
    np.testing.assert_allclose(spectra[0].reshape(-1, 4).sum(axis=1), spectra[1], atol=1e-9)


def test_edges_stand_where_their_elements_are():
    specimen = atoms((0, 0, 0, 14), (10, 0, 0, 6), (20, 0, 0, 22))
    losses = np.arange(0.0, 600.0)
    silicon = eels.spectrum(specimen, (0.0, 0.0), losses, 60e3, 0.4)
    carbon = eels.spectrum(specimen, (10.0, 0.0), losses, 60e3, 0.4)
    titanium = eels.spectrum(specimen, (20.0, 0.0), losses, 60e3, 0.4)
    jump = lambda s, onset: s[onset + 2 : onset + 30].sum() - s[onset - 32 : onset - 4].sum()  # noqa: E731
    assert jump(silicon, 99) > 10 * abs(jump(carbon, 99))
    assert jump(carbon, 284) > 10 * abs(jump(silicon, 284))
    assert jump(titanium, 456) > 10 * abs(jump(carbon, 456))
    assert titanium[455:470].argmax() < 8  # its white line


def test_ionisation_cross_section_is_bethes():
    carbon = next(edge for edge in eels.EDGES if edge.name == "C K")
    assert eels.bethe_cross_section(carbon, 60e3) == pytest.approx(3.4e-4, rel=0.05)  # Å²
    assert eels.delocalisation(284.0, 60e3) < eels.delocalisation(99.0, 60e3) < eels.delocalisation(15.0, 60e3)


def test_areal_density_counts_the_atoms():
    specimen = graphene((80.0, 80.0), silicon=0.0)
    assert eels.areal_density(specimen, (40.0, 40.0), 6, 3.0) == pytest.approx(0.3818, rel=0.01)
    assert eels.areal_density(specimen, (40.0, 40.0), 14, 3.0) == 0.0


# --- diffraction -----------------------------------------------------------------------------------------------------


def test_deflection_points_to_the_atom_and_vanishes_on_it():
    specimen, probe = atoms((0, 0, 0, 42)), AberratedProbe(source_sigma=0.3)
    around = np.array([(0.5, 0.0), (0.0, 0.5), (-0.5, 0.0), (0.0, -0.5)])
    pull = diffraction.deflection(specimen, around, probe, 60e3)
    np.testing.assert_allclose(pull / np.linalg.norm(pull, axis=1)[:, None], -around / 0.5, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(pull, axis=1), np.linalg.norm(pull[0]), rtol=1e-3)
    np.testing.assert_allclose(diffraction.deflection(specimen, (0.0, 0.0), probe, 60e3), 0.0, atol=1e-6)
    assert 0.1 < np.linalg.norm(pull[0]) < 10.0  # mrad


def test_the_field_of_a_symmetric_place_is_zero():
    sheet = graphene((60.0, 60.0), silicon=0.0)
    centre = sheet.positions[np.argmin(np.linalg.norm(sheet.positions[:, :2] - 30.0, axis=1)), :2]
    hexagon = centre + np.array([0.0, 1.42])
    nearest = np.min(np.linalg.norm(sheet.positions[:, :2] - hexagon, axis=1))
    hexagon = hexagon if nearest > 1.3 else centre - np.array([0.0, 1.42])
    probe = AberratedProbe(source_sigma=0.3)
    np.testing.assert_allclose(diffraction.deflection(sheet, hexagon, probe, 60e3), 0.0, atol=0.01)


def test_interaction_constant():
    assert diffraction.interaction_constant(100e3) == pytest.approx(0.924e-3, rel=2e-3)  # rad/(V Å), Kirkland's table


@pytest.mark.parametrize("shift", [(0.0, 0.0), (1.37, -2.61)])
def test_a_pattern_is_normalised_and_its_centre_of_mass_is_the_deflection(shift):
    picture = diffraction.pattern((256, 256), 0.5, 30.0, shift, 0.0)
    rows, columns = np.indices(picture.shape)
    centre = [((index - 127.5) * picture).sum() * 0.5 / picture.sum() for index in (columns, rows)]
    np.testing.assert_allclose(centre, shift, atol=0.02)
    assert picture.sum() == pytest.approx(1.0, abs=0.01)
    with_halo = diffraction.pattern((1024, 1024), 0.5, 30.0, shift, 0.3)
    assert with_halo.sum() == pytest.approx(1.0, abs=0.01)
