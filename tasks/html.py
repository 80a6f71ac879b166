"""Markdown and pictures as one self-contained HTML file."""

import base64
from html import escape

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #111827; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: .9rem; }
th, td { border-bottom: 1px solid #d1d5db; padding: .35rem .75rem; text-align: left; vertical-align: top; }
td { font-variant-numeric: tabular-nums; }
th { background: #f3f4f6; }
tr:hover td { background: #f9fafb; }
code { background: #f3f4f6; padding: .1rem .3rem; }
figure { margin: 1.5rem 0; }
figure img { max-width: 100%; border: 1px solid #d1d5db; }
figcaption { color: #6b7280; font-size: .85rem; }
"""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What a browser may do with the file: show its own pictures and style, run and load nothing."""


def page(title: str, markdown: str, pictures: dict[str, bytes]) -> str:
    """An HTML file that needs no other file and no network.

    Args:
        title: of the window.
        markdown: the text.  Whatever stands in it is shown and never taken as HTML; links and images are
            shown as they are written, since names in it come from the log.
        pictures: PNGs by what they show.
    """
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link", "autolink"])
    figures = "\n".join(_figure(caption, picture) for caption, picture in pictures.items())
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"{reader.render(markdown)}{figures}\n</body>\n</html>\n"
    )


def _figure(caption: str, picture: bytes) -> str:
    encoded = base64.b64encode(picture).decode()
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{encoded}"><figcaption>{text}</figcaption></figure>'
