"""Validation of bodies, and inspection of all that a request says."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from proxy.policy.models.base import Model, RuleModel
from proxy.policy.models.schemas import check_schema
from proxy.policy.values import Size, Span

Place = Literal["path", "query", "header", "cookie", "agent", "form", "json", "multipart", "xml", "text", "message"]


class JsonBoundsModel(Model):
    """`string` is the characters of one text; a name that stands twice is refused unless `duplicates: pass`.
    `schema` is a JSON Schema that every document has to satisfy."""

    depth: Annotated[int, Field(ge=1, le=500)] = 64
    keys: Annotated[int, Field(ge=1)] = 20_000
    string: Size = 1024 * 1024
    duplicates: Literal["refuse", "pass"] = "refuse"
    nul: Literal["refuse", "pass"] = "refuse"
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None

    @field_validator("schema_")
    @classmethod
    def _schema(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        if schema is not None:
            check_schema("the schema", schema)
        return schema


class FormBoundsModel(Model):
    parameters: Annotated[int, Field(ge=1)] = 1000
    repeated: Literal["refuse", "pass"] = "pass"


class MultipartBoundsModel(Model):
    """`files` are media types that uploads may have; anything where it is empty."""

    parts: Annotated[int, Field(ge=1)] = 200
    files: list[str] = []


class ValidationModel(RuleModel):
    """A body has to be what its media type says: in UTF-8, readable in one way, within bounds. Refusals are 400, 413
    and 415. `inflate` is what a compressed body may inflate to; 0 refuses compressed ones."""

    json_: Annotated[JsonBoundsModel, Field(alias="json")] = JsonBoundsModel()
    form: FormBoundsModel = FormBoundsModel()
    multipart: MultipartBoundsModel = MultipartBoundsModel()
    dtd: Literal["refuse", "pass"] = "refuse"
    inflate: Size = 0
    ratio: Annotated[int, Field(ge=1, le=2000)] = 200


class ExclusionModel(Model):
    """Findings that do not count: by `rule` (`sql.*`), by parameter or JSON Pointer (`at`), by place; one is enough."""

    rule: Annotated[str, Field(pattern=r"^([a-z][a-z0-9.&()-]{0,60}\*?)?$")] = ""
    at: str = ""
    place: Place | Literal[""] = ""


class JudgeModel(Model):
    """How much is suspected (`level`), from what score on a value is refused, and what does not count."""

    level: Annotated[int, Field(ge=1, le=3)] = 1
    threshold: Annotated[float, Field(ge=1, le=100)] = 5
    exclude: list[ExclusionModel] = []


class InspectModel(JudgeModel, RuleModel):
    """Values that look like attacks are refused with 403.

    `max_body` is how much of a body is read; `on_oversize` what becomes of a larger one: `refuse`, `pass`, or `head`
    (judged by its first bytes). Large bodies are read by a thread, within `timeout`. `profile` is a file of what
    parameters usually hold; `learn` makes one, which the admin tells at /profile.
    """

    headers: bool = True
    max_body: Size = 1024 * 1024
    on_oversize: Literal["refuse", "pass", "head"] = "refuse"
    timeout: Span = 1.0
    on_timeout: Literal["refuse", "pass"] = "refuse"
    learn: bool = False
    profile: str | None = None
