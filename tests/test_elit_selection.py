"""Members that draw what cannot be atoms are found and left out; healthy ensembles stay whole."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import torch

from benchmarks.frames import frame
from stem_ae import StemAeError, cli, elit
from stem_ae.elit.network import UNet
from stem_ae.elit.selection import judge, select

BOND = {"graphene": 1.42, "mos2": 3.16 / 3**0.5}  # Å, of MoS2 in projection


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def spoiled(member: UNet, noise: float, seed: int = 0) -> UNet:
    """Return a copy whose weights are perturbed by a fraction of their own spread."""
    generator = torch.Generator().manual_seed(seed)
    twin = UNet(member.head.out_channels // 4 - 1, member.head.in_channels)
    twin.load_state_dict(member.state_dict())
    with torch.no_grad():
        for weight in twin.parameters():
            if weight.ndim > 1:
                weight += noise * weight.std() * torch.randn(weight.shape, generator=generator)
    return twin


def with_member(ensemble: elit.Ensemble, k: int, member: UNet) -> elit.Ensemble:
    members = list(ensemble.members)
    members[k] = member
    return elit.Ensemble(members, ensemble.description, ensemble.familiar)


@pytest.mark.parametrize(
    ("material", "dose", "degraded"), [("graphene", 1e5, True), ("graphene", 1e7, False), ("mos2", 3e4, True)]
)
def test_a_healthy_ensemble_stays_whole(material: str, dose: float, degraded: bool) -> None:
    ensemble = elit.load(material)
    truth = frame(material, dose, size=(300, 300), degraded=degraded, seed=4)
    same, verdicts = select(ensemble, truth.counts, truth.sampling)
    assert same is ensemble
    assert [v.member for v in verdicts] == [0, 1, 2, 3, 4]
    assert all(v.chosen and v.score > 0.7 for v in verdicts)
    for verdict in verdicts:  # as the literature does: the mean of three bonds, which noise does not shorten
        assert float(verdict.reason.split("bonds of ")[1].split()[0]) == pytest.approx(BOND[material], rel=0.01)


@pytest.mark.parametrize(("material", "noise"), [("graphene", 1.0), ("mos2", 1.0)])
def test_a_spoiled_member_is_found_and_left_out(material: str, noise: float) -> None:
    ensemble = elit.load(material)
    truth = frame(material, 1e6, size=(300, 300), seed=5)
    for bad in (0, 3):
        broken = with_member(ensemble, bad, spoiled(ensemble.members[bad], noise, seed=bad))
        better, verdicts = select(broken, truth.counts, truth.sampling)
        assert [v.member for v in verdicts if not v.chosen] == [bad]
        assert verdicts[bad].score < min(v.score for v in verdicts if v.chosen)
        assert verdicts[bad].reason.endswith(".")
        assert len(better) == 4
        alone = ensemble.subset([k for k in range(5) if k != bad])
        np.testing.assert_array_equal(
            better.predict(truth.counts, 0.104).atoms.positions, alone.predict(truth.counts, 0.104).atoms.positions
        )


def test_a_subset_answers_as_its_members_do_and_says_where_it_is_from(tmp_path: pathlib.Path) -> None:
    ensemble = elit.load("graphene")
    counts = frame("graphene", 1e6, size=(128, 128)).counts
    part = ensemble.subset([4, 1])
    assert part.members == (ensemble.members[4], ensemble.members[1])
    assert part.description.provenance["members_of"] == {"version": ensemble.version, "members": [4, 1]}
    assert part.version != ensemble.version
    assert elit.load(part.save(tmp_path / "part.safetensors")).version == part.version
    assert part.predict(counts, 0.104).novelty < 1.2
    for wrong in ([], [5], [-1]):
        with pytest.raises(StemAeError, match="members 0 to 4"):
            ensemble.subset(wrong)


def test_too_few_atoms_are_no_ground_to_judge_on() -> None:
    noise = np.random.default_rng(0).poisson(10, (100, 100)).astype(np.float32)
    with pytest.raises(StemAeError, match="too few"):
        judge(elit.load("mos2"), noise, 0.104)


def test_the_command_line_says_which_networks_to_trust(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ensemble = elit.load("graphene")
    broken = with_member(ensemble, 2, spoiled(ensemble.members[2], 1.0)).save(tmp_path / "broken.safetensors")
    np.save(tmp_path / "frame.npy", frame("graphene", 1e6, size=(256, 256), seed=6).counts)
    image, better = tmp_path / "frame.npy", tmp_path / "better.safetensors"
    common = ["models", "check", str(broken), str(image), "--sampling", "0.104"]
    assert not cli.main([*common, "--json", "--output", str(better)])
    answer = json.loads(capsys.readouterr().out)
    assert [m["chosen"] for m in answer["members"]] == [True, True, False, True, True]
    assert elit.load(better).version == answer["version"]
    assert not cli.main(common)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if "left out" in line] == ["2"]
