"""Settings: what a group of a recipe is, and how a setting that could have no effect is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

Auto = Literal["auto"]


class Settings(BaseModel):
    """A group of settings: frozen, unknown keys refused, defaults checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def refuse_idle(self, kind: str, acts_for: Mapping[str, tuple[str, ...]]) -> None:
        """Refuse settings that say nothing to the `name` chosen.

        Args:
            kind: what is chosen by name, for the message.
            acts_for: for each setting, the names it acts for; its default passes beside any name.

        Raises:
            ValueError: naming every idle setting and what it belongs to.
        """
        name = self.name  # type: ignore[attr-defined]
        idle = [
            f"{field} belongs to {kind} {' or '.join(map(repr, names))} and does nothing for {name!r}"
            for field, names in acts_for.items()
            if name not in names and getattr(self, field) != type(self).model_fields[field].default
        ]
        if idle:
            raise ValueError("; ".join(idle))
