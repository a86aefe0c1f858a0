"""Declared outputs of an LLM step: their JSON schema, and replies parsed against it.

What a model wrote is data of unknown quality. A reply is parsed strictly, then with two
repairs that cannot shorten a value (a code fence around it, a comma before a closing
bracket); anything else is unusable, with a reason.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from datafast_nb.errors import RecordError
from datafast_nb.models.verdicts import REASKABLE, Unusable
from datafast_nb.records import FLAT_TYPES, MAX_DEPTH, normalise_value
from datafast_nb.steps.prompts import field_text
from datafast_nb.store.rows import WithheldText

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["REASKABLE", "OutputSpec", "Unusable", "parse_object"]


class _NoAnswer(ValueError):
    """JSON that may not be read as an answer, with the verdict on it."""

    def __init__(self, verdict: str, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict


class OutputSpec:
    """Output columns of a step, in one of the three forms that a user may write.

    Parameters
    ----------
    declared
        A name or list of names (text), a dict of names to types, or a pydantic model.
    """

    def __init__(self, declared: Any) -> None:
        self.model: type[BaseModel] | None = None
        self.types: dict[str, Any] | None = None
        if isinstance(declared, str):
            declared = [declared]
        if isinstance(declared, Mapping):
            self.types = dict(declared)
            self.columns = list(self.types)
        elif isinstance(declared, Sequence):
            self.columns = list(declared)
        elif isinstance(declared, type) and hasattr(declared, "model_fields"):
            self.model = declared
            self.columns = list(declared.model_fields)
        else:
            raise TypeError(
                "output_columns is a list of names, a dict of names to types, or a pydantic "
                f"model, not {declared!r:.80}"
            )
        if not self.columns:
            raise ValueError("output_columns is empty: name at least one column")
        for name in self.columns:
            if not isinstance(name, str) or not name:
                raise TypeError(f"output column names are non-empty strings, not {name!r}")
        if len(set(self.columns)) != len(self.columns):
            raise ValueError(f"output_columns names a column twice: {', '.join(self.columns)}")
        if (
            self.types is not None
            and all(t is str for t in self.types.values())
            and len(self.types) > 1
        ):
            self.types = None  # the same as a list of names
        self._built: type[BaseModel] | None = None

    @property
    def is_text(self) -> bool:
        """One undeclared column: the reply's text is the value."""
        return self.model is None and self.types is None and len(self.columns) == 1

    def schema(self) -> dict[str, Any] | None:
        """JSON schema of the answer, None for plain text."""
        if self.is_text:
            return None
        if self.model is None and self.types is None:
            return {
                "type": "object",
                "properties": {name: {"type": "string"} for name in self.columns},
                "required": list(self.columns),
                "additionalProperties": False,
            }
        schema = self._pydantic().model_json_schema()
        _close(schema)
        return schema

    def parse(self, text: str) -> dict[str, Any]:
        """Values of the output columns.

        Raises
        ------
        Unusable
            "empty" or one of `models.verdicts.CORRECTABLE`; "unreadable" where a validator of
            the user's model raises something of its own. The text of a reply that was refused
            or cut has its verdict whatever it says.
        """
        if isinstance(text, WithheldText):
            raise Unusable(text.verdict, text.reason)
        text = _whole_text(text)
        if self.is_text:
            value = text.strip()
            if not value:
                raise Unusable("empty", "the reply is empty")
            return {self.columns[0]: value}
        if not text.strip():
            raise Unusable("empty", "the reply is empty")
        data = parse_object(text)
        if self.model is None and self.types is None:
            return self._check_strings(data)
        brackets = text.count("[") + text.count("{")
        if brackets > MAX_DEPTH and _is_deeper(data, MAX_DEPTH + 1):
            raise Unusable("too_deep", f"nested more than {MAX_DEPTH} levels deep")
        from pydantic import ValidationError

        model = self._pydantic()
        try:
            values = model.model_validate(data).model_dump(by_alias=False)
            return {
                name: v if type(v := values[name]) in FLAT_TYPES else _plain(v, f"output {name!r}")
                for name in self.columns
            }
        except ValidationError as exc:
            first = exc.errors(include_url=False, include_input=False)[:3]
            said = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'answer'}: {e['msg']}" for e in first
            )
            raise Unusable(_verdict_on(first), said) from exc
        except RecordError as exc:
            raise Unusable("wrong_schema", str(exc)) from exc
        except Exception as exc:  # validators and serializers are the user's code
            said = f"reading the reply raised {type(exc).__name__}: {exc}"
            raise Unusable("unreadable", said) from exc

    def example_text(self, example: Mapping[str, Any]) -> str:
        """The reply that would have given `example`'s output values."""
        if self.is_text:
            return field_text(_plain(example[self.columns[0]], "the example"))
        fields = self.model.model_fields if self.model is not None else {}
        reply = {}
        for name in self.columns:
            alias = fields[name].validation_alias if name in fields else None
            key = alias if isinstance(alias, str) else name
            reply[key] = _plain(example[name], f"the example's {name!r}")
        return json.dumps(reply, ensure_ascii=False, default=field_text)

    def _check_strings(self, data: dict[str, Any]) -> dict[str, Any]:
        values = {}
        for name in self.columns:
            if name not in data:
                raise Unusable(
                    "wrong_schema", f"the key {name!r} is missing; keys here: {_keys(data)}"
                )
            value = data[name]
            if type(value) is not str:
                raise Unusable("wrong_type", f"{name!r} is {_json_type(value)}, not text")
            values[name] = value
        return values

    def _pydantic(self) -> type[BaseModel]:
        if self.model is not None:
            return self.model
        if self._built is None:
            from pydantic import ConfigDict, Field, create_model

            # Safe field names with aliases: a column may be called "model_dump" or "a b".
            types = self.types or {}
            names = list(types)
            fields: dict[str, Any] = {
                f"c{i}": (t, Field(alias=name)) for i, (name, t) in enumerate(types.items())
            }
            config = ConfigDict(allow_inf_nan=False, extra="ignore")
            built = create_model("Answer", __config__=config, **fields)
            self._built = _aliased(built, names)
        return self._built


