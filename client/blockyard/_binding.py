"""Makes a method look like the function that it carries out: the same name, signature and documentation."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_args

MethodT = TypeVar("MethodT", bound=Callable[..., Any])


def dressed(
    method: MethodT, function: Callable[..., Any], answer: Callable[[Any], Any] = lambda value: value
) -> MethodT:
    """The method with the function's looks.

    Args:
        method: Takes the client, then the function's arguments.
        function: Makes a `Call[T]`, a `Listing[T]` or a `Plan[T]`.
        answer: From T to what the method returns.
    """
    signature = inspect.signature(function)
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    returned = answer(get_args(signature.return_annotation)[-1])
    method.__name__ = method.__qualname__ = function.__name__
    method.__doc__ = function.__doc__
    method.__module__ = function.__module__
    method.__dict__["__signature__"] = signature.replace(
        parameters=[itself, *signature.parameters.values()], return_annotation=returned
    )
    return method
