"""Settings of a config file for benchmarks and tests, which must run where ml_collections is missing."""

import importlib.util
import sys
import types


class PlainConfig(dict):
    """What the config files use of ml_collections.ConfigDict, for a machine that lacks it."""

    def __init__(self, fields):
        super().__init__({k: PlainConfig(v) if isinstance(v, dict) else v for k, v in fields.items()})

    __setattr__ = dict.__setitem__

    def __getattr__(self, name):
        if name not in self:
            raise AttributeError(name)
        return self[name]

    def update(self, fields):
        """Merges nested fields, as ConfigDict does."""
        for key, value in fields.items():
            if isinstance(value, dict) and isinstance(self.get(key), PlainConfig):
                self[key].update(value)
            else:
                self[key] = PlainConfig(value) if isinstance(value, dict) else value

    def to_dict(self):
        return {k: v.to_dict() if isinstance(v, PlainConfig) else v for k, v in self.items()}


def stand_in():
    """Has the config files find `PlainConfig` where ml_collections is missing."""
    if sys.modules.get("ml_collections") is None and importlib.util.find_spec("ml_collections") is None:
        sys.modules["ml_collections"] = types.SimpleNamespace(ConfigDict=PlainConfig)


def settings_of(words: str, config: str = "ma2mi"):
    """Settings of `configs/<config>.py:<words>`, with or without ml_collections."""
    stand_in()
    from mer_jax.settings import Settings

    return Settings(importlib.import_module(f"configs.{config}").get_config(words).to_dict())
