"""A report of few parts: a template over `sheet.html.j2`, pictures and figures in, one page that needs no network out.

Unlike analyze's page it has no script, so that what is in it can be read, printed and sent by anyone.
"""

import base64
import json
import pathlib

import jinja2
import markupsafe

_HERE = pathlib.Path(__file__).parent


def page(template: str, metrics: dict, files: dict[str, bytes], **more: object) -> bytes:
    """The page, UTF-8; equal input gives equal bytes.

    Args:
      template: a file of this folder that fills the blocks of sheet.html.j2.
      metrics: the figures, `m` in the template.
      files: of them the pictures, name.png, are `images.name` in the template, base64.
      more: what else the template may name.
    """
    images = {n.removesuffix(".png"): base64.b64encode(d).decode() for n, d in files.items() if n.endswith(".png")}
    # Escaping on: names come from anywhere and may hold HTML.
    rules = {"autoescape": True, "undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(**rules, loader=jinja2.FileSystemLoader(_HERE))
    style = markupsafe.Markup((_HERE / "report.css").read_text(encoding="utf-8"))
    return environment.get_template(template).render(m=metrics, images=images, style=style, **more).encode()


def json_of(metrics: dict) -> bytes:
    """The figures as a file: keys sorted, no NaN, UTF-8."""
    return json.dumps(metrics, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False).encode() + b"\n"
