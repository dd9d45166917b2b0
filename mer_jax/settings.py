"""Frozen settings: what systems and training read. `ConfigDict` stays in `configs`, `main` and `run`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class Settings(Mapping[str, Any]):
    """An immutable, hashable tree of plain attributes.

    `settings.pre.latent` reads a field; a missing one raises AttributeError naming it. Lists become tuples.
    """

    __slots__ = ("_fields",)
    _fields: dict[str, Any]

    def __init__(self, fields: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_fields", {str(k): _freeze(v) for k, v in fields.items()})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_fields":
            raise AttributeError(name)
        try:
            return self._fields[name]
        except KeyError:
            raise AttributeError(f"settings have no field {name!r}; there are {sorted(self._fields)}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"settings are frozen; {name!r} cannot be set")

    def __getitem__(self, name: str) -> Any:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __hash__(self) -> int:
        return hash(tuple(sorted(self._fields.items(), key=lambda item: item[0])))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Settings) and self._fields == other._fields

    def __reduce__(self) -> Any:
        return (Settings, (self.to_dict(),))

    def __repr__(self) -> str:
        return f"Settings({self._fields!r})"

    def replace(self, **changes: Any) -> Settings:
        """A copy with some fields changed; unknown fields are refused."""
        unknown = set(changes) - set(self._fields)
        if unknown:
            raise AttributeError(f"settings have no fields {sorted(unknown)}")
        return Settings({**self._fields, **changes})

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dicts, for JSON."""
        return {k: v.to_dict() if isinstance(v, Settings) else v for k, v in self._fields.items()}


def _freeze(value: Any) -> Any:
    if isinstance(value, Mapping):
        return value if isinstance(value, Settings) else Settings(value)
    if isinstance(value, list | tuple):
        return tuple(_freeze(v) for v in value)
    return value
