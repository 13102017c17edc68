"""Work spread over processes of this machine: one function over many items, results in the order of the items.

    map_in_processes(function, blocks, num_processes=usable_processors())

Forked processes see the caller's data without a copy, and the function may be any closure; it must leave alone what
threads hold (torch, open connections). Where fork cannot be used safely (Windows, macOS) everything is done in place.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_processors(limit: int = 8) -> int:
    """Processors that this process may run on, at most `limit`: beyond that, memory is what everybody waits for."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(limit, own))


def map_in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], *, num_processes: int = 1
) -> list[Result]:
    """`[function(item) for item in items]`, the items dealt out to `num_processes` processes in turn.

    The first error that a process meets is raised here; `RuntimeError` where one dies without a word (out of memory).
    Whatever happens, Ctrl-C included, no process is left behind. Raises `ValueError` for fewer than one process.
    """
    if num_processes < 1:
        raise ValueError(f"num_processes must be at least 1, got {num_processes}")
    if num_processes == 1 or not _can_fork():
        return [function(item) for item in items]
    items = list(items)
    shares = [items[start::num_processes] for start in range(min(num_processes, len(items)))]
    results: list[Any] = [None] * len(items)
    for start, part in enumerate(_forked(function, shares)):
        results[start::num_processes] = part
    return results


def _can_fork() -> bool:
    """Fork is there and safe, and this process may have children."""
    has_fork = "fork" in multiprocessing.get_all_start_methods() and sys.platform != "darwin"
    return has_fork and not multiprocessing.current_process().daemon


def _forked(function: Callable[[Item], Result], shares: Sequence[Sequence[Item]]) -> list[list[Result]]:
    """Each share's results; the first share is done here, each other one in a process of its own."""
    context = multiprocessing.get_context("fork")
    children, connections = [], []
    try:
        for share in shares[1:]:
            receiving, sending = context.Pipe(duplex=False)
            connections.append(receiving)
            child = context.Process(target=_work, args=(function, share, sending, connections), daemon=True)
            child.start()
            sending.close()  # the child's alone, so that its end is seen here
            children.append(child)
        return [[function(item) for item in share] for share in shares[:1]] + [_received(one) for one in connections]
    finally:
        for connection in connections:
            connection.close()
        for child in children:
            child.terminate()
            child.join()
            child.close()


def _work(
    function: Callable[[Item], Result], share: Sequence[Item], sending: Connection, inherited: Sequence[Connection]
) -> None:
    """What a child does: its share, once, and then it ends, whether or not anybody still listens."""
    for connection in inherited:
        connection.close()  # the parent's ends: held open here, a parent's death would go unseen
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends its children
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the handler of the program that forked
    try:
        answer: tuple[list[Result] | None, Exception | None] = ([function(item) for item in share], None)
    except Exception as error:
        answer = (None, error)
    try:
        sending.send(answer)
    except BrokenPipeError:
        return  # the parent is gone


def _received(connection: Connection) -> list[Any]:
    try:
        results, error = connection.recv()
    except EOFError:
        raise RuntimeError("a process ended before its work was done; is there enough memory?") from None
    if error is not None:
        raise error
    return results
