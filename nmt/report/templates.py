"""Jinja templates of the HTML pages, which share `layout.html` and `macros.html`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


def load_template(name: str, **filters: Callable[..., Any]) -> Template:
    """Return a template of this folder; the filter `count` formats whole numbers.

    Args:
        name: file name.
        filters: further filters.
    """
    # StrictUndefined: a misspelt name in the template is an error instead of an empty cell.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(filters, count=lambda value: f"{value:,.0f}")
    return environment.get_template(name)
