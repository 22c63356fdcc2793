"""Contact sheet: the bundled models on real images that they were not trained on, with what is right and wrong.

    python benchmarks/real_images.py FOLDER                     # writes docs/images/contact_sheet.png and its table
    python benchmarks/real_images.py FOLDER --all sheet.png     # every image, for looking only
    python benchmarks/real_images.py FOLDER --adapted           # before and after adapting: some CPU-minutes

FOLDER holds the images, which are not part of this project. Only those whose licence permits it are on the sheet in
docs; the others can be looked at with ``--all``, outside the repository.
"""

# ruff: noqa: E501  the remarks are prose
from __future__ import annotations

import argparse
import dataclasses
import pathlib
import textwrap
import time

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from stem_ae import elit, find, imageio, picture
from stem_ae.errors import StemAeError

DOCS = pathlib.Path(__file__).parents[1] / "docs"
COLUMNS = 3
ADAPTED_TITLE = "## Before and after adapting"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One image: how to look at it, what came out in the eyes of a person, and whose it is.

    ``credit`` is empty where no licence permits showing the image.
    """

    file: str
    model: str
    remark: str
    credit: str = ""
    sampling: str | None = None
    dataset: str | None = None
    columns_shown: int | None = None
    adapted: str = ""
    """The remark after adapting; empty where the model is for another crystal, to which no adapting helps."""


SCILINK = "ziatdinovmax/SciLink, MIT"
ATOMSEGNET = "xinhuolin/AtomSegNet, MIT"
TEMUL = "PinkShnack/TEMUL, GPL-3.0"

ENTRIES = [
    Entry(
        "MoS2_stem_Exp-000-2.npy",
        "mos2",
        "Right: every Mo and S column has a ring, up to the border and through the scan jitter. Doubtful: one S column in "
        "nine is called S1, more than vacancies alone explain; at this dose S1 and S2 overlap. Vanadium on Mo sites is not "
        "a class of the model and is called Mo or S2; three such columns, a third as bright as Mo, are pointed out.",
        SCILINK,
        adapted="Two columns more, a frame that is more familiar, and twelve S1 fewer; nobody can say of these twelve which "
        "reading is right. The three columns that are too dim for Mo still are: adapting teaches no element.",
    ),
    Entry(
        "MoS2_stem_Exp-002-5.npy",
        "mos2",
        "The file states 0.1758 Å/px, wrong by 37 %; the lattice is asked instead. Right: the columns, also under the "
        "contamination on the left and beside the holes. Wrong: far too many S1, and in the disturbed region on the "
        "right some rings stand on noise. Two columns called Mo, with a third and a quarter of its intensity, and a bright "
        "one of S2 are pointed out.",
        SCILINK,
        sampling="lattice",
        adapted="Nine columns more, eleven S1 fewer, and a frame that is a little more familiar. Contamination is not what "
        "adapting to probe and noise can learn, and S1 still are too many.",
    ),
    Entry(
        "CdTe_twin_HAADF26.dm3",
        "mos2",
        "No model for CdTe is bundled. Right: it hardly finds anything and says that the frame is unfamiliar. Wrong: the "
        "few rings mean nothing, and the lattice estimate looks for a hexagon where there is none, with full confidence.",
        "MaterialEyes/ingrained, GPL-3.0; Guo et al., APL 115, 153901",
    ),
    Entry(
        "AtomSegNet_Si110_5nm_25us.png",
        "graphene",
        "A model for another crystal. Right: both columns of nearly every dumbbell, and the warning that the frame is "
        "unfamiliar. Wrong: the C rings are noise and false; thickness and a second material are not in the training.",
        ATOMSEGNET,
        sampling=str(50 / 512),
    ),
    Entry(
        "AtomSegNet_10_dso_8nm.png",
        "mos2",
        "A model for another crystal, and the frame is called unfamiliar. Right: a ring on every heavy column. Wrong: "
        "what it calls Mo are Dy; the faint Sc columns between them are missed.",
        ATOMSEGNET,
        sampling=str(80 / 1024),
    ),
    Entry(
        "TEMUL_PTO-SRO_aligned.hspy",
        "mos2",
        "A fifth of the image is shown. A model for another crystal, and the frame is called unfamiliar. Right: the bright "
        "columns of both layers. Wrong: of the faint columns between them many are missed at the interfaces, and the "
        "classes mean nothing here.",
        TEMUL,
        columns_shown=260,
    ),
    Entry(
        "TEMUL_Au_NP_Atom_Lattice.hdf5",
        "mos2",
        "Fails: nothing is found of 141 columns that a person marked. Right: it says that a thick particle on a bright slope "
        "is nothing that the model has seen. The file states no sampling; 0.15 Å/px is a guess.",
        TEMUL,
        sampling="0.15",
        dataset="image_data0",
    ),
    Entry(
        "particlespy_SiO2_HAADF.hspy",
        "graphene",
        "Right: it declines, since atoms cannot be seen at 85 Å per pixel.",
        "ePSIC-DLS/particlespy, GPL-3.0",
    ),
    Entry(
        "G-GrainBoundary-6nm.npy",
        "graphene",
        "Right: the rings of five and seven along the boundary, and the lattice up to the contamination. Wrong: what it "
        "finds on the contamination and the Si at its edge.",
        sampling="lattice",
    ),
    Entry(
        "G-Si-2nm.npy",
        "graphene",
        "Right: the Si and the lattice through heavy noise. Doubtful: the atoms around the Si; some stand too close.",
        sampling="0.078",
    ),
    Entry(
        "G-trimSi.hdf5",
        "graphene",
        "Right: three Si and the lattice around them. The sampling is not in the file, and the few cells in view are not "
        "enough to measure it.",
        sampling="0.0383",
    ),
    Entry(
        "hyperspy-demos_ABF_movie_5f.hspy",
        "mos2",
        "Right: bright field has dark atoms; nearly nothing is found and the frame is called unfamiliar.",
    ),
]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the program said: a line of figures, or the sentence with which it declined."""

    entry: Entry
    line: str


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """An image and the model to look at it with."""

    frame: NDArray[np.float32]
    ensemble: elit.Ensemble
    sampling: find.Sampling

    @classmethod
    def of(cls, entry: Entry, folder: pathlib.Path) -> Subject:
        """Read an entry's image, and load its model."""
        measure = entry.sampling == "lattice"
        stated = None if measure else find.parse_sampling(entry.sampling)
        stack = imageio.read(folder / entry.file, dataset=entry.dataset, sampling=stated)
        ensemble = elit.load(entry.model)
        constant = ensemble.description.lattice_constant
        frame = stack.frames[0]
        return cls(frame, ensemble, find.choose_sampling(frame, stack.sampling, stack.sampling_source, constant, measure))


