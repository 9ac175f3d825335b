"""The OpenAPI 3.1 document, made of the table of routes and of the structs that they speak in."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from .. import __version__
from ..errors import CODES
from ..names import NAME
from .answers import Error, Told
from .calls import Route

REF = "#/components/schemas/{name}"

PARAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "user": ("The user's name.", {"pattern": f"^{NAME.pattern}$"}),
    "team": ("The team's name.", {"pattern": f"^{NAME.pattern}$"}),
    "key": ("The key's id.", {"pattern": "^k-[0-9a-z]{8}$"}),
    "account": ("A user's name, or team:NAME.", {"pattern": f"^(team:)?{NAME.pattern}$"}),
    "target": ("A user's name, user:U, team:T or key:ID.", {"pattern": f"^((user|team|key):)?{NAME.pattern}$"}),
    "request": ("The number of the request.", {"pattern": "^[1-9][0-9]{0,14}$"}),
    "username": ("The name that keys were asked for under.", {"pattern": f"^{NAME.pattern}$"}),
    "whose": ("A user's name, or a key's id.", {"pattern": f"^{NAME.pattern}$"}),
}


ALWAYS = (
    "invalid_request",
    "missing_key",
    "invalid_key",
    "key_revoked",
    "rate_limited",
    "storage_busy",
    "internal_error",
)
"""What any call may be answered."""

CHANGING = ("request_timeout", "conflict", "request_too_large", "unsupported_encoding", "scope_not_allowed")


def codes_of(route: Route) -> set[str]:
    """The codes that a route's errors may have."""
    found = {*ALWAYS, *(CHANGING if route.writes else ())}
    if route.scope is None:
        found = {*found, "not_found", "config_error"} - {
            "missing_key",
            "invalid_key",
            "key_revoked",
            "scope_not_allowed",
        }
    if "{" in route.path or route.body is not None or route.query.__struct_fields__:
        found.add("not_found")
    if route.same is not None:
        found.add("precondition_failed")
    if route.must_match:
        found.add("precondition_required")
    return found


def openapi(routes: Iterable[Route]) -> dict[str, Any]:
    """The whole document, as JSON can carry it."""
    routes = tuple(routes)
    types = [kind for route in routes for kind in (route.answer, route.body, route.query) if kind is not None]
    schemas, components = msgspec.json.schema_components([*types, Error], ref_template=REF)
    of = dict(zip([_named(kind) for kind in [*types, Error]], schemas, strict=True))
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, of, components)
    for route in routes:
        components.pop(route.query.__name__, None)  # told as parameters
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "llmgate admin API",
            "version": __version__,
            "description": "Users, teams, keys, credits and limits. `llmgate admins add NAME` makes a key for it.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "token": {"type": "apiKey", "in": "header", "name": "X-Admin-Token"},
            },
        },
    }


def _named(kind: Any) -> str:
    return str(kind)


def _operation(route: Route, of: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "description": PARAMS[name][0]}
        | {"schema": {"type": "string", **PARAMS[name][1]}}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]
    query = components.get(route.query.__name__, {})
    parameters += [
        {"name": name, "in": "query", "required": name in query.get("required", ()), "schema": _given(schema)}
        for name, schema in query.get("properties", {}).items()
    ]
    if route.method == "POST" and route.scope is not None:
        parameters.append(_header("Idempotency-Key", "The same twice does it once, for a day.", {"maxLength": 255}))
    if route.same is not None:
        about = "The ETag of what is to be changed: 412 if somebody changed it since."
        parameters.append(_header("If-Match", about, {}, required=route.must_match))
    answered = {"description": "Done." if route.writes else "Found.", "content": _json(of[_named(route.answer)])}
    if getattr(route.answer, "version", Told.version) is not Told.version:
        about = "What to send as If-Match with a change."
        answered["headers"] = {"ETag": {"description": about, "schema": {"type": "string"}}}
    errors = {str(CODES[code].http): code for code in codes_of(route)}
    return {
        "operationId": f"{route.method.lower()}_{route.does.__name__}",
        "summary": route.summary,
        "description": _takes(route),
        "tags": [route.path.split("/")[2 if route.scope is not None else 1]],
        **({"security": []} if route.scope is None else {}),
        "parameters": parameters,
        **({"requestBody": _body(route, of)} if route.body is not None else {}),
        "responses": {
            **{str(status): answered for status in (route.status, *route.also)},
            **{status: _error(status, route, of) for status in sorted(errors)},
        },
    }


def _given(schema: dict[str, Any]) -> dict[str, Any]:
    """What a parameter is if it is given: null is no text, and is said by leaving it out."""
    options = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    return options[0] if len(options) == 1 else schema


def _takes(route: Route) -> str:
    if route.scope is None:
        return "Takes no key. Where `[self_service]` is off, it is not there."
    return f"Takes an admin key of scope {f'{route.scope} or all' if route.writes else 'read, keys, credits or all'}."


def _header(name: str, about: str, more: dict[str, Any], *, required: bool = False) -> dict[str, Any]:
    schema = {"type": "string", "minLength": 1, **more}
    return {"name": name, "in": "header", "required": required, "description": about, "schema": schema}


def _body(route: Route, of: dict[str, Any]) -> dict[str, Any]:
    assert route.body is not None
    needed = any(field.required for field in msgspec.structs.fields(route.body))
    return {"required": needed, "content": _json(of[_named(route.body)])}


def _error(status: str, route: Route, of: dict[str, Any]) -> dict[str, Any]:
    codes = sorted(code for code in codes_of(route) if str(CODES[code].http) == status)
    return {"description": ", ".join(codes), "content": _json(of[_named(Error)])}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
