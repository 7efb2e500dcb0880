"""Fields on the API pages. An extension of Griffe, which itself reads only the fields of dataclasses."""

from __future__ import annotations

import ast
from typing import Any

import griffe


class Fields(griffe.Extension):
    """Documents the fields of structs, named tuples and settings."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Gives a struct its constructor, and a setting its description and default."""
        bases = {str(base) for base in cls.bases}
        fields = [
            each for each in cls.attributes.values() if each.annotation is not None and "property" not in each.labels
        ]
        if "BaseModel" in bases:
            for each in fields:
                given = {argument.name: argument.value for argument in each.value.arguments}
                each.docstring = griffe.Docstring(ast.literal_eval(str(given["description"])), parent=each)
                each.value = given.get("default")
        elif "__init__" not in cls.members and bases & {"NamedTuple", "msgspec.Struct"}:
            kind = griffe.ParameterKind.positional_or_keyword
            made = (
                griffe.Parameter(each.name, annotation=each.annotation, kind=kind, default=each.value)
                for each in fields
            )
            cls.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(*made)))
