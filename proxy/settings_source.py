"""Where settings come from besides the command line: PENSTOCK_* in the environment, and a YAML file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError


class ConfigError(Exception):
    """A setting is wrong. The message is one line a problem, each with its place and the mend."""


def from_environment(settings: type[BaseModel], file_only: frozenset[str]) -> dict[str, Any]:
    """What PENSTOCK_* variables say. Raises ConfigError."""
    values: dict[str, Any] = {}
    for name, text in os.environ.items():
        if name.startswith("PENSTOCK_") and name != "PENSTOCK_CONFIG":
            key = name.removeprefix("PENSTOCK_").lower()
            field = settings.model_fields.get(key)
            if field is None:
                raise ConfigError(f"environment {name}: no such setting; `penstock config` lists the settings")
            if key in file_only:
                raise ConfigError(f"environment {name}: this setting is a table: write it into the file of settings")
            is_list = get_origin(field.annotation) is list
            values[key] = [part.strip() for part in text.split(",") if part.strip()] if is_list else text
    return values


def from_file(path: Path) -> dict[str, Any]:
    """What a YAML file says. Raises ConfigError."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{path}: {reason}") from None
    yaml = YAML(typ="safe", pure=True)
    yaml.allow_duplicate_keys = False
    try:
        tree = yaml.load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ConfigError(f"{place}: {getattr(error, 'problem', None) or 'not valid YAML'}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a mapping of settings is expected, like `upstream: https://...`")
    return {str(key): _expanded(value, f"{path}: {key}") for key, value in tree.items()}


def _expanded(value: Any, place: str) -> Any:
    """`value` with ${NAME} and ${NAME:-default} replaced from the environment. Raises ConfigError."""
    if isinstance(value, list):
        return [_expanded(item, place) for item in value]
    if isinstance(value, dict):
        return {str(key): _expanded(item, f"{place}.{key}") for key, item in value.items()}
    if not isinstance(value, str) or "${" not in value:
        return value
    out, rest = "", value
    while (start := rest.find("${")) >= 0:
        end = rest.find("}", start)
        if end < 0:
            raise ConfigError(f"{place}: '${{' without '}}'")
        name, has_default, default = rest[start + 2 : end].partition(":-")
        found = os.environ.get(name) or default
        if not found and not has_default:
            # An empty value could silently mean something else: no key of our own, say.
            raise ConfigError(f"{place}: the variable {name} is not set (write ${{{name}:-}} where that is meant)")
        out += rest[:start] + found
        rest = rest[end + 1 :]
    return out + rest
