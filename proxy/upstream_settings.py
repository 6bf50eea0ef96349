"""The settings of upstreams and of the routes that lead to them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from .settings_source import ConfigError

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class UpstreamSettings(BaseModel):
    """One named upstream."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    key: SecretStr | None = None
    key_env: str | None = None
    key_header: Literal["auto", "bearer", "x-api-key", "api-key"] = "auto"
    serves: Annotated[list[Literal["openai", "anthropic"]], Field(min_length=1)] = ["openai", "anthropic"]
    ca_file: Path | None = None
    max_connections: Annotated[int, Field(ge=1)] | None = None
    connect_timeout: Seconds | None = None
    first_byte_timeout: Seconds | None = None
    gap_timeout: Seconds | None = None

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        return checked_url(value)

    @field_validator("key")
    @classmethod
    def _key(cls, value: SecretStr | None) -> SecretStr | None:
        return checked_key(value)

    @field_validator("ca_file")
    @classmethod
    def _ca_file(cls, value: Path | None) -> Path | None:
        if value is not None and not os.path.isfile(value):
            raise ValueError("there is no such file: name the PEM file of the authority to trust")
        return value

    @model_validator(mode="after")
    def _one_key(self) -> UpstreamSettings:
        if self.key is not None and self.key_env is not None:
            raise ValueError("has both key and key_env: leave one out")
        return self

    @property
    def keyed(self) -> bool:
        """Whether it gets the operator's key."""
        return self.key is not None or self.key_env is not None

    @property
    def secret(self) -> str | None:
        """The operator's key, wherever it stands. Raises ValueError for a variable that is not set, or holds no key.

        Decision: the variable of `key_env` is read here, and by `check_keys`, and not with the settings. Why: who
        revokes a key or reads the audit needs the same file, and no provider's key in their shell. Cost: what asks
        providers must call `check_keys` first, or learns late that a variable is missing."""
        if self.key is not None:
            return self.key.get_secret_value()
        if self.key_env is None:
            return None
        if not (text := os.environ.get(self.key_env)):
            raise ValueError(f"the variable {self.key_env!r} is not set: set it, or leave key_env out")
        checked_key(SecretStr(text))
        return text


class RouteSettings(BaseModel):
    """Models, by name or pattern (`*` is any run of letters), and the upstream that serves them. `rename` is what that
    upstream calls the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    upstream: str
    rename: Annotated[str, Field(min_length=1)] | None = None


def check_keys(upstreams: Mapping[str, UpstreamSettings]) -> None:
    """For what asks them: whether each variable that should hold a key does. Raises ConfigError."""
    wrong = []
    for name, each in upstreams.items():
        try:
            _ = each.secret
        except ValueError as error:
            wrong.append(f"setting upstreams.{name}.key_env: {error}")
    if wrong:
        raise ConfigError("\n".join(wrong))


def checked_url(value: str) -> str:
    """`value`, an upstream's base URL. Raises ValueError."""
    from .upstream import Upstream

    Upstream(value)
    return value


def checked_key(value: SecretStr | None) -> SecretStr | None:
    """`value`, the operator's key for an upstream, if any. Raises ValueError."""
    text = value.get_secret_value() if value is not None else "unset"
    if not text:
        raise ValueError("is empty: leave it out to pass the caller's key through")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("holds a blank, a line end or a letter that no key has")
    return value
