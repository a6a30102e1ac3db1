"""The form that configures a training: what it would take, starting it, stopping it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from tastemaker.config import method_and_settings
from tastemaker.config.check import field_types
from tastemaker.data import audit_texts, read_records
from tastemaker.errors import TastemakerError
from tastemaker.methods import METHODS
from tastemaker.models.sizes import model_size
from tastemaker.plan import Lengths, estimate, this_machine
from tastemaker.runs import Run
from tastemaker.studio.accounts import Access
from tastemaker.studio.jobs import OFFERED, ONLINE, SETTINGS
from tastemaker.studio.places import data_files, data_named, model_names, model_source, reward_names
from tastemaker.studio.routes import Routes, Shop

routes = Routes()
CHARACTERS = 4.0
"""Of English, in a token."""


class Form(BaseModel):
    """A training."""

    method: Annotated[str, Field(max_length=32)]
    model: Annotated[str, Field(max_length=500)]
    data: Annotated[str, Field(max_length=255)]
    reward: Annotated[str, Field(max_length=500)] | None = None
    """A reward model, for methods that learn from one."""
    values: dict[str, str | int | float | bool | None] = {}
    price: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Of an hour on this machine."""


class Start(Form):
    """A training to begin."""

    name: Annotated[str, Field(max_length=64)]


@routes("GET", "/api/training", Access.REVIEWER)
def offered(shop: Shop) -> dict[str, Any]:
    """What the form offers."""
    methods: list[dict[str, Any]] = []
    for name in OFFERED:
        method, settings = method_and_settings(METHODS[name])
        own = set(field_types(METHODS[name]))
        known = {s: getattr(method if s in own else settings, s, None) for s in SETTINGS}
        usable = {s: v for s, v in known.items() if s in own or hasattr(settings, s)}
        methods.append(
            {
                "name": name,
                "told": (METHODS[name].__doc__ or "").strip().splitlines()[0],
                "consumes": METHODS[name].consumes.__name__,
                "rewarded": name in ONLINE,
                "settings": {
                    s: v if isinstance(v, str | int | float | bool) else None for s, v in usable.items()
                },
            }
        )
    return {
        "methods": methods,
        "models": [*model_names(shop), *(() if "tiny" in shop.models else ("tiny",))],
        "rewards": reward_names(shop),
        "data": [p.name for p in data_files(shop)],
    }


@routes("POST", "/api/training/estimate", Access.REVIEWER)
def estimated(shop: Shop, form: Form) -> dict[str, Any]:
    """Memory, time and cost of a training on this machine."""
    if form.method not in OFFERED:
        raise TastemakerError(f"method: {form.method!r} is none of {', '.join(OFFERED)}.")
    given = {k: v for k, v in form.values.items() if v is not None and v != ""}
    method, settings = method_and_settings(METHODS[form.method], given, origin="the form")
    dataset = read_records(data_named(shop, form.data), method.consumes)
    lengths = audit_texts(dataset, None).lengths
    answers = [sizes.mean for kind, sizes in lengths.items() if kind != "prompt"]
    prompt = lengths["prompt"].mean if "prompt" in lengths else CHARACTERS
    source = _sized(_source(shop, form.model))
    found = estimate(
        method,
        settings,
        model_size(source),
        Lengths(
            rows=len(dataset.records),
            prompt=max(1.0, prompt / CHARACTERS),
            response=max(1.0, sum(answers) / max(1, len(answers)) / CHARACTERS),
        ),
        this_machine(),
        price=form.price,
    )
    return found.to_json()


def _source(shop: Shop, name: str) -> str:
    return "tiny" if name == "tiny" else model_source(shop, name)


def _sized(source: str) -> str:
    """Where the sizes of a model are written: a run's result, or the base of its adapter."""
    if source == "tiny":
        raise TastemakerError("tiny: is made for its data when a training starts; seconds, on any machine.")
    folder = Run.open(source).model_dir if Run.is_run(source) else Path(source)
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        return str(json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path") or folder)
    return str(folder) if folder.is_dir() else source


@routes("POST", "/api/training", Access.ADMIN)
def start(shop: Shop, form: Start) -> dict[str, Any]:
    """Starts a training in the background."""
    data = data_named(shop, form.data).resolve()
    reward = None if form.reward is None else model_source(shop, form.reward)
    shop.jobs.start(form.name, form.method, _source(shop, form.model), str(data), form.values, reward)
    return {"name": form.name}


@routes("POST", "/api/training/{name}/stop", Access.ADMIN)
def stop(shop: Shop, name: str) -> dict[str, Any]:
    """Asks a training that this studio started to end; it can be resumed."""
    shop.jobs.stop(name)
    return {"name": name}
