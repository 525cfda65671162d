"""The `settings` command: every setting with its value and where that comes from, or the page that documents them."""

from __future__ import annotations

import ast
import inspect
import os
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import orjson
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from rich.text import Text

from speech_qc.cli.tables import open_table, output_console, without_padding
from speech_qc.exit_codes import OK
from speech_qc.settings import CONFIG_VARIABLE, HIDDEN, PREFIX, Settings, file_values, is_secret, load_settings

HEAD = """# Settings

Made by `speech-qc settings --markdown` from the code. Every setting is an environment variable; the same names in lower
case and without `{prefix}` stand in a TOML or YAML file that `{config}` names:

```toml
port = 9000
max_streams = 200
```

What the command line says wins over the environment, the environment over the file. A wrong value, or a name in the
file that is no setting, stops the start with exit code 2 and one line that gives name, value and bound.
`speech-qc settings` prints what holds now and where it comes from, secrets hidden; `speech-qc doctor` looks whether the
machine bears it.

| variable | type | bounds | default | meaning |
|---|---|---|---|---|
"""

_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "multiple_of": "multiple of", "min_length": "length ≥"}


def settings(*, as_json: bool, as_markdown: bool) -> int:
    """Print all settings.

    Args:
        as_json: One object, name to value and source.
        as_markdown: The document `docs/settings.md` instead, which does not depend on this machine.

    Returns:
        The exit code.

    Raises:
        SettingsError: A value is wrong.
    """
    if as_markdown:
        text = markdown()
    else:
        rows = list(_rows(load_settings()))
        text = _json(rows) if as_json else _table(rows)
    sys.stdout.write(text.encode(sys.stdout.encoding or "utf-8", "replace").decode(sys.stdout.encoding or "utf-8"))
    sys.stdout.flush()
    return OK


def markdown() -> str:
    """The page that documents the settings."""
    said = meanings()
    lines = [
        f"| `{PREFIX}{name.upper()}` | {type_of(field.annotation)} | {bounds_of(field)} | {_default(field)} | "
        f"{' '.join(said.get(name, '').split())} |"
        for name, field in Settings.model_fields.items()
    ]
    return HEAD.format(prefix=PREFIX, config=CONFIG_VARIABLE) + "\n".join(lines) + "\n"


def meanings() -> dict[str, str]:
    """The docstring of each setting.

    Read from the source when somebody asks: pydantic would do it at every start, which takes longer than all else that
    is done with the settings.
    """
    (settings_class,) = ast.parse(inspect.getsource(Settings)).body
    assert isinstance(settings_class, ast.ClassDef)
    found = {}
    for field, after in pairwise(settings_class.body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match after:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    found[field.target.id] = inspect.cleandoc(text)
    return found


def type_of(annotation: Any) -> str:
    """A type as people write it."""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    members = [one for one in get_args(annotation) if one is not type(None)]
    if len(members) < len(get_args(annotation)) and (get_origin(annotation) is Union or "|" in str(annotation)):
        return f"{' or '.join(map(type_of, members))}, or nothing"
    names = {bool: "true or false", int: "whole number", float: "number", str: "text", SecretStr: "text", Path: "path"}
    return names.get(annotation, str(annotation).replace("|", "\\|"))


def bounds_of(field: FieldInfo) -> str:
    """The bounds of a number, `≥ 1, ≤ 64`."""
    found = [
        f"{sign} {getattr(bound, name)}"
        for bound in field.metadata
        for name, sign in _SIGNS.items()
        if getattr(bound, name, None) is not None
    ]
    return ", ".join(found)


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "the shipped model"
    if field.default is PydanticUndefined or field.default in (None, ""):
        return "nothing"
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def _rows(now: Settings) -> Iterator[tuple[str, Any, str]]:
    """Name, value and source of each setting."""
    variables, in_file = {name.upper() for name in os.environ}, file_values()
    for name in Settings.model_fields:
        value = getattr(now, name)
        source = "default"
        if PREFIX + name.upper() in variables:
            source = "environment"
        elif name in in_file:
            source = "file"
        shown = HIDDEN if is_secret(name) and value else value
        yield name, str(shown) if isinstance(shown, Path) else shown, source


def _json(rows: list[tuple[str, Any, str]]) -> str:
    document = {name: {"value": value, "source": source} for name, value, source in rows}
    return orjson.dumps(document, option=orjson.OPT_INDENT_2, default=str).decode() + "\n"


def _table(rows: list[tuple[str, Any, str]]) -> str:
    table = open_table()
    for heading in ("variable", "value", "from", "bounds"):
        table.add_column(heading)
    for name, value, source in rows:
        shown = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        bounds = bounds_of(Settings.model_fields[name])
        style = "" if source == "default" else "bold"
        table.add_row(Text(PREFIX + name.upper()), Text(shown, style=style), source, bounds)
    console = output_console(sys.stdout)
    with console.capture() as capture:
        console.print(table)
    return without_padding(capture.get())
