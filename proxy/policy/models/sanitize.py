"""Sanitizing of named fields."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from proxy.policy.models.base import Model, RuleModel

_POINTER = re.compile(r"(/([^~/]|~[01])*)*")


class SanitizeFieldModel(Model):
    """One of `json` (a JSON Pointer; `*` is any one name or place; all below it), `form` or `query` (a parameter, or
    `*`), and what is done to it, in that order."""

    json_: Annotated[str | None, Field(alias="json")] = None
    form: str | None = None
    query: str | None = None
    do: Annotated[
        list[Literal["strip_html", "allow_html", "escape_html", "strip_operators", "trim", "normalize"]],
        Field(min_length=1),
    ]

    @model_validator(mode="after")
    def _one(self) -> SanitizeFieldModel:
        if sum(one is not None for one in (self.json_, self.form, self.query)) != 1:
            raise ValueError("a field is named by one of json, form and query. Write {json: /notes, do: [strip_html]}")
        if self.json_ is not None and not _POINTER.fullmatch(self.json_):
            raise ValueError(f'"{self.json_}" is no JSON Pointer (RFC 6901). Write /notes, or /items/*/name')
        if "escape_html" in self.do and ("strip_html" in self.do or "allow_html" in self.do):
            raise ValueError("what is escaped holds no markup any more. Give escape_html alone, or strip_html")
        return self


class FieldsModel(Model):
    """Only the named fields change, and only where there is something to do. `tags` are those that `allow_html` lets
    stay."""

    fields_: Annotated[list[SanitizeFieldModel], Field(alias="fields", min_length=1)]
    engine: Literal["nh3", "bleach"] = "nh3"
    tags: list[Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{0,20}$")]] | None = None

    @model_validator(mode="after")
    def _tags(self) -> FieldsModel:
        never = sorted({"script", "style", "iframe", "object", "embed", "svg", "math", "form"} & set(self.tags or ()))
        if never:
            raise ValueError(f'"{never[0]}" can run or load something. Leave it out of tags')
        return self


class SanitizeModel(FieldsModel, RuleModel):
    """`tell` says in `X-Sanitized` what was changed."""

    tell: bool = False