def show(axes: Axes, entry: Entry, folder: pathlib.Path) -> Outcome:
    """Find the atoms of one image and draw them, or say why not."""
    try:
        subject = Subject.of(entry, folder)
        prediction = subject.ensemble.predict(subject.frame, sampling=subject.sampling.value)
    except StemAeError as error:
        stack = imageio.read(folder / entry.file, dataset=entry.dataset)
        picture.show_image(axes, stack.frames[0], stack.sampling)
        return Outcome(entry, f"{entry.model}: {error}")
    picture.rings(axes, subject.frame, prediction.atoms)
    sampling = subject.sampling
    line = f"{entry.model}: {_counts(prediction)}; {sampling.value[1]:.4f} Å/px {sampling.source}; {_novelty(prediction)}"
    return Outcome(entry, line + (f". Warns: {sampling.warning}" if sampling.warning else ""))


def _counts(prediction: elit.Prediction) -> str:
    return ", ".join(f"{count} {name}" for name, count in prediction.atoms.counts().items())


def _novelty(prediction: elit.Prediction) -> str:
    words = f"novelty {prediction.conditions:.2f}" + (" (unfamiliar)" if prediction.conditions > 1 else "")
    foreign = len(prediction.foreign)
    return words + (f", {foreign} columns too bright or dim for any class" if foreign else "")


def sheet(entries: list[Entry], folder: pathlib.Path, path: pathlib.Path) -> list[Outcome]:
    """Write the contact sheet and return what was said about each image."""
    rows = -(-len(entries) // COLUMNS)
    figure = picture.dark_figure(6.0 * COLUMNS, 7.6 * rows, layout=None)
    grid = np.ravel(figure.subplots(rows, COLUMNS, squeeze=False))
    top = 1 - 0.4 / (7.6 * rows)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=1.9 / (7.6 * rows), top=top, wspace=0.03, hspace=0.38)
    outcomes = []
    for axes, entry in zip(grid, entries, strict=False):
        outcome = show(axes, entry, folder)
        outcomes.append(outcome)
        print(f"{entry.file}: {outcome.line}", flush=True)
        axes.set_title(entry.file, color=picture.INK, fontsize=11)
        axes.set_anchor("N")
        if entry.columns_shown:
            axes.set_xlim(-0.5, entry.columns_shown - 0.5)
        words = [line for text in (outcome.line, entry.remark, entry.credit) for line in textwrap.wrap(text, 82)]
        cell = axes.get_subplotspec().get_position(figure)  # type: ignore[union-attr]
        figure.text(cell.x0, cell.y0 - 0.003, "\n".join(words), color=picture.INK, fontsize=9.5, va="top")
    for axes in grid[len(entries) :]:
        axes.set_axis_off()
    picture.save(figure, path, dpi=90)
    return outcomes


