"""argparse's parser, whose refusals say what may have been meant.

parser = Parser(prog="freeanchor")
"""

import argparse
import difflib
import re
from collections.abc import Iterator
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """argparse's, whose refusals name the nearest command, option or choice where one was misspelt."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message with what may have been meant, and exit with status 2."""
        choice = re.match(r".*invalid choice: '(.*)' \(choose from (.*)\)", message)
        stray = re.match(r"unrecognized arguments: (-[^\s=]*)", message)
        near: list[str] = []
        if choice:
            near = difflib.get_close_matches(choice[1], re.findall(r"[\w-]+", choice[2]), n=1, cutoff=0.5)
        elif stray:
            near = difflib.get_close_matches(stray[1], sorted(set(self._options())), n=1, cutoff=0.6)
        super().error(f"{message}; did you mean {near[0]}?" if near else message)

    def _options(self) -> Iterator[str]:
        """Every option of this parser and of its commands."""
        for action in self._actions:
            yield from action.option_strings
            if isinstance(action, argparse._SubParsersAction):
                for command in action.choices.values():
                    yield from command._options()
