"""Validation of a model's constructor arguments, with errors that name the argument but never quote its value."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from ..errors import ConfigurationError
from .connection import ConnectionSettings


def construct(model: ConnectionSettings, init: Callable[..., None], kwargs: dict[str, Any]) -> None:
    """Run a model's `init`, and create its clients so that invalid settings are reported at once.

    Raises:
        ConfigurationError: A setting is invalid. `kwargs` has been cleared, to keep secrets out of tracebacks.
    """
    try:
        _validate(type(model), init, kwargs)
        model._clients()
    except ConfigurationError as error:
        kwargs.clear()
        traceback.clear_frames(error.__traceback__)
        raise


def _validate(cls: type[BaseModel], init: Callable[..., None], kwargs: dict[str, Any]) -> None:
    problems = [
        f"{name}: must be a number, not {value}"  # pydantic would read True as 1
        for name, value in kwargs.items()
        if isinstance(value, bool) and _takes_numbers(cls, name)
    ]
    try:
        init(**kwargs)
    except ValidationError as error:
        for entry in error.errors():
            name = str(entry["loc"][0]) if entry["loc"] else ""
            problems.append(_describe_problem(cls, entry["type"], name, entry["msg"]))
    if problems:
        raise ConfigurationError(f"{cls.__name__}: {'; '.join(problems)}.")


def _takes_numbers(cls: type[BaseModel], name: str) -> bool:
    """Whether an argument is a number, and nothing but a number."""
    field = next((names[0] for names in _names_of_fields(cls) if name in names), None)
    annotation = cls.model_fields[field].annotation if field else None
    kinds = {annotation, *get_args(annotation)}
    return not kinds.isdisjoint((int, float)) and str not in kinds


def _describe_problem(cls: type[BaseModel], kind: str, name: str, message: str) -> str:
    if kind == "extra_forbidden":
        field_names = {alias: names[0] for names in _names_of_fields(cls) for alias in names}
        if name in field_names:
            return f"{name!r} and {field_names[name]!r} are the same argument: pass only one of them"
        from .migration import migration_hint  # noqa: PLC0415 - only for an argument that does not exist

        nearest = get_close_matches(name, field_names, n=1)
        hint = migration_hint(name, field_names) or (f"did you mean {nearest[0]!r}?" if nearest else "")
        return f"there is no argument {name!r}" + (f" ({hint})" if hint else "")
    message = message.removeprefix("Value error, ").removesuffix(".")
    message = re.sub(rf"^{re.escape(name)}(?:: | (?=must |has ))", "", message)  # it follows the argument's name
    return f"{name}: {message[:1].lower()}{message[1:]}" if name else message


def _names_of_fields(cls: type[BaseModel]) -> Iterator[list[str]]:
    """Yield the name and the aliases of each field."""
    for name, field in cls.model_fields.items():
        yield [name, *(alias for alias in getattr(field.validation_alias, "choices", ()) if alias != name)]