def adapted_sheet(entries: list[Entry], folder: pathlib.Path, path: pathlib.Path) -> list[Outcome]:
    """Write the sheet of those images to which a model can be adapted, before and after, and return what changed."""
    figure = picture.dark_figure(16.0, 8.6 * len(entries))
    rows = figure.subplots(len(entries), 2, squeeze=False)
    outcomes = []
    for (left, right), entry in zip(rows, entries, strict=True):
        subject = Subject.of(entry, folder)
        start = time.process_time()
        adapted = elit.adapt(subject.ensemble, [subject.frame], subject.sampling.value)
        seconds = time.process_time() - start
        words = []
        for axes, when, ensemble in ((left, "before", subject.ensemble), (right, "after", adapted)):
            prediction = ensemble.predict(subject.frame, sampling=subject.sampling.value)
            picture.rings(axes, subject.frame, prediction.atoms)
            words.append(f"{when}: {_counts(prediction)}; {_novelty(prediction)}")
            axes.set_title(f"{entry.file}\n{words[-1]}", color=picture.INK, fontsize=12)
        outcomes.append(Outcome(entry, f"{'; '.join(words)}; {seconds:.0f} CPU-s"))
        print(f"{entry.file}: {outcomes[-1].line}", flush=True)
    picture.save(figure, path, dpi=80)
    return outcomes


def table(outcomes: list[Outcome]) -> str:
    """Return the sheet's words as Markdown."""
    lines = [
        "# Real images",
        "",
        "The bundled models on images that other people have published, none of which was used in training. Every line",
        "below the pictures is the program's own; the remarks are ours, after looking.",
        "",
        "![contact sheet](images/contact_sheet.png)",
        "",
        "| image | what the program says | what is right and wrong | source, licence |",
        "|---|---|---|---|",
    ]
    rows = [f"| {o.entry.file} | {o.line} | {o.entry.remark} | {o.entry.credit} |" for o in outcomes]
    command = "`python benchmarks/real_images.py FOLDER`"
    return "\n".join([*lines, *rows, "", f"Made by {command}; the images themselves are not part of this project.", ""])


def adapted_table(outcomes: list[Outcome]) -> str:
    """Return what adapting changed as Markdown."""
    lines = [
        ADAPTED_TITLE,
        "",
        "*Adapt to this frame* on the images of a material that a bundled model knows; left before, right after. No labels.",
        "",
        "![before and after adapting](images/contact_sheet_adapted.png)",
        "",
        "| image | what the program says | what changed |",
        "|---|---|---|",
    ]
    rows = [f"| {o.entry.file} | {o.line} | {o.entry.adapted} |" for o in outcomes]
    return "\n".join([*lines, *rows, "", "Made by `python benchmarks/real_images.py FOLDER --adapted`.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path, help="where the images are")
    parser.add_argument("--all", type=pathlib.Path, metavar="PNG", help="write a sheet of every image here instead")
    parser.add_argument("--adapted", action="store_true", help="write the sheet of before and after adapting instead")
    arguments = parser.parse_args()
    if arguments.all:
        sheet(ENTRIES, arguments.folder, arguments.all)
        return
    document = DOCS / "real_images.md"
    first, _, second = document.read_text(encoding="utf-8").partition(ADAPTED_TITLE)
    published = [entry for entry in ENTRIES if entry.credit]
    if arguments.adapted:
        adaptable = [entry for entry in published if entry.adapted]
        second = adapted_table(adapted_sheet(adaptable, arguments.folder, DOCS / "images" / "contact_sheet_adapted.png"))
    else:
        first = table(sheet(published, arguments.folder, DOCS / "images" / "contact_sheet.png")) + "\n"
        second = ADAPTED_TITLE + second
    document.write_text(first.rstrip("\n") + "\n\n" + second, encoding="utf-8")


if __name__ == "__main__":
    main()