def _aliased(model: type[BaseModel], names: list[str]) -> type[BaseModel]:
    """The model with `model_dump` by column name."""

    class Answer(model):  # type: ignore[misc,valid-type]
        def model_dump(self, **kwargs: Any) -> dict[str, Any]:
            plain = super().model_dump(**kwargs)
            return {name: plain[f"c{i}"] for i, name in enumerate(names)}

    return Answer


def _verdict_on(errors: Sequence[Mapping[str, Any]]) -> str:
    """Of the first errors of pydantic: a missing key counts for more than a type."""
    kinds = [str(error["type"]) for error in errors]
    of_type = ("_type", "_parsing", "_from_float", "_parsing_size")
    is_type = all(kind.endswith(of_type) for kind in kinds)
    return "wrong_type" if is_type else "wrong_schema"


def _is_deeper(value: Any, levels: int) -> bool:
    """More than `levels` lists and dicts lie within each other."""
    if not isinstance(value, (list, dict)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels < 1 or any(_is_deeper(v, levels - 1) for v in inner)


def _plain(value: Any, place: str) -> Any:
    """A value that a record may hold; what it may not (UUID, timedelta, …) as in JSON."""
    try:
        return normalise_value(value, place)
    except RecordError:
        return normalise_value(_spelled_out(value), place)


def _spelled_out(value: Any) -> Any:
    # Value by value, not in pydantic's JSON mode: a date beside a UUID stays a date.
    from pydantic_core import to_jsonable_python

    if isinstance(value, Mapping):
        keys: list[str] = [k if isinstance(k, str) else _key_text(k) for k in value]
        return dict(zip(keys, map(_spelled_out, value.values()), strict=True))
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=repr)
    if isinstance(value, (list, tuple)):
        return [_spelled_out(v) for v in value]
    try:
        return normalise_value(value)
    except RecordError:
        return to_jsonable_python(value)


