"""A street photo in, the same garments from the shops of your mall out.

Each name is imported when it is first used, so that `import unde_recog` is quick.
"""
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .contracts import Answer
    from .recognizer import Recognizer
    from .session import open_recognizer
    from .settings import load_settings

__version__ = "0.1.0"
__all__ = ['Answer', 'Recognizer', 'load_settings', 'open_recognizer']

_HOMES = {
    'Answer': 'contracts',
    'Recognizer': 'recognizer',
    'load_settings': 'settings',
    'open_recognizer': 'session',
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'.{_HOMES[name]}', __name__), name)


def __dir__() -> list[str]: return sorted([*globals(), *__all__])
