"""What Penstock serves, as an OpenAPI 3.1 document: `penstock openapi`, and `/openapi.json` of the admin listener.

Paths come from the tables that route requests. Of a request's body the document says what Penstock itself asks for,
since all else is the provider's; of an answer what Penstock may answer by itself, since what the provider said passes.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from .admin import ROUTES, Word
from .app import DIALECTS, SERVED
from .batches.table import TABLE
from .dialects.moderations import CATEGORIES
from .relay import RELAYED
from .routing import family_of
from .surface import FAMILIES

Json = dict[str, Any]

ERRORS: dict[int, str] = {
    400: "`invalid_json`, `invalid_request`, `invalid_http`, `invalid_target`, `unknown_method`, "
    "`duplicate_header`, `key_in_url`, `previous_response_not_found`; `invalid_prompt` where the policy blocks",
    401: "`invalid_api_key`",
    403: "`permission_denied`, `origin_not_allowed`",
    404: "`model_not_found`, `route_closed`, `unknown_url`",
    405: "`method_not_allowed`, `not_a_proxy`",
    408: "`request_timeout`",
    413: "`request_too_large`",
    415: "`unsupported_media_type`, `unsupported_encoding`",
    426: "`upgrade_refused`",
    431: "`headers_too_large`",
    500: "`internal_error`",
    502: "`upstream_error`, `upstream_unreadable` and other words of an upstream's fault",
    503: "`guard_unavailable`, `overloaded`, `audit_unavailable`, `policy_unavailable`, `server_shutdown`, "
    "`upstream_saturated`, `owner_unavailable`",
    504: "`upstream_timeout`, `exchange_timeout`",
}
"""What Penstock answers on the data plane instead of the provider: the status, and the codes that come with it."""

_TEXT: Json = {"type": "string"}
_MAYBE: Json = {"type": ["string", "null"]}
_TURNS: Json = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["role"],
        "properties": {"role": _TEXT, "content": {"type": ["string", "array", "null"]}},
    },
}
_FEW: Json = {"type": ["string", "array"]}
_STREAM: Json = {"type": "boolean", "description": "True asks for an answer in server-sent events."}
_ASKED: dict[str, Json] = {
    "chat": {"messages": _TURNS, "stream": _STREAM},
    "completions": {"prompt": _FEW, "stream": _STREAM},
    "responses": {"input": _FEW, "stream": _STREAM},
    "messages": {"messages": _TURNS, "stream": _STREAM},
    "count_tokens": {"messages": _TURNS},
    "embeddings": {"input": _FEW},
    "moderations": {"input": _FEW},
}
"""What is asked by the words of each dialect, beside `model`."""

_TRACE: Json = {
    "type": "object",
    "description": "Of a refusal by the policy: no score and no matched text. Of `guard_unavailable` the id alone.",
    "required": ["decision_id"],
    "properties": {"reason": _TEXT, "policy": _TEXT, "stage": _TEXT, "decision_id": _TEXT},
}
_SCHEMAS: dict[str, Json] = {
    "openai_error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {"message": _TEXT, "type": _TEXT, "param": _MAYBE, "code": _MAYBE, "penstock": _TRACE},
            }
        },
    },
    "anthropic_error": {
        "type": "object",
        "required": ["type", "error"],
        "properties": {
            "type": {"const": "error"},
            "error": {
                "type": "object",
                "required": ["type", "message"],
                "properties": {"type": _TEXT, "message": _TEXT, "code": _TEXT, "penstock": _TRACE},
            },
            "request_id": _MAYBE,
        },
    },
    "admin_error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {"code": _TEXT, "message": _TEXT},
            }
        },
    },
    "review_word": Word.model_json_schema(),
    "reviews": {
        "type": "object",
        "required": ["reviews"],
        "properties": {"reviews": {"type": "array", "items": {"type": "object", "required": ["id", "stage", "rules"]}}},
    },
    "reviewed": {
        "type": "object",
        "required": ["id", "status", "by"],
        "properties": {"id": _TEXT, "status": {"enum": ["approved", "denied"]}, "by": _TEXT},
    },
    "moderation": {
        "type": "object",
        "required": ["id", "model", "results"],
        "properties": {
            "id": _TEXT,
            "model": _TEXT,
            "results": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["flagged", "categories", "category_scores", "category_applied_input_types"],
                    "properties": {
                        "flagged": {"type": "boolean"},
                        "categories": {"type": "object", "required": list(CATEGORIES)},
                        "category_scores": {
                            "type": "object",
                            "required": list(CATEGORIES),
                            "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1},
                        },
                        "category_applied_input_types": {"type": "object"},
                    },
                },
            },
        },
    },
    "health": {
        "type": "object",
        "required": ["status"],
        "properties": {
            "status": {"enum": ["alive", "ready", "not ready"]},
            "checks": {"type": "object", "additionalProperties": _TEXT, "description": "What is not ready, and why."},
            "upstreams": {"type": "object", "additionalProperties": _TEXT},
            "parts": {"type": "object", "additionalProperties": _TEXT, "description": "Other parts, and their states."},
        },
    },
    "loaded": {
        "type": "object",
        "required": ["status"],
        "properties": {"status": {"enum": ["loaded", "refused"]}, "revision": _MAYBE},
    },
}


def document() -> Json:
    """The whole document. `servers` of a path are the defaults of the settings `port` and `admin_port`."""
    paths: Json = {path.decode(): _post(dialect.name, "The provider's answer, judged.") for path, dialect in DIALECTS}
    for path, served in SERVED:
        paths[path.decode()] = _post(served.name, "What the policy's classifiers say.", "moderation")
    for path in RELAYED:
        paths[path.decode()] = _get("The models that the caller may use. GET is HEAD as well.")
        name = {"name": "name", "in": "path", "required": True, "schema": {**_TEXT, "pattern": r"^[A-Za-z0-9_.:@-]+$"}}
        paths[path.decode() + "/{name}"] = {**_get("One of them."), "parameters": [name]}
    for method, route, what in ROUTES:
        paths[route] = {
            "servers": [{"url": "http://127.0.0.1:8701", "description": "the admin listener"}],
            method.lower(): {"tags": ["admin"], "summary": what, "responses": _ADMIN[route], **_SENT.get(route, {})},
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Penstock", "version": version("penstock"), "description": _WHAT},
        "servers": [{"url": "http://127.0.0.1:8700", "description": "the data plane"}],
        "tags": [{"name": "data"}, {"name": "admin"}],
        "paths": paths,
        "components": {"schemas": _SCHEMAS, "responses": _errors()},
        "x-penstock-batches": [
            {"method": method, "path": path, "passes": str(what), "needs": "judge_batches"}
            for method, path, what in TABLE
        ],
        "x-penstock-closed": [
            {"path": family.path, "holds": family.holds, "opens": "by its own name" if family.alone else "open_routes"}
            for family in FAMILIES
        ],
    }


_WHAT = """Requests and answers on the data plane are judged by the policy; what is allowed passes byte for byte.
Paths, methods and content types that are not in this document are refused in the caller's error shape: families of
paths in `x-penstock-closed` until the operator opens them, those in `x-penstock-batches` unless batches are judged,
and all else always. A status of 400 and above may also be the provider's own, in its own words."""


