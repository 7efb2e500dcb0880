"""Versions, aliases and integrity of risk models, on BentoML's local model store.

`bentoml models list` shows what is here: the model's name is the domain's. Reading needs neither
BentoML nor TensorFlow to be imported, so that a service starts fast.
"""

from model_store.aliases import aliases
from model_store.integrity import read, sha256, verify
from model_store.layout import root
from model_store.manifest import MODEL_FILE, Manifest
from model_store.promotion import check_alias, promote, rollback, set_alias
from model_store.saving import save
from model_store.signatures import sign
from model_store.stored import StoredModel, list_models, resolve, versions

__all__ = [
    "MODEL_FILE",
    "Manifest",
    "StoredModel",
    "aliases",
    "check_alias",
    "list_models",
    "promote",
    "read",
    "resolve",
    "rollback",
    "root",
    "save",
    "set_alias",
    "sha256",
    "sign",
    "verify",
    "versions",
]
