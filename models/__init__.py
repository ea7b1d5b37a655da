"""Models: one file per family, each registering its variants. Dropping a file here registers it."""

from __future__ import annotations

from models.base import MODELS, ModelConfig, ModelShape, Prediction, ReasoningModel, State, create_model, register_model

__all__ = [
    "MODELS",
    "ModelConfig",
    "ModelShape",
    "Prediction",
    "ReasoningModel",
    "State",
    "create_model",
    "load_all",
    "register_model",
]


def load_all() -> None:
    """Import every model file, so that the registry is complete."""
    from harness.registry import import_package_modules

    import_package_modules("models")
