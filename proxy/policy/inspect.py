"""A policy's `validation`, `inspect` and `sanitize` to the filters that run."""

from __future__ import annotations

import functools

from proxy.filter import Rule
from proxy.filters.contract import ContractCheck
from proxy.filters.inspection import Inspection, LearningInspection, Terms
from proxy.filters.sanitization import BodySanitization, Sanitization
from proxy.inspect.bodies import BodyTerms
from proxy.inspect.cleaning import DEFAULT_ATTRIBUTES, DEFAULT_TAGS, edits
from proxy.inspect.detector import Detector
from proxy.inspect.json_check import JsonTerms
from proxy.inspect.judge import Exclusion, Judge
from proxy.inspect.openapi import Contract, schema_check
from proxy.inspect.profile import Lessons, Usual, usual
from proxy.inspect.sanitizer import Field, Sanitizer
from proxy.policy.models.inspect import InspectModel, JudgeModel, ValidationModel
from proxy.policy.models.sanitize import FieldsModel, SanitizeFieldModel, SanitizeModel
from proxy.policy.models.schemas import OpenApiModel, read_document, stamp


@functools.cache
def _detector(level: int) -> Detector:
    """Patterns are compiled once a process."""
    return Detector(level)


def judge_of(model: JudgeModel) -> Judge:
    exclusions = tuple(Exclusion(one.rule, one.at, one.place) for one in model.exclude)
    return Judge(_detector(model.level), model.threshold, exclusions)


def inspection_of(
    validation: ValidationModel | None,
    validation_rule: Rule | None,
    inspect: InspectModel | None,
    rule: Rule | None,
    lessons: Lessons,
) -> Inspection:
    """Raises ValueError where the profile can't be used."""
    model = inspect or InspectModel()
    terms = Terms(
        model.headers,
        model.timeout,
        model.on_timeout,
        model.max_body,
        model.on_oversize,
        _body_terms(validation) if validation else BodyTerms(inflate=model.max_body, dtd=True),
    )
    expected = profile_in(model)
    if model.learn:
        return LearningInspection(lessons, validation_rule, rule, judge_of(model), terms, expected)
    return Inspection(validation_rule, rule, judge_of(model), terms, expected)


def profile_in(model: InspectModel) -> dict[str, Usual]:
    """Raises ValueError where the file can't be used."""
    return {} if model.profile is None else _usual(model.profile, stamp(model.profile))


@functools.lru_cache(maxsize=8)
def _usual(file: str, _: tuple[int, ...]) -> dict[str, Usual]:
    try:
        return usual(read_document(file))
    except ValueError as error:
        said = str(error)
        raise ValueError(said if said.startswith(file) else f"{file}: {said}") from None


def sanitizer_of(model: FieldsModel) -> Sanitizer:
    tags = DEFAULT_TAGS if model.tags is None else frozenset(model.tags)

    def field(at: str, one: SanitizeFieldModel) -> Field:
        return Field(
            at, edits(tuple(one.do), model.engine, tags, DEFAULT_ATTRIBUTES), operators="strip_operators" in one.do
        )

    named = model.fields_
    return Sanitizer(
        tuple(field(one.json_, one) for one in named if one.json_ is not None),
        tuple(field(one.form, one) for one in named if one.form is not None),
        tuple(field(one.query, one) for one in named if one.query is not None),
    )


def sanitization_of(model: SanitizeModel, rule: Rule) -> Sanitization:
    of_bodies = any(one.query is None for one in model.fields_)
    kind = BodySanitization if of_bodies else Sanitization
    return kind(rule, sanitizer_of(model), told=model.tell)


def contract_of(model: OpenApiModel, rule: Rule) -> ContractCheck:
    """Raises ValueError where the document can't be used."""
    return ContractCheck(
        rule,
        contract_in(model),
        unknown_parameters=model.unknown_parameters,
        unknown_operations=model.unknown_operations == "pass",
    )


def contract_in(model: OpenApiModel) -> Contract:
    """Raises ValueError where the document can't be used."""
    return _contract(model.file, model.base, stamp(model.file))


@functools.lru_cache(maxsize=8)
def _contract(file: str, base: str | None, _: tuple[int, ...]) -> Contract:
    return Contract(read_document(file), base)


def _body_terms(model: ValidationModel) -> BodyTerms:
    return BodyTerms(
        json=JsonTerms(
            model.json_.depth,
            model.json_.keys,
            model.json_.string,
            model.json_.duplicates == "pass",
            model.json_.nul == "pass",
        ),
        schema=schema_check(model.json_.schema_) if model.json_.schema_ is not None else None,
        parameters=model.form.parameters,
        repeated=model.form.repeated == "pass",
        parts=model.multipart.parts,
        files=frozenset(one.lower().encode() for one in model.multipart.files),
        dtd=model.dtd == "pass",
        inflate=model.inflate,
        ratio=model.ratio,
    )
