"""What all reports are made by: a template over `report_base.html.j2`, JSON and CSV; equal input gives equal bytes.

A page is one file that needs no network; without a script it can be read, printed and sent by anyone.
"""

import base64
import csv
import hashlib
import io
import json
import pathlib
from collections.abc import Sequence

import jinja2
import markupsafe

_HERE = pathlib.Path(__file__).parent


def page(template: str, metrics: dict, files: dict[str, bytes], script: str = "", **more: object) -> bytes:
    """A page, UTF-8.

    Args:
      template: a file of this folder that fills the blocks of report_base.html.j2.
      metrics: the figures, `m` in the template.
      files: of them the pictures, name.png, are `images.name` in the template, base64.
      script: the one that the page may run, besides points_json and metrics_json in `more`; "" = none.
      more: what else the template may name.
    """
    images = {n.removesuffix(".png"): base64.b64encode(d).decode() for n, d in files.items() if n.endswith(".png")}
    # Escaping on: names and answers come from anywhere and may hold HTML.
    rules = {"autoescape": True, "undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(**rules, loader=jinja2.FileSystemLoader(_HERE))
    return (
        environment.get_template(template)
        .render(
            m=metrics,
            images=images,
            style=markupsafe.Markup((_HERE / "report.css").read_text(encoding="utf-8")),
            script=markupsafe.Markup(script),
            # The browser runs this one script and no other, should an answer ever get past the escaping.
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            **more,
        )
        .encode()
    )


def json_of(metrics: dict) -> bytes:
    """The figures as a file: keys sorted, no NaN, UTF-8."""
    return json.dumps(metrics, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False).encode() + b"\n"


def csv_of(columns: Sequence[str], rows: Sequence[dict]) -> bytes:
    """A CSV with these columns, of rows that may hold others too; None and what a row lacks are empty cells."""
    text = io.StringIO()
    lines = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    lines.writeheader()
    lines.writerows(rows)
    return text.getvalue().encode()
