"""Every setting, in one place: defaults, then a YAML file, then PENSTOCK_* in the environment, then the command line.

`penstock config` prints what results. Unknown keys are errors. In the file a value may hold ${NAME} or
${NAME:-default}.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from . import state_settings
from .settings_source import ConfigError, from_environment, from_file
from .upstream_settings import RouteSettings, Seconds, UpstreamSettings, checked_key, checked_url

__all__ = ["ConfigError", "RouteSettings", "Settings", "UpstreamSettings", "is_url", "load"]

Port = Annotated[int, Field(ge=0, le=65_535)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]


FILE_ONLY = frozenset({"upstreams", "routes", "policies"})
"""Settings that are tables: they stand in the file only."""


class Settings(BaseModel):
    """The settings of one Penstock process."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    upstream: Annotated[str, Field(description="The model's base URL, for example https://api.openai.com/v1.")] = ""
    upstream_key: Annotated[
        SecretStr | None,
        Field(description="Sent upstream instead of the caller's key; unset passes the caller's through."),
    ] = None
    upstreams: Annotated[
        dict[Name, UpstreamSettings],
        Field(
            description="Several upstreams by name instead of `upstream`, each with url, key or key_env, key_header "
            "(auto, bearer, x-api-key, api-key), serves (openai, anthropic), ca_file and limits of its own."
        ),
    ] = {}
    routes: Annotated[
        list[RouteSettings],
        Field(description="Which upstream serves which models: the first route that matches stands."),
    ] = []
    default_upstream: Annotated[
        str, Field(description="The upstream of models that no route names, and of routes that name no model.")
    ] = ""
    credentials: Annotated[
        Literal["pass_through", "keys"],
        Field(
            description="Who callers are: pass_through hands their credential to the upstream; with keys each needs a "
            "Penstock key (`penstock keys`), and the upstream gets the operator's."
        ),
    ] = "pass_through"
    keys_dir: Annotated[
        Path | None,
        Field(
            description="Where keys.json, keys.key and keys.revoked lie: the callers' keys, the secret of their "
            "hashes, and what was ended; the data directory if not set. Servers that are given the same files know the "
            "same keys."
        ),
    ] = None
    end_user_header: Annotated[
        str, Field(description="A header that names the end user: recorded as a claim of the account, never believed.")
    ] = ""
    state: Annotated[
        SecretStr | None,
        Field(
            description="Where replicas share what they know: redis://USER:PASSWORD@HOST:6379/0, rediss:// with "
            "TLS (?ssl_ca_certs=FILE for an authority of your own), unix://PATH, or the Sentinels of one: "
            "redis+sentinel://USER:PASSWORD@HOST:26379,HOST:26379/NAME/0 (?sentinel_password=); needs "
            "penstock[redis]. Unset, only the processes of one data directory share it."
        ),
    ] = None
    state_timeout: Annotated[
        float, Field(gt=0, le=5, description="Seconds that an exchange waits for shared state; then it goes on alone.")
    ] = 0.1
    policy: Annotated[
        str, Field(description="A directory, a file, a shipped pack (baseline, observe), or a bundle's URL.")
    ] = "baseline"
    policies: Annotated[
        dict[Name, str], Field(description="More policies by name, each as `policy` has it: a key may be under one.")
    ] = {}
    policy_public_key: Annotated[
        str,
        Field(description="Who must have signed a policy that is fetched; `penstock policy keygen` prints it."),
    ] = ""
    policy_poll: Annotated[Seconds, Field(description="Between two looks at a policy that is fetched.")] = 60.0
    watch_policy: Annotated[bool, Field(description="Load the policy again when its files change.")] = False
    on_broken_policy: Annotated[
        Literal["refuse", "last_good"],
        Field(
            description="At a start with a policy that cannot be loaded: refuse to start, or serve under the last good "
            "one that was loaded from there, until it can."
        ),
    ] = "refuse"
    host: Annotated[str, Field(description="Address of the data plane.")] = "127.0.0.1"
    port: Annotated[Port, Field(description="Port of the data plane; 0 takes a free one.")] = 8700
    admin_host: Annotated[str, Field(description="Address of health and metrics.")] = "127.0.0.1"
    admin_port: Annotated[Port, Field(description="Port of health and metrics; 0 takes a free one.")] = 8701
    admin_token: Annotated[
        SecretStr | None,
        Field(
            description="Bearer token for POST on the admin listener; unset lets only a loopback listener take them."
        ),
    ] = None
    data_dir: Annotated[Path, Field(description="Where the audit log and its key lie; made if missing.")] = Path(
        "penstock-data"
    )
    audit_database: Annotated[
        SecretStr | None,
        Field(
            description="A PostgreSQL database for the audit, like postgresql://user:password@host/name; unset: a file "
            "in data_dir. Needs penstock[postgres]."
        ),
    ] = None
    audit_key: Annotated[
        SecretStr | None,
        Field(
            description="The audit's key, 64 hex digits as `openssl rand -hex 32` makes: one for all replicas that "
            "share audit_database. Unset: a file in data_dir."
        ),
    ] = None
    audit_keep: Annotated[
        str,
        Field(
            pattern=r"^([1-9][0-9]{0,4}[hdw])?$",
            description="How long decisions are kept, like 90d or 12w; older ones are pruned. Empty: for ever.",
        ),
    ] = ""
    max_request_bytes: Annotated[int, Field(ge=1024, description="Larger requests are refused (413).")] = 32 << 20
    max_texts: Annotated[
        int, Field(ge=1, description="Requests with more texts to judge, each string by itself, are refused (413).")
    ] = 16_384
    max_answer_bytes: Annotated[int, Field(ge=1024, description="Larger JSON answers are refused (502).")] = 32 << 20
    workers: Annotated[
        int,
        Field(
            ge=0,
            le=256,
            description="Processes that serve, each with its own limits and a core to itself; 0 means one a core.",
        ),
    ] = 1
    max_in_flight: Annotated[
        int,
        Field(
            ge=1,
            description="More exchanges at once, in each worker, are refused (503); fewer where few files may be open.",
        ),
    ] = 4096
    max_reviews: Annotated[
        int, Field(ge=0, description="Exchanges that may wait for a person at once; past them the rule's `otherwise`.")
    ] = 100
    max_connections: Annotated[int, Field(ge=1, description="Connections to the upstream, of each worker.")] = 4096
    receive_timeout: Annotated[Seconds, Field(description="For a request's body to arrive.")] = 30.0
    send_timeout: Annotated[Seconds, Field(description="For a client to read anything of its answer.")] = 120.0
    connect_timeout: Annotated[Seconds, Field(description="For a connection to the upstream.")] = 10.0
    first_byte_timeout: Annotated[Seconds, Field(description="For the head of the upstream's answer.")] = 600.0
    gap_timeout: Annotated[Seconds, Field(description="For the next piece of the upstream's answer.")] = 120.0
    exchange_timeout: Annotated[
        Seconds, Field(description="For a whole exchange, however steadily its answer comes; then it is ended.")
    ] = 3600.0
    drain_timeout: Annotated[Seconds, Field(description="For exchanges in flight to end after SIGTERM.")] = 30.0
    traces: Annotated[
        bool, Field(description="Send OpenTelemetry traces, as OTEL_* variables say; needs penstock[otel].")
    ] = False
    trace_content: Annotated[bool, Field(description="Tell in traces what was said; else no text is in them.")] = False
    trace_genai: Annotated[bool, Field(description="Use OpenTelemetry's names for generative AI in traces.")] = True
    heartbeat_interval: Annotated[
        float, Field(ge=0, le=86_400, description="Seconds between two probes of the guard by its own cases; 0 is off.")
    ] = 60.0
    classifier_workers: Annotated[
        int, Field(ge=0, description="Threads for classifiers of each worker; 0 shares the cores among them.")
    ] = 0
    encoder: Annotated[
        str,
        Field(
            description="Where the passes of the shipped model are made: embedded, in this process, or the URL of a "
            "server of the Open Inference Protocol v2 that holds it (deploy/ray)."
        ),
    ] = "embedded"
    encoder_fallback: Annotated[
        Literal["none", "embedded"],
        Field(
            description="What answers where that server does not: none (`on_error` of the rules decides), or embedded."
        ),
    ] = "none"
    encoder_key: Annotated[SecretStr | None, Field(description="Sent to that server as a bearer token.")] = None
    encoder_ca_file: Annotated[
        Path | None, Field(description="Authorities to trust for that server, instead of the public ones.")
    ] = None
    encoder_timeout: Annotated[
        Seconds, Field(description="For all answers of that server to one question; shorter than deadline_ms.")
    ] = 1.0
    encoder_tolerance: Annotated[
        float, Field(gt=0, lt=1, description="How far a score of that server may lie from that of the weights here.")
    ] = 0.02
    metrics_models: Annotated[
        list[str], Field(description="Model names that are metric labels; all others count as 'other'.")
    ] = []
    decision_headers: Annotated[bool, Field(description="Add X-Penstock-Decision to every answer.")] = False
    cors_origins: Annotated[
        list[str], Field(description="Origins whose pages may call from a browser, like https://app.example.com.")
    ] = []
    open_routes: Annotated[
        list[str],
        Field(description="Paths that are relayed unjudged with all below them, like /v1/files; see proxy/SURFACE.md."),
    ] = []
    judge_batches: Annotated[
        bool, Field(description="Open files of requests, batches and their results, each judged row by row.")
    ] = False
    max_batch_rows: Annotated[int, Field(ge=1, description="Uploads of more rows are refused (400).")] = 50_000
    open_fields: Annotated[
        list[Literal["background", "conversation", "item_reference", "previous_response_id", "prompt", "thread"]],
        Field(
            description="Fields of Responses and Messages (thread) that lead to what is stored at the provider, or is "
            "fetched later: each is a part that nobody can read (`surface.unscannable`), and the policy decides."
        ),
    ] = []
    shared_ids: Annotated[
        list[str],
        Field(description="Ids of files, vector stores and the like at the provider that every account may name."),
    ] = []
    keep_content: Annotated[
        str,
        Field(
            description="Whose texts are kept, encrypted: off, rules (where a rule with `keep: content` fired), fired "
            "(any rule), all, or a share like 5% beside those of `rules`."
        ),
    ] = "off"
    content_keep: Annotated[str, Field(description="How long content is kept, like 12h, 7d or 4w.")] = "7d"
    content_key: Annotated[
        SecretStr | None, Field(description="The master key of kept content, 64 hex digits or more.")
    ] = None
    content_key_file: Annotated[Path | None, Field(description="A file that holds it instead, mode 600.")] = None
    content_keys_dir: Annotated[
        Path | None,
        Field(
            description="Where content-keys.db lies, the wrapped keys of subjects; the data directory if not set. What "
            "is backed up with it can be read from the backup, also after `penstock audit forget`."
        ),
    ] = None
    content_keys_database: Annotated[
        SecretStr | None,
        Field(
            description="Beside audit_database: another PostgreSQL database for these keys, with backups of its own."
        ),
    ] = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Annotated[Literal["auto", "console", "json"], Field(description="auto: console on a terminal.")] = (
        "auto"
    )

    @field_validator("upstream")
    @classmethod
    def _url(cls, value: str) -> str:
        return checked_url(value) if value else value

    @model_validator(mode="after")
    def _content(self) -> Settings:
        from .content.choice import Choice, seconds

        for name, read in (("keep_content", Choice.read), ("content_keep", seconds)):
            try:
                read(getattr(self, name))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        if self.content_key is not None and self.content_key_file is not None:
            raise ValueError("`content_key` and `content_key_file` are both set: leave one out")
        if self.audit_database is not None and self.content_keys_dir is not None:
            raise ValueError("content_keys_dir: with audit_database keys are in a database: set content_keys_database")
        if self.audit_database is None and self.content_keys_database is not None:
            raise ValueError("content_keys_database: only beside audit_database: set content_keys_dir")
        return self

    @field_validator("upstream_key")
    @classmethod
    def _key(cls, value: SecretStr | None) -> SecretStr | None:
        return checked_key(value)

    @field_validator("state")
    @classmethod
    def _state(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and (problem := state_settings.problem_with(value.get_secret_value())):
            raise ValueError(problem)
        return value

    @model_validator(mode="after")
    def _fetched(self) -> Settings:
        urls = [source for source in (self.policy, *self.policies.values()) if is_url(source)]
        if urls:
            from .bundle import BundleError, check_public
            from .policy_fetch import problem_with

            for url in urls:
                if problem := problem_with(url):
                    raise ValueError(f"policy: {url} {problem}")
            try:
                check_public(self.policy_public_key)
            except BundleError as error:
                raise ValueError(f"policy_public_key: {error}: a policy from a URL must be signed") from None
        return self

    @model_validator(mode="after")
    def _encoder(self) -> Settings:
        if self.encoder != "embedded":
            from .encoder_server import problem_with

            if problem := problem_with(self):
                raise ValueError(problem)
        return self

    @field_validator("admin_token")
    @classmethod
    def _token(cls, value: SecretStr | None) -> SecretStr | None:
        text = value.get_secret_value() if value is not None else "x" * 16
        if len(text) < 16 or not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError("is no token: 16 letters or more, without blanks, like `openssl rand -hex 32` makes")
        return value

    @model_validator(mode="after")
    def _table(self) -> Settings:
        if not self.upstreams:
            if self.routes or self.default_upstream:
                raise ValueError(
                    "`routes` and `default_upstream` lead to named upstreams: list these under `upstreams`"
                )
            return self
        if self.upstream or self.upstream_key is not None:
            raise ValueError(
                "`upstream` and `upstreams` are both set: name them all under `upstreams`, or only the one"
            )
        known = ", ".join(self.upstreams)
        for index, route in enumerate(self.routes):
            if route.upstream not in self.upstreams:
                raise ValueError(f"routes.{index}.upstream: there is no such upstream: name one of {known}")
        if self.default_upstream and self.default_upstream not in self.upstreams:
            raise ValueError(f"default_upstream: there is no such upstream: name one of {known}")
        nameless = not self.routes or self.open_routes or self.judge_batches
        if len(self.upstreams) > 1 and not self.default_upstream and nameless:
            raise ValueError(
                "`default_upstream` is not set: name the one of several that takes what names no known model"
            )
        return self

    @property
    def all_upstreams(self) -> dict[str, UpstreamSettings]:
        """Every upstream by its name; the one of `upstream` is called `upstream`."""
        if self.upstreams or not self.upstream:
            return dict(self.upstreams)
        return {"upstream": UpstreamSettings(url=self.upstream, key=self.upstream_key)}

    @field_validator("end_user_header")
    @classmethod
    def _header(cls, value: str) -> str:
        if value and not (value.isascii() and value.replace("-", "").isalnum()):
            raise ValueError("is no name of a header: write it like X-End-User")
        return value.lower()

    @field_validator("open_routes")
    @classmethod
    def _routes(cls, value: list[str]) -> list[str]:
        from .surface import Opened

        Opened(value)
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: list[str]) -> list[str]:
        from .cors import problem_with

        for origin in value:
            if problem := problem_with(origin):
                raise ValueError(f"{origin[:80]!r} {problem}")
        return value

    @property
    def all_workers(self) -> int:
        """How many processes serve."""
        from .workers.cores import cores

        return self.workers or cores()

    @property
    def all_policies(self) -> dict[str, str]:
        """Where each policy lies, by its name; the default's is empty."""
        return {"": self.policy, **self.policies}

    @field_validator("audit_database", "content_keys_database")
    @classmethod
    def _database(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        from .audit.target import problem_with

        if problem := problem_with(value.get_secret_value()):
            raise ValueError(problem)
        return value

    @field_validator("audit_key")
    @classmethod
    def _audit_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"([0-9a-fA-F]{2}){32,}", value.get_secret_value()):
            raise ValueError("is no key: 64 hex digits or more, as `openssl rand -hex 32` makes")
        return value

    @property
    def audit_where(self) -> str:
        """The URL of the database that holds the audit, else the path of the file."""
        return self.audit_database.get_secret_value() if self.audit_database else str(self.audit_path)

    @property
    def audit_head(self) -> Path:
        """Where the newest head of a database is noted."""
        return self.data_dir / "audit-database-head"

    @property
    def audit_seconds(self) -> float:
        """How long decisions are kept; 0 is for ever."""
        if not self.audit_keep:
            return 0.0
        return int(self.audit_keep[:-1]) * {"h": 3600.0, "d": 86_400.0, "w": 604_800.0}[self.audit_keep[-1]]

    @property
    def audit_path(self) -> Path:
        return self.data_dir / "audit.db"

    @property
    def key_path(self) -> Path:
        return self.data_dir / "audit.key"

    @property
    def keys_path(self) -> Path:
        return (self.keys_dir or self.data_dir) / "keys.json"

    @property
    def keys_secret_path(self) -> Path:
        return (self.keys_dir or self.data_dir) / "keys.key"

    @property
    def owned_path(self) -> Path:
        return self.data_dir / "owned.db"

    @property
    def content_path(self) -> Path:
        return self.data_dir / "content.db"

    @property
    def content_keys_path(self) -> Path:
        return (self.content_keys_dir or self.data_dir) / "content-keys.db"

    @property
    def state_path(self) -> Path:
        return self.data_dir / "state.db"

    @property
    def stores(self) -> bool:
        """Whether what is stored at the provider can be named later."""
        return bool(self.open_routes or self.open_fields or self.judge_batches)


def is_url(source: str) -> bool:
    """Whether a policy is to be fetched."""
    return source.startswith(("https://", "http://"))


_LIKE = {
    "UpstreamSettings": ", like {url: https://api.example.com/v1}",
    "RouteSettings": ", like {models: ['gpt-*'], upstream: NAME}",
}


def load(file: Path | None = None, **given: Any) -> Settings:
    """The settings that result. `given` (the command line) wins; None in it means not given. Raises ConfigError."""
    values = from_file(file) if file else {}
    values.update(from_environment(Settings, FILE_ONLY))
    values.update({key: value for key, value in given.items() if value is not None})
    try:
        return Settings(**values)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            name = ".".join(str(step) for step in item["loc"])
            problem = item["msg"].removeprefix("Value error, ")
            if item["type"] in {"model_type", "dict_type"}:
                problem = "write it as a mapping" + _LIKE.get(item.get("ctx", {}).get("class_name", ""), "")
            mend = "; `penstock config` lists the settings" if item["type"] == "extra_forbidden" else ""
            lines.append(f"setting{' ' * bool(name)}{name}: {problem[:1].lower() + problem[1:]}{mend}")
        raise ConfigError("\n".join(lines)) from None
