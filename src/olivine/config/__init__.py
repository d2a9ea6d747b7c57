"""What the user wrote: read from JSON or YAML, translated from any form of Olive's configs, typed and frozen.

    read -> --set overrides -> dialects -> schema -> Workflow, notes and problems with file:line

`read` needs only the standard library; the other names import the schema, and with it pydantic, when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from olivine.config.read import Document, document_of, read

if TYPE_CHECKING:
    from olivine.config.dialects import Note
    from olivine.config.explain import explain_params, where
    from olivine.config.loading import Loaded, changed, json_schema, load, load_document, migrate
    from olivine.config.schema import DataConfig, Workflow
    from olivine.config.unserved import unsupported

_HOMES = {
    "DataConfig": "schema",
    "Loaded": "loading",
    "Note": "dialects",
    "Workflow": "schema",
    "changed": "loading",
    "explain_params": "explain",
    "json_schema": "loading",
    "load": "loading",
    "load_document": "loading",
    "migrate": "loading",
    "unsupported": "unserved",
    "where": "explain",
}

__all__ = [
    "DataConfig",
    "Document",
    "Loaded",
    "Note",
    "Workflow",
    "changed",
    "document_of",
    "explain_params",
    "json_schema",
    "load",
    "load_document",
    "migrate",
    "read",
    "unsupported",
    "where",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'olivine.config' has no attribute '{name}'")
    return getattr(importlib.import_module(f"olivine.config.{_HOMES[name]}"), name)
