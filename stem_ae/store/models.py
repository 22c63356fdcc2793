"""The model store: bundled models, and the user's own beside them."""

from __future__ import annotations

import json
import os
import pathlib
import re

import platformdirs

from stem_ae.errors import StemAeError

_BUNDLED = pathlib.Path(__file__).parent.parent / "elit" / "models"
_SUFFIX = ".safetensors"


def user_folder() -> pathlib.Path:
    """Return where the user's models are kept; ``STEM_AE_MODELS`` overrides it."""
    override = os.environ.get("STEM_AE_MODELS")
    return pathlib.Path(override) if override else platformdirs.user_data_path("stem_ae", appauthor=False) / "models"


def names() -> list[str]:
    """Return the names of all models, bundled ones first."""
    own = sorted(path.stem for path in user_folder().glob("*" + _SUFFIX))
    bundled = sorted(path.stem for path in _BUNDLED.glob("*" + _SUFFIX))
    return bundled + [name for name in own if name not in bundled]


def find(name: str | pathlib.Path) -> pathlib.Path:
    """Return the file of a model, given its name or its path.

    Raises
    ------
    StemAeError
        If there is none.
    """
    path = pathlib.Path(name)
    if path.suffix == _SUFFIX:
        return path
    for folder in (_BUNDLED, user_folder()):
        if (folder / f"{name}{_SUFFIX}").is_file():
            return folder / f"{name}{_SUFFIX}"
    known = ", ".join(names()) or "none"
    raise StemAeError(f"There is no model {str(name)!r}: choose one of {known}, or give a path to a {_SUFFIX} file.")


def material(name: str) -> str:
    """Return the key of the material that a model was made for, empty if it is none that we know.

    Only the file's header is read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(find(name), "np") as file:
            return str(json.loads((file.metadata() or {})["stem_ae"]).get("material", ""))
    except (OSError, SafetensorError, KeyError, ValueError, AttributeError):
        return ""


def new_path(name: str) -> pathlib.Path:
    """Return the path at which a new model of the user's is to be written.

    Raises
    ------
    StemAeError
        If the name is taken or cannot be a file's name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise StemAeError(f"{name!r} cannot name a model: use letters, digits, dots, dashes and underscores.")
    if name in names():
        raise StemAeError(f"There is already a model {name!r}: choose another name or remove that one.")
    user_folder().mkdir(parents=True, exist_ok=True)
    return user_folder() / f"{name}{_SUFFIX}"


def remove(name: str) -> None:
    """Delete one of the user's models.

    Raises
    ------
    StemAeError
        If it is bundled or does not exist.
    """
    path = find(name)
    if path.parent == _BUNDLED:
        raise StemAeError(f"The model {name!r} is part of stem_ae and stays.")
    path.unlink()
