"""Checks that every method's `Config` makes at construction, and the reading of one field from text.

A config is a frozen, keyword-only dataclass of plain values: bool, int, float, str, None, `Literal`, tuples of these,
and `Needed`. Types are checked against the annotations, so that `width="64"` or `flip="False"` never trains a wrong
arm.
"""

import contextlib
import dataclasses
import difflib
import json
import types
import typing
from typing import Any, Literal, Union, get_args, get_origin

from trainables.protocol import Needed


class ConfigError(ValueError):
    """A field that is unknown, of the wrong type or out of range. The message says what, where, what is allowed."""


def nearest(name: str, allowed: typing.Iterable[str]) -> str:
    """', did you mean ...?' for the nearest allowed name, or an empty string."""
    close = difflib.get_close_matches(name, list(allowed), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def fits(value: Any, kind: Any) -> bool:
    """Whether `value` is of the annotated type `kind`. A bool is no int; an int is a float."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is Literal:
        return any(value == allowed and type(value) is type(allowed) for allowed in args)
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in args)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(args) == 2 and args[1] is Ellipsis:
            return all(fits(item, args[0]) for item in value)
        return len(value) == len(args) and all(fits(item, part) for item, part in zip(value, args, strict=True))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is type(None) or kind is None:
        return value is None
    return isinstance(value, kind)


def describe(kind: Any) -> str:
    """The annotated type in words: 'one of 'a', 'b'', 'a number', ..."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(repr(allowed) for allowed in args)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(part) for part in args)
    if origin is tuple:
        inner = args[0] if len(args) == 2 and args[1] is Ellipsis else None
        return f"a tuple, each item {describe(inner)}" if inner else f"a tuple of {len(args)}"
    plain = {float: "a number", int: "an integer", bool: "true or false", str: "a string", type(None): "none"}
    return plain.get(kind, getattr(kind, "__name__", str(kind)))


def field_types(config_type: type) -> dict[str, Any]:
    """Field name -> annotated type, resolved."""
    hints = typing.get_type_hints(config_type)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_type)}


def check_types(config: Any) -> None:
    """Checks every field of a config against its annotation. Ints given for floats become floats.

    Raises:
        ConfigError: naming the field, its value and what is allowed.
    """
    for name, kind in field_types(type(config)).items():
        value = getattr(config, name)
        if not fits(value, kind):
            raise ConfigError(f"{name}={value!r} is not allowed: {name} must be {describe(kind)}.")
        if kind is float and isinstance(value, int):
            object.__setattr__(config, name, float(value))


def require(condition: bool, config: Any, field: str, allowed: str) -> None:
    """Raises ConfigError unless `condition` holds for `config.field`; `allowed` finishes 'field must be ...'."""
    if not condition:
        raise ConfigError(f"{field}={getattr(config, field)!r} is not allowed: {field} must be {allowed}.")


def from_plain(config_type: type, plain: typing.Mapping[str, Any]) -> Any:
    """The typed config from plain JSON values (lists become tuples). `Needed` fields must already be placed.

    Raises:
        ConfigError: for an unknown field, with the nearest known one.
    """
    kinds = field_types(config_type)
    for name in plain:
        if name not in kinds:
            raise ConfigError(
                f"{name!r} is no field of {config_type.__module__}.{config_type.__qualname__}."
                f"{nearest(name, kinds)} The fields are: {', '.join(kinds)}."
            )
    return config_type(**{name: _tupled(value) for name, value in plain.items()})


def parse_setting(config_type: type, text: str) -> tuple[str, Any]:
    """Reads 'field=value' as typed on a command line: JSON where it parses, else a string; 'a,b' for a tuple.

    Raises:
        ConfigError: not 'field=value', an unknown field, or a value that does not fit.
    """
    name, equals, raw = text.partition("=")
    kinds = field_types(config_type)
    if not equals:
        raise ConfigError(f"{text!r} is not of the form field=value, for example epochs=20.")
    if name not in kinds:
        raise ConfigError(
            f"{name!r} is no field of this study's configs.{nearest(name, kinds)} The fields are: {', '.join(kinds)}."
        )
    for value in _readings(raw):
        if fits(value, kinds[name]):
            return name, value
    raise ConfigError(f"{name}={raw} is not allowed: {name} must be {describe(kinds[name])}.")


def _readings(raw: str) -> typing.Iterator[Any]:
    with contextlib.suppress(ValueError):
        yield _tupled(json.loads(raw))
    lowered = raw.strip().lower()
    if lowered in ("none", "true", "false"):
        yield {"none": None, "true": True, "false": False}[lowered]
    yield raw
    yield tuple(_scalar(part.strip()) for part in raw.strip("()[]").split(",") if part.strip())


def _scalar(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _tupled(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_tupled(item) for item in value)
    return value


def to_plain(config: Any) -> dict[str, Any]:
    """Field name -> plain JSON value; a `Needed` becomes {"needs": {"method": ..., "config": {...}}}, and 'data' there
    where it names some.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, Needed):
            own = {"data": value.data} if value.data else {}
            return {"needs": {"method": value.method, "config": to_plain(value.config), **own}}
        if isinstance(value, tuple | list):
            return [plain(item) for item in value]
        return value

    return {field.name: plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
