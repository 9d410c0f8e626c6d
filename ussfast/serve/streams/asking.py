"""Work for a thread that takes functions from a queue, as something that the loop can wait for."""

import asyncio
import queue
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


async def done_by(work: "queue.SimpleQueue[Any]", function: Callable[..., T], *arguments: Any) -> T:
    """What a function returns in the thread that calls all that is in `work`; what it raises, too."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:  # belongs to who called
            future.set_exception(error)

    work.put(run)
    return await asyncio.wrap_future(future)
