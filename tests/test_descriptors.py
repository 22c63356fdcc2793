"""Descriptors: windows, components, unmixing and invariance, each against a known answer."""

import numpy as np
import pytest

from stem_ae import elit
from stem_ae.atoms import Atoms2D
from stem_ae.descriptors.learnt import learnt_features
from stem_ae.descriptors.patches import CircularHarmonics, LocalShape, PrincipalComponents
from stem_ae.descriptors.rvae import RotationInvariantVAE
from stem_ae.descriptors.unmixing import Unmixing, clearest, nfindr
from stem_ae.descriptors.windows import Windows, cut, regular_centres
from stem_ae.descriptors.workflows import FourierModulus, FourierUnmixing, InvariantLatent, around_atoms, pick
from stem_ae.errors import StemAeError
from stem_ae.explore import Explorer
from stem_ae.imaging.adf import expected_fraction
from stem_ae.imaging.eels import areal_density
from stem_ae.imaging.probe import GaussianProbe
from stem_ae.imaging.scattering import cross_section
from stem_ae.imaging.specimens import graphene


def test_windows_are_where_they_say():
    image = np.arange(20 * 30, dtype=float).reshape(20, 30)
    windows = Windows.regular(image, 5, step=3)
    assert windows.map_shape == (6, 9)
    for centre, window in zip(windows.centres, windows.all(), strict=True):
        np.testing.assert_array_equal(window, image[centre[0] - 2 : centre[0] + 3, centre[1] - 2 : centre[1] + 3])
    even = cut(image, np.array([[8, 8]]), 16)[0]
    np.testing.assert_array_equal(even, image[:16, :16])  # the centre of an even window is its pixel size // 2


def test_windows_beyond_the_edge_are_mirrored():
    image = np.random.default_rng(0).normal(size=(20, 20))
    corner = cut(image, np.array([[0, 0]]), 5)[0]
    np.testing.assert_array_equal(corner, image[np.ix_([2, 1, 0, 1, 2], [2, 1, 0, 1, 2])])


def test_maps_follow_the_grid_whatever_the_order():
    image = np.random.default_rng(0).normal(size=(24, 24))
    centres = regular_centres((24, 24), 8, 2)
    shuffled = np.random.default_rng(1).permutation(centres)
    windows = Windows(image, shuffled, 8)
    values = shuffled[:, 0] * 100.0 + shuffled[:, 1]
    np.testing.assert_array_equal(windows.as_map(values), (centres[:, 0] * 100.0 + centres[:, 1]).reshape(9, 9))
    assert Windows(image, shuffled[:-1], 8).map_shape == (80,)


@pytest.mark.parametrize(
    ("image", "centres", "size"),
    [
        (np.zeros((4, 4, 3)), [[1, 1]], 2), (np.full((8, 8), np.nan), [[4, 4]], 4), (np.zeros((8, 8)), [[8, 0]], 4),
        (np.zeros((8, 8)), [[0.5, 1]], 4), (np.zeros((8, 8)), [[4, 4]], 9), (np.zeros((8, 8)), np.zeros((0, 2)), 4),
    ],
)
def test_impossible_windows_are_refused(image, centres, size):
    with pytest.raises(StemAeError):
        Windows(image, np.asarray(centres), size)


def test_principal_components_agree_with_the_singular_value_decomposition():
    rng = np.random.default_rng(0)
    data = rng.normal(size=(300, 12)) @ np.diag(np.arange(12, 0, -1)) + 50
    ours = PrincipalComponents.fit([data[:100], data[100:]], 4)
    _, s, vt = np.linalg.svd(data - data.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(np.sum(ours.components.T * vt[:4], axis=1)), 1, atol=1e-9)
    np.testing.assert_allclose(ours.scale, s[:4] / np.sqrt(300))
    np.testing.assert_allclose(ours.transform(data).var(axis=0), ours.scale**2)


def test_local_shape_is_invariant_to_quarter_turns_and_knows_a_paraboloid():
    patch = np.random.default_rng(0).normal(size=(1, 17, 17))
    shape = LocalShape(17)
    np.testing.assert_allclose(shape.transform(np.rot90(patch, axes=(1, 2))), shape.transform(patch), atol=1e-12)
    y, x = np.mgrid[-16:17, -16:17].astype(float)
    bowl = 3 * x + 0.5 * (x**2 + 2 * y**2)
    f, slope, laplacian, saddle = LocalShape(33, scales=(2.0,)).transform(bowl[None])[0]
    assert f == pytest.approx(0.5 * 3 * 4, rel=1e-3)  # the mean of x² and y² under the Gaussian is sigma²
    assert slope == pytest.approx(2 * 3, rel=1e-3)
    assert laplacian == pytest.approx(4 * 3 * 1, rel=0.02)
    assert saddle == pytest.approx(4 * 1, rel=0.02)


