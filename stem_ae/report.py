"""A one-page HTML report that is one file: pictures are inside, nothing is fetched."""

from __future__ import annotations

import base64
import dataclasses
import html
import mimetypes
import pathlib
from collections.abc import Mapping, Sequence

STYLE = """
body { background: #15181c; color: #d7dade; font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; color: #fff; }
img { max-width: 100%; border-radius: 4px; } figure { margin: 0.8rem 0; } figcaption, .lead { color: #9aa0a6; }
table { border-collapse: collapse; } td { padding: 0.15rem 1.2rem 0.15rem 0; vertical-align: top; }
td:first-child { color: #9aa0a6; } code { background: #22262b; padding: 0.1rem 0.3rem; border-radius: 3px; }
"""


@dataclasses.dataclass(frozen=True)
class Section:
    """One part of the page.

    Parameters
    ----------
    heading : str
        Its title.
    text : str
        A paragraph.
    rows : mapping
        A table of names and values.
    pictures : sequence of (path, str)
        Image files, each with its caption.
    """

    heading: str
    text: str = ""
    rows: Mapping[str, object] = dataclasses.field(default_factory=dict)
    pictures: Sequence[tuple[pathlib.Path, str]] = ()


def write(path: pathlib.Path, title: str, lead: str, sections: Sequence[Section]) -> pathlib.Path:
    """Write the page and return its path."""
    body = "\n".join(_section(section) for section in sections)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n"
        f'<p class="lead">{html.escape(lead)}</p>\n{body}\n</body></html>\n'
    )
    path.write_text(page, encoding="utf-8")
    return path


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.heading)}</h2>"]
    if section.text:
        parts.append(f"<p>{html.escape(section.text)}</p>")
    if section.rows:
        cells = (
            f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>"
            for name, value in section.rows.items()
        )
        parts.append(f"<table>{''.join(cells)}</table>")
    parts.extend(_figure(picture, caption) for picture, caption in section.pictures)
    return "\n".join(parts)


def _figure(picture: pathlib.Path, caption: str) -> str:
    kind = mimetypes.guess_type(picture.name)[0] or "image/png"
    data = base64.b64encode(picture.read_bytes()).decode("ascii")
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="data:{kind};base64,{data}"><figcaption>{text}</figcaption></figure>'
