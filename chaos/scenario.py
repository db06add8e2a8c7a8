"""A scenario file: what is broken, for how long, and what has to hold beside what always holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

FOLDER = Path(__file__).parent / "scenarios"
_UNITS = (("ms", 0.001), ("s", 1.0), ("m", 60.0))


def seconds(value: object) -> object:
    """`500ms`, `3s`, `1m` as seconds."""
    for unit, size in _UNITS:
        if isinstance(value, str) and value.endswith(unit) and value.removesuffix(unit).replace(".", "", 1).isdigit():
            return float(value.removesuffix(unit)) * size
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise ValueError(f'"{value}" is no time. Write 500ms, 3s or 1m')


def share(value: object) -> object:
    """`5%` as 0.05."""
    if isinstance(value, str) and value.endswith("%"):
        return float(value[:-1]) / 100
    raise ValueError(f'"{value}" is no share. Write 5%')


Seconds = Annotated[float, BeforeValidator(seconds)]
Share = Annotated[float, BeforeValidator(share)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Fault(Strict):
    """One of: a toxic or `down` on links; kill, stop (SIGSTOP), restart or full_log of processes; a command of the
    store; `slots` moved. `after` is counted from the fault's begin; `until` heals links and paused processes early."""

    after: Seconds = 0.0
    until: Seconds | None = None
    links: list[str] = []
    toxic: str = ""
    stream: Literal["downstream", "upstream"] = "downstream"
    attributes: dict[str, int] = {}
    toxicity: float = 1.0
    """The share of connections that it has."""
    down: bool = False
    flap: Seconds | None = None
    kill: list[str] = []
    stop: list[str] = []
    restart: list[str] = []
    full_log: list[str] = []
    clock: list[str] = []
    by: Annotated[str, Field(pattern=r"^([+-]\d{1,6})?$")] = ""
    """Seconds by which the wall clock of these processes is set while they run; their monotonic one goes on."""
    store: list[str] = []
    move_slots: bool = False

    @model_validator(mode="after")
    def _something(self) -> Fault:
        if self.links and not (self.toxic or self.down or self.flap):
            raise ValueError("what happens to the links? Give toxic, down or flap")
        if bool(self.clock) != bool(self.by):
            raise ValueError('whose clock is set, and by how much? Give clock and by: "+300"')
        processes = (self.kill, self.stop, self.restart, self.full_log, self.clock)
        if not (self.links or any(processes) or self.store or self.move_slots):
            raise ValueError("a fault needs links, kill, stop, restart, full_log, clock, store or move_slots")
        return self


class BreakerExpectation(Strict):
    """Of the pods' breakers: within what time after the fault's begin one opens, after its end all are closed."""

    pods: list[str] = ["a"]
    opens: Seconds | None = None
    closes: Seconds = 5.0
    never: bool = False


class Expectation(Strict):
    """`errors` is the share of a load's requests, on any pod, that may be no success while the fault lasts."""

    recovered: Seconds = 6.0
    errors: dict[str, Share] = {}
    breaker: BreakerExpectation | None = None
    closed_refuses: bool = False
    messages_lost: bool = False
    """Whether acknowledged messages may be missing: an instance was killed that held them."""
    signed_out: bool = False
    """Whether sessions end with the fault, so that 401 is right afterwards."""
    client_links: bool = False
    """Whether the clients' own links are broken, so that their answers say nothing of the proxy."""


class Scenario(Strict):
    name: str = ""
    about: str
    stack: Literal["single", "cluster", "clocks"] = "single"
    short: bool = False
    faults: Annotated[list[Fault], Field(min_length=1)]
    lasts: Seconds = 4.0
    expect: Expectation = Expectation()


class ScenarioError(Exception):
    """A scenario file can't be used; the text says where and why."""


def read_all(folder: Path = FOLDER) -> dict[str, Scenario]:
    """By name, in the files' order. Raises ScenarioError with all that is wrong."""
    found: dict[str, Scenario] = {}
    wrong: list[str] = []
    for path in sorted(folder.glob("*.yaml")):
        document = yaml.safe_load(path.read_text()) or {}
        for name, given in document.items():
            for full, one in _each(name, given):
                try:
                    found[full] = Scenario.model_validate({**one, "name": full})
                except ValidationError as error:
                    wrong += [
                        f"{path.name}: {full}.{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()
                    ]
    if wrong:
        raise ScenarioError("\n".join(wrong))
    return found


def _each(name: str, given: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """A scenario with `each` stands for one for every link and toxic; `on` adds to what is expected by link."""
    each = given.pop("each", None)
    if each is None:
        return [(name, given)]
    made = []
    for link in each["links"]:
        for toxic, attributes in each["toxics"].items():
            fault: dict[str, Any] = {"links": [link]}
            if toxic == "down":
                fault["down"] = True
            else:
                kind, _, stream = toxic.partition("/")
                fault |= {"toxic": kind, "stream": stream or "downstream", "attributes": attributes}
            expected = {**given.get("expect", {}), **each.get("expect", {}).get(link, {})}
            about = f"{toxic} on {link}"
            made.append(
                (
                    f"{name}-{link}-{toxic.replace('/', '-')}",
                    {**given, "about": about, "faults": [fault], "expect": expected},
                )
            )
    return made