def mixtures(rng, n=400, channels=60, noise=0.0):
    e = np.arange(channels)
    parts = np.stack([np.exp(-0.5 * ((e - c) / 5) ** 2) for c in (12, 30, 46)]) + 0.05
    abundance = rng.dirichlet([0.4] * 3, n)
    abundance[:3] = np.eye(3)  # a pure spectrum of each
    return parts, abundance, abundance @ parts + rng.normal(0, noise, (n, channels)) if noise else abundance @ parts


def test_circular_harmonics_know_a_gap_whichever_way_it_runs():
    size = 16
    y, x = np.indices((size, size)) - size // 2

    def gap(width, angle):
        across = x * np.cos(angle) + y * np.sin(angle)
        return 1 / (1 + np.exp((width / 2 - np.abs(across)) / 0.7))

    harmonics = CircularHarmonics(size)
    angles = np.linspace(0, np.pi, 13)
    narrow, wide = (harmonics.transform(np.stack([gap(width, a) for a in angles])) for width in (3.0, 5.0))
    within = np.linalg.norm(narrow - narrow.mean(axis=0), axis=1).max()
    assert within < 0.25 * np.linalg.norm(narrow.mean(axis=0) - wide.mean(axis=0))
    np.testing.assert_allclose(harmonics.transform(np.ones((1, size, size))).reshape(4, 5), [[1, 0, 0, 0, 0]] * 4,
                               atol=1e-12)  # fmt: skip
    three = 1 + np.cos(3 * np.arctan2(y, x)) * (np.hypot(y, x) > 2)  # threefold
    assert harmonics.transform(three[None]).reshape(4, 5)[2, 1:].argmax() == 2
    shifted = np.roll(gap(3.0, 0.0), 3, axis=1)
    assert np.linalg.norm(harmonics.transform(shifted[None])[0] - narrow[0]) > 5 * within


def test_nfindr_finds_the_pure_spectra_and_their_shares():
    _, abundance, spectra = mixtures(np.random.default_rng(0))
    assert sorted(nfindr(spectra, 3)) == [0, 1, 2]
    unmixing = Unmixing.fit(spectra, "nfindr", 3)
    found = unmixing.transform(spectra)
    order = [int(np.argmax(found[k])) for k in range(3)]
    np.testing.assert_allclose(found[:, order], abundance, atol=1e-6)


@pytest.mark.parametrize("method", ["nmf", "svd"])
def test_components_explain_the_data(method):
    pytest.importorskip("sklearn")
    parts, _, spectra = mixtures(np.random.default_rng(1))
    n = 3 if method == "nmf" else 2  # three mixtures of constant sum lie on a plane
    unmixing = Unmixing.fit(spectra, method, n)
    back = unmixing.transform(spectra) @ unmixing.components + unmixing.offset
    assert np.abs(back - spectra).max() < (0.02 if method == "nmf" else 1e-9)
    if method == "nmf":
        match = np.corrcoef(np.vstack([parts, unmixing.components]))[:3, 3:]
        assert match.max(axis=1).min() > 0.95


def test_a_live_measurement_is_transformed_like_the_training_data():
    image = np.random.default_rng(0).normal(size=(40, 40)) + 5
    windows = Windows.regular(image, 12, step=2)
    for method in ("nmf", "svd", "nfindr"):
        if method == "nmf":
            pytest.importorskip("sklearn")
        workflow = FourierUnmixing.fit(windows, method, 3)
        maps = workflow.maps(windows)
        r, c = windows.centres[17]
        alone = workflow.transform(image[None, r - 6 : r + 6, c - 6 : c + 6])
        np.testing.assert_allclose(alone[0], maps.reshape(-1, 3)[17], atol=1e-9)


def test_fourier_modulus_ignores_origin_and_brightness():
    y, x = np.mgrid[:64, :64]
    lattice = np.cos(2 * np.pi * x / 4) + np.cos(2 * np.pi * y / 4)
    modulus = FourierModulus(24)
    here = modulus.transform(lattice[None, :24, :24])
    there = modulus.transform(lattice[None, 3:27, 3:27] + 9.0)
    np.testing.assert_allclose(here, there, atol=0.02 * here.max())
    assert here.shape == (1, modulus.length)


def test_two_lattices_are_told_apart():
    """Workflow 1 on a field of which one third has another lattice: the clearest component is its map."""
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96]
    inside = x > 64
    image = np.where(inside, np.cos(2 * np.pi * x / 5) * np.cos(2 * np.pi * y / 5), np.cos(2 * np.pi * (x + y) / 7))
    windows = Windows.regular(image + rng.normal(0, 0.5, image.shape), 16, step=4)
    truth = inside[tuple(windows.centres.T)].reshape(windows.map_shape)
    for method in ("nmf", "svd", "nfindr"):
        found = pick(FourierUnmixing.fit(windows, method, 3).maps(windows))
        middle = (found[truth].mean() + found[~truth].mean()) / 2
        right = np.mean((found > middle) == truth)
        assert max(right, 1 - right) > 0.93, method


def test_clearest_is_the_bimodal_column_whatever_its_scale():
    rng = np.random.default_rng(0)
    step = np.repeat([0.0, 1.0], 100) + rng.normal(0, 0.1, 200)
    assert clearest(np.column_stack([1e3 * rng.normal(size=200), 1e-3 * step, rng.uniform(size=200)])) == 1


