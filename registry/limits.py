"""What names, tags, metadata and metrics may be: either valid, and then they come back as they went in, or refused."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from compute.errors import InvalidField
from registry.entry import encode_json
from registry.values import plain

MAX_TAGS = 64
MAX_DEPTH = 16
MAX_JSON = 256 * 1024
MAX_METRICS = 1_000

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ID = re.compile(r"m-[0-9a-f]{32}")
NAME_RULE = "1 to 128 of the characters A-Z a-z 0-9 . _ - and starts with a letter or a digit"
TAG_RULE = "1 to 128 visible characters or spaces, with no space at either end"


def check_name(name: object, field: str = "name") -> str:
    """Return a name of a model, a model type or an alias.

    Examples
    --------
    >>> check_name("flight-delays.v2")
    'flight-delays.v2'
    >>> check_name("a/b")
    Traceback (most recent call last):
    ...
    compute.errors.InvalidField: name 'a/b' is not allowed...
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        _refuse(field, name, f"It has {NAME_RULE}.")
    if _ID.fullmatch(name):
        _refuse(field, name, "It looks like a model id: choose another.")
    return name


def check_id(model_id: object) -> str:
    """Return an id of a model, as `new_id` of `registry.models` makes them."""
    if not isinstance(model_id, str) or not _ID.fullmatch(model_id):
        _refuse("model_id", model_id, "Ids are m- and 32 hexadecimal digits, and are made by the registry.")
    return model_id


def is_id(reference: str) -> bool:
    """Whether the text has the form of a model id."""
    return bool(_ID.fullmatch(reference))


def check_tags(tags: object) -> tuple[str, ...]:
    """Return tags without repetition, in their order.

    Examples
    --------
    >>> check_tags(["fraud", "équipe 7", "fraud"])
    ('fraud', 'équipe 7')
    """
    if isinstance(tags, str | bytes | Mapping) or not isinstance(tags, Iterable):
        _refuse("tags", tags, 'Tags are a list of texts, such as ["fraud", "production"].')
    checked = tuple(dict.fromkeys(check_tag(tag) for tag in tags))
    if len(checked) > MAX_TAGS:
        _refuse("tags", f"{len(checked)} tags", f"A model has at most {MAX_TAGS}.")
    return checked


def check_tag(tag: object) -> str:
    """Return one tag."""
    if not isinstance(tag, str) or not 1 <= len(tag) <= 128 or tag != tag.strip():
        _refuse("tags", tag, f"A tag has {TAG_RULE}.")
    # Cc control, Cs lone surrogate, Cn unassigned, Zl and Zp line separators. Cf stays: emoji are joined with it.
    bad = next((c for c in tag if unicodedata.category(c) in ("Cc", "Cs", "Cn", "Zl", "Zp")), None)
    if bad is not None:
        _refuse("tags", tag, f"A tag has {TAG_RULE}; U+{ord(bad):04X} is none.")
    return tag


def check_json(value: object, field: str) -> dict[str, Any]:
    """Return a JSON object: tuples become lists, NumPy scalars plain numbers; what JSON has no word for is refused.

    Examples
    --------
    >>> check_json({"description": "Fraud", "depths": (6, 8)}, "metadata")
    {'description': 'Fraud', 'depths': [6, 8]}
    >>> check_json({"loss": float("nan")}, "metadata")
    Traceback (most recent call last):
    ...
    compute.errors.InvalidField: metadata.loss nan is not allowed. JSON has no infinity and no NaN: leave it out.
    """
    if not isinstance(value, Mapping):
        _refuse(field, value, "It is an object of names and values.")
    checked: dict[str, Any] = _copy(value, field, 1)
    size = len(encode_json(checked))
    if size > MAX_JSON:
        _refuse(
            field, f"of {size:,} bytes", f"It has at most {MAX_JSON:,}: keep large things in files, and name those."
        )
    return checked


def check_metrics(value: object, field: str = "metrics") -> dict[str, Any]:
    """Return metrics: finite numbers, in groups if wished (``{"rmse": 11.2, "baseline": {"rmse": 17.0}}``)."""
    checked = check_json(value, field)
    groups = [
        (field, checked),
        *((f"{field}.{key}", group) for key, group in checked.items() if isinstance(group, dict)),
    ]
    for path, group in groups:
        for key, number in group.items():
            if isinstance(number, bool) or not isinstance(number, int | float | dict) or (
                isinstance(number, dict) and path != field
            ):  # fmt: skip
                _refuse(f"{path}.{key}", number, "A metric is a number.")
            if isinstance(number, int):
                group[key] = _float(number, f"{path}.{key}")
    if sum(len(group) for _, group in groups) > MAX_METRICS:
        _refuse(field, f"of more than {MAX_METRICS} numbers", "Keep curves in files, and name those in the metadata.")
    return checked


def merge(old: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the old object with the changes made; a null removes a key.

    Examples
    --------
    >>> merge({"a": 1, "b": 2}, {"b": None, "c": 3})
    {'a': 1, 'c': 3}
    """
    return {key: value for key, value in {**old, **changes}.items() if value is not None or key not in changes}


def _copy(value: Any, path: str, depth: int) -> Any:
    if depth > MAX_DEPTH + 1:
        _refuse(path.split(".", 1)[0], "nested deeper", f"Objects and lists nest at most {MAX_DEPTH} deep.")
    value = plain(value)
    if isinstance(value, str):
        return _text(value, path)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        _refuse(path, value, "JSON has no infinity and no NaN: leave it out.")
    if isinstance(value, Mapping):
        copy = {}
        for key, item in value.items():
            if not isinstance(key, str) or not 1 <= len(key) <= 256:
                _refuse(path, key, "Keys are texts of 1 to 256 characters.")
            copy[_text(key, path)] = _copy(item, f"{path}.{key}", depth + 1)
        return copy
    if isinstance(value, list | tuple):
        return [_copy(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
    return _refuse(path, value, f"JSON has no {type(value).__name__}: use text, numbers, booleans, lists and objects.")


def _text(value: str, path: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        _refuse(path, value, "It has half of a surrogate pair, which no encoding can carry.")
    return str(value)


def _float(number: int, path: str) -> float:
    try:
        exact = float(number) == number
    except OverflowError:
        exact = False
    if exact:
        return float(number)
    return _refuse(path, "an integer", "No float is exactly that: round it, or keep it in the metadata.")


def _refuse(field: str, value: object, rule: str) -> NoReturn:
    field = field.encode("utf-8", "replace").decode()
    shown = value if isinstance(value, str) and value.startswith(("of ", "nested")) else f"{value!r:.100}"
    raise InvalidField(f"{field[:200]} {shown} is not allowed", hint=rule, context={"field": field[:200]})
