"""The base of every record that crosses a stage, a process or a database border."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A frozen, validated value.

    A field that was never set means "the source did not carry it"; a field set to ``None`` means "the source says
    there is none". The difference survives ``model_dump_json(exclude_unset=True)`` and a process border.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def carried(self) -> dict[str, Any]:
        """The fields the source carried, by name; nested records as they are."""
        return {name: getattr(self, name) for name in self.model_fields_set}
