"""Makes the API document from the routes and their models."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from callboard_edge.http.route import Answer, Route

REFERENCE = "#/components/schemas/{model}"
DISTRIBUTION = "callboard-edge"
ADMIN_SCHEME = {"type": "http", "scheme": "bearer", "description": "The admin token of the configuration."}

OTHER_ERROR = {"description": "Another error, in the form of the other errors on this path."}


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of all documented routes."""
    shown = [route for route in routes if route.documented]
    inputs = {model for route in shown for model in (route.body, route.form) if model is not None}
    outputs = {answer.model for route in shown for answer in route.answers.values() if answer.model is not None}
    modes: list[tuple[type[BaseModel], Any]] = [
        *((model, "validation") for model in sorted(inputs, key=_name)),
        *((model, "serialization") for model in sorted(outputs, key=_name)),
    ]
    names, schemas = models_json_schema(modes, by_alias=True, ref_template=REFERENCE)
    references = {key: schema["$ref"] for key, schema in names.items()}
    paths: dict[str, dict[str, Any]] = {}
    for route in shown:
        paths.setdefault(route.path.replace(":path}", "}"), {})[route.method.lower()] = _operation(route, references)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Callboard",
            "version": version(DISTRIBUTION),
            "description": "Talking characters over the protocols that clients already speak.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas.get("$defs", {}),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "apikey": {"type": "apiKey", "in": "header", "name": "apikey"},
                **({"admin": ADMIN_SCHEME} if any(route.security == "admin" for route in shown) else {}),
            },
        },
        "security": [{}, {"bearer": []}, {"x-api-key": []}, {"apikey": []}],
    }


def _operation(route: Route, references: dict[Any, str]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "tags": [route.tag],
        "responses": {
            **{str(status): _response(answer, references) for status, answer in sorted(route.answers.items())},
            "default": OTHER_ERROR,
        },
    }
    names = [part.strip("{}").removesuffix(":path") for part in route.path.split("/") if part.startswith("{")]
    if names or route.query:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ] + _query(route.query)
    if route.security != "key":
        operation["security"] = [{"admin": []}] if route.security == "admin" else []
    bodies = {"application/json": route.body, "multipart/form-data": route.form}
    content = {
        kind: {"schema": {"$ref": references[(model, "validation")]}}
        for kind, model in bodies.items()
        if model is not None
    }
    if content:
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _query(model: type[BaseModel] | None) -> list[dict[str, Any]]:
    if model is None:
        return []
    schema = model.model_json_schema()
    required = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": field}
        for name, field in schema["properties"].items()
    ]


def _response(answer: Answer, references: dict[Any, str]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for media_type in answer.media_types:
        if media_type == "application/json":
            if answer.model is not None:
                content[media_type] = {"schema": {"$ref": references[(answer.model, "serialization")]}}
        elif media_type.startswith("text/"):
            content[media_type] = {"schema": {"type": "string"}}
        else:
            content[media_type] = {"schema": {"type": "string", "format": "binary"}}
    response: dict[str, Any] = {"description": answer.description}
    if content:
        response["content"] = content
    return response


def _name(model: type[BaseModel]) -> str:
    return model.__name__
