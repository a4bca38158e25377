"""From `MODULE:APP` to an App, and from what a command was given to a store. Errors are one line that says what was tried."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path

from culm.app import App
from culm.errors import ConfigError
from culm.stores.open import default_url, missing_file


def load_app(target: str, url: str | None = None) -> App:
    """Import MODULE with the working directory on sys.path and return its APP, with the address replaced by `url` if there is one.

    Raises ConfigError.
    """
    module_name, colon, attribute = target.partition(":")
    if not colon or not attribute or not all(part.isidentifier() for part in module_name.split(".")):
        raise ConfigError(f"{target!r} names no app; say MODULE:APP, such as shop.tasks:app")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    module = _import(module_name, target, here)
    app = module
    for part in attribute.split("."):
        app = getattr(app, part, None)
    if not isinstance(app, App):
        apps = [name for name, value in vars(module).items() if isinstance(value, App)]
        where = getattr(module, "__file__", None) or module_name
        got = "has no" if app is None else f"has {type(app).__name__}, not an App, as"
        found = f"its apps are {', '.join(f'{module_name}:{name}' for name in apps)}" if apps else "it has no App objects at all"
        raise ConfigError(f"cannot load {target!r}: {where} {got} {attribute!r}; {found}")
    if url is not None:
        app.url = url
    return app


def _import(name: str, target: str, here: str) -> object:
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as e:  # what user code raises at import is anything, SystemExit included
        if isinstance(e, ModuleNotFoundError) and e.name is not None and (name == e.name or name.startswith(f"{e.name}.")):
            reason = f"there is no module {e.name!r} in {here} or on sys.path; start in its folder, or set PYTHONPATH"
        else:
            reason = f"{_at(e)}{type(e).__name__}: {e}"
        raise ConfigError(f"cannot load {target!r}: importing {name!r} with {here} on sys.path: {reason}") from e


def _at(error: BaseException) -> str:
    """Where in the user's code it was raised."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename and f.filename != __file__]
    return f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""


def store_app(target: str | None, url: str | None) -> App:
    """For commands that only ask the store: the app's address if there is one, else --url, else $CULM_URL or the default.

    Raises ConfigError.
    """
    return reachable(existing(target, url))


def existing(target: str | None, url: str | None) -> App:
    """The same, for a command that may look at a store in memory too. Raises ConfigError: there is no such file yet."""
    app = load_app(target, url) if target is not None else App(url)
    app.url = app.url or default_url()
    if (missing := missing_file(app.url)) is not None:
        raise ConfigError(f"there is no store at {missing} yet; give --url or set CULM_URL, or enqueue something first")
    return app


def reachable(app: App) -> App:
    """Raises ConfigError for a store that lives in one process: no other would ever see what this command does."""
    app.url = app.url or default_url()
    if app.url.startswith("memory:"):
        raise ConfigError("a memory:// store lives inside one process, this command would see an empty one; give --url or set CULM_URL")
    return app


def working_folder() -> Path:
    """The folder of the nearest pyproject.toml upwards, else the working directory."""
    here = Path.cwd()
    return next((d for d in (here, *here.parents) if (d / "pyproject.toml").is_file()), here)
