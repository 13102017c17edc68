"""The parser of the command line: refusals that name what may have been meant, and commands listed in groups.

parser = Parser(prog="freeanchor")
commands = Commands(parser, "command")
commands.group("images, under a trained model")
commands.add("detect", "draw a model's boxes on images", "freeanchor detect a.jpg --checkpoint m.safetensors")
"""

import argparse
import difflib
import re
from collections.abc import Callable
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """argparse's parser, whose refusals name the closest command, option or choice where one was misspelt."""

    def error(self, message: str) -> NoReturn:
        """Print one line, the message with what may have been meant, and exit with status 2."""
        choice = re.match(r".*invalid choice: '(.*)' \(choose from (.*)\)", message)
        stray = re.match(r"unrecognized arguments: (-[^\s=]*)", message)
        near: list[str] = []
        if choice:
            near = difflib.get_close_matches(choice[1], re.findall(r"[\w-]+", choice[2]), n=1, cutoff=0.5)
            message = message.partition(" (choose")[0] if near else message
        elif stray:
            options = [option for action in self._actions for option in action.option_strings]
            near = difflib.get_close_matches(stray[1], options, n=1, cutoff=0.6)
        remedy = f"did you mean {near[0]}?" if near else f"{self.prog} --help has all that can be given"
        self.exit(2, f"{self.prog}: {message}; {remedy}\n")

    more_help: Callable[[], str] = staticmethod(lambda: "")  # what takes long to import, and is printed last

    def format_help(self) -> str:
        """The help, and what is asked for only when it is shown."""
        return "\n".join(filter(None, (super().format_help(), self.more_help())))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]  # of two
        """As argparse's, but a command refuses what it does not know itself: it has the options that may be meant."""
        found, strays = super().parse_known_args(args, namespace)
        if strays and self._subparsers is None:
            self.error(f"unrecognized arguments: {' '.join(strays)}")
        return found, strays


class Commands:
    """The commands of a parser, listed in its help under the headings of their groups."""

    def __init__(self, parser: Parser, dest: str) -> None:
        self.parser = parser
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.usage = f"{parser.prog} {dest.upper()} …      ({parser.prog} {dest.upper()} --help says more)"
        self.choices = parser.add_subparsers(
            dest=dest, required=True, metavar=dest.upper(), help=argparse.SUPPRESS, prog=parser.prog
        )

    def group(self, heading: str) -> None:
        """Begin a group of the list."""
        self.parser.epilog = f"{self.parser.epilog or ''}\n{heading}:\n".lstrip("\n")

    def add(self, name: str, what: str, example: str) -> Parser:
        """A command of the current group."""
        self.parser.epilog = f"{self.parser.epilog or ''}    {name:11} {what}\n"
        return self.choices.add_parser(name, description=f"{what[0].upper()}{what[1:]}.", epilog=f"example: {example}")