def _post(name: str, said: str, schema: str = "") -> Json:
    """A path of the data plane that takes JSON."""
    asked = _ASKED[name]
    answer: Json = {"schema": {"$ref": f"#/components/schemas/{schema}"} if schema else {"type": "object"}}
    content = {"application/json": answer}
    if "stream" in asked:
        content["text/event-stream"] = {}
    body = {"type": "object", "properties": {"model": _TEXT, **asked}, "required": ["model", *asked][:2]}
    return {
        "post": {
            "tags": ["data"],
            "summary": name,
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": {"200": {"description": said, "content": content}, **_refusals(name, ERRORS)},
        }
    }


def _get(said: str) -> Json:
    """A path of the data plane that passes what is no text of a caller."""
    answer = {"description": said, "content": {"application/json": {"schema": {"type": "object"}}}}
    bodiless = [status for status in ERRORS if status != 415]
    return {"get": {"tags": ["data"], "summary": said, "responses": {"200": answer, **_refusals("models", bodiless)}}}


def _refusals(name: str, statuses: Any) -> Json:
    family = family_of(name)
    found: Json = {str(status): {"$ref": f"#/components/responses/{family}_{status}"} for status in statuses}
    return {**found, "429": {"description": "The provider has no room.", "content": {"application/json": {}}}}


def _errors() -> Json:
    headers = {
        "x-request-id": {"description": "The id of the decision, as the audit knows it.", "schema": _TEXT},
        "x-should-retry": {"description": "`false` where no client is to try again.", "schema": _TEXT},
    }
    return {
        f"{family}_{status}": {
            "description": codes,
            "headers": headers,
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{family}_error"}}},
        }
        for family in ("openai", "anthropic")
        for status, codes in ERRORS.items()
    }


def _said(what: str, schema: str) -> Json:
    return {
        "description": what,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }


_UNFIT: Json = {
    str(status): _said(what, "admin_error")
    for status, what in (
        (400, "`invalid_http`, `invalid_target`, `unknown_method`"),
        (405, "`method_not_allowed`, `not_a_proxy`"),
        (408, "`request_timeout`"),
        (413, "`request_too_large`"),
        (431, "`headers_too_large`"),
    )
}
_BARRED: Json = {
    "401": _said("`unauthorized`: the admin token is missing or wrong.", "admin_error"),
    "403": _said("`forbidden`: no admin token is set, and the caller is not from here.", "admin_error"),
}
_WORD: Json = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/review_word"}}},
    }
}
_SENT: dict[str, Json] = {"/reviews/approve": _WORD, "/reviews/deny": _WORD}
"""What is sent to some of them."""
_ADMIN: dict[str, Json] = {
    "/livez": {"200": _said("It lives.", "health"), **_UNFIT},
    "/readyz": {
        "200": _said("It can judge and record.", "health"),
        "503": _said("It cannot: `checks` says why.", "health"),
        **_UNFIT,
    },
    "/metrics": {
        "200": {
            "description": "Prometheus or OpenMetrics, as `Accept` asks.",
            "content": {"text/plain": {"schema": _TEXT}, "application/openmetrics-text": {"schema": _TEXT}},
        },
        **_UNFIT,
    },
    "/policy/reload": {
        "200": _said("Loaded; what is in force now.", "loaded"),
        "409": _said("Refused: the old policy stays in force.", "loaded"),
        **_BARRED,
        **_UNFIT,
    },
    "/reviews": {"200": _said("All that waits, the longest first.", "reviews"), **_BARRED, **_UNFIT},
    **{
        f"/reviews/{word}": {
            "200": _said("It was said in time.", "reviewed"),
            **_BARRED,
            **_UNFIT,
            "400": _said("`invalid_request`: it does not say which, or not who says so; `invalid_http`", "admin_error"),
            "404": _said("`not_waiting`: nothing of this id waits, or not any more.", "admin_error"),
        }
        for word in ("approve", "deny")
    },
    "/openapi.json": {
        "200": {"description": "This document.", "content": {"application/json": {"schema": {"type": "object"}}}},
        **_UNFIT,
    },
}
