"""The registry in which scripts enter their data components."""

from collections.abc import Callable
from typing import Any, ClassVar


class Registry:
    """Components by kind and name, in lower case."""

    _REGISTRY: ClassVar[dict[str, dict[str, Any]]] = {
        "load_dataset": {},
        "pre_process_data": {},
        "post_process_data": {},
        "dataloader": {},
    }

    @classmethod
    def register(cls, sub_type: Any, name: str | None = None) -> Callable[[Any], Any]:
        """Enter a component of that kind under the name, else under its own."""
        kind = str(getattr(sub_type, "value", sub_type))

        def enter(component: Any) -> Any:
            cls._REGISTRY[kind][(name or component.__name__).lower()] = component
            return component

        return enter

    @classmethod
    def register_dataset(cls, name: str | None = None) -> Callable[[Any], Any]:
        """Enter what loads rows."""
        return cls.register("load_dataset", name)

    @classmethod
    def register_pre_process(cls, name: str | None = None) -> Callable[[Any], Any]:
        """Enter what makes inputs of rows."""
        return cls.register("pre_process_data", name)

    @classmethod
    def register_post_process(cls, name: str | None = None) -> Callable[[Any], Any]:
        """Enter what makes answers of outputs."""
        return cls.register("post_process_data", name)

    @classmethod
    def register_dataloader(cls, name: str | None = None) -> Callable[[Any], Any]:
        """Enter what makes batches of rows."""
        return cls.register("dataloader", name)