def _key_text(key: Any) -> str:
    from pydantic_core import to_jsonable_python

    [text] = to_jsonable_python({key: None})
    return str(text)


def _close(schema: Any) -> None:
    """Set additionalProperties to false on every object: providers' strict modes want it."""
    if isinstance(schema, dict):
        if schema.get("type") == "object" and "properties" in schema:
            schema.setdefault("additionalProperties", False)
            schema["required"] = list(schema["properties"])
        for value in schema.values():
            _close(value)
    elif isinstance(schema, list):
        for value in schema:
            _close(value)


def parse_object(text: str) -> dict[str, Any]:
    """The JSON object that a reply holds.

    Raises
    ------
    Unusable
        "unparsable", "duplicate_keys", "not_finite" or "too_deep" where it is no JSON that can
        be taken as it stands, "wrong_schema" where it is no object.
    """
    body = _unfenced(text)  # no JSON begins with a fence, so this cannot change any
    try:
        data = _loads(body)
    except _NoAnswer as exc:
        raise _unusable(exc) from exc
    except ValueError as first:
        try:
            data = _loads(_drop_trailing_commas(body))
        except _NoAnswer as exc:
            raise _unusable(exc) from exc
        except ValueError:
            raise Unusable("unparsable", f"the reply is no JSON: {first}") from first
    if not isinstance(data, dict):
        raise Unusable("wrong_schema", f"the reply is {_json_type(data)}, not an object")
    return data


def _unusable(found: _NoAnswer) -> Unusable:
    return Unusable(found.verdict, f"the reply is no sound JSON: {found}")


def _unfenced(text: str) -> str:
    """The text inside a Markdown code fence that holds the whole reply; else the text."""
    body = text.strip()
    if len(body) < 6 or not body.startswith("```") or not body.endswith("```"):
        return text
    first, _, rest = body[3:-3].partition("\n")
    # After the opening fence stands the name of a language, or nothing.
    return rest if first.strip().replace("-", "").isalnum() or not first.strip() else text


def _loads(text: str) -> Any:
    try:
        data = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
        )
        return _whole_texts(data) if "\\u" in text else data
    except RecursionError as exc:
        raise _NoAnswer("too_deep", "nested too deeply") from exc


def _whole_texts(value: Any) -> Any:
    if isinstance(value, str):
        return _whole_text(value)
    if isinstance(value, list):
        return [_whole_texts(v) for v in value]
    if isinstance(value, dict):
        return _unique([(_whole_text(k), _whole_texts(v)) for k, v in value.items()])
    return value


def _whole_text(text: str) -> str:
    """`text` with U+FFFD for half a surrogate pair, which no file could hold."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise _NoAnswer("duplicate_keys", "a key occurs twice")
    return data


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _NoAnswer("not_finite", f"{digits:.20} is too large a number")
    return number


def _no_constant(name: str) -> Any:
    raise _NoAnswer("not_finite", f"{name} is no JSON number")


def _drop_trailing_commas(text: str) -> str:
    """Remove commas before a closing bracket, outside strings."""
    out: list[str] = []
    in_string = False
    escaped = False
    for c in text:
        if in_string:
            if escaped:
                escaped = False
            elif c == "\\":
                escaped = True
            elif c == '"':
                in_string = False
        elif c == '"':
            in_string = True
        elif c in "]}":
            k = len(out) - 1
            while k >= 0 and out[k].isspace():
                k -= 1
            if k >= 0 and out[k] == ",":
                del out[k]
        out.append(c)
    return "".join(out)


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "an array" if isinstance(value, list) else "an object"


def _keys(data: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, list(data)[:8])) or "none"