def motifs(n, rng, size=16, kind=None):
    """Two or three unequal blobs around the centre, turned at random; returns patches, kind and angle."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    kind, angle = rng.integers(0, 2, n) if kind is None else kind, rng.uniform(-np.pi, np.pi, n)
    patches = rng.normal(0, 0.1, (n, size, size))
    for k in range(n):
        weights = (1.0, 0.6) if kind[k] == 0 else (1.0, 0.6, 0.8)
        for j, weight in enumerate(weights):
            t = angle[k] + 2 * np.pi * j / len(weights)
            patches[k] += weight * np.exp(-((x - 4 * np.cos(t)) ** 2 + (y - 4 * np.sin(t)) ** 2) / (2 * 1.3**2))
    return patches, kind, angle


@pytest.mark.slow
def test_autoencoder_tells_kinds_apart_whatever_their_angle():
    rng = np.random.default_rng(0)
    patches, kind, _ = motifs(600, rng)
    fresh, fresh_kind, _ = motifs(300, rng)
    network = RotationInvariantVAE.fit(patches, 2, epochs=40, seed=0)
    known, seen = network.encode(patches).content, network.encode(fresh)
    nearest = np.argmin(((seen.content[:, None] - known[None]) ** 2).sum(-1), axis=1)
    assert np.mean(kind[nearest] == fresh_kind) > 0.97
    quarter = network.encode(np.rot90(fresh, axes=(1, 2)))
    np.testing.assert_allclose(quarter.content, seen.content, atol=1e-3 * seen.content.std())
    turned = np.angle(np.exp(1j * (quarter.angle - seen.angle)))
    np.testing.assert_allclose(turned, -np.pi / 2, atol=1e-3)  # rot90 turns towards -y, which is up
    spread = [seen.content[fresh_kind == which].std(axis=0) for which in (0, 1)]
    apart = np.abs(np.subtract(*(seen.content[fresh_kind == which].mean(axis=0) for which in (0, 1))))
    assert (apart / np.maximum(*spread)).max() > 1  # kinds differ by more than angles do
    elsewhere = network.encode(motifs(300, rng, kind=fresh_kind)[0]).content  # the same kinds, turned by any angle
    moved = np.linalg.norm(elsewhere - seen.content, axis=1)
    assert np.median(moved) < 0.5 * np.linalg.norm(apart)


def test_autoencoder_is_reproducible_and_refuses_nonsense():
    patches, _, _ = motifs(64, np.random.default_rng(0), size=8)
    first, second = (RotationInvariantVAE.fit(patches, epochs=2, seed=3).encode(patches).content for _ in range(2))
    np.testing.assert_array_equal(first, second)
    for bad in (patches[:3], np.ones((64, 8, 8)), patches[:, :, :5]):
        with pytest.raises(StemAeError):
            RotationInvariantVAE.fit(bad)


def test_windows_around_atoms_are_centred_on_them():
    image = np.zeros((40, 50))
    image[12, 33] = 1
    atoms = Atoms2D(
        np.array([[33.2, 11.9], [99.0, 3.0]]) * 0.1, np.zeros((2, 2, 2)), [0, 0], ("C",), np.ones((2, 1)), [1, 1],
        image.shape, 0.1,
    )
    windows = around_atoms(image, atoms, 9)
    assert len(windows) == 1  # the other lies outside the image
    assert windows.all()[0, 4, 4] == 1
    noise = np.random.default_rng(0).normal(size=image.shape)
    latent = InvariantLatent.fit(Windows.regular(image + noise, 9, 4), epochs=1)
    assert latent.transform(windows.all()).shape == (1, 2)


def test_a_trained_network_knows_its_atoms_and_serves_the_explorer():
    """Its features tell silicon in graphene, at any turn, from what it learnt on images; they follow the sampling."""
    sheet = graphene((60.0, 60.0), silicon=0.02, rotation=17.0, seed=3)
    ensemble = elit.load("graphene")
    known = {}
    for sampling in (0.15, 0.2):
        shape = (int(60 / sampling),) * 2
        fraction = expected_fraction(
            sheet.positions[:, :2], cross_section(sheet.numbers, "HAADF"), shape, sampling, GaussianProbe(0.5)
        )
        image = np.random.default_rng(0).poisson(100 * fraction / fraction.mean())
        points = regular_centres(shape, 32, 6)
        features = learnt_features(ensemble, image, sampling, points)
        assert features.shape == (len(points), 16)
        truth = areal_density(sheet, points[:, ::-1] * sampling, 14, 2.0)
        explorer = Explorer(image, sampling=sampling, surrogate="descriptor", candidates=points, features=features)
        chosen = np.random.default_rng(1).choice(len(points), 120, replace=False)
        explorer.tell(points[chosen], truth[chosen])
        rest = np.setdiff1d(np.arange(len(points)), chosen)
        error = (explorer.mean.ravel() - truth)[rest]
        known[sampling] = 1 - (error**2).mean() / truth[rest].var()
    assert min(known.values()) > 0.5
