"""Scripts of users: parsed while planning, never run there; a worker runs one, and takes it out again afterwards.

Four scripts of five import `olive`, for its registry of data components or its model handlers. Where olive-ai is not
installed, `olivine.compat` holds what they use of it, and is found under that name while a script is at work.
"""

import ast
import functools
import importlib.util
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Self, TypeVar

from olivine.errors import STILL_AT_WORK, OlivineError

Result = TypeVar("Result")
COMPAT = Path(__file__).parent / "compat"
# what registers a component -> where Olive's registry keeps it
REGISTERS = {
    "register_dataset": "load_dataset",
    "register_pre_process": "pre_process_data",
    "register_post_process": "post_process_data",
    "register_dataloader": "dataloader",
}
SECONDS = 3600.0  # that what a config names of a script may take, unless it says so itself
_MOST_SAID = 600  # letters of what a script raises; the log has it whole
_MODULE, _PEER, _REGISTRY = "olivine_user_script", "olive", "olive.data.registry"


_limited = threading.local()  # whether a thread is one of those below


class ScriptError(OlivineError):
    """A script that is no Python, lacks what the config names of it, or fails; the sentence says which."""


@dataclass(frozen=True)
class UserScript:
    """A file of a user's own code.

    folder: whose modules it may import; None: no others. max_seconds: that it may take each time it is asked.
    """

    path: Path
    folder: Path | None = None
    max_seconds: float = SECONDS

    @classmethod
    def of(cls, path: str, folder: str | None, max_seconds: float = SECONDS) -> Self:
        """The script of a config: without a folder, it imports what lies beside it."""
        return cls(Path(path), Path(folder) if folder else Path(path).parent, max_seconds)

    @property
    def files(self) -> list[Path]:
        """The files whose bytes decide what it does: modules of its folder, and of folders in it that these name."""
        if self.folder is None:
            return [self.path]
        others = sorted(path for path in self.folder.glob("*.py") if path != self.path)
        known, folders = [self.path, *others], [one for one in sorted(self.folder.iterdir()) if one.is_dir()]
        at = 0
        while at < len(known):
            text = _text(known[at])
            for folder in [one for one in folders if _is_named(one.name, text)]:
                folders.remove(folder)
                known += [path for path in sorted(folder.rglob("*.py")) if path not in known]
            at += 1
        return known

    @cached_property
    def _parsed(self) -> ast.Module:
        try:
            return ast.parse(self.path.read_bytes())
        except SyntaxError as error:
            line = f":{error.lineno}" if error.lineno else ""
            raise ScriptError(f"{self.path}{line} is no Python: {error.msg}") from None
        except ValueError as error:
            raise ScriptError(f"{self.path} is no Python: {error}") from None
        except OSError as error:
            raise ScriptError(f"{self.path} cannot be read: {error.strerror}") from None

    def names(self) -> list[str]:
        """What it defines or imports at its top; "*" where that is not known. ScriptError when it cannot be parsed."""
        return list(_names(self._parsed))

    def registered(self, kind: str) -> list[str]:
        """Names under which its functions are registered as components of that kind, one of `REGISTERS`' values.

        "*" where a name is not known before the script runs.
        """
        names: list[str] = []
        decorators: list[ast.expr] = []
        for node in ast.walk(self._parsed):  # what is decorated comes before its decorators
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                decorators += node.decorator_list
                names += [name for one in node.decorator_list for name in _registration(one, node.name, kind)]
            elif isinstance(node, ast.Call) and node not in decorators:
                names += _registration(node, "*", kind)
        return names

    @contextmanager
    def opened(self) -> Iterator["Opened"]:
        """The script, run as a module; what it imported from its folder is gone afterwards. ScriptError when it fails.

        What it prints is in the log.
        """
        folders = [str(self.folder)] if self.folder is not None else []
        if importlib.util.find_spec(_PEER) is None:
            folders.append(str(COMPAT))
        before = set(sys.modules)
        sys.path[:0] = folders
        try:
            with self.words(str(self.path)):
                module = self.within_time(str(self.path), self._module)
            yield Opened(self, module)
        finally:
            for folder in folders:
                sys.path.remove(folder)
            for name in set(sys.modules) - before:
                origin = getattr(sys.modules[name], "__file__", None) or ""
                if origin and any(Path(origin).is_relative_to(folder) for folder in folders):
                    del sys.modules[name]
            sys.modules.pop(_MODULE, None)

    def _module(self) -> ModuleType:
        spec = importlib.util.spec_from_file_location(_MODULE, self.path)
        if spec is None or spec.loader is None:
            raise ImportError("Python does not import this kind of file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[_MODULE] = module
        spec.loader.exec_module(module)
        return module

    def within_time(self, place: str, work: Callable[[], Result]) -> Result:
        """What the work gives within `max_seconds`; what it raises is raised here.

        It is done by a thread of its own: one that hangs cannot be ended, and the process of the job goes with it. Work
        inside of such work has no time of its own. ScriptError when it takes longer.
        """
        if getattr(_limited, "is_on", False):
            return work()
        given: list[Result] = []
        raised: list[BaseException] = []

        def run() -> None:
            _limited.is_on = True
            try:
                given.append(work())
            except BaseException as error:  # noqa: BLE001 - of a user: whatever it raises is raised by who asked
                raised.append(error)

        thread = threading.Thread(target=run, daemon=True, name="user script")
        thread.start()
        thread.join(self.max_seconds)
        if raised:
            raise raised[0]
        if not given:
            raise ScriptError(f"{place} took longer than {self.max_seconds:g} seconds (max_seconds){STILL_AT_WORK}")
        return given[0]

    @contextmanager
    def words(self, place: str) -> Iterator[None]:
        """What the script raises, in its own words."""
        try:
            yield
        except ScriptError:
            raise
        except (Exception, SystemExit) as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            told = said if len(said) <= _MOST_SAID else f"{said[:_MOST_SAID]} ..."
            raise ScriptError(f"{place} failed: {told}") from error


@dataclass(frozen=True)
class Opened:
    """A script at work."""

    script: UserScript
    module: ModuleType

    def function(self, name: str) -> Callable[..., Any]:
        """The function of that name; ScriptError when there is none."""
        function = getattr(self.module, name, None)
        if not callable(function):
            raise ScriptError(f"{self.script.path} has no function '{name}'")
        return self._told(name, function)

    def component(self, kind: str, name: str) -> Callable[..., Any] | None:
        """The component of that kind that the script has registered under the name; None when there is none."""
        registry = getattr(sys.modules.get(_REGISTRY), "Registry", None)
        known: Mapping[str, Any] = registry._REGISTRY.get(kind, {}) if registry is not None else {}  # noqa: SLF001 - Olive's
        function = known.get(name.lower())
        return self._told(name, function) if function is not None else None

    def _told(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            place = f"{name} of {self.script.path}"
            with self.script.words(place):
                return self.script.within_time(place, lambda: function(*arguments, **named))

        return call


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # told where it is hashed
        return ""


def _is_named(name: str, text: str) -> bool:
    """Whether a source imports from a folder of that name, or has it in quotes, as a part of a path or a module."""
    if name.startswith((".", "__pycache__")):
        return False
    word = re.escape(name)
    imported = rf"^\s*from\s+\.*{word}[\s.]|^\s*import\s+(?:[\w. ]+,\s*)*{word}\b"
    return re.search(rf"{imported}|[\"'/]{word}[\"'/.]", text, re.MULTILINE) is not None


_UNKNOWN = ("exec", "globals", "locals", "setattr", "vars")  # functions that give names which the text does not have


def _names(module: ast.Module) -> Iterator[str]:
    for node in module.body:
        match node:
            case ast.FunctionDef() | ast.ClassDef() | ast.AsyncFunctionDef():
                yield node.name
            case ast.Import() | ast.ImportFrom():
                yield from (one.asname or one.name for one in node.names)
            case ast.Assign() | ast.AnnAssign():
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                yield from (name for target in targets for name in _bound(target))
            case ast.Expr():
                calls = (one.func for one in ast.walk(node) if isinstance(one, ast.Call))
                yield from ("*" for one in calls if isinstance(one, ast.Name) and one.id in _UNKNOWN)
            case ast.AugAssign() | ast.Assert() | ast.Delete() | ast.Pass() | ast.Raise():
                continue
            case _:  # what has a body of its own
                yield "*"


def _bound(target: ast.expr) -> Iterator[str]:
    """The names that an assignment gives; "*" where it is to something else than a name."""
    match target:
        case ast.Name():
            yield target.id
        case ast.Tuple() | ast.List():
            yield from (name for one in target.elts for name in _bound(one))
        case ast.Starred():
            yield from _bound(target.value)
        case ast.Subscript():
            yield "*"


def _registration(decorator: ast.expr, own: str, kind: str) -> Iterator[str]:
    """The name that a decorator such as `@Registry.register_dataset("mine")` gives, where it is of that kind.

    own: of the function, which counts where no other is given. "*" for a name that is computed.
    """
    call = decorator if isinstance(decorator, ast.Call) else None
    function = call.func if call is not None else decorator
    if not isinstance(function, ast.Attribute) or REGISTERS.get(function.attr) != kind:
        return
    given = [*(call.args if call is not None else ()), *(one.value for one in (call.keywords if call else ()))]
    first = given[0] if given else ast.Constant(None)
    if not isinstance(first, ast.Constant):
        yield "*"
        return
    yield (first.value if isinstance(first.value, str) else own).lower()
